"""How large a request is, and whether a target can take it: estimated, without a tokenizer.

A target that is wrongly skipped is a lost chance to answer; one that is wrongly asked refuses at
once and free of charge. So all guesses here lean towards asking.
"""

from __future__ import annotations

import re
import zlib
from json import dumps
from math import inf
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


# BPE vocabularies hold most English words up to six or seven letters whole, and split the rest.
_PIECE = re.compile(r" ?[^\W\d_]{1,7}| ?\d{1,3}|[^\w\s]{1,2}|_|\s+")


def pseudo_token_ids(text: str) -> list[int]:
    """Cut a text where a tokenizer might; each piece's checksum is its id.

    Args:
        text: Any text.

    Returns:
        As many numbers as there are pieces; about right for English prose and code.
    """
    return [zlib.crc32(piece.encode()) for piece in _PIECE.findall(text)]


CHARACTERS_PER_TOKEN = 4.0
"""OpenAI's rule of thumb for English text
(https://help.openai.com/en/articles/4936856-what-are-tokens-and-how-to-count-them)."""

PART_CHARACTERS = 3000
"""What a part that is no text counts for: an image of 1024 x 1024 is 765 tokens at OpenAI
(https://platform.openai.com/docs/guides/images-vision)."""

_MAX_CHARACTERS_PER_TOKEN = 6.0
"""Nothing is known of the target's tokenizer: no prose is packed tighter than this."""

_TELLING = 1000
"""Characters; in shorter requests the frame around each message outweighs its text."""

_SLACK = 1.15
"""Texts differ: another may pack so much more into a token than the tightest seen lately."""

_WEIGHT = 0.05
"""Of a new sample in the average."""

_TRY_AGAIN = 64
"""Windows grow: so many requests are kept from a target before one is tried all the same."""


def count_characters(messages: Iterable[Mapping[str, Any]], *schemas: Any) -> int:
    """Measure chat-completions messages and the schemas that go with them.

    Other than ASCII characters count by their bytes in UTF-8, as they do for the byte-level BPE of
    today's tokenizers (Radford et al., "Language Models are Unsupervised Multitask Learners",
    2019). Images, audio and files count for `PART_CHARACTERS` each, whatever their size.

    Args:
        messages: As in `ChatRequest.messages`.
        *schemas: Tools, a response format, or None; their JSON is counted.

    Example:
        ```python
        count_characters([{"role": "user", "content": "Why is the sky blue?"}])  # 20
        ```
    """
    total = sum(_json(schema) for schema in schemas if schema)
    for message in messages:
        content = message.get("content")
        if content.__class__ is str:
            total += _text(content)
        elif isinstance(content, list):
            total += sum(map(_part, content))
        if "tool_calls" in message:
            total += _json(message["tool_calls"])
    return total


def estimate_tokens(characters: int) -> int:
    """Guess how many tokens so many characters are, where no provider has said."""
    return round(characters / CHARACTERS_PER_TOKEN)


def _text(text: Any) -> int:
    # isascii() reads a flag; encoding is needed for the others only.
    if not isinstance(text, str):
        return 0
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _part(part: Any) -> int:
    if not isinstance(part, dict):
        return _text(part)
    texts = [part[name] for name in ("text", "refusal") if name in part]
    return sum(map(_text, texts)) if texts else PART_CHARACTERS


def _json(schema: Any) -> int:
    return _text(dumps(schema, ensure_ascii=False, separators=(",", ":"), default=str))


class ContextWindow:
    """What is known of a target's context window: what was said of it, and what it refused.

    It learns from refusals (the limit and the count that an error names, and the size of what was
    refused) and from answers (the tokens that a provider counted for so many characters). No lock:
    threads that learn at the same moment may lose one lesson.

    Args:
        window: Tokens of prompt and answer together, where the user said; it is never doubted.
        guess: The same from a price list: believed until the target says or does otherwise.

    Attributes:
        bounded: Whether anything is known; while it is False all fits, and nothing need be counted.
        window: The known limit in tokens, or None.

    Example:
        ```python
        window = ContextWindow()
        window.fits(90_000)  # True: nothing is known
        window.refused(90_000, limit=8192, given=20_000)
        window.fits(80_000)  # False: at 4.5 characters a token
        window.fits(20_000)  # True
        ```
    """

    __slots__ = ("_certain", "_kept", "_packed", "_passed", "_refused", "bounded", "window")

    def __init__(self, window: int | None = None, *, guess: int | None = None) -> None:
        self.window = window or guess
        self.bounded: bool = self.window is not None
        self._certain = window is not None
        self._packed = 0.0
        self._passed = 0.0
        self._refused = inf
        self._kept = 0

    def fits(self, characters: int, max_tokens: int = 0) -> bool:
        """Whether a request is worth sending.

        Args:
            characters: Its size, by `count_characters()`.
            max_tokens: The longest answer it asks for; 0 where it does not say.
        """
        if not self.bounded or self._has_room(characters, max_tokens):
            return True
        self._kept += 1
        # What was learned may have changed; what the user said has not.
        return not self._certain and self._kept % _TRY_AGAIN == 0

    def refused(
        self,
        characters: int,
        max_tokens: int = 0,
        *,
        limit: int | None = None,
        given: int | None = None,
    ) -> None:
        """Learn from a request that was too long.

        Args:
            characters: Its size.
            max_tokens: The longest answer it asked for.
            limit: The most tokens, as the target said (`Fault.limit`).
            given: The tokens of the prompt, as the target counted them (`Fault.given`).
        """
        if limit is not None and not self._certain:
            self.window = limit
        if given is not None:
            self._calibrate(characters, given)
        size = _whole(characters, max_tokens)
        self._refused = min(self._refused, size)
        if size <= self._passed:
            self._passed = 0.0
        self.bounded = True

    def passed(
        self, characters: int, max_tokens: int = 0, *, prompt_tokens: int | None = None
    ) -> None:
        """Learn from a request that was answered.

        Args:
            characters: Its size.
            max_tokens: The longest answer it asked for.
            prompt_tokens: What the target counted, where it said.
        """
        size = _whole(characters, max_tokens)
        if not self._certain:
            self._passed = max(self._passed, size)
        if size >= self._refused:
            self._refused = inf
        if prompt_tokens is not None:
            self._calibrate(characters, prompt_tokens)
            if self.window is not None and prompt_tokens > self.window and not self._certain:
                self.window = None
        self.bounded = self.window is not None or self._refused < inf

    def _has_room(self, characters: int, max_tokens: int) -> bool:
        size = _whole(characters, max_tokens)
        if size <= self._passed:
            return True
        if size >= self._refused:
            return False
        if self.window is None:
            return True
        fewest = characters / (self._packed * _SLACK or _MAX_CHARACTERS_PER_TOKEN)
        return fewest + max_tokens <= self.window

    def _calibrate(self, characters: int, tokens: int) -> None:
        """Follow the tightest packing of late: at once upwards, slowly (EWMA) downwards."""
        if characters < _TELLING or tokens <= 0:
            return
        packed = characters / tokens
        self._packed = max(packed, self._packed + _WEIGHT * (packed - self._packed))


def _whole(characters: int, max_tokens: int) -> float:
    """Prompt and answer together, in characters."""
    return characters + max_tokens * CHARACTERS_PER_TOKEN

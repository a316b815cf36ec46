"""How large a request is, and whether a target can take it: estimated, without a tokenizer.

A target that is wrongly skipped is a lost chance to answer; one that is wrongly asked refuses at
once and free of charge. So all guesses here lean towards asking.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import zlib
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from json import dumps
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


Encoding = Literal["o200k_base", "cl100k_base"]
"""The vocabularies of OpenAI's models: that of GPT-4o and all later ones, and that before it."""


class _Rates(NamedTuple):
    """Tokens per letter in one vocabulary, by script.

    Of languages in Latin letters it is `latin`, and `accent` times the share of letters that have
    one. English and code have none: there it is tokens per word. Cyrillic letters cost
    `not_russian` times as much where they are not all Russian.
    """

    word: float
    latin: float
    accent: float
    not_russian: float
    scripts: tuple[float, ...]


# The letters and marks of a script, as the inside of a character class.
_SCRIPTS = {
    "cyrillic": "\u0400-\u052f",
    "greek": "\u0370-\u03ff\u1f00-\u1fff",
    "hebrew": "\u0590-\u05ff",
    "arabic": "\u0600-\u06ff\u0750-\u077f\ufb50-\ufdff\ufe70-\ufeff",
    "devanagari": "\u0900-\u097f",
    "bengali": "\u0980-\u09ff",
    "south_indian": "\u0a00-\u0dff",
    "thai": "\u0e00-\u0e7f",
    "hangul": "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af",
    "kana": "\u3040-\u30ff",
    "han": "\u2e80-\u2fff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff",
}

# Measured on the Universal Declaration of Human Rights in 22 languages, and on code.
_RATES: dict[Encoding, _Rates] = {
    "o200k_base": _Rates(0.97, 0.21, 1.25, 1.4, (0.26, 0.4, 0.44, 0.37, 0.34, 0.38, 0.36, 0.425,
                                          0.74, 0.88, 0.775)),
    "cl100k_base": _Rates(0.97, 0.27, 1.5, 1.3, (0.51, 1.05, 1.17, 0.86, 1.2, 1.43, 1.53, 0.99,
                                          1.32, 1.17, 1.18)),
}  # fmt: skip

_MAX_ACCENTS = 0.17
"""Share of letters; where more have an accent, as in Vietnamese, each costs less."""

_ACCENTED = "\u00c0-\u024f\u1e00-\u1eff"
_MARKS = re.compile("[\u0300-\u036f]")  # an accent that is a character of its own is a token
_LATIN = f"A-Za-z{_ACCENTED}"
_IN_LATIN = re.compile(f"[{_LATIN}]+")
_ACCENTS = re.compile(f"[{_ACCENTED}]+")
_WORDS = re.compile(r"[A-Z]?[a-z]{1,12}|[A-Z]{1,4}")  # of `parseHTML` and `parse_html` two
_NOT_RUSSIAN = re.compile("[\u0400\u0402-\u040f\u0450\u0452-\u052f]")
_IN_SCRIPT = [re.compile(f"[{letters}]+") for letters in _SCRIPTS.values()]
_LETTERS = _LATIN + "\u0300-\u036f" + "".join(_SCRIPTS.values())
# A single space belongs to the word behind it; letters of other scripts are mostly bytes.
_OTHERS = re.compile(rf"\d{{1,3}}|\n\s*|[^\S\n]{{2,}}|_|[^\w\s{_LETTERS}]{{1,2}}")
_UNKNOWN = re.compile(rf"[^\W\d_{_LETTERS}]")
_BYTES = 2.5
"""Tokens of a letter that no vocabulary knows."""


def estimate_text_tokens(text: str, encoding: Encoding = "o200k_base") -> int:
    """Estimate how many tokens a text has: within a quarter, for most languages and for code.

    Args:
        text: Any text; of a few words the estimate is rough.
        encoding: The vocabulary.

    Example:
        ```python
        estimate_text_tokens("Why is the sky blue?")  # 4; it has 6
        ```
    """
    rates = _RATES[encoding]
    total = float(len(_OTHERS.findall(text)))
    accents = 0 if text.isascii() else _length(_ACCENTS, text)
    if accents:
        latin = _length(_IN_LATIN, text)
        share = min(_MAX_ACCENTS, accents / latin)
        total += latin * (rates.latin + rates.accent * share)
    else:
        total += len(_WORDS.findall(text)) * rates.word
    if not text.isascii():
        cyrillic, *others = [_length(pattern, text) for pattern in _IN_SCRIPT]
        if cyrillic and _NOT_RUSSIAN.search(text):
            cyrillic = round(cyrillic * rates.not_russian)
        counts = (cyrillic, *others)
        total += sum(count * rate for count, rate in zip(counts, rates.scripts, strict=True))
        total += len(_MARKS.findall(text)) + len(_UNKNOWN.findall(text)) * _BYTES
    return max(round(total), 1 if text.strip() else 0)


def _length(pattern: re.Pattern[str], text: str) -> int:
    return sum(map(len, pattern.findall(text)))


_WHOLE_TEXT = 16_384
"""Characters; of a longer text as many are looked at, in equal parts from all over it."""

_SAMPLES = 32

_FIRST_TOKENS, _MESSAGE_TOKENS = 3, 4
"""Before the answer, and around each message, as OpenAI counts them
(https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken)."""

PART_TOKENS = 765
"""What a part that is no text counts for: an image of 1024 x 1024 at OpenAI
(https://platform.openai.com/docs/guides/images-vision)."""


def estimate_prompt_tokens(
    messages: Iterable[Mapping[str, Any]],
    *schemas: Any,
    count: Callable[[str], int] | None = None,
) -> int:
    """Estimate how many tokens a provider will count for a request: within a quarter, mostly.

    Args:
        messages: As in `ChatRequest.messages`.
        *schemas: Tools, a response format, or None; their JSON is counted.
        count: Counts the tokens of a text; None for the estimate.

    Example:
        ```python
        estimate_prompt_tokens([{"role": "user", "content": "Why is the sky blue?"}])  # 12
        ```
    """
    count = count or _sampled
    total = _FIRST_TOKENS + sum([count(_as_json(schema)) for schema in schemas if schema])
    for message in messages:
        total += _MESSAGE_TOKENS
        content = message.get("content")
        if isinstance(content, str):
            total += count(content)
        elif isinstance(content, list):
            total += sum([_part_tokens(part, count) for part in content])
        if message.get("tool_calls"):
            total += count(_as_json(message["tool_calls"]))
    return total


def _part_tokens(part: Any, count: Callable[[str], int]) -> int:
    if isinstance(part, str):
        return count(part)
    texts = [part[name] for name in ("text", "refusal") if isinstance(part.get(name), str)]
    return sum(map(count, texts)) if texts else PART_TOKENS


def _sampled(text: str) -> int:
    """Estimate the tokens of a text, a long one by samples: a request is not held up by it."""
    if len(text) <= _WHOLE_TEXT:
        return estimate_text_tokens(text)
    size, step = _WHOLE_TEXT // _SAMPLES, len(text) // _SAMPLES
    samples = "\n".join([text[start * step : start * step + size] for start in range(_SAMPLES)])
    return round(estimate_text_tokens(samples) * len(text) / len(samples))


_OLDER = re.compile(r"gpt-(3\.5|35|4(?!o|\.\d|\d))|text-embedding")


def encoding_of(model: str) -> Encoding:
    """The vocabulary of a model; for other makers' that of today's, which is near to theirs."""
    return "cl100k_base" if _OLDER.match(model.rpartition("/")[2]) else "o200k_base"


def token_ids(text: str, model: str) -> list[int]:
    """Cut a text into tokens: as tiktoken does, if its data is on this machine, else about so.

    Args:
        text: Any text.
        model: Whose tokens.

    Returns:
        The tokens' ids; where the tokens are guessed, checksums of equal parts of the text.
    """
    encoding = encoding_of(model)
    tokenizer = _tokenizer(encoding)
    if tokenizer is not None:
        ids: list[int] = tokenizer.encode(text, disallowed_special=())
        return ids
    data = text.encode("utf-8", "surrogatepass")
    count = estimate_text_tokens(text, encoding)
    cuts = [len(data) * place // count for place in range(count + 1)] if count else [0]
    return [zlib.crc32(data[start:end]) for start, end in pairwise(cuts)]


@cache
def _tokenizer(encoding: Encoding) -> Any:
    """The tokenizer of tiktoken; None where it is not installed, or would fetch its data."""
    if find_spec("tiktoken") is None or not _tiktoken_data(encoding).exists():
        return None
    import tiktoken  # noqa: PLC0415  # not a dependency

    try:
        return tiktoken.get_encoding(encoding)
    except Exception:  # noqa: BLE001  # its file is damaged: an estimate is better than an error
        return None


def _tiktoken_data(encoding: Encoding) -> Path:
    """Where tiktoken keeps a vocabulary that it has fetched once (`tiktoken.load.read_file`)."""
    url = f"https://openaipublic.blob.core.windows.net/encodings/{encoding}.tiktoken"
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    name = hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
    return Path(folder or Path(tempfile.gettempdir(), "data-gym-cache"), name)


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

_TEST_SOON = 2
"""The same after a refusal whose own figures do not show that the request was too long: servers say
so for other reasons too. It doubles with each that follows."""

_FRAME = 200
"""Tokens that a prompt may have beside its text, at most, as far as its plausibility is judged."""


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


def tokens_by_length(characters: int) -> int:
    """Guess how many tokens so many characters are, where only the order of size matters."""
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
    return _text(_as_json(schema))


def _as_json(schema: Any) -> str:
    return dumps(schema, ensure_ascii=False, separators=(",", ":"), default=str)


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

    __slots__ = ("_certain", "_doubted", "_kept", "_kept_in_doubt", "_packed", "_passed",
                 "_refused", "_test_after", "bounded", "window")  # fmt: skip

    def __init__(self, window: int | None = None, *, guess: int | None = None) -> None:
        self.window = window or guess
        self.bounded: bool = self.window is not None
        self._certain = window is not None
        self._packed = 0.0
        self._passed = 0.0
        self._refused = inf
        self._kept = 0
        # The same for refusals that may have had another reason.
        self._doubted = inf
        self._test_after = _TEST_SOON
        self._kept_in_doubt = 0

    def fits(self, characters: int, max_tokens: int = 0) -> bool:
        """Whether a request is worth sending.

        Args:
            characters: Its size, by `count_characters()`.
            max_tokens: The longest answer it asks for; 0 where it does not say.
        """
        if not self.bounded:
            return True
        if self._has_room(characters, max_tokens):
            return self._passes_doubt(_whole(characters, max_tokens))
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
        size = _whole(characters, max_tokens)
        if _shows(characters, max_tokens, limit, given):
            if not self._certain:
                self.window = limit
            if given is not None:
                self._calibrate(characters, given)
            self._refused = min(self._refused, size)
        else:
            again = self._doubted < inf
            self._test_after = min(_TRY_AGAIN, 2 * self._test_after) if again else _TEST_SOON
            self._doubted, self._kept_in_doubt = min(self._doubted, size), 0
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
        if size >= self._doubted:
            self._doubted = inf
        if prompt_tokens is not None:
            self._calibrate(characters, prompt_tokens)
            if self.window is not None and prompt_tokens > self.window and not self._certain:
                self.window = None
        self.bounded = self.window is not None or min(self._refused, self._doubted) < inf

    def _passes_doubt(self, size: float) -> bool:
        """Whether it is smaller than what was refused for whatever reason, or a test of that."""
        if size < self._doubted or size <= self._passed:
            return True
        self._kept_in_doubt += 1
        return self._kept_in_doubt % self._test_after == 0

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


def _shows(characters: int, max_tokens: int, limit: int | None, given: int | None) -> bool:
    """Whether a refusal's own figures show that a request was longer than a target takes."""
    if limit is None:
        return False
    most = characters + _FRAME  # there is hardly a text of more tokens than characters
    if given is None:
        return most + max_tokens > limit
    return given + max_tokens > limit and given <= most


def _whole(characters: int, max_tokens: int) -> float:
    """Prompt and answer together, in characters."""
    return characters + max_tokens * CHARACTERS_PER_TOKEN

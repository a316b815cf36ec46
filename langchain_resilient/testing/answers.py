"""What an answer is: what a script prescribes of it, what the model says, and its text.

The text is one that a test can work out from the prompt alone:

- `answer_to(prompt)` is `Answer <digest> to "<first words of the prompt>": 1 kalo 2 miru ...`, in
  sentences of eight numbered made-up words. It does not depend on model, provider or seed.
- `say exactly: X` is answered by X.
- A token is up to eight word characters, or one other character, with the white space before it.
  Prompts are counted at four characters per token.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2s
from typing import Any

from langchain_resilient.testing.delays import Delay

DEFAULT_WORDS = 40
"""How many numbered words an answer has unless a `Reply` says otherwise."""

_TOKEN = re.compile(r"\s*(?:\w{1,8}|[^\w\s])|\s+")
_SAY_EXACTLY = re.compile(r"\bsay exactly:?\s*(.+)", re.IGNORECASE | re.DOTALL)
_SYLLABLES = [consonant + vowel for consonant in "bdfghjklmnprstvz" for vowel in "aeiou"]
_WORDS = [first + second for first in _SYLLABLES for second in _SYLLABLES]
_SENTENCE_WORDS = 8
_TITLE_LENGTH = 40  # characters of the prompt that an answer repeats


@dataclass(frozen=True)
class ToolCall:
    """One call of a tool.

    Attributes:
        name: The tool.
        arguments: Its arguments as JSON text; anything other than text is converted to it.
        id: What a tool message answers to; made up where it is empty.

    Example:
        ```python
        Reply(tool_calls=[ToolCall("get_weather", {"location": "Paris"})])
        ```
    """

    name: str
    arguments: str = "{}"
    id: str = ""

    def __init__(self, name: str, arguments: Mapping[str, Any] | str = "{}", id: str = "") -> None:  # noqa: A002 - the API's own word
        text = arguments if isinstance(arguments, str) else compact_json(arguments)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "arguments", text)
        object.__setattr__(self, "id", id)

    @classmethod
    def of(cls, call: ToolCall | Mapping[str, Any]) -> ToolCall:
        """Read a call in any of the usual shapes: LangChain's `args` or the API's `arguments`."""
        if isinstance(call, ToolCall):
            return call
        inner = call.get("function", call)
        arguments = inner.get("args", inner.get("arguments", "{}"))
        return cls(inner["name"], arguments, call.get("id") or "")


@dataclass(frozen=True, repr=False)
class ReplyOptions:
    """What a script prescribes of an answer: its content, its pace and its looks.

    Attributes:
        text: What to say, verbatim; None lets the model work it out (see `answer_to`).
        latency: Seconds before the response head.
        first_text: Seconds between the role chunk and the first text.
        rate: Tokens per second; None sends everything at once.
        chunk_gap: Seconds between chunks, instead of `rate`. 0.0 sends each chunk in a write of
            its own, None all in one.
        tool_calls: Tools to call: `ToolCall`s, or dicts with `name` and `args`.
        finish_reason: Overrides the finish reason: `"length"`, `"content_filter"`, `"eos"`, ...
        reasoning: The reasoning that precedes the answer (`reasoning` at Together,
            `reasoning_content` at servers compatible with OpenAI).
        refusal: What to say instead of an answer: content is null, as OpenAI does it.
        usage: Whether token counts are sent where the dialect sends them.
        words: The length of an answer that the model works out, in numbered words.
        overlap: The number of characters that a continuation repeats of what was already said;
            with 0, an answer that is complete is continued by an empty one.
        quirks: Turns on the odd variants of the dialect that real routes were seen to send.
        status: HTTP status; one provider answers success with 201.
        headers: Further response headers.
        close: Whether to close the connection afterwards.
    """

    text: str | None
    latency: Delay
    first_text: Delay
    rate: float | None
    chunk_gap: Delay | None
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str | None
    reasoning: str | None
    refusal: str | None
    usage: bool
    words: int
    overlap: int
    quirks: bool
    status: int
    headers: tuple[tuple[str, str], ...]
    close: bool

    def __init__(
        self,
        text: str | None = None,
        *,
        latency: Delay = 0.0,
        first_text: Delay = 0.0,
        rate: float | None = None,
        chunk_gap: Delay | None = None,
        tool_calls: Sequence[ToolCall | Mapping[str, Any]] | None = None,
        finish_reason: str | None = None,
        reasoning: str | None = None,
        refusal: str | None = None,
        usage: bool = True,
        words: int = DEFAULT_WORDS,
        overlap: int = 0,
        quirks: bool = False,
        status: int = 200,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        close: bool = False,
    ) -> None:
        if rate is not None and not rate > 0:
            msg = f"rate must be more than 0 tokens a second, not {rate}"
            raise ValueError(msg)
        calls = tuple(ToolCall.of(call) for call in tool_calls or ())
        values = {**locals(), "tool_calls": calls, "headers": frozen_pairs(headers)}
        for field in self.__dataclass_fields__:
            object.__setattr__(self, field, values[field])

    @property
    def instant(self) -> bool:
        """Whether the whole answer goes out at once: the server then needs no task for it."""
        return self.latency == 0 == self.first_text and self.rate is None and self.chunk_gap is None

    @property
    def gap(self) -> Delay | None:
        """The seconds between two chunks, or None for one write."""
        return (
            1 / self.rate if self.rate is not None and math.isfinite(self.rate) else self.chunk_gap
        )


@dataclass(frozen=True, slots=True)
class AnswerUsage:
    """What an answer costs, in tokens; `reasoning` is part of `completion`."""

    prompt: int
    completion: int
    reasoning: int = 0
    cached: int = 0


@dataclass(frozen=True, slots=True)
class AnswerChoice:
    """One of the `n` answers to a request.

    Attributes:
        text: What is said, or None where only tools are called or the model refuses.
        finish_reason: In OpenAI's words: `stop`, `length`, `tool_calls`, `content_filter`.
        tool_calls: The tools called.
        reasoning: The reasoning that precedes the answer.
        refusal: What is said instead of an answer.
    """

    text: str | None
    finish_reason: str | None
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything that the model has to say to one request."""

    choices: tuple[AnswerChoice, ...]
    usage: AnswerUsage


def tokens(text: str) -> list[str]:
    """Cut a text into tokens; joined again they are the text.

    Example:
        ```python
        tokens("Hello, world")  # ["Hello", ",", " world"]
        ```
    """
    return _TOKEN.findall(text)


def count_prompt_tokens(text: str) -> int:
    """Count a prompt's tokens at four characters each, rounded up."""
    return (len(text) + 3) // 4


def answer_to(prompt: str, *, words: int = DEFAULT_WORDS, choice: int = 0) -> str:
    """Return what the simulated model answers to a question.

    Args:
        prompt: The last user message of the conversation.
        words: How many numbered words; a longer answer begins with the shorter one.
        choice: Which of `n` answers, counted from 0.

    Returns:
        The whole answer.

    Example:
        ```python
        assert model.invoke("Hello").content == answer_to("Hello")
        ```
    """
    exact = _SAY_EXACTLY.search(prompt)
    if exact:
        return _unquoted(exact[1].strip())
    digest = blake2s(
        (f"{choice}:{prompt}" if choice else prompt).encode(), digest_size=4
    ).hexdigest()
    title = " ".join(prompt[: 4 * _TITLE_LENGTH].split())[:_TITLE_LENGTH].replace('"', "'")
    # A stride that shares no factor with 6,400 visits every two-syllable word before any repeats.
    number = int(digest, 16)
    stride = number // len(_WORDS) % 640 * 10 + 3
    first = number - stride
    numbered = [
        f"{i} {_WORDS[(first + i * stride) % 6400]}{'' if i % _SENTENCE_WORDS else '.'}"
        for i in range(1, words + 1)
    ]
    return f'Answer {digest} to "{title}": {" ".join(numbered)}'


def _unquoted(text: str) -> str:
    pairs = {'"': '"', "'": "'", "“": "”", "`": "`"}
    if len(text) > 1 and pairs.get(text[0]) == text[-1]:
        return text[1:-1]
    return text


def frozen_pairs(mapping: Any) -> tuple[tuple[str, str], ...]:
    """Turn headers in any shape into a hashable value, with lower-case names."""
    items = mapping.items() if hasattr(mapping, "items") else mapping or ()
    return tuple((str(name).lower(), str(value)) for name, value in items)


def compact_json(value: Any) -> str:
    """Write JSON without spaces, as the models write tool arguments."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

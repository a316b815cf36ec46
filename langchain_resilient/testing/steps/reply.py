"""`Reply`: the good answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_resilient.testing.steps.base import Step, frozen_pairs
from langchain_resilient.testing.text import DEFAULT_WORDS
from langchain_resilient.testing.tools import ToolCall

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_resilient.testing.delays import Delay
    from langchain_resilient.testing.exchange import Exchange


@dataclass(frozen=True, repr=False)
class Reply(Step):
    """A good answer, as fast or as slow as you like.

    Plain requests get it whole after `latency + first_text` and the time that its tokens take.

    Attributes:
        text: What to say, verbatim; None lets the model think (see `answer_to`).
        latency: Seconds before the response head.
        first_text: Seconds between the role chunk and the first text.
        rate: Tokens a second; None sends everything at once.
        chunk_gap: Seconds between chunks, instead of `rate`. 0.0 sends each chunk in a write of
            its own, None all in one.
        tool_calls: Tools to call: `ToolCall`s, or dicts with `name` and `args`.
        finish_reason: Overrides the finish reason: `"length"`, `"content_filter"`, `"eos"`, ...
        reasoning: What the model thinks aloud first (`reasoning` at Together,
            `reasoning_content` at servers compatible with OpenAI).
        refusal: What to say instead of an answer: content is null, as OpenAI does it.
        usage: Whether token counts are sent where the dialect sends them.
        words: The length of an answer that is thought out, in numbered words.
        overlap: How many characters a continuation repeats of what was already said; with 0, an
            answer that is complete is continued by an empty one.
        quirks: Turns on the odd variants of the dialect that real routes were seen to send.
        status: HTTP status; one maker answers success with 201.
        headers: Further response headers.
        close: Whether to close the connection afterwards.

    Example:
        ```python
        sim.script("openai:gpt-4", Reply("hi"), Reply(first_text=0.5, rate=50))
        ```
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
    def prescribed(self) -> bool:
        """Whether the script says what to answer."""
        return self.text is not None or bool(self.tool_calls) or self.refusal is not None

    @property
    def gap(self) -> Delay | None:
        """The seconds between two chunks, or None for one write."""
        return (
            1 / self.rate if self.rate is not None and math.isfinite(self.rate) else self.chunk_gap
        )

    async def play(self, exchange: Exchange) -> None:
        """Give the answer."""
        await exchange.tell(self).give()


AT_ONCE = Reply()
"""The plain good answer, which every target gives unless a script says otherwise."""

"""Which JSON modes a target takes: found out by trying, and remembered for the process.

There is no table of models. A target is asked in the mode that the caller chose; if its API refuses
that, it is asked in the next one at once (see `langchain_resilient.wire.json_modes`). A refusal of
the mode itself is remembered for the target, a refusal of a schema for that schema only.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any

from pydantic_core import ValidationError

from langchain_resilient.faults import FaultKind
from langchain_resilient.providers.error_details import error_details, error_text
from langchain_resilient.providers.errors import classify
from langchain_resilient.wire.json_modes import JSONModeConverter

if TYPE_CHECKING:
    from collections.abc import Hashable

    from langchain_resilient.exchange import Chunk, ChunkStream, RateLimitStatus
    from langchain_resilient.wire.json_modes import JSONMode, RequestedJSON


MAX_REMEMBERED = 4096
"""The number of refusals that are remembered; at more, all are forgotten and learned again."""

_FORMAT_WORDS = r"response_?\s?format|json|structured.?output|guided|grammar"

_MENTIONS = {
    "json_schema": re.compile(_FORMAT_WORDS, re.IGNORECASE),
    "json_object": re.compile(_FORMAT_WORDS, re.IGNORECASE),
    "tools": re.compile(r"tool|function", re.IGNORECASE),
}

_UNSUPPORTED = re.compile(
    r"(?:not|n't) (?:support|allow|permit|enable|available|implement)|unsupported|unrecognized|"
    r"extra inputs|unexpected keyword|endpoints found that support|requires? .{0,40}--",
    re.IGNORECASE,
)

_ABOUT_THE_PROMPT = re.compile(r"must (?:contain|include|mention) the word", re.IGNORECASE)
"""OpenAI's refusal of `json_object` for a prompt without "JSON": the next prompt may have it."""

_SCHEMA_PROBLEM = re.compile(r"invalid schema|schema is (?:invalid|not)|in context=", re.IGNORECASE)
_refused: set[tuple[Hashable, JSONMode, str | None]] = set()
_lock = threading.Lock()


def forget_refusals() -> None:
    """Forget what every target refused."""
    with _lock:
        _refused.clear()


class JSONFallback:
    """Chooses the JSON mode for one target by what the target has refused so far.

    Args:
        target: Identifies the target across chat models: its API, its address, its model.
    """

    __slots__ = ("_target",)

    def __init__(self, target: Hashable) -> None:
        self._target = target

    def first(self, requested: RequestedJSON) -> JSONMode:
        """Return the first mode that is not known to be refused."""
        if not _refused:
            return requested.original_mode
        accepted: list[JSONMode] = [
            mode for mode in requested.modes if not self._is_refused(requested, mode)
        ]
        return accepted[0] if accepted else requested.modes[-1]

    def next_after(
        self, error: BaseException, requested: RequestedJSON, mode: JSONMode
    ) -> JSONMode | None:
        """Learn from an error.

        Returns:
            The mode to try next; None if the error is not about the mode, or none is left.
        """
        text = _refusal(error, mode)
        if text is None:
            return None
        if _ABOUT_THE_PROMPT.search(text):
            return self._next(requested, mode)
        is_permanent = _UNSUPPORTED.search(text) and not _SCHEMA_PROBLEM.search(text)
        with _lock:
            if len(_refused) >= MAX_REMEMBERED:
                _refused.clear()
            _refused.add((self._target, mode, None if is_permanent else _fingerprint(requested)))
        return self._next(requested, mode)

    def _next(self, requested: RequestedJSON, mode: JSONMode) -> JSONMode | None:
        later_modes = requested.modes[requested.modes.index(mode) + 1 :]
        accepted: list[JSONMode] = [
            later for later in later_modes if not self._is_refused(requested, later)
        ]
        return accepted[0] if accepted else None

    def _is_refused(self, requested: RequestedJSON, mode: JSONMode) -> bool:
        entries = {(self._target, mode, None), (self._target, mode, _fingerprint(requested))}
        return not _refused.isdisjoint(entries)


def _fingerprint(requested: RequestedJSON) -> str:
    return repr(requested.schema)


def _refusal(error: BaseException, mode: JSONMode) -> str | None:
    """Return the text of an error if it is a refusal of this mode."""
    pattern = _MENTIONS.get(mode)
    if pattern is None or classify(error).kind is not FaultKind.BAD_REQUEST:
        return None
    details = error_details(error)
    text = f"{details.get('param')} {error_text(error, details)}"
    if isinstance(error, ValidationError):
        # A client's own model of the request: whatever else it refuses, no other mode mends.
        return text if all(map(pattern.search, error_text(error, {}).split("; "))) else None
    return text if pattern.search(text) else None


class ConvertedStream:
    """A stream whose chunks are converted to the mode that the caller asked for."""

    __slots__ = ("_convert", "_over", "_stream")

    def __init__(self, stream: ChunkStream, requested: RequestedJSON, mode: JSONMode) -> None:
        self._stream = stream
        self._convert = JSONModeConverter(requested, mode).convert
        self._over = False

    def __aiter__(self) -> ConvertedStream:
        return self

    async def __anext__(self) -> Chunk:
        try:
            return self._convert(await self._stream.__anext__())
        except StopAsyncIteration:
            if self._over or not self.complete:
                raise
            # Without a finish_reason it is the end of the stream that lets go what is held back.
            self._over = True
            return self._convert({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})

    @property
    def complete(self) -> bool:
        """Whether the server has said that the stream is at its end."""
        return bool(getattr(self._stream, "complete", False))

    def rate_limit_status(self) -> RateLimitStatus | None:
        """Return the rate limits that its headers state, if any."""
        read = getattr(self._stream, "rate_limit_status", None)
        return read() if read is not None else None

    async def aclose(self) -> Any:
        """Close the stream."""
        return await self._stream.aclose()

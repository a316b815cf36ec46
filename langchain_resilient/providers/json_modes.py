"""Which ways of asking for JSON a target takes: tried, and remembered for the process.

There is no table of models: a target is asked in the way the caller chose, and if its API refuses
that it is asked at once in the next (`langchain_resilient.wire.ways`). A refusal of the way itself
is remembered for the target, one of a schema for that schema.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any

from langchain_resilient.faults import FaultKind
from langchain_resilient.providers import errors
from langchain_resilient.providers.errors import classify
from langchain_resilient.wire.json_modes import JSONModeConverter

if TYPE_CHECKING:
    from collections.abc import Hashable

    from langchain_resilient.exchange import Chunk, ChunkStream
    from langchain_resilient.wire.json_modes import JSONMode, RequestedJSON


MAX_REMEMBERED = 4096
"""Refusals that are remembered; then all is forgotten, and learned again."""


_TEXT = r"response_?\s?format|json|structured.?output|guided|grammar"


_SPEAKS_OF = {
    "json_schema": re.compile(_TEXT, re.IGNORECASE),
    "json_object": re.compile(_TEXT, re.IGNORECASE),
    "tools": re.compile(r"tool|function", re.IGNORECASE),
}


_NEVER = re.compile(
    r"(?:not|n't) (?:support|allow|permit|enable|available|implement)|unsupported|unrecognized|"
    r"extra inputs|unexpected keyword|endpoints found that support|requires? .{0,40}--",
    re.IGNORECASE,
)


_SCHEMA = re.compile(r"invalid schema|schema is (?:invalid|not)|in context=", re.IGNORECASE)


_refused: set[tuple[Hashable, JSONMode, str | None]] = set()


_lock = threading.Lock()


def reset_json_modes() -> None:
    """Forget what any target refused."""
    with _lock:
        _refused.clear()


class JSONModes:
    """What one target refused, shared by all that ask it.

    Args:
        target: Tells it from others, across models: its API, its address, its model.
    """

    __slots__ = ("_target",)

    def __init__(self, target: Hashable) -> None:
        self._target = target

    def first(self, want: RequestedJSON) -> JSONMode:
        """Choose the first way that is not known to be refused."""
        if not _refused:
            return want.asked
        left: list[JSONMode] = [way for way in want.ways if not self._knows(want, way)]
        return left[0] if left else want.ways[-1]

    def after(self, error: BaseException, want: RequestedJSON, way: JSONMode) -> JSONMode | None:
        """Learn from a refusal.

        Returns:
            The way to ask next; None if the error says nothing of the way, or none is left.
        """
        text = _refusal(error, way)
        if text is None:
            return None
        forever = _NEVER.search(text) and not _SCHEMA.search(text)
        with _lock:
            if len(_refused) >= MAX_REMEMBERED:
                _refused.clear()
            _refused.add((self._target, way, None if forever else _fingerprint(want)))
        later = want.ways[want.ways.index(way) + 1 :]
        left: list[JSONMode] = [other for other in later if not self._knows(want, other)]
        return left[0] if left else None

    def _knows(self, want: RequestedJSON, way: JSONMode) -> bool:
        known = {(self._target, way, None), (self._target, way, _fingerprint(want))}
        return not _refused.isdisjoint(known)


def _fingerprint(want: RequestedJSON) -> str:
    return repr(want.schema)


def _refusal(error: BaseException, way: JSONMode) -> str | None:
    """What an error says, if it speaks of this way of asking."""
    speaks = _SPEAKS_OF.get(way)
    if speaks is None or classify(error).kind is not FaultKind.BAD_REQUEST:
        return None
    told = errors.error_details(error)
    text = f"{told.get('param')} {errors.error_text(error, told)}"
    return text if speaks.search(text) else None


class ConvertedStream:
    """A stream whose chunks are turned into what was asked for."""

    __slots__ = ("_stream", "_turn")

    def __init__(self, stream: ChunkStream, want: RequestedJSON, way: JSONMode) -> None:
        self._stream = stream
        self._turn = JSONModeConverter(want, way).turn

    def __aiter__(self) -> ConvertedStream:
        return self

    async def __anext__(self) -> Chunk:
        return self._turn(await self._stream.__anext__())

    async def aclose(self) -> Any:
        """Close the stream."""
        return await self._stream.aclose()

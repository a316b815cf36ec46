"""Several answers of a target that gives only one a request, as one answer with several choices."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Iterable

    from langchain_resilient.exchange import Chunk, ChunkStream


async def merged_answers(asking: Iterable[Coroutine[Any, Any, ChunkStream]]) -> MergedAnswers:
    """Open several answers at once and read them as one.

    Raises:
        Exception: The first failure; the other answers are closed.
    """
    tasks = [asyncio.ensure_future(one) for one in asking]
    try:
        return MergedAnswers(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        for stream in done:
            if not isinstance(stream, BaseException):
                await stream.aclose()
        raise


class MergedAnswers:
    """One answer whose choices come from several; its usage is the sum of theirs."""

    __slots__ = ("_chunks", "_streams")

    def __init__(self, streams: list[ChunkStream]) -> None:
        self._streams = streams
        self._chunks = self._read()

    def __aiter__(self) -> MergedAnswers:
        return self

    async def __anext__(self) -> Chunk:
        return await anext(self._chunks)

    async def aclose(self) -> None:
        """Close all of them."""
        await self._chunks.aclose()
        for stream in self._streams:
            with contextlib.suppress(Exception):
                await stream.aclose()

    async def _read(self) -> AsyncGenerator[Chunk, None]:
        usage: dict[str, Any] = {}
        for number, stream in enumerate(self._streams):
            async for chunk in stream:
                for choice in chunk.get("choices") or ():
                    choice["index"] = number
                given = chunk.pop("usage", None)
                if isinstance(given, dict):
                    usage = _sum(usage, given)
                yield chunk
        if usage:
            yield {"choices": [], "usage": usage}


def _sum(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    total = {**one}
    for name, value in other.items():
        known = total.get(name)
        if isinstance(value, dict):
            total[name] = _sum(known if isinstance(known, dict) else {}, value)
        elif isinstance(value, int) and isinstance(known, int):
            total[name] = known + value
        else:
            total[name] = value if known is None else known
    return total

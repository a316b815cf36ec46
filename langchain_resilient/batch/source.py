"""`Source`: numbers the items of any iterable, and reads one only when somebody wants it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Source(Generic[T]):
    """The items of a batch, for several readers of one event loop.

    Args:
        items: Any iterable or async iterable. A plain one is read on the event loop: reading it
            should not take long.

    Example:
        ```python
        source = Source(["a", "b"])
        await source.next()  # (0, "a")
        ```
    """

    __slots__ = ("_count", "_items", "_lock", "_read_all")

    def __init__(self, items: Iterable[T] | AsyncIterable[T]) -> None:
        self._items: AsyncIterator[T] | Iterator[T] = (
            aiter(items) if isinstance(items, AsyncIterable) else iter(items)
        )
        self._count = 0
        self._read_all = False
        self._lock = asyncio.Lock()

    async def next(self) -> tuple[int, T] | None:
        """Read the next item with its place; None if there is no more."""
        if isinstance(self._items, Iterator):
            return self._numbered(self._items)
        # An async generator must not be asked for two items at a time.
        async with self._lock:
            return await self._anumbered(self._items)

    def _numbered(self, items: Iterator[T]) -> tuple[int, T] | None:
        if self._read_all:
            return None
        for item in items:
            return self._count_one(), item
        self._read_all = True
        return None

    async def _anumbered(self, items: AsyncIterator[T]) -> tuple[int, T] | None:
        if self._read_all:
            return None
        async for item in items:
            return self._count_one(), item
        self._read_all = True
        return None

    def _count_one(self) -> int:
        self._count += 1
        return self._count - 1

    async def aclose(self) -> None:
        """Close the iterator, where it can be closed: generators and files can."""
        self._read_all = True
        for name in ("aclose", "close"):
            close = getattr(self._items, name, None)
            if close is not None:
                closing = close()
                if name == "aclose":
                    await closing
                return

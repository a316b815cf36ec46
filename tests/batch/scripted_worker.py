"""A scripted worker for the runner: how long each item takes, and how it ends."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langchain_resilient.batch.runner import BatchRunner, ItemSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class ItemError(Exception):
    """An item failed."""


@dataclass
class ScriptedWorker:
    """Stands in for `PromptWorker`: the answer to item `x` is `x * 10`."""

    seconds: Callable[[Any, bool], float] = lambda _item, _hedge: 1.0
    fails: Callable[[Any, bool], bool] = lambda _item, _hedge: False
    known: dict[int, Any] = field(default_factory=dict)
    record_seconds: float = 0.0
    asked: list[tuple[Any, bool, float]] = field(default_factory=list)
    recorded: dict[int, Any] = field(default_factory=dict)
    cancelled: list[Any] = field(default_factory=list)
    running: int = 0
    max_running: int = 0

    def restore(self, index: int, item: Any) -> Any:
        return self.known.get(index)

    async def ask(self, index: int, item: Any, *, hedge: bool) -> Any:
        self.asked.append((item, hedge, asyncio.get_running_loop().time()))
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        try:
            await asyncio.sleep(self.seconds(item, hedge))
            if self.fails(item, hedge):
                raise ItemError(item)
        except asyncio.CancelledError:
            self.cancelled.append((item, hedge))
            raise
        finally:
            self.running -= 1
        return item * 10

    async def record(self, index: int, result: Any) -> None:
        assert index not in self.recorded
        await asyncio.sleep(self.record_seconds)
        self.recorded[index] = result


@dataclass
class Items:
    """A source that tells how far it was read, and whether it was closed."""

    items: Iterable[Any]
    gap: float | None = None
    read: int = 0
    closed: bool = False

    def plain(self) -> Any:
        try:
            for item in self.items:
                self.read += 1
                yield item
        finally:
            self.closed = True

    async def slow(self) -> Any:
        try:
            for item in self.items:
                await asyncio.sleep(self.gap or 0)
                self.read += 1
                yield item
        finally:
            self.closed = True

    def open(self) -> Any:
        return self.plain() if self.gap is None else self.slow()


def runner(items: Any, work: Any, workers: int = 4, **options: Any) -> BatchRunner:
    return BatchRunner(ItemSource(items), work, workers=workers, **options)


async def collect(items: Any, work: Any, workers: int = 4, **options: Any) -> list[Any]:
    async with aclosing(runner(items, work, workers, **options).results()) as results:
        return [result async for result in results]

"""`Runner`: a fixed number of workers over a source of items, with results as they are completed.

There is no wave: a worker that has a result takes the next item at once. Nothing grows with the
number of items.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from langchain_resilient.observability.times import Times

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection

    from langchain_resilient.batch.ports import Work
    from langchain_resilient.batch.source import Source

T = TypeVar("T")
R = TypeVar("R")

LATE = 3.0
"""How many times the median duration an item of the tail runs before it is asked a second time."""

SOONEST = 1.0
"""Seconds before which nothing is late, however fast the others are."""

ENOUGH = 20
"""Results before which the median is not trusted."""


@dataclass(slots=True, eq=False)
class _Job(Generic[T]):
    """An item that is being worked on.

    Attributes:
        index: Its place.
        item: The item.
        started: The loop's time when it was first asked.
        workers: Those who ask it, or wait to ask it a second time.
        asking: How many ask it now.
        helped: Whether a second worker was put to it.
    """

    index: int
    item: T
    started: float
    workers: list[asyncio.Task[None]] = field(default_factory=list)
    asking: int = 0
    helped: bool = False


class Runner(Generic[T, R]):
    """Works through a source once.

    A worker is one task that takes an item, asks, hands the result over, and takes the next. At
    most `2 * workers - 1` items are read and not yet handed to the consumer: a slow consumer slows
    the workers down.

    The tail: when the source is empty, a free worker waits beside the oldest item that is still
    being asked, and asks it a second time once it has run for 3 times the median, and for a second.
    The first answer wins, the other call is cancelled (Dean & Barroso, "The Tail at Scale", CACM
    2013; backup tasks of Dean & Ghemawat, "MapReduce", OSDI 2004). That is at most one more call an
    item, fewer than `workers` in all, and none before 20 results.

    Args:
        source: The items.
        work: What is done with each.
        workers: How many items are worked on at a time.
        return_exceptions: Hand an item's exception over as its result. Otherwise the first one
            cancels all other items and is raised, when nothing is left running.
        tail_hedge: Whether to ask stragglers a second time.

    Example:
        ```python
        runner = Runner(Source(prompts), work, workers=64)
        async with aclosing(runner.results()) as results:
            async for index, result in results:
                ...
        ```
    """

    def __init__(
        self,
        source: Source[T],
        work: Work[T, R],
        *,
        workers: int,
        return_exceptions: bool = False,
        tail_hedge: bool = True,
    ) -> None:
        self._source = source
        self._work = work
        self._most = workers
        self._return_exceptions = return_exceptions
        self._tail_hedge = tail_hedge
        self._clock = asyncio.get_running_loop().time
        self._workers: set[asyncio.Task[None]] = set()
        self._dismissed: set[asyncio.Task[None]] = set()
        self._keeping: set[asyncio.Task[None]] = set()
        self._context = contextvars.copy_context()
        self._jobs: dict[int, _Job[T]] = {}
        self._results: deque[tuple[int, R | Exception]] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._seconds = Times()
        self._stopped = False
        self._error: BaseException | None = None

    async def results(self) -> AsyncGenerator[tuple[int, R | Exception], None]:
        """Yield `(index, result)` as completed. Closing it early leaves nothing running.

        Raises:
            Exception: An item's, if exceptions are not returned; the source's; `Work.keep`'s.
        """
        try:
            self._hire()
            while self._workers or self._results:
                while self._results:
                    result = self._results.popleft()
                    self._room.set()
                    yield result
                if self._workers:
                    self._news.clear()
                    await self._news.wait()
        finally:
            self._stop()
            await _ended(self._workers)
            await self._source.aclose()
        if self._error is not None:
            raise self._error

    # -- workers --------------------------------------------------------------------------------

    def _hire(self) -> None:
        if len(self._workers) < self._most and not self._stopped:
            # Each has the caller's context, not that of the worker which happened to hire it.
            worker = asyncio.create_task(self._run(), context=self._context.copy())
            self._workers.add(worker)
            worker.add_done_callback(self._left)

    def _left(self, worker: asyncio.Task[None]) -> None:
        """Look at how a worker ended: nothing that nobody asked for may pass unnoticed."""
        self._workers.discard(worker)
        self._news.set()
        error = asyncio.CancelledError() if worker.cancelled() else worker.exception()
        if worker in self._dismissed:
            self._dismissed.discard(worker)
        elif error is not None and self._error is None:
            self._error = error
            self._stop()

    def _stop(self) -> None:
        self._stopped = True
        for worker in self._workers:
            self._dismiss(worker)

    def _dismiss(self, worker: asyncio.Task[None]) -> None:
        """Cancel a worker, once: a second cancel could cost a pooled connection.

        One that is keeping an answer ends by itself when that is done: the answer is paid for.
        """
        if not (worker in self._dismissed or worker in self._keeping or worker.done()):
            self._dismissed.add(worker)
            worker.cancel()

    async def _run(self) -> None:
        while not self._stopped and (found := await self._source.next()) is not None:
            self._hire()
            await self._do(*found)
            await self._wait_for_room()
        while self._tail_hedge and (job := self._straggler()) is not None:
            await self._help(job)

    async def _wait_for_room(self) -> None:
        while len(self._results) >= self._most and not self._stopped:
            self._room.clear()
            await self._room.wait()

    # -- items ----------------------------------------------------------------------------------

    async def _do(self, index: int, item: T) -> None:
        known = self._work.find(index, item)
        if known is not None:
            self._report(index, known)
            return
        job = self._jobs[index] = _Job(index, item, self._clock())
        job.workers.append(_me())
        await self._ask(job, again=False)

    async def _ask(self, job: _Job[T], *, again: bool) -> None:
        job.asking += 1
        try:
            result: R | Exception = await self._work.ask(job.index, job.item, again=again)
        except Exception as error:  # noqa: BLE001  # handed over, or raised below
            result = error
        job.asking -= 1
        job.workers.remove(_me())
        if isinstance(result, Exception) and job.asking:
            return  # another worker may still have an answer
        await self._settle(job, result)

    async def _settle(self, job: _Job[T], result: R | Exception) -> None:
        del self._jobs[job.index]
        for other in job.workers:
            self._dismiss(other)
        self._keeping.add(me := _me())
        try:
            await self._work.keep(job.index, result)
        finally:
            self._keeping.discard(me)
        if not isinstance(result, Exception):
            self._seconds.add(self._clock() - job.started)
        elif not self._return_exceptions:
            raise result
        self._report(job.index, result)

    def _report(self, index: int, result: R | Exception) -> None:
        self._results.append((index, result))
        self._news.set()

    # -- the tail -------------------------------------------------------------------------------

    def _straggler(self) -> _Job[T] | None:
        """Find the oldest item that nobody was put to beside its own worker."""
        if self._seconds.count < ENOUGH or self._stopped:
            return None
        return next((job for job in self._jobs.values() if not job.helped), None)

    async def _help(self, job: _Job[T]) -> None:
        job.helped = True
        job.workers.append(_me())
        median = self._seconds.quantiles().p50 or 0.0
        patience = max(SOONEST, LATE * median)
        await asyncio.sleep(max(0.0, job.started + patience - self._clock()))
        await self._ask(job, again=True)


def _me() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  # coroutines of workers run in tasks
    return task


async def _ended(tasks: Collection[asyncio.Task[None]]) -> None:
    """Wait for all tasks, even if whoever waits is cancelled once more: that is passed on after."""
    cancelled: asyncio.CancelledError | None = None
    while tasks:
        try:
            await asyncio.wait(set(tasks))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled

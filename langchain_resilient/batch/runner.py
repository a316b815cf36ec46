"""Runs one batch from beginning to end.

`run_batch` puts the parts together: `BatchRunner` hands the items of an `ItemSource` to a fixed
number of workers, and `PromptWorker` says what is done with each: look into the journal, ask the
model, record and count the answer.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any, Protocol

from langchain_resilient.batch.progress import ProgressMeter, as_display
from langchain_resilient.batch.prompt_worker import PromptConfigs, PromptWorker
from langchain_resilient.batch.report import elsewhere_text
from langchain_resilient.observability.stats import DurationHistogram

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Mapping

    from langchain_core.language_models import BaseChatModel, LanguageModelInput
    from langchain_core.messages import AIMessage

    from langchain_resilient.batch.journal import Journal, JournalMatch
    from langchain_resilient.batch.options import BatchOptions
    from langchain_resilient.batch.report import BatchStats

logger: logging.Logger = logging.getLogger("langchain_resilient")

STRAGGLER_FACTOR = 3.0
"""Multiple of the median duration after which an item of the tail is asked a second time."""

MIN_STRAGGLER_SECONDS = 1.0
"""Seconds before which no item is a straggler, however fast the others are."""

MIN_STRAGGLER_SAMPLES = 20
"""Results before which the median is not trusted."""


async def run_batch(
    model: BaseChatModel,
    inputs: Iterable[LanguageModelInput] | AsyncIterable[LanguageModelInput],
    configs: PromptConfigs,
    kwargs: dict[str, Any],
    *,
    options: BatchOptions,
    stats: BatchStats,
    make_lane: Callable[[ItemSource, PromptWorker, Journal], Runner] | None = None,
    each: Mapping[int, Mapping[str, Any]] | None = None,
) -> AsyncGenerator[tuple[int, Any], None]:
    """Answer every prompt; yields `(index, answer)` as completed.

    Args:
        model: The model that is asked.
        inputs: The prompts.
        configs: The LangChain config of each call.
        kwargs: The arguments of each call.
        options: The options of the batch.
        stats: Counts what happens.
        make_lane: Makes who works through the prompts, for `lane="batch"`.
        each: More arguments of single calls, by the prompt's index; read when one is asked.
    """
    async with _show_progress(stats, options) as meter, _open_journal(options) as journal:
        worker = PromptWorker(
            model, configs, kwargs, stats=stats, meter=meter, journal=journal, each=each
        )
        source, workers = ItemSource(inputs), options.max_concurrency or 1
        runner: Runner
        if make_lane is not None and journal is not None:
            runner = make_lane(source, worker, journal)
        else:
            runner = BatchRunner(
                source,
                worker,
                workers=workers,
                return_exceptions=options.return_exceptions,
                tail_hedge=options.tail_hedge,
            )
        async with aclosing(runner.results()) as results:
            async for result in results:
                yield result
        stats.end(complete=True)


@asynccontextmanager
async def _show_progress(
    stats: BatchStats, options: BatchOptions
) -> AsyncGenerator[ProgressMeter, None]:
    """Show progress while the batch runs, and report when it ends, however it ends."""
    meter = ProgressMeter(as_display(options.progress), stats.progress, stats.clock)
    try:
        meter.tick()
        yield meter
    finally:
        stats.end(complete=False)
        meter.close()
        report = stats.report()
        if report.elsewhere:
            count, why = sum(report.elsewhere.values()), elsewhere_text(report.elsewhere)
            logger.info("%s of %s answers of a batch are from %s", count, report.done, why)
        if options.report is not None:
            options.report(report)


@asynccontextmanager
async def _open_journal(options: BatchOptions) -> AsyncGenerator[Journal | None, None]:
    journal = as_journal(options.journal, options.journal_match)
    if journal is None:
        yield None
        return
    await journal.open()
    try:
        yield journal
        journal.complete = True
    finally:
        await journal.aclose()


def as_journal(
    journal: Journal | str | PathLike[str] | None, match: JournalMatch | None = None
) -> Journal | None:
    """Turn a path into a journal; a journal and None stay what they are.

    Args:
        journal: What the caller passed.
        match: How answers are recognised; goes before what a journal says itself.
    """
    from langchain_resilient.batch.journal import Journal, check_match  # noqa: PLC0415  # loads sqlite3

    if isinstance(journal, str | PathLike):
        return Journal(journal, match=match or "prompt")
    if match is not None:
        match = check_match(match)
        if journal is None:
            msg = "journal_match says how a journal is read: give the journal too"
            raise ValueError(msg)
        journal.match = match
    return journal


class Runner(Protocol):
    """Works through the prompts of a batch."""

    def results(self) -> AsyncGenerator[tuple[int, AIMessage | Exception], None]:
        """Yield `(index, result)` as completed; closing it early leaves nothing running here."""
        ...


class BatchRunner:
    """Works through a source once.

    A worker is one task that takes an item, asks, delivers the result, and takes the next. At most
    `2 * workers - 1` items are read and not yet taken by the consumer: a slow consumer slows the
    workers down.

    The tail: when the source is exhausted, a free worker waits beside the oldest item that is still
    being asked, and asks it a second time once it has run for 3 times the median, and for a second.
    The first answer wins, the other call is cancelled (Dean & Barroso, "The Tail at Scale", CACM
    2013; backup tasks of Dean & Ghemawat, "MapReduce", OSDI 2004). That is at most one more call
    per item, fewer than `workers` in all, and none before 20 results.

    Args:
        source: The items.
        worker: What is done with each.
        workers: The number of items worked on at a time.
        return_exceptions: Deliver an item's exception as its result. Otherwise the first one
            cancels all other items and is raised once nothing is left running.
        tail_hedge: Whether to ask stragglers a second time.

    Example:
        ```python
        runner = BatchRunner(ItemSource(prompts), worker, workers=64)
        async with aclosing(runner.results()) as results:
            async for index, result in results:
                ...
        ```
    """

    def __init__(
        self,
        source: ItemSource,
        worker: PromptWorker,
        *,
        workers: int,
        return_exceptions: bool = False,
        tail_hedge: bool = True,
    ) -> None:
        self._source = source
        self._worker = worker
        self._max_workers = workers
        self._return_exceptions = return_exceptions
        self._tail_hedge = tail_hedge
        self._clock = asyncio.get_running_loop().time
        self._context = contextvars.copy_context()
        self._workers: set[asyncio.Task[None]] = set()
        self._cancelled: set[asyncio.Task[None]] = set()  # by us, and not yet ended
        self._recording: set[asyncio.Task[None]] = set()
        self._jobs: dict[int, _Job] = {}
        self._results: deque[tuple[int, AIMessage | Exception]] = deque()
        self._changed = asyncio.Event()  # a result was added, or a worker ended
        self._taken = asyncio.Event()  # the consumer took a result
        self._seconds = DurationHistogram()
        self._stopped = False
        self._error: BaseException | None = None

    async def results(self) -> AsyncGenerator[tuple[int, AIMessage | Exception], None]:
        """Yield `(index, result)` as completed. Closing it early leaves nothing running.

        Raises:
            Exception: An item's, if exceptions are not returned; the source's; that of
                `PromptWorker.record`.
        """
        try:
            self._start_worker()
            while self._workers or self._results:
                while self._results:
                    result = self._results.popleft()
                    self._taken.set()
                    yield result
                if self._workers:
                    self._changed.clear()
                    await self._changed.wait()
        finally:
            self._stop()
            await _wait_for_all(self._workers)
            await self._source.aclose()
        if self._error is not None:
            raise self._error

    # -- workers: started one by one, as items are read ------------------------------------------

    def _start_worker(self) -> None:
        if len(self._workers) < self._max_workers and not self._stopped:
            # Each gets the caller's context, not that of the worker which happened to start it.
            task = asyncio.create_task(self._work(), context=self._context.copy())
            self._workers.add(task)
            task.add_done_callback(self._worker_ended)

    async def _work(self) -> None:
        while not self._stopped and (numbered := await self._source.next()) is not None:
            self._start_worker()
            await self._process(*numbered)
            while len(self._results) >= self._max_workers and not self._stopped:
                self._taken.clear()
                await self._taken.wait()
        while self._tail_hedge and (job := self._straggler()) is not None:
            await self._hedge(job)

    def _worker_ended(self, task: asyncio.Task[None]) -> None:
        """Notice how a worker ended: an error, or a cancel that was not ours, ends the batch."""
        self._workers.discard(task)
        self._changed.set()
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if task in self._cancelled:
            self._cancelled.discard(task)
        elif error is not None and self._error is None:
            self._error = error
            self._stop()

    def _stop(self) -> None:
        self._stopped = True
        for task in self._workers:
            self._cancel(task)

    def _cancel(self, task: asyncio.Task[None]) -> None:
        """Cancel a worker, once: a second cancel could cost a pooled connection.

        A worker that is recording an answer ends by itself after that: the answer is paid for.
        """
        if not (task in self._cancelled or task in self._recording or task.done()):
            self._cancelled.add(task)
            task.cancel()

    # -- items ------------------------------------------------------------------------------------

    async def _process(self, index: int, item: Any) -> None:
        restored = self._worker.restore(index, item)
        if restored is not None:
            self._deliver(index, restored)
            return
        job = self._jobs[index] = _Job(index, item, self._clock())
        job.workers.append(_current_task())
        await self._ask(job, hedge=False)

    async def _ask(self, job: _Job, *, hedge: bool) -> None:
        job.asking += 1
        try:
            result: AIMessage | Exception = await self._worker.ask(job.index, job.item, hedge=hedge)
        except Exception as error:  # noqa: BLE001  # delivered, or raised by `_finish`
            result = error
        job.asking -= 1
        job.workers.remove(_current_task())
        if isinstance(result, Exception) and job.asking:
            return  # the other worker may still get an answer
        if job.index not in self._jobs:
            return  # the other worker's was first: this one came while it was being cancelled
        await self._finish(job, result)

    async def _finish(self, job: _Job, result: AIMessage | Exception) -> None:
        del self._jobs[job.index]
        for other in job.workers:
            self._cancel(other)
        self._recording.add(task := _current_task())
        try:
            await self._worker.record(job.index, result)
        finally:
            self._recording.discard(task)
        if not isinstance(result, Exception):
            self._seconds.add(self._clock() - job.started)
        elif not self._return_exceptions:
            raise result
        self._deliver(job.index, result)

    def _deliver(self, index: int, result: AIMessage | Exception) -> None:
        self._results.append((index, result))
        self._changed.set()

    # -- the tail ---------------------------------------------------------------------------------

    def _straggler(self) -> _Job | None:
        """Find the oldest item that only its own worker is asking."""
        if self._seconds.count < MIN_STRAGGLER_SAMPLES or self._stopped:
            return None
        # The jobs stand in the order in which they were started.
        return next((job for job in self._jobs.values() if not job.hedged), None)

    async def _hedge(self, job: _Job) -> None:
        job.hedged = True
        job.workers.append(_current_task())  # so that an answer ends the wait, too
        median = self._seconds.quantiles().p50 or 0.0
        delay = max(MIN_STRAGGLER_SECONDS, STRAGGLER_FACTOR * median)
        await asyncio.sleep(max(0.0, job.started + delay - self._clock()))
        await self._ask(job, hedge=True)


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  # coroutines of workers run in tasks
    return task


async def _wait_for_all(tasks: Collection[asyncio.Task[None]]) -> None:
    """Wait until all tasks have ended; a cancel that comes meanwhile is raised after that."""
    cancelled: asyncio.CancelledError | None = None
    while tasks:
        try:
            await asyncio.wait(set(tasks))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


@dataclass(slots=True, eq=False)
class _Job:
    """An item that is being worked on.

    Attributes:
        index: Its position in the batch.
        item: The item.
        started: The loop's time when it was first asked.
        workers: The workers that are asking it, or waiting to ask it a second time.
        asking: The number of calls under way for it.
        hedged: Whether a second worker was assigned to it.
    """

    index: int
    item: Any
    started: float
    workers: list[asyncio.Task[None]] = field(default_factory=list)
    asking: int = 0
    hedged: bool = False


class ItemSource:
    """The items of a batch, numbered, for several readers on one event loop.

    Args:
        items: Any iterable or async iterable. A plain one is read on the event loop, so reading it
            should not take long.

    Example:
        ```python
        source = ItemSource(["a", "b"])
        await source.next()  # (0, "a")
        ```
    """

    __slots__ = ("_count", "_exhausted", "_items", "_lock")

    def __init__(self, items: Iterable[Any] | AsyncIterable[Any]) -> None:
        self._items: AsyncIterator[Any] | Iterator[Any] = (
            aiter(items) if isinstance(items, AsyncIterable) else iter(items)
        )
        self._count = 0
        self._exhausted = False
        self._lock = asyncio.Lock()

    async def next(self) -> tuple[int, Any] | None:
        """Read the next item with its index; None if there is no more."""
        if isinstance(self._items, Iterator):
            if not self._exhausted:
                for item in self._items:
                    return self._numbered(item)
                self._exhausted = True
            return None
        # An async generator must not be asked for two items at a time.
        async with self._lock:
            if not self._exhausted:
                async for item in self._items:
                    return self._numbered(item)
                self._exhausted = True
            return None

    def _numbered(self, item: Any) -> tuple[int, Any]:
        self._count += 1
        return self._count - 1, item

    async def aclose(self) -> None:
        """Close the iterator if it can be closed, as generators and files can."""
        self._exhausted = True
        for name in ("aclose", "close"):
            close = getattr(self._items, name, None)
            if close is not None:
                closing = close()
                if name == "aclose":
                    await closing
                return

"""Runs a batch: numbers the items, shares them among workers, records and reports each result.

`run_batch` puts the parts together. `BatchRunner` knows nothing of models and journals: what is
done with an item is its `Work`, here a `PromptWorker`.
"""

from __future__ import annotations

import asyncio
import contextvars
import warnings
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from langchain_resilient.batch.journal_keys import as_journal, keys_of
from langchain_resilient.batch.progress import ProgressMeter, as_display
from langchain_resilient.observability.stats import DurationHistogram
from langchain_resilient.runtime.call import PRIORITY

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection

    from langchain_core.language_models import BaseChatModel, LanguageModelInput
    from langchain_core.messages import AIMessage
    from langchain_core.runnables import RunnableConfig

    from langchain_resilient.batch.journal import Journal
    from langchain_resilient.batch.journal_keys import Key
    from langchain_resilient.batch.progress import BatchOptions
    from langchain_resilient.batch.report import BatchStats


T = TypeVar("T")


class ItemSource(Generic[T]):
    """Numbers the items of a batch and hands them to several workers of one event loop.

    Args:
        items: Any iterable or async iterable. A plain one is read on the event loop: reading it
            should not take long.

    Example:
        ```python
        source = ItemSource(["a", "b"])
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
        """Read the next item with its index; None if there are no more."""
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
        """Close the iterator if it can be closed, as generators and files can."""
        self._read_all = True
        for name in ("aclose", "close"):
            close = getattr(self._items, name, None)
            if close is not None:
                closing = close()
                if name == "aclose":
                    await closing
                return


T_contra = TypeVar("T_contra", contravariant=True)


R = TypeVar("R")


class Work(Protocol[T_contra, R]):
    """What is done with each item of a batch.

    A seam: the runner is tested without a model, and the prompts' work without a runner.
    """

    def find(self, index: int, item: T_contra) -> R | None:
        """Return the result of an item if there is one already; then nothing else is called."""
        ...

    async def ask(self, index: int, item: T_contra, *, again: bool) -> R:
        """Produce the result of an item; an `Exception` is its failure.

        Args:
            index: The item's index.
            item: The item.
            again: Whether another worker is already asking for this item; the first answer wins and
                the other call is cancelled.
        """
        ...

    async def keep(self, index: int, result: R | Exception) -> None:
        """Store a result before it is reported; called once per item, in any order.

        An exception raised here ends the whole batch.
        """
        ...


STRAGGLER_FACTOR = 3.0
"""How many times the median duration an item of the tail runs before it is asked a second time."""


MIN_STRAGGLER_SECONDS = 1.0
"""Seconds before which nothing is late, however fast the others are."""


MIN_STRAGGLER_SAMPLES = 20
"""Results before which the median is not trusted."""


@dataclass(slots=True, eq=False)
class _Job(Generic[T]):
    """An item that is being worked on.

    Attributes:
        index: Its index.
        item: The item.
        started: When it was first asked, by the loop's clock.
        workers: The tasks that ask it, or wait to ask it a second time.
        asking: How many ask it now.
        helped: Whether a second worker was assigned to it.
    """

    index: int
    item: T
    started: float
    workers: list[asyncio.Task[None]] = field(default_factory=list)
    asking: int = 0
    helped: bool = False


class BatchRunner(Generic[T, R]):
    """Works through a source once, with a fixed number of workers.

    A worker is one task that takes an item, asks, hands the result over and takes the next. At most
    `2 * workers - 1` items are read but not yet handed to the consumer: a slow consumer slows the
    workers down.

    The tail: when the source is empty, a free worker waits beside the oldest item that is still
    being asked, and asks it a second time once it has run for three times the median, and for at
    least a second. The first answer wins and the other call is cancelled (Dean & Barroso, "The Tail
    at Scale", CACM 2013; backup tasks of Dean & Ghemawat, "MapReduce", OSDI 2004). That makes at
    most one more call per item, fewer than `workers` in all, and none before 20 results.

    Args:
        source: The items.
        work: What is done with each.
        workers: How many items are worked on at a time.
        return_exceptions: Whether an item's exception is its result. Otherwise the first one
            cancels all other items, and is raised when nothing is left running.
        tail_hedge: Whether to ask stragglers a second time.

    Example:
        ```python
        runner = BatchRunner(ItemSource(prompts), work, workers=64)
        async with aclosing(runner.results()) as results:
            async for index, result in results:
                ...
        ```
    """

    def __init__(
        self,
        source: ItemSource[T],
        work: Work[T, R],
        *,
        workers: int,
        return_exceptions: bool = False,
        tail_hedge: bool = True,
    ) -> None:
        self._source = source
        self._work = work
        self._max_workers = workers
        self._return_exceptions = return_exceptions
        self._tail_hedge = tail_hedge
        self._clock = asyncio.get_running_loop().time
        self._workers: set[asyncio.Task[None]] = set()
        self._cancelled: set[asyncio.Task[None]] = set()
        self._storing: set[asyncio.Task[None]] = set()
        self._context = contextvars.copy_context()
        self._jobs: dict[int, _Job[T]] = {}
        self._results: deque[tuple[int, R | Exception]] = deque()
        self._result_ready = asyncio.Event()
        self._room = asyncio.Event()
        self._seconds = DurationHistogram()
        self._stopped = False
        self._error: BaseException | None = None

    async def results(self) -> AsyncGenerator[tuple[int, R | Exception], None]:
        """Yield `(index, result)` as completed. Closing it early leaves nothing running.

        Raises:
            Exception: An item's, if exceptions are not returned; the source's; `Work.keep`'s.
        """
        try:
            self._start_worker()
            while self._workers or self._results:
                while self._results:
                    result = self._results.popleft()
                    self._room.set()
                    yield result
                if self._workers:
                    self._result_ready.clear()
                    await self._result_ready.wait()
        finally:
            self._stop()
            await _wait_for_all(self._workers)
            await self._source.aclose()
        if self._error is not None:
            raise self._error

    # -- workers --------------------------------------------------------------------------------

    def _start_worker(self) -> None:
        if len(self._workers) < self._max_workers and not self._stopped:
            # Each gets the caller's context, not that of the worker that happened to start it.
            worker = asyncio.create_task(self._run(), context=self._context.copy())
            self._workers.add(worker)
            worker.add_done_callback(self._worker_ended)

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        """Check how a worker ended: an exception that nobody expected must end the batch."""
        self._workers.discard(worker)
        self._result_ready.set()
        error = asyncio.CancelledError() if worker.cancelled() else worker.exception()
        if worker in self._cancelled:
            self._cancelled.discard(worker)
        elif error is not None and self._error is None:
            self._error = error
            self._stop()

    def _stop(self) -> None:
        self._stopped = True
        for worker in self._workers:
            self._cancel(worker)

    def _cancel(self, worker: asyncio.Task[None]) -> None:
        """Cancel a worker, once: a second cancel could leak a pooled connection.

        One that is storing an answer is left to finish: the answer has been paid for.
        """
        if not (worker in self._cancelled or worker in self._storing or worker.done()):
            self._cancelled.add(worker)
            worker.cancel()

    async def _run(self) -> None:
        while not self._stopped and (numbered := await self._source.next()) is not None:
            self._start_worker()
            await self._do(*numbered)
            await self._wait_for_room()
        while self._tail_hedge and (job := self._straggler()) is not None:
            await self._help(job)

    async def _wait_for_room(self) -> None:
        while len(self._results) >= self._max_workers and not self._stopped:
            self._room.clear()
            await self._room.wait()

    # -- items ----------------------------------------------------------------------------------

    async def _do(self, index: int, item: T) -> None:
        known = self._work.find(index, item)
        if known is not None:
            self._report(index, known)
            return
        job = self._jobs[index] = _Job(index, item, self._clock())
        job.workers.append(_current_task())
        await self._ask(job, again=False)

    async def _ask(self, job: _Job[T], *, again: bool) -> None:
        job.asking += 1
        try:
            result: R | Exception = await self._work.ask(job.index, job.item, again=again)
        except Exception as error:  # noqa: BLE001  # becomes the result, or is raised below
            result = error
        job.asking -= 1
        job.workers.remove(_current_task())
        if isinstance(result, Exception) and job.asking:
            return  # another worker may still have an answer
        await self._settle(job, result)

    async def _settle(self, job: _Job[T], result: R | Exception) -> None:
        del self._jobs[job.index]
        for other in job.workers:
            self._cancel(other)
        self._storing.add(task := _current_task())
        try:
            await self._work.keep(job.index, result)
        finally:
            self._storing.discard(task)
        if not isinstance(result, Exception):
            self._seconds.add(self._clock() - job.started)
        elif not self._return_exceptions:
            raise result
        self._report(job.index, result)

    def _report(self, index: int, result: R | Exception) -> None:
        self._results.append((index, result))
        self._result_ready.set()

    # -- the tail -------------------------------------------------------------------------------

    def _straggler(self) -> _Job[T] | None:
        """Find the oldest item that has no second worker yet."""
        if self._seconds.count < MIN_STRAGGLER_SAMPLES or self._stopped:
            return None
        return next((job for job in self._jobs.values() if not job.helped), None)

    async def _help(self, job: _Job[T]) -> None:
        job.helped = True
        job.workers.append(_current_task())
        median = self._seconds.quantiles().p50 or 0.0
        wait = max(MIN_STRAGGLER_SECONDS, STRAGGLER_FACTOR * median)
        await asyncio.sleep(max(0.0, job.started + wait - self._clock()))
        await self._ask(job, again=True)


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  # coroutines of workers run in tasks
    return task


async def _wait_for_all(tasks: Collection[asyncio.Task[None]]) -> None:
    """Wait until all tasks have ended; a cancellation meanwhile is passed on afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while tasks:
        try:
            await asyncio.wait(set(tasks))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


TAIL_HEDGE = "tail_hedge"
"""The tag of the run of a straggler's second call."""


class PromptConfigs:
    """The config of each call: one for all, or a list with one per input, as LangChain takes it.

    Args:
        config: As the caller gave it.
        length: The number of inputs, if it is known.

    Raises:
        ValueError: If a list does not hold one config for each input.
    """

    def __init__(
        self, config: RunnableConfig | Sequence[RunnableConfig] | None, length: int | None
    ) -> None:
        self._each = config if isinstance(config, Sequence) else None
        self._first: RunnableConfig = {} if config is None or self._each is not None else config  # type: ignore[assignment]
        self._others = _without_run_id(self._first)
        if self._each is not None and length not in {None, len(self._each)}:
            raise ValueError(_wrong_length(len(self._each), length))
        if self._first.get("run_id") is not None and length != 1:
            msg = "Provided run_id be used only for the first element of the batch."
            warnings.warn(msg, RuntimeWarning, stacklevel=2)

    @property
    def max_concurrency(self) -> int | None:
        """The limit that the first config sets, if any."""
        first = self._first if not self._each else self._each[0]
        return (first or {}).get("max_concurrency")

    def at(self, index: int) -> RunnableConfig:
        """Return the config of one input.

        Raises:
            ValueError: If there are fewer configs than inputs.
        """
        if self._each is None:
            return self._others if index else self._first
        if index >= len(self._each):
            raise ValueError(_wrong_length(len(self._each), None))
        return self._each[index] or {}

    def for_second_call(self, index: int) -> RunnableConfig:
        """Return the config of a second call for an input: a run of its own, with a tag."""
        config = _without_run_id(self.at(index))
        return {**config, "tags": [*(config.get("tags") or ()), TAIL_HEDGE]}


def _without_run_id(config: RunnableConfig) -> RunnableConfig:
    return {k: v for k, v in config.items() if k != "run_id"}  # type: ignore[return-value]


def _wrong_length(configs: int, inputs: int | None) -> str:
    count = "more" if inputs is None else str(inputs)
    return (
        "config must be a list of the same length as inputs, "
        f"but got {configs} configs for {count} inputs"
    )


class PromptWorker:
    """Asks a model each prompt of a batch, then counts and records what comes back.

    Args:
        model: The model to ask.
        configs: The configs of the calls.
        kwargs: The keyword arguments of the calls.
        stats: Counts the results.
        meter: Shows the progress.
        journal: Records the answers; already open.
        key: Makes the key of a prompt in the journal.
    """

    def __init__(
        self,
        model: BaseChatModel,
        configs: PromptConfigs,
        kwargs: dict[str, Any],
        *,
        stats: BatchStats,
        meter: ProgressMeter,
        journal: Journal | None = None,
        key: Key | None = None,
    ) -> None:
        self._model = model
        self._configs = configs
        self._kwargs = kwargs
        self._stats = stats
        self._meter = meter
        self._journal = journal
        self._key = key
        self._keys: dict[int, str] = {}

    def find(self, index: int, item: LanguageModelInput) -> AIMessage | None:
        """Look for the answer in the journal."""
        if self._journal is None or self._key is None:
            return None
        try:
            prompt = self._model._convert_input(item)  # noqa: SLF001  # as LangChain's ainvoke does
        except ValueError:
            return None  # not a prompt: the call itself will raise
        key = self._keys[index] = self._key(prompt.to_messages())
        answer = self._journal.look_up(index, key)
        if answer is not None:
            del self._keys[index]
            self._stats.restore()
            self._meter.tick()
        return answer

    async def ask(self, index: int, item: LanguageModelInput, *, again: bool) -> AIMessage:
        """Ask the model, with the priority of a batch at rate limits."""
        PRIORITY.set("batch")  # in this worker's own context
        if again:
            self._stats.ask_again()
        config = self._configs.for_second_call(index) if again else self._configs.at(index)
        return await self._model.ainvoke(item, config, **self._kwargs)

    async def keep(self, index: int, result: AIMessage | Exception) -> None:
        """Record an answer, then count it: what is reported as done is already on disk."""
        key = self._keys.pop(index, None)
        if self._journal is not None and key is not None:
            await self._record(self._journal, index, key, result)
        self._stats.add(result)
        self._meter.tick()

    @staticmethod
    async def _record(
        journal: Journal, index: int, key: str, result: AIMessage | Exception
    ) -> None:
        if not isinstance(result, Exception):
            await journal.record(index, key, result)
        elif (record_failure := getattr(journal, "record_failure", None)) is not None:
            await record_failure(index, key, result)


async def run_batch(
    model: BaseChatModel,
    inputs: Iterable[LanguageModelInput] | AsyncIterable[LanguageModelInput],
    configs: PromptConfigs,
    kwargs: dict[str, Any],
    *,
    options: BatchOptions,
    stats: BatchStats,
) -> AsyncGenerator[tuple[int, Any], None]:
    """Yield `(index, answer)` as completed.

    Args:
        model: The model to ask.
        inputs: The prompts.
        configs: The configs of the calls.
        kwargs: The keyword arguments of the calls.
        options: The options of the batch.
        stats: Counts the results.
    """
    async with _with_progress(stats, options) as meter, _open_journal(options) as journal:
        key = None if journal is None else keys_of(model, kwargs)
        work = PromptWorker(
            model, configs, kwargs, stats=stats, meter=meter, journal=journal, key=key
        )
        runner = BatchRunner(
            ItemSource(inputs),
            work,
            workers=options.max_concurrency or 1,
            return_exceptions=options.return_exceptions,
            tail_hedge=options.tail_hedge,
        )
        async with aclosing(runner.results()) as results:
            async for indexed_answer in results:
                yield indexed_answer
        stats.end(complete=True)


@asynccontextmanager
async def _with_progress(
    stats: BatchStats, options: BatchOptions
) -> AsyncGenerator[ProgressMeter, None]:
    """Show the progress of a batch, and report it at the end, however it ends."""
    meter = ProgressMeter(as_display(options.progress), stats.progress, stats.clock)
    try:
        meter.tick()
        yield meter
    finally:
        stats.end(complete=False)
        meter.close()
        if options.report is not None:
            options.report(stats.report())


@asynccontextmanager
async def _open_journal(options: BatchOptions) -> AsyncGenerator[Journal | None, None]:
    journal = as_journal(options.journal)
    if journal is None:
        yield None
        return
    await journal.open()
    try:
        yield journal
    finally:
        await journal.aclose()

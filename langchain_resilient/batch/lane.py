"""The lane of a batch that costs half: prompts go out in batches of a provider, with a deadline.

Prompts are written into files of up to 50,000 requests, uploaded, and watched. Whatever does not
come back well or in time is asked live. The ids of batches are in the journal before anything is
waited for, so that the same call goes on with them after a crash.

The deadline: live requests take time too, so each batch has a moment after which its prompts could
no longer be bought live in time. Before that moment the batch is cancelled, by which its finished
answers arrive; at that moment what is still missing is asked live. The batch that is least likely
to be back goes first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any

from langchain_resilient.batch.journal_file import BatchRow, LaneLock, PaidMark
from langchain_resilient.batch.lane_batch import (
    QUEUE_SHARE,
    BatchCarrier,
    BatchGoneError,
    LaneBatch,
    Shard,
    ShardWriter,
    queue_limit,
)
from langchain_resilient.batch.lane_pace import Deadline, LivePace, within_seconds
from langchain_resilient.batch.spool import Row, RowState, Spool
from langchain_resilient.errors import ResilientError
from langchain_resilient.exchange import BatchState, RequestForm
from langchain_resilient.runtime.batched import StoredAnswerError, result_lines
from langchain_resilient.runtime.call import StoredAnswer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping

    from langchain_core.messages import AIMessage

    from langchain_resilient.batch.journal import Journal
    from langchain_resilient.batch.options import BatchOptions
    from langchain_resilient.batch.prompt_worker import PromptWorker
    from langchain_resilient.batch.report import BatchStats
    from langchain_resilient.batch.runner import ItemSource
    from langchain_resilient.runtime.batched import BatchDesk, BatchLine

logger = logging.getLogger("langchain_resilient")

FIRST_LIVE = 20
"""From so many prompts on, the first is asked live before the others are written into files: what
the target refuses is learned then, and how fast live answers are."""

MIN_BATCH_SECONDS = 600.0
"""A batch that would have less time than this is not sent."""

SETTLE_SECONDS = 60.0
"""How long a batch is waited for when all prompts have answers: to know what it cost."""

_MIN_SHARD = 500
_SHARDS_IN_TIME = 20
"""With a deadline a file holds no more prompts than can be bought live in this part of it, but at
least the number above: then not all of them have to be bought at once."""

_TOKENS = 1000
"""Of a prompt and its answer, until one has come."""

_MAX_MISCOUNT = 10.0
"""A provider counts at most so many times the tokens that are reckoned here."""

_PIECE = 64
"""Prompts that are read, and lines of results that are judged, at one time."""


class Lane:
    """Works through a source once, by batches of a provider and live.

    Args:
        source: The prompts.
        worker: What is done with each.
        journal: Where batches are written down; open.
        desk_of: Finds the batches of a target by its name; for None those of the first that has
            any.
        kwargs: The arguments of each call.
        stats: Counts what happens.
        workers: Prompts that are asked live at one time.
        within: Seconds in which all is to be answered; None for as long as it takes.
        return_exceptions: Deliver a prompt's exception as its result.
    """

    def __init__(
        self,
        source: ItemSource,
        worker: PromptWorker,
        journal: Journal,
        desk_of: Callable[[str | None], BatchDesk | None],
        kwargs: Mapping[str, Any],
        *,
        stats: BatchStats,
        workers: int,
        within: float | None,
        return_exceptions: bool,
    ) -> None:
        self._source = source
        self._worker = worker
        self._journal = journal
        self._desk_of = desk_of
        self._stats = stats
        self._workers = workers
        self._return_exceptions = return_exceptions
        self._total = stats.total
        self._clock = asyncio.get_running_loop().time
        self._within = within
        desk = desk_of(None)
        if desk is None:
            msg = (
                "no target of this chain takes batches: those of openai and together do; not "
                "azure's, whose batches need deployments of their own, nor compatible servers, "
                "local models and LangChain models. Leave out lane= to ask live"
            )
            raise ValueError(msg)
        self._desk: BatchDesk = desk
        self._lock: LaneLock | None = None
        self._spool = Spool()
        self._writer = ShardWriter(desk, kwargs, self._spool.folder)
        self._pace = LivePace()
        at = inf if within is None else self._clock() + within
        self._deadline = Deadline(at, self._pace, self._live_rate)
        self._batches: dict[str, LaneBatch] = {}
        self._resumed: dict[str, LaneBatch] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._live: set[asyncio.Task[Any]] = set()
        self._recordings: set[asyncio.Future[Any]] = set()
        self._carrier = BatchCarrier(journal, self._clock, worker.show)
        self._read_all = asyncio.Event()
        self._head: list[tuple[int, Any, Any]] = []  # read, and not yet written into a file
        self._results: deque[tuple[int, Any]] = deque()
        self._changed = asyncio.Event()
        self._taken = asyncio.Event()
        self._read = 0
        self._left = 0  # prompts without a result, of those that were read
        self._tokens = 0.0
        self._asked_first = False
        self._error: BaseException | None = None
        self._stopped = False

    async def results(self) -> AsyncGenerator[tuple[int, AIMessage | Exception], None]:
        """Yield `(index, result)` as completed. Closing it early leaves the batches running.

        Raises:
            JournalLockedError: If another run works through the lane with the same journal.
            Exception: A prompt's, if exceptions are not returned; the source's; the journal's.
        """
        if not self._desk.discount:
            logger.warning(
                "batches of %s cost as much as live requests, as far as is known here: "
                "Target(batch_discount=) says otherwise", self._desk.name,
            )  # fmt: skip
        try:
            self._lock = LaneLock(self._journal.path)
            await self._resume()
            self._spawn(self._read_source())
            if self._within is not None:
                self._spawn(self._keep_deadline())
            while not self._finished:
                while self._results:
                    result = self._results.popleft()
                    self._taken.set()
                    yield result
                if self._error is not None:
                    raise self._error
                if not self._finished:
                    self._changed.clear()
                    await self._changed.wait()
            await self._settle()
        finally:
            await self._stop()

    @property
    def _finished(self) -> bool:
        return self._read_all.is_set() and not self._left and not self._results

    # -- tasks --

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._live.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and self._error is None:
            self._error = error
        self._changed.set()

    async def _settle(self) -> None:
        """Wait a little for batches whose prompts have other answers: they cost money too."""
        left = min(SETTLE_SECONDS, self._deadline.at - self._clock())
        if not self._batches or left <= 0:
            return
        for batch in self._batches.values():
            batch.cancelling = not batch.resumed or batch.cancelling
            batch.wake.set()
        following = [task for task in self._tasks if task.get_name().startswith("batch ")]
        if following:
            await asyncio.wait(following, timeout=left)

    async def _stop(self) -> None:
        self._stopped = True
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._recordings:
            await asyncio.wait(set(self._recordings))
        self._writer.close()
        for batch in self._batches.values():
            self._give_back(batch, batch.dollars)
        self._spool.close()
        await self._source.aclose()
        if self._lock is not None:
            self._lock.release()
        running = [
            batch for batch in self._batches.values()
            if batch.row.batch is not None and batch.row.status == "open"
        ]  # fmt: skip
        count, path = len(running), self._journal.path
        if running and self._finished:
            logger.warning(
                "%s still being cancelled at the provider: what that costs is not counted until "
                "the next call with the journal %s",
                "1 batch is" if count == 1 else f"{count} batches are", path,
            )  # fmt: skip
        elif running:
            logger.warning(
                "%s with %d prompts at the provider: the same call with the same journal "
                "goes on with that; `langchain-resilient lane show %s` tells how it is, "
                "`lane cancel` ends it",
                "1 batch goes on" if count == 1 else f"{count} batches go on",
                sum(batch.row.requests for batch in running), path,
            )  # fmt: skip

    # -- reading --

    async def _resume(self) -> None:
        """Take up the batches of earlier runs."""
        for row in self._journal.batches():
            if row.status != "open":
                continue
            desk = self._desk_of(row.target)
            if row.file is None:
                # Nothing was created of it.
                await self._journal.write_batch(row._replace(status="lost", ended=time.time()))
            elif desk is None:
                logger.warning(
                    "a batch of %s is open in %s, which is no target here: its prompts are asked "
                    "for anew", row.target, self._journal.path,
                )  # fmt: skip
            else:
                now = self._clock()
                began = now - max(0.0, time.time() - row.began)
                batch = self._resumed[row.tag] = LaneBatch(row, desk, began=began, moved=now)
                self._follow_in_task(batch)

    async def _read_source(self) -> None:
        while (numbered := await self._source.next()) is not None:
            self._read += 1
            if not self._read % _PIECE:
                await asyncio.sleep(0)
            item = await self._take_in(*numbered)
            if item is None:
                continue
            self._head.append(item)
            if self._asked_first or len(self._head) >= FIRST_LIVE:
                await self._put_head()
        await self._send_all()
        self._read_all.set()
        self._changed.set()

    async def _take_in(self, index: int, prompt: Any) -> tuple[int, Any, Any] | None:
        """Look whether a prompt has an answer, or is in a batch; else return it as messages."""
        restored = self._worker.restore(index, prompt)
        if restored is not None:
            await self._deliver(index, restored, late=False)
            return None
        keys = self._worker.take_keys(index)
        self._left += 1
        if keys is None:  # no prompt at all: the call will say so
            self._spool.add(index, f"none-{index}", None, prompt, state=RowState.LIVE)
            self._ask_more_live()
            return None
        if self._is_in_batch(index, prompt, keys):
            return None
        return index, self._worker.messages_of(prompt), keys

    async def _put_head(self) -> None:
        """Write down the prompts that were read last; of many, the first is asked live."""
        items, self._head = self._head, []
        if not self._asked_first and len(items) >= FIRST_LIVE:
            self._asked_first = True
            if not await self._ask_first(*items[0]):
                items = items[1:]
        for item in items:
            await self._put(*item)

    async def _send_all(self) -> None:
        """Send all that was read, however little it is."""
        await self._put_head()
        while (shard := self._writer.take()) is not None:
            await self._submit(shard)

    def _is_in_batch(self, index: int, prompt: Any, keys: Any) -> bool:
        """Whether an earlier run has sent a prompt with a batch that is still open."""
        name = self._journal.custom_id(index, keys)
        inside = self._journal.batch_of(name) if self._resumed else None
        if inside is None or inside[0] not in self._resumed:
            return False
        tag, paid = inside
        # What it gave was not good enough, or it is given up: then it is asked live.
        live = paid or self._resumed[tag].released
        state = RowState.LIVE if live else RowState.WAITING
        messages = self._worker.messages_of(prompt)
        self._spool.add(index, name, keys, messages, tag=tag, state=state)
        if live:
            self._ask_more_live()
        else:
            self._stats.waiting += 1
        return True

    async def _ask_first(self, index: int, messages: Any, keys: Any) -> bool:
        """Ask one prompt live; if nobody answers, it goes with the others.

        Returns:
            Whether it still has no result.
        """
        began = self._clock()
        self._worker.give_keys(index, keys)
        try:
            answer = await self._worker.ask(index, messages, hedge=False)
        except Exception as error:
            receipt = getattr(error, "receipt", None)
            if receipt is not None:
                self._worker.record_lost(index, receipt)
            self._worker.take_keys(index)
            if not (self._return_exceptions or isinstance(error, ResilientError)):
                raise
            logger.info("the first prompt was not answered live: %s", error)
            return True
        self._pace.seconds = max(0.1, self._clock() - began)
        usage = answer.usage_metadata
        self._tokens = float(usage["total_tokens"]) if usage else 0.0
        await self._keep(index, answer)
        return False

    async def _put(self, index: int, messages: Any, keys: Any) -> None:
        """Write a prompt into a file, or have it asked live."""
        name = self._journal.custom_id(index, keys)
        line = self._writer.line_of(index, messages, name)
        if line is None:
            self._spool.add(index, name, keys, messages, state=RowState.LIVE)
            self._ask_more_live()
            return
        tag = await self._write(name, line)
        self._spool.add(index, name, keys, messages, tag=tag)
        self._stats.waiting += 1

    async def _write(self, name: str, line: BatchLine) -> str:
        """Write a request into a file, after that which it finds full is sent; returns the tag."""
        in_time = inf
        if self._within is not None:
            in_time = max(_MIN_SHARD, self._live_rate() * self._within / _SHARDS_IN_TIME)
        while (full := self._writer.take_full(line, in_time)) is not None:
            await self._submit(full)
        return self._writer.add(name, line)

    async def _submit(self, shard: Shard) -> None:
        """Send a file on its way."""
        now, count = self._clock(), len(shard.custom_ids)
        row = BatchRow(shard.tag, self._desk.name, *shard.form, count, began=time.time())
        batch = LaneBatch(row, self._desk, now, shard.path, tokens=shard.tokens,
                          dollars=shard.dollars, moved=now)  # fmt: skip
        # Those before it have been sent already, or are asked live.
        self._worker.show()
        if self._deadline.cancel_at(self._outstanding()) - now < MIN_BATCH_SECONDS:
            self._give_back(batch, batch.dollars)
            self._release(batch)
            return
        await self._journal.write_batch(row, tuple(shard.custom_ids))
        self._follow_in_task(batch)

    # -- one batch: up, watched, down --

    def _follow_in_task(self, batch: LaneBatch) -> None:
        self._batches[batch.row.tag] = batch
        self._spawn(self._follow(batch)).set_name(f"batch {batch.row.tag}")

    async def _follow(self, batch: LaneBatch) -> None:
        state: BatchState | None = None
        try:
            while True:
                await self._carrier.send(batch)
                state = await self._carrier.watch(batch)
                limit = queue_limit(state.problem) if state.status == "failed" else None
                if limit is None:
                    break
                logger.info("the queue of %s is full: %s", batch.desk.name, state.problem)
                batch.refusals += 1
                if self._is_too_large(batch, limit):
                    await self._split(batch, limit)
                    return
                await self._carrier.wait_for_room(batch)
            if state.status == "failed":
                raise BatchGoneError("failed", f"it failed: {state.problem}")  # noqa: TRY301  # one way out
            await self._collect(batch, state)
            await self._end(batch, "done" if state.status == "completed" else state.status, state)
        except BatchGoneError as gone:
            logger.warning(
                "a batch of %d prompts at %s is given up, they are asked live: %s",
                batch.row.requests, batch.desk.name, gone,
            )  # fmt: skip
            await self._end(batch, gone.status, state)

    def _is_too_large(self, batch: LaneBatch, limit: float) -> bool:
        """Whether a batch for which the queue had no room is larger than all of it."""
        if limit < inf and batch.tokens > limit:
            return True
        if limit < inf and 0 < batch.tokens <= limit / _MAX_MISCOUNT:
            return False  # others fill the queue
        # If it fails twice while nothing of ours is in the queue, halves may go.
        others = [
            other for other in self._batches.values()
            if other is not batch and other.row.batch is not None and other.row.status == "open"
        ]  # fmt: skip
        return batch.refusals > 1 and not others

    async def _split(self, batch: LaneBatch, limit: float) -> None:
        """Write the prompts of a batch into smaller ones, as the provider's queue can take them."""
        if batch.resumed:
            await self._read_all.wait()
        if batch.row.requests < 2:  # noqa: PLR2004  # one is not split
            raise BatchGoneError("failed", "its only prompt is longer than the queue")
        writer, tag = self._writer, batch.row.tag
        if limit < inf:
            writer.max_tokens = min(writer.max_tokens, QUEUE_SHARE * limit)
        if limit == inf or batch.tokens <= limit:
            writer.max_requests = min(writer.max_requests, (batch.row.requests + 1) // 2)
        logger.warning(
            "a batch of %d prompts is larger than the queue of %s: it is split",
            batch.row.requests, batch.desk.name,
        )  # fmt: skip
        # Before its prompts are in others: a crash must not leave them in two.
        await self._write_end(batch, "failed")
        while (row := self._spool.next_of(tag)) is not None:
            line = writer.line_of(row.position, row.prompt, row.custom_id)
            if line is None:
                self._go_live(row)
            else:
                self._spool.move(row.position, await self._write(row.custom_id, line))
        await self._send_all()
        await self._drop(batch)

    async def _write_end(self, batch: LaneBatch, status: str) -> None:
        batch.row = batch.row._replace(status=status, ended=time.time())
        await self._journal.write_batch(batch.row)
        self._give_back(batch, batch.dollars)

    async def _end(self, batch: LaneBatch, status: str, state: BatchState | None) -> None:
        await self._write_end(batch, status)
        if batch.resumed:
            await self._read_all.wait()
        self._release(batch)
        await self._drop(batch, state)

    async def _drop(self, batch: LaneBatch, state: BatchState | None = None) -> None:
        """Forget a batch that has ended, and delete its files at the provider."""
        self._carrier.make_room()
        self._changed.set()
        results = () if state is None else (state.output_file, state.error_file)
        await self._carrier.delete(batch, batch.row.file, *results)
        self._batches.pop(batch.row.tag, None)
        self._changed.set()

    async def _collect(self, batch: LaneBatch, state: BatchState) -> None:
        """Fetch what a batch has given, and judge it."""
        if batch.resumed:
            await self._read_all.wait()
        path = self._spool.folder / f"{batch.row.tag}.results"
        for file, expected in ((state.output_file, state.done), (state.error_file, None)):
            if file is None:
                continue
            await self._carrier.fetch(batch, file, path, expected)
            piece: list[Awaitable[None]] = []
            for line in result_lines(path):
                piece.append(self._take(batch, line.custom_id, line.body))
                if len(piece) >= min(_PIECE, self._workers):
                    await asyncio.gather(*piece)
                    piece = []
            await asyncio.gather(*piece)
            path.unlink(missing_ok=True)

    def _give_back(self, batch: LaneBatch, dollars: float) -> None:
        dollars = min(dollars, batch.dollars)
        batch.dollars -= dollars
        batch.desk.set_aside(-dollars)

    async def _take(self, batch: LaneBatch, custom_id: str, body: bytes | None) -> None:
        """Judge one answer of a batch."""
        row, tag = self._spool.find(custom_id), batch.row.tag
        if row is None or not self._spool.count_once(row.position, tag):
            return
        self._give_back(batch, batch.dollars / max(1, batch.row.requests))
        if body is None:
            if row.state is RowState.WAITING and row.tag == tag:
                self._go_live(row)
            return
        form = RequestForm(batch.row.endpoint, batch.row.json_mode)
        seconds = max(0.0, time.time() - batch.row.began)
        stored = StoredAnswer(batch.desk.name, form, body, seconds)
        paid = PaidMark(tag, custom_id)
        if row.state in (RowState.ASKING, RowState.DONE):
            # It was bought meanwhile: both are paid, the first one counts.
            self._worker.give_keys(row.position, row.keys)
            self._worker.record_lost(row.position, batch.desk.lose(stored), paid)
            self._worker.give_keys(row.position, row.keys if row.state is RowState.ASKING else None)
            return
        waited = row.state is RowState.WAITING
        self._spool.set_state(row.position, RowState.ASKING)
        self._worker.give_keys(row.position, row.keys)
        try:
            answer: Any = await self._worker.ask(
                row.position, row.prompt, hedge=False, stored=stored
            )
        except StoredAnswerError as refused:
            logger.info("prompt %d is asked live: %s", row.position, refused)
            self._worker.record_lost(row.position, refused.receipt, paid)
            self._go_live(row, waited=waited)
            return
        except Exception as error:  # noqa: BLE001  # a `check` that means to end the call
            answer = error
        self._stats.waiting -= waited
        await self._keep(row.position, answer, paid)

    # -- live --

    def _go_live(self, row: Row, *, waited: bool = True) -> None:
        self._stats.waiting -= waited
        self._spool.set_state(row.position, RowState.LIVE)
        self._ask_more_live()

    def _release(self, batch: LaneBatch) -> None:
        """Have all prompts of a batch asked live that have no answer."""
        batch.released = True
        released = self._spool.release(batch.row.tag)
        self._stats.waiting -= released
        if released:
            self._ask_more_live()

    def _ask_more_live(self) -> None:
        if self._stopped or len(self._live) >= self._workers:
            return
        wanted = min(self._workers, self._spool.count(RowState.LIVE))
        if wanted > 1:
            self._pace.begin(self._clock())
        while len(self._live) < wanted:
            self._live.add(self._spawn(self._work_live()))

    async def _work_live(self) -> None:
        while (row := self._spool.take_live()) is not None:
            began = self._clock()
            self._worker.give_keys(row.position, row.keys)
            try:
                result: Any = await self._worker.ask(row.position, row.prompt, hedge=False)
            except Exception as error:  # noqa: BLE001  # delivered, or raised by `_keep`
                result = error
            self._pace.add(self._clock(), self._clock() - began)
            await self._keep(row.position, result)
        if len(self._live) <= 1:
            self._pace.pause()

    async def _keep(self, index: int, result: Any, paid: PaidMark | None = None) -> None:
        """Record a result, and deliver it."""
        recording = asyncio.ensure_future(self._worker.record(index, result, paid))
        self._recordings.add(recording)
        recording.add_done_callback(self._recordings.discard)
        await asyncio.shield(recording)  # it is paid: a cancel does not lose it
        if isinstance(result, Exception) and not self._return_exceptions:
            raise result
        self._spool.set_state(index, RowState.DONE)
        self._left -= 1
        await self._deliver(index, result, late=self._clock() > self._deadline.at)

    async def _deliver(self, index: int, result: Any, *, late: bool) -> None:
        if late:
            self._stats.count_late()
        self._results.append((index, result))
        self._changed.set()
        while len(self._results) >= 2 * self._workers:
            self._taken.clear()
            await self._taken.wait()

    # -- the deadline --

    def _live_rate(self) -> float:
        tokens = self._tokens or _TOKENS
        return self._pace.rate(self._workers, self._desk.live_rate(tokens))

    def _outstanding(self) -> int:
        """Prompts that are in batches, or not yet read, as far as that is known."""
        unread = 0 if self._total is None else max(0, self._total - self._read)
        return unread + self._stats.waiting

    async def _keep_deadline(self) -> None:
        while True:
            now = self._clock()
            if self._deadline.cancel_at(self._outstanding()) - now < MIN_BATCH_SECONDS:
                await self._send_all()  # a slow source does not hold up what was read
            await asyncio.sleep(min(60.0, max(1.0, self._enforce(now) - now)))

    def _enforce(self, now: float) -> float:
        """Cancel, and then buy, what could soon no longer be bought in time.

        Returns:
            When there is more to do, as far as that is known now.
        """
        waiting = [b for b in self._batches.values() if not b.released and b.row.status == "open"]
        counts = {b.row.tag: self._spool.count(RowState.WAITING, b.row.tag) for b in waiting}
        due = self._deadline.due(waiting, counts, self._outstanding(), now)
        for batch in due.late:
            logger.info("batch %s is late: its prompts are asked live", batch.row.batch)
            self._release(batch)
        for batch in due.slow:
            logger.info("batch %s is cancelled: it would be late", batch.row.batch)
        for batch in (*due.late, *due.slow):
            batch.cancelling = True
            batch.wake.set()
        return due.next_at


def lane_maker(
    desk_of: Callable[[str | None], BatchDesk | None],
    kwargs: Mapping[str, Any],
    options: BatchOptions,
    stats: BatchStats,
) -> Callable[[ItemSource, PromptWorker, Journal], Lane]:
    """Return what makes the lane of one batch.

    Raises:
        ValueError: If `within` is no span of time.
    """
    within = within_seconds(options.within)

    def make(source: ItemSource, worker: PromptWorker, journal: Journal) -> Lane:
        return Lane(
            source,
            worker,
            journal,
            desk_of,
            kwargs,
            stats=stats,
            workers=options.max_concurrency or 1,
            within=within,
            return_exceptions=options.return_exceptions,
        )

    return make

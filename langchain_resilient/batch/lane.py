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
import re
import secrets
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from math import inf
from typing import TYPE_CHECKING, Any

from langchain_resilient.batch.journal_file import BatchRow, PaidMark
from langchain_resilient.batch.spool import Row, RowState, Shard, Spool
from langchain_resilient.errors import ResilientError
from langchain_resilient.exchange import BatchState, RequestForm
from langchain_resilient.runtime.batched import (
    BatchRequestError,
    StoredAnswerError,
    UnbatchableRequestError,
    result_lines,
)
from langchain_resilient.runtime.call import StoredAnswer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
    from pathlib import Path

    from langchain_core.messages import AIMessage

    from langchain_resilient.batch.journal import Journal
    from langchain_resilient.batch.progress import BatchOptions
    from langchain_resilient.batch.report import BatchStats
    from langchain_resilient.batch.runner import ItemSource, PromptWorker
    from langchain_resilient.runtime.batched import BatchDesk

logger = logging.getLogger("langchain_resilient")

FIRST_LIVE = 20
"""From so many prompts on, the first is asked live before the others are written into files: what
the target refuses is learned then, and how fast live answers are."""

CANCEL_SECONDS = 660.0
"""How long a cancelled batch may take until its answers are there: OpenAI says ten minutes."""

MIN_BATCH_SECONDS = 600.0
"""A batch that would have less time than this is not sent."""

SAFETY = 1.25
"""By how much longer live requests may take than is reckoned."""

MARGIN_SECONDS = 120.0
"""How long before the deadline all should be there, beside the time of some answers."""

SETTLE_SECONDS = 60.0
"""How long a batch is waited for when all prompts have answers: to know what it cost."""

POLL_SECONDS = (30.0, 300.0)
"""Between two looks at a batch: at first, and at most."""

CANCEL_POLL_SECONDS = 15.0

RETRY_SECONDS = (5.0, 300.0)
"""Between two tries of a request that failed: at first, and at most."""

QUEUE_SECONDS = 900.0
"""After which a batch is tried again for which the provider's queue had no room."""

MAX_MISSING = 5
"""So often in a row a provider may say that it has no such batch, until that is believed."""

MAX_SHORT = 3
"""So often results are fetched again that have fewer lines than the batch has answers."""

STUCK_SECONDS = 1800.0
"""After which a batch without progress is thought to be stuck."""

_MIN_SHARD = 500
_SHARDS_IN_TIME = 20
"""With a deadline a file holds no more prompts than can be bought live in this part of it, but at
least the number above: then not all of them have to be bought at once."""

_TOKENS = 1000
"""Of a prompt and its answer, until one has come."""

_SECONDS = 10.0
"""Of a live answer, until one has come."""

_PIECE = 64
"""Prompts that are read, and lines of results that are judged, at one time."""

_MEASURED = 50
"""Live answers in a row from which their rate is taken."""

_SERVER_ERROR = 500

_QUEUE_FULL = re.compile(r"token_limit_exceeded|enqueued|queue", re.IGNORECASE)


class _GoneError(Exception):
    """A batch that will give nothing (more).

    Attributes:
        status: How it ended, for the journal.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(eq=False)
class _Batch:
    """One batch.

    Attributes:
        row: As the journal knows it.
        desk: Of its target.
        began: When this run began with it, by the loop's clock.
        path: Its file; None if an earlier run has uploaded it.
        dollars: What is set aside for it.
        share: How much of it is done, as far as it was told.
        moved: When that was last more than before.
        cancelling: Whether it is to be cancelled.
        cancelled: Whether that was asked for.
        released: Whether its prompts are asked live.
        wake: Set when something is to be done at once.
    """

    row: BatchRow
    desk: BatchDesk
    began: float
    path: Path | None = None
    dollars: float = 0.0
    share: float = 0.0
    moved: float = 0.0
    cancelling: bool = False
    cancelled: bool = False
    released: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def resumed(self) -> bool:
        """Whether an earlier run has sent it."""
        return self.path is None

    def expected(self, now: float) -> float:
        """When it will be done, if it goes on as it did; `inf` if that cannot be told."""
        if not self.share or now - self.moved > STUCK_SECONDS:
            return inf
        return self.began + (now - self.began) / self.share


class LivePace:
    """How fast prompts are answered live, as far as this run has seen.

    Attributes:
        seconds: Of one answer.
    """

    def __init__(self) -> None:
        self.seconds = _SECONDS
        self._began: float | None = None
        self._answers = 0
        self._rate: float | None = None

    def begin(self, now: float) -> None:
        """Note that there is more to do than one worker does."""
        if self._began is None:
            self._began, self._answers = now, 0

    def pause(self) -> None:
        """Note that there is nothing to do."""
        self._began = None

    def add(self, now: float, seconds: float) -> None:
        """Count an answer that took so long."""
        self.seconds += (seconds - self.seconds) / 10
        self._answers += 1
        if self._began is not None and self._answers >= _MEASURED and now > self._began:
            self._rate = self._answers / (now - self._began)

    def rate(self, workers: int, limit: float) -> float:
        """Answers a second, by what was measured, else by half of what so many workers could do.

        Args:
            workers: Requests under way at one time.
            limit: What rate limits let through.
        """
        reckoned = workers / (2.0 * max(self.seconds, 0.5))
        return min(limit, reckoned if self._rate is None else self._rate)


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
        self._kwargs = kwargs
        self._stats = stats
        self._workers = workers
        self._return_exceptions = return_exceptions
        self._total = stats.total
        self._clock = asyncio.get_running_loop().time
        self._deadline = inf if within is None else self._clock() + within
        self._within = within
        desk = desk_of(None)
        if desk is None:
            msg = "no target of this chain takes batches: those of openai and together do"
            raise ValueError(msg)
        self._desk: BatchDesk = desk
        self._spool = Spool()
        self._pace = LivePace()
        self._batches: dict[str, _Batch] = {}
        self._resumed: dict[str, _Batch] = {}
        self._shards: dict[RequestForm, Shard] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._live: set[asyncio.Task[Any]] = set()
        self._recordings: set[asyncio.Future[Any]] = set()
        self._uploading = asyncio.Lock()
        self._room = asyncio.Event()  # a batch has ended: the provider's queue has room
        self._read_all = asyncio.Event()
        self._results: deque[tuple[int, Any]] = deque()
        self._changed = asyncio.Event()
        self._taken = asyncio.Event()
        self._read = 0
        self._left = 0  # prompts without a result, of those that were read
        self._tokens = 0.0
        self._unbatchable = 0
        self._asked_first = False
        self._error: BaseException | None = None
        self._stopped = False

    async def results(self) -> AsyncGenerator[tuple[int, AIMessage | Exception], None]:
        """Yield `(index, result)` as completed. Closing it early leaves the batches running.

        Raises:
            Exception: A prompt's, if exceptions are not returned; the source's; the journal's.
        """
        if not self._desk.discount:
            logger.warning(
                "batches of %s cost as much as live requests, as far as is known here: "
                "Target(batch_discount=) says otherwise", self._desk.name,
            )  # fmt: skip
        try:
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
        left = min(SETTLE_SECONDS, self._deadline - self._clock())
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
        for shard in self._shards.values():
            shard.close()
            self._desk.set_aside(-shard.dollars)
        for batch in self._batches.values():
            self._give_back(batch, batch.dollars)
        self._spool.close()
        await self._source.aclose()
        running = [batch for batch in self._batches.values() if batch.row.batch is not None]
        if running and self._finished:
            logger.warning(
                "%d batches are still being cancelled at their provider: what they cost is not "
                "counted until the next call with the journal %s",
                len(running), self._journal.path,
            )  # fmt: skip
        elif running:
            logger.warning(
                "%d batches with %d prompts go on at their provider: the same call with the same "
                "journal goes on with them; `langchain-resilient lane show %s` tells how they are, "
                "`lane cancel` ends them",
                len(running), sum(b.row.requests for b in running), self._journal.path,
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
                batch = self._resumed[row.tag] = _Batch(row, desk, began=began, moved=now)
                self._follow_in_task(batch)

    async def _read_source(self) -> None:
        head: list[tuple[int, Any, Any]] = []
        while (numbered := await self._source.next()) is not None:
            self._read += 1
            if not self._read % _PIECE:
                await asyncio.sleep(0)
            item = await self._take_in(*numbered)
            if item is None:
                continue
            head.append(item)
            if self._asked_first or len(head) >= FIRST_LIVE:
                await self._put_all(head)
                head = []
        for item in head:
            await self._put(*item)
        for shard in list(self._shards.values()):
            await self._submit(shard)
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

    async def _put_all(self, items: list[tuple[int, Any, Any]]) -> None:
        if not self._asked_first:
            self._asked_first = True
            if not await self._ask_first(*items[0]):
                items = items[1:]
        for item in items:
            await self._put(*item)

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
        try:
            line = self._desk.write(messages, self._kwargs, name)
            if len(line.data) > self._desk.batches.max_bytes:
                raise UnbatchableRequestError("it is larger than a file may be")  # noqa: TRY301  # one way out
            if line.dollars > self._desk.money_left():
                raise UnbatchableRequestError("the spend cap has no room for it")  # noqa: TRY301  # as above
        except Exception as error:  # noqa: BLE001  # the live call will say so
            if not self._unbatchable:
                logger.warning("prompt %d is asked live: %s", index, error)
            self._unbatchable += 1
            self._spool.add(index, name, keys, messages, state=RowState.LIVE)
            self._ask_more_live()
            return
        shard = self._shards.get(line.form)
        if shard is not None and self._is_full(shard, len(line.data)):
            await self._submit(shard)
            shard = None
        if shard is None:
            tag = secrets.token_hex(8)
            path = self._spool.folder / f"langchain-resilient-{tag}.jsonl"
            shard = self._shards[line.form] = Shard(path, tag, *line.form)
        shard.add(name, line.data, line.dollars)
        self._desk.set_aside(line.dollars)
        self._spool.add(index, name, keys, messages, tag=shard.tag)
        self._stats.waiting += 1

    def _is_full(self, shard: Shard, more: int) -> bool:
        batches, count = self._desk.batches, len(shard.custom_ids)
        most = batches.max_requests
        if self._within is not None:
            in_time = int(self._live_rate() * self._within / _SHARDS_IN_TIME)
            most = min(most, max(_MIN_SHARD, in_time))
        return count >= most or shard.size + more > batches.max_bytes

    async def _submit(self, shard: Shard) -> None:
        """Send a file on its way."""
        shard.close()
        self._shards = {form: s for form, s in self._shards.items() if s is not shard}
        now, count = self._clock(), len(shard.custom_ids)
        row = BatchRow(shard.tag, self._desk.name, shard.endpoint, shard.json_mode, count,
                       began=time.time())  # fmt: skip
        batch = _Batch(row, self._desk, now, shard.path, shard.dollars, moved=now)
        # Those before it have been sent already, or are asked live.
        self._worker.show()
        if self._release_at(self._outstanding()) - CANCEL_SECONDS - now < MIN_BATCH_SECONDS:
            self._give_back(batch, batch.dollars)
            self._release(batch)
            return
        await self._journal.write_batch(row, tuple(shard.custom_ids))
        self._follow_in_task(batch)

    # -- one batch: up, watched, down --

    def _follow_in_task(self, batch: _Batch) -> None:
        self._batches[batch.row.tag] = batch
        self._spawn(self._follow(batch)).set_name(f"batch {batch.row.tag}")

    async def _follow(self, batch: _Batch) -> None:
        try:
            while True:
                await self._send(batch)
                state = await self._watch(batch)
                if state.status != "failed" or not _QUEUE_FULL.search(state.problem):
                    break
                logger.info("the queue of %s is full: %s", batch.desk.name, state.problem)
                await self._note(batch, None)
                self._room.clear()
                await self._pause(batch, QUEUE_SECONDS, room=True)
            if state.status == "failed":
                raise _GoneError("failed", f"it failed: {state.problem}")  # noqa: TRY301  # one way out
            await self._collect(batch, state)
            await self._end(batch, "done" if state.status == "completed" else state.status)
        except _GoneError as gone:
            logger.warning(
                "a batch of %d prompts at %s is given up, they are asked live: %s",
                batch.row.requests, batch.desk.name, gone,
            )  # fmt: skip
            await self._end(batch, gone.status)

    async def _end(self, batch: _Batch, status: str) -> None:
        batch.row = batch.row._replace(status=status, ended=time.time())
        await self._journal.write_batch(batch.row)
        self._give_back(batch, batch.dollars)
        if batch.resumed:
            await self._read_all.wait()
        self._release(batch)
        self._batches.pop(batch.row.tag, None)
        self._room.set()
        self._changed.set()

    async def _note(self, batch: _Batch, name: str | None) -> None:
        """Write down which batch of the provider it is."""
        batch.row = batch.row._replace(batch=name)
        await self._journal.write_batch(batch.row)

    async def _send(self, batch: _Batch) -> None:
        """Upload and create a batch, unless that was done.

        Raises:
            _GoneError: If the provider refuses it, or there is no time left for it.
        """
        desk, tries = batch.desk.batches, 0
        if batch.row.file is None:
            async with self._uploading:
                while batch.row.file is None:
                    file = await self._upload(batch, tries)
                    tries += 1
                    if file is not None:
                        batch.row = batch.row._replace(file=file)
                        await self._journal.write_batch(batch.row)
        if batch.path is not None:
            batch.path.unlink(missing_ok=True)
        file = batch.row.file
        assert file is not None  # noqa: S101  # it was uploaded
        uncertain, tries = batch.resumed, 0
        while batch.row.batch is None:
            self._check_time(batch)
            try:
                state = await desk.find(file, batch.row.tag) if uncertain else None
                if state is None:
                    # From here on there may be one although no answer came.
                    uncertain = True
                    state = await desk.create(file, batch.row.endpoint, batch.row.tag)
            except BatchRequestError as error:
                if error.refused:
                    raise _GoneError("refused", str(error)) from error
                await self._pause_after(batch, error, tries)
                tries += 1
            else:
                await self._note(batch, state.id)

    async def _upload(self, batch: _Batch, tries: int) -> str | None:
        desk, path = batch.desk.batches, batch.path
        assert path is not None  # noqa: S101  # those of earlier runs are uploaded
        self._check_time(batch)
        try:
            found = await desk.find_file(path.name) if tries else None
            return found or await desk.upload(path)
        except BatchRequestError as error:
            if error.refused:
                raise _GoneError("refused", str(error)) from error
            await self._pause_after(batch, error, tries)
            return None

    def _check_time(self, batch: _Batch) -> None:
        if batch.released or batch.cancelling:
            raise _GoneError("lost", "it could not be sent in time")

    async def _watch(self, batch: _Batch) -> BatchState:
        """Wait until a batch has ended; cancel it when that is wanted."""
        name, missing, failed = batch.row.batch, 0, 0
        assert name is not None  # noqa: S101  # it was created
        while True:
            try:
                if batch.cancelling and not batch.cancelled:
                    await self._cancel(batch, name)
                state = await batch.desk.batches.retrieve(name)
            except BatchRequestError as error:
                missing = missing + 1 if error.missing else 0
                if missing >= MAX_MISSING:
                    raise _GoneError("lost", str(error)) from error
                await self._pause_after(batch, error, failed)
                failed += 1
                continue
            missing = failed = 0
            self._worker.show()
            if state.share > batch.share:
                batch.share, batch.moved = state.share, self._clock()
            if state.ended:
                return state
            await self._pause(batch, self._poll_seconds(batch))

    async def _cancel(self, batch: _Batch, name: str) -> None:
        try:
            await batch.desk.batches.cancel(name)
        except BatchRequestError as error:
            # It may be done, or nearly: how it is will tell.
            logger.info("batch %s could not be cancelled: %s", name, error)
            if error.status is None or error.status >= _SERVER_ERROR:
                return
        batch.cancelled = True

    def _poll_seconds(self, batch: _Batch) -> float:
        if batch.cancelling:
            return CANCEL_POLL_SECONDS
        first, most = POLL_SECONDS
        return min(most, max(first, (self._clock() - batch.began) / 20))

    async def _pause_after(self, batch: _Batch, error: BatchRequestError, tries: int) -> None:
        first, most = RETRY_SECONDS
        seconds = min(most, first * 2.0 ** min(tries, 10))
        if batch.cancelling:
            seconds = min(seconds, CANCEL_POLL_SECONDS)
        logger.info("%s: %s; again in %.0f s", batch.desk.name, error, seconds)
        await self._pause(batch, max(seconds, error.retry_after or 0.0))

    async def _pause(self, batch: _Batch, seconds: float, *, room: bool = False) -> None:
        """Wait; less if something is to be done at once."""
        waits = [asyncio.ensure_future(batch.wake.wait())]
        if room:
            waits.append(asyncio.ensure_future(self._room.wait()))
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        batch.wake.clear()

    async def _collect(self, batch: _Batch, state: BatchState) -> None:
        """Fetch what a batch has given, and judge it."""
        if batch.resumed:
            await self._read_all.wait()
        path = self._spool.folder / f"{batch.row.tag}.results"
        for file, expected in ((state.output_file, state.done), (state.error_file, None)):
            if file is None:
                continue
            await self._fetch(batch, file, path, expected)
            piece: list[Awaitable[None]] = []
            for line in result_lines(path):
                piece.append(self._take(batch, line.custom_id, line.body))
                if len(piece) >= min(_PIECE, self._workers):
                    await asyncio.gather(*piece)
                    piece = []
            await asyncio.gather(*piece)
            path.unlink(missing_ok=True)

    def _give_back(self, batch: _Batch, dollars: float) -> None:
        dollars = min(dollars, batch.dollars)
        batch.dollars -= dollars
        batch.desk.set_aside(-dollars)

    async def _fetch(self, batch: _Batch, file: str, path: Path, expected: int | None) -> None:
        tries = short = 0
        while True:
            try:
                await batch.desk.batches.download(file, path)
            except BatchRequestError as error:
                if error.missing and tries >= MAX_MISSING:
                    raise _GoneError("lost", str(error)) from error
                await self._pause_after(batch, error, tries)
                tries += 1
                continue
            if expected is None or short >= MAX_SHORT or _count_lines(path) >= expected:
                return
            short += 1
            await self._pause(batch, RETRY_SECONDS[0])

    async def _take(self, batch: _Batch, custom_id: str, body: bytes | None) -> None:
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

    def _release(self, batch: _Batch) -> None:
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
        await self._deliver(index, result, late=self._clock() > self._deadline)

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

    def _live_seconds(self, prompts: int) -> float:
        return SAFETY * prompts / self._live_rate()

    def _outstanding(self) -> int:
        """Prompts that are in batches, or not yet read, as far as that is known."""
        unread = 0 if self._total is None else max(0, self._total - self._read)
        return unread + self._stats.waiting

    def _release_at(self, prompts: int) -> float:
        """The last moment at which so many prompts can be bought live in time."""
        margin = MARGIN_SECONDS + 3.0 * self._pace.seconds
        return self._deadline - margin - self._live_seconds(prompts)

    async def _keep_deadline(self) -> None:
        while True:
            now = self._clock()
            await asyncio.sleep(min(60.0, max(1.0, self._enforce(now) - now)))

    def _enforce(self, now: float) -> float:
        """Cancel, and then buy, what could soon no longer be bought in time.

        Returns:
            When there is more to do, as far as that is known now.
        """
        waiting = [b for b in self._batches.values() if not b.released]
        waiting.sort(key=lambda batch: (batch.expected(now), batch.row.tag), reverse=True)
        counts = {b.row.tag: self._spool.count(RowState.WAITING, b.row.tag) for b in waiting}
        prompts, next_at = self._outstanding(), inf
        for batch in waiting:
            release_at = self._release_at(prompts)
            cancel_at = release_at - CANCEL_SECONDS
            next_at = min(next_at, cancel_at if now < cancel_at else release_at)
            if now >= release_at:
                logger.info("batch %s is late: its prompts are asked live", batch.row.batch)
                self._release(batch)
                batch.cancelling = True
                batch.wake.set()
            elif now >= cancel_at and not batch.cancelling:
                logger.info("batch %s is cancelled: it would be late", batch.row.batch)
                batch.cancelling = True
                batch.wake.set()
            prompts -= counts[batch.row.tag]
        return next_at


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


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}

_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(min|[smhd])\s*", re.IGNORECASE)


def within_seconds(within: str | float | timedelta | None) -> float | None:
    """Read a span of time: seconds, a `timedelta`, or a text such as `"6h"` or `"1h 30min"`.

    Raises:
        ValueError: If it is none of these, or not more than 0.

    Example:
        ```python
        within_seconds("1h 30min")  # 5400.0
        ```
    """
    seconds: float | None = None
    if within is None:
        return None
    if isinstance(within, timedelta):
        seconds = within.total_seconds()
    elif isinstance(within, str):
        parts = _PART.findall(within)
        if parts and not _PART.sub("", within).strip():
            seconds = sum(float(number) * _UNITS[unit.lower()] for number, unit in parts)
    elif not isinstance(within, bool):
        seconds = float(within)
    if seconds is None or not 0 < seconds < inf:
        msg = f'within must be a time such as "6h" or "1h 30min", or seconds, not {within!r}'
        raise ValueError(msg)
    return seconds

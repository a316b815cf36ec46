"""One batch of a provider, from the file of its requests to the file of its answers."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any

from langchain_resilient.runtime.batched import BatchRequestError, UnbatchableRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from langchain_core.messages import BaseMessage

    from langchain_resilient.batch.journal import Journal
    from langchain_resilient.batch.journal_file import BatchRow
    from langchain_resilient.exchange import BatchState, RequestForm
    from langchain_resilient.runtime.batched import BatchDesk, BatchLine, ProviderBatches


QUEUE_SHARE = 0.8
"""Of the tokens that a provider's queue takes, a batch holds at most so many: they are a guess."""

_QUEUE_FULL = re.compile(r"token_limit_exceeded|enqueued|queue", re.IGNORECASE)

_QUEUE_LIMIT = re.compile(r"limit:\s*([0-9][0-9,_]*)", re.IGNORECASE)


def queue_limit(problem: str) -> float | None:
    """Read why a batch failed.

    Returns:
        The tokens that the provider's queue takes, if it had no room; `inf` if it does not say how
        many; None if the batch failed for something else.

    Example:
        ```python
        queue_limit("token_limit_exceeded: Enqueued token limit reached. Limit: 90,000 tokens.")
        ```
    """
    if not _QUEUE_FULL.search(problem):
        return None
    told = _QUEUE_LIMIT.search(problem)
    return inf if told is None else float(re.sub("[,_]", "", told[1]))


class Shard:
    """The file of one batch, while it is written.

    Args:
        folder: Where.
        form: Of all its requests.

    Attributes:
        tag: Of the batch.
        path: The file.
        form: As given.
        custom_ids: Its requests.
        size: Its bytes.
        tokens: Of its prompts, about.
        dollars: What it will cost, about.
    """

    def __init__(self, folder: Path, form: RequestForm) -> None:
        self.tag: str = secrets.token_hex(8)
        self.path: Path = folder / f"langchain-resilient-{self.tag}.jsonl"
        self.form = form
        self.custom_ids: list[str] = []
        self.size = 0
        self.tokens = 0
        self.dollars = 0.0
        self._file = self.path.open("xb")

    def add(self, custom_id: str, line: BatchLine) -> None:
        """Write a request."""
        self._file.write(line.data)
        self.custom_ids.append(custom_id)
        self.size += len(line.data)
        self.tokens += line.tokens
        self.dollars += line.dollars

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


class ShardWriter:
    """Writes prompts into files, one for each form of requests at a time.

    Args:
        desk: Of the target that they are for.
        kwargs: The arguments of each call.
        folder: Where the files are.

    Attributes:
        max_requests: The most requests of a file.
        max_tokens: The most tokens of its prompts.
    """

    def __init__(self, desk: BatchDesk, kwargs: Mapping[str, Any], folder: Path) -> None:
        self.max_requests: int = desk.max_requests
        self.max_tokens: float = inf
        self._desk = desk
        self._kwargs = kwargs
        self._folder = folder
        self._open: dict[RequestForm, Shard] = {}
        self._unbatchable = 0

    def line_of(
        self, index: int, messages: Sequence[BaseMessage], custom_id: str
    ) -> BatchLine | None:
        """Write a request; None if it cannot be part of a batch, which is logged once."""
        try:
            line = self._desk.write(messages, self._kwargs, custom_id)
            if len(line.data) > self._desk.max_bytes:
                raise UnbatchableRequestError("it is larger than a file may be")  # noqa: TRY301  # one way out
            if line.tokens > self.max_tokens:
                raise UnbatchableRequestError("it is longer than the provider's queue")  # noqa: TRY301  # as above
            if line.dollars > self._desk.money_left():
                raise UnbatchableRequestError("the spend cap has no room for it")  # noqa: TRY301  # as above
        except Exception as error:  # noqa: BLE001  # the live call will say so
            if not self._unbatchable:
                logger.warning("prompt %d is asked live: %s", index, error)
            self._unbatchable += 1
            return None
        return line

    def take_full(self, line: BatchLine, in_time: float) -> Shard | None:
        """Take the file that a request would go into, finished, if that has no room for it.

        Args:
            line: The request.
            in_time: The most requests of a file, for the sake of the deadline.
        """
        shard = self._open.get(line.form)
        if shard is None or not (
            len(shard.custom_ids) >= min(self.max_requests, in_time)
            or shard.size + len(line.data) > self._desk.max_bytes
            or shard.tokens + line.tokens > self.max_tokens
        ):
            return None
        return self._finish(shard)

    def add(self, custom_id: str, line: BatchLine) -> str:
        """Write a request into its file, and set money aside for it; returns the batch's tag."""
        shard = self._open.get(line.form)
        if shard is None:
            shard = self._open[line.form] = Shard(self._folder, line.form)
        shard.add(custom_id, line)
        self._desk.set_aside(line.dollars)
        return shard.tag

    def take(self) -> Shard | None:
        """Take any file, finished; None if there is none."""
        return next((self._finish(shard) for shard in self._open.values()), None)

    def _finish(self, shard: Shard) -> Shard:
        shard.close()
        del self._open[shard.form]
        return shard

    def close(self) -> None:
        """Give up all files, and the money that is set aside for them."""
        while (shard := self.take()) is not None:
            self._desk.set_aside(-shard.dollars)


logger = logging.getLogger("langchain_resilient")

POLL_SECONDS = (30.0, 300.0)
"""Between two looks at a batch: at first, and at most."""

CANCEL_POLL_SECONDS = (15.0, 60.0)
"""The same once it was cancelled: answers come soon, or much later."""

RETRY_SECONDS = (5.0, 300.0)
"""Between two tries of a request that failed: at first, and at most."""

MAX_MISSING = 5
"""So often in a row a provider may say that it has no such batch, until that is believed."""

MAX_SHORT = 3
"""So often results are fetched again that have fewer lines than the batch has answers."""

QUEUE_SECONDS = (900.0, 3600.0)
"""After which a batch is tried again for which the provider's queue had no room: at first, and at
most. Nobody waits so long once another batch of ours has ended."""

STUCK_SECONDS = 1800.0
"""After which a batch without progress is thought to be stuck."""

_SERVER_ERROR = 500


class BatchGoneError(Exception):
    """A batch that will give nothing (more).

    Attributes:
        status: How it ended, for the journal.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(eq=False)
class LaneBatch:
    """One batch.

    Attributes:
        row: As the journal knows it.
        desk: Of its target.
        account: Whose key has made it, and nobody else may see it; None until that is known.
        began: When this run began with it, by the loop's clock.
        path: Its file; None if an earlier run has uploaded it.
        tokens: Of its prompts, about; 0 if an earlier run has written it.
        dollars: What is set aside for it.
        share: How much of it is done, as far as it was told.
        moved: When that was last more than before.
        cancelling: Whether it is to be cancelled.
        cancelled: When that was asked for; None before.
        released: Whether its prompts are asked live.
        refusals: How often the provider's queue had no room for it.
        wake: Set when something is to be done at once.
    """

    row: BatchRow
    desk: BatchDesk
    began: float
    path: Path | None = None
    account: ProviderBatches | None = None
    tokens: int = 0
    dollars: float = 0.0
    share: float = 0.0
    moved: float = 0.0
    cancelling: bool = False
    cancelled: float | None = None
    released: bool = False
    refusals: int = 0
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


class BatchCarrier:
    """Takes batches to their provider, watches them, and fetches what they give.

    Args:
        journal: Where each step is written down before the next.
        clock: The loop's.
        show: Called when there is something new to show.

    """

    def __init__(
        self, journal: Journal, clock: Callable[[], float], show: Callable[[], None]
    ) -> None:
        self._room = asyncio.Event()
        self._in_line = asyncio.Lock()
        self._turns = count()
        self._journal = journal
        self._clock = clock
        self._show = show
        self._uploading = asyncio.Lock()

    async def note(self, batch: LaneBatch, name: str | None) -> None:
        """Write down which batch of the provider it is."""
        batch.row = batch.row._replace(batch=name)
        await self._journal.write_batch(batch.row)

    async def send(self, batch: LaneBatch) -> None:
        """Upload and create a batch, unless that was done.

        Raises:
            BatchGoneError: If the provider refuses it, or there is no time left for it.
        """
        file = batch.row.file
        if file is None:
            async with self._uploading:
                file = await self._upload(batch)
            batch.row = batch.row._replace(file=file)
            await self._journal.write_batch(batch.row)
        elif batch.account is None:
            await self._find_account(batch, file)
        if batch.path is not None:
            batch.path.unlink(missing_ok=True)
        await self._create(batch, file)

    async def _find_account(self, batch: LaneBatch, file: str) -> None:
        """Find which key has made a batch of an earlier run."""
        tries = missing = 0
        while batch.account is None:
            try:
                batch.account = await batch.desk.account_of(file, batch.row.batch)
            except BatchRequestError as error:
                await self._pause_after(batch, error, tries)
                tries += 1
                continue
            missing += batch.account is None
            if missing >= MAX_MISSING:
                raise BatchGoneError("lost", f"no key of {batch.desk.name} has its file {file}")
            if batch.account is None:
                await self.pause(batch, RETRY_SECONDS[0])

    async def _create(self, batch: LaneBatch, file: str) -> None:
        account, tag, tries = _account(batch), batch.row.tag, 0
        uncertain = batch.resumed
        while batch.row.batch is None:
            in_time = not (batch.released or batch.cancelling)
            try:
                state = await account.find(file, tag) if uncertain else None
                if state is None:
                    self._check_time(batch)
                    # From here on there may be one although no answer came.
                    uncertain = True
                    state = await account.create(file, batch.row.endpoint, tag)
            except BatchRequestError as error:
                if error.refused:
                    raise BatchGoneError("refused", str(error)) from error
                await self._pause_after(batch, error, tries)
                tries += 1
                if not in_time and tries > MAX_MISSING:
                    self._check_time(batch)
            else:
                await self.note(batch, state.id)

    async def _upload(self, batch: LaneBatch) -> str:
        """Upload the file of a batch by the key whose turn it is, or by one that may."""
        path, accounts, tries = batch.path, batch.desk.accounts, 0
        assert path is not None  # noqa: S101  # those of earlier runs are uploaded
        first, refusals = next(self._turns), 0
        while True:
            self._check_time(batch)
            account = batch.account = accounts[(first + refusals) % len(accounts)]
            try:
                found = await account.find_file(path.name) if tries else None
                return found or await account.upload(path)
            except BatchRequestError as error:
                if error.refused:
                    refusals += 1
                    if not error.missing or refusals == len(accounts):
                        raise BatchGoneError("refused", str(error)) from error
                    tries = 0
                    continue
                await self._pause_after(batch, error, tries)
                tries += 1

    def _check_time(self, batch: LaneBatch) -> None:
        if batch.released or batch.cancelling:
            raise BatchGoneError("lost", "it could not be sent in time")

    async def watch(self, batch: LaneBatch) -> BatchState:
        """Wait until a batch has ended; cancel it when that is wanted."""
        name, account, missing, failed = batch.row.batch, _account(batch), 0, 0
        assert name is not None  # noqa: S101  # it was created
        while True:
            try:
                if batch.cancelling and batch.cancelled is None:
                    await self._cancel(batch, name)
                state = await account.retrieve(name)
            except BatchRequestError as error:
                missing = missing + 1 if error.missing else 0
                if missing >= MAX_MISSING:
                    raise BatchGoneError("lost", str(error)) from error
                await self._pause_after(batch, error, failed)
                failed += 1
                continue
            missing = failed = 0
            self._show()
            if batch.refusals and state.status == "running":
                batch.refusals = 0
                self._room.set()  # there may be room for the next one
            if state.share > batch.share:
                batch.share, batch.moved = state.share, self._clock()
            if state.ended:
                return state
            await self.pause(batch, self._poll_seconds(batch))

    async def _cancel(self, batch: LaneBatch, name: str) -> None:
        try:
            await _account(batch).cancel(name)
        except BatchRequestError as error:
            # It may be done, or nearly: how it is will tell.
            logger.info("batch %s could not be cancelled: %s", name, error)
            if error.status is None or error.status >= _SERVER_ERROR:
                return
        batch.cancelled = self._clock()

    def _poll_seconds(self, batch: LaneBatch) -> float:
        (first, most), since = POLL_SECONDS, batch.began
        if batch.cancelled is not None:
            (first, most), since = CANCEL_POLL_SECONDS, batch.cancelled
        elif batch.cancelling:
            return CANCEL_POLL_SECONDS[0]
        return min(most, max(first, (self._clock() - since) / 10))

    async def _pause_after(self, batch: LaneBatch, error: BatchRequestError, tries: int) -> None:
        first, most = RETRY_SECONDS
        seconds = min(most, first * 2.0 ** min(tries, 10))
        if batch.cancelling:
            seconds = min(seconds, CANCEL_POLL_SECONDS[0])
        logger.info("%s: %s; again in %.0f s", batch.desk.name, error, seconds)
        await self.pause(batch, max(seconds, error.retry_after or 0.0))

    async def pause(self, batch: LaneBatch, seconds: float) -> None:
        """Wait; less if something is to be done at once."""
        await _wait_for_any(seconds, batch.wake)
        batch.wake.clear()

    async def wait_for_room(self, batch: LaneBatch) -> None:
        """Wait until the provider's queue may have room: only the first in line tries it again."""
        await self.note(batch, None)
        async with self._in_line:
            self._room.clear()
            first, most = QUEUE_SECONDS
            seconds = min(most, first * 2.0 ** min(batch.refusals - 1, 10))
            await _wait_for_any(seconds, batch.wake, self._room)
            batch.wake.clear()

    def make_room(self) -> None:
        """Note that a batch has ended, so that the provider's queue has room."""
        self._room.set()

    async def delete(self, batch: LaneBatch, *files: str | None) -> None:
        """Delete files of a batch at its provider: what they held is here. Failing is no harm."""
        for file in files:
            if file is None or batch.account is None:
                continue
            try:
                await batch.account.delete(file)
            except BatchRequestError as error:
                logger.info("file %s stays at %s: %s", file, batch.desk.name, error)

    async def fetch(self, batch: LaneBatch, file: str, path: Path, expected: int | None) -> None:
        """Fetch a file of results, however often that takes.

        Args:
            batch: Whose it is.
            file: Its id.
            path: Where it goes.
            expected: Its lines; None if that is not known.

        Raises:
            BatchGoneError: If the provider has no such file.
        """
        tries = short = 0
        while True:
            try:
                await _account(batch).download(file, path)
            except BatchRequestError as error:
                if error.missing and tries >= MAX_MISSING:
                    raise BatchGoneError("lost", str(error)) from error
                await self._pause_after(batch, error, tries)
                tries += 1
                continue
            if expected is None or short >= MAX_SHORT or _count_lines(path) >= expected:
                return
            short += 1
            await self.pause(batch, RETRY_SECONDS[0])


def _account(batch: LaneBatch) -> ProviderBatches:
    account = batch.account
    assert account is not None  # noqa: S101  # it is known once the file is there
    return account


async def _wait_for_any(seconds: float, *events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)

"""Answers of a batch on disk, so that none is paid for twice."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from langchain_core.messages import AIMessage

from langchain_resilient.batch.journal_file import (
    BatchRow,
    BatchWrite,
    JournalFile,
    JournalRow,
    JournalWrite,
    PaidMark,
)
from langchain_resilient.batch.journal_keys import RequestKeys
from langchain_resilient.batch.report import Money
from langchain_resilient.batch.segments import SegmentFolder, open_journal_file
from langchain_resilient.errors import JournalDamagedError

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from types import TracebackType


logger: logging.Logger = logging.getLogger("langchain_resilient")

MAX_ROWS_PER_WRITE = 1000
"""Rows of one transaction at most, so that none waits long for the others."""


JournalMatch = Literal["prompt", "exact"]
"""How a recorded answer is recognised: by its prompt, whoever was asked; or by the model too."""


_PendingWrite = tuple[tuple[JournalWrite, ...], "asyncio.Future[None] | None"]


class Journal:
    """A file of answers, by the request and its how-many-th occurrence in the batch.

    Where a prompt stands does not matter: insert some, remove some or sort them, and only the new
    ones are sent. Of two equal prompts in one batch each has an answer of its own.

    An answer is on disk when `record` returns: it survives a crash of the process and of the
    machine. Records that wait at the same time share one transaction and so one fsync. Change a
    prompt or a parameter, change it back, and the first answers are found again. Several processes
    may use one file at once; the first answer to a request is kept. Neither prompts nor API keys
    are stored.

    A journal is used from one event loop, by one batch at a time, which opens and closes it. After
    a failed `record` it is still usable, and what was recorded readable.

    Args:
        path: The SQLite file; created with mode 0600 if it is missing. Or an existing folder, on
            storage that several machines share: each process appends to a file of its own there,
            and reads those of the others when it opens the journal.
        match: `"prompt"` takes an answer to the same prompt and call, whoever gave it; `"exact"`
            only one of a model with the same targets, order and parameters.
        lock_timeout: Seconds to wait while another process writes.

    Attributes:
        path: The file.
        match: As given.
        restored: The number of answers that `look_up` has found.
        differing: The number of requests that `look_up` found answered by a model with other
            targets or parameters: used by `match="prompt"`, left aside by `match="exact"`.
        earlier: What earlier runs paid for the requests that were looked up.
        complete: Whether the batch had a result for all its prompts; who runs it sets that.

    Raises:
        JournalError: From `open`, `look_up` and `record`, if the file cannot be used; its
            subclasses tell a wrong, damaged, locked, read-only and full file apart.

    Example:
        ```python
        async with Journal("run.db") as journal:
            if (answer := journal.look_up(0, keys)) is None:
                answer = await llm.ainvoke("Why is the sky blue?")
                await journal.record(0, keys, answer)
        ```
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        match: JournalMatch = "prompt",
        lock_timeout: float = 10.0,
    ) -> None:
        self.path: Path = Path(path)
        self.match: JournalMatch = check_match(match)
        self.restored: int = 0
        self.differing: int = 0
        self.earlier: Money = Money()
        self.complete: bool = False
        self._lock_timeout = lock_timeout
        self._file: JournalFile | None = None
        self._waiting: SimpleQueue[_PendingWrite | None] = SimpleQueue()
        self._ended: asyncio.Future[None] | None = None
        self._thread: threading.Thread | None = None

    async def open(self) -> None:
        """Open the file, or create it."""
        if self._ended is not None:
            raise RuntimeError(f"the journal {self.path} is already open")
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[JournalFile] = loop.create_future()
        self._ended = loop.create_future()
        self._waiting = SimpleQueue()
        self.restored = self.differing = 0
        self.earlier, self.complete = Money(), False
        # The thread owns the file: it opens it, writes to it, and closes it.
        work = (loop, self._waiting, opened, self._ended)
        self._thread = threading.Thread(
            target=self._run_thread, args=work, name="journal", daemon=True
        )
        self._thread.start()
        try:
            self._file = await opened
        except BaseException:
            self._waiting.put(None)
            self._ended = None
            raise

    def look_up(self, index: int, keys: RequestKeys | str) -> AIMessage | None:
        """Return the answer to a request; None if there is none yet.

        Args:
            index: The position in the batch.
            keys: Of the request; see `journal_keys.key_function`. One text is both keys.
        """
        keys, occurrence = self._place(index, keys)
        known = self._open_file().rows_of(keys, occurrence)
        self.earlier = sum((Money(r.spent or 0.0, r.wasted or 0.0) for r in known), self.earlier)
        answers = [row for row in known if row.answer is not None]
        row = next((row for row in answers if row.exact == keys.exact), None)
        if row is None and answers:
            self.differing += 1
            row = answers[-1] if self.match == "prompt" else None
        if row is None:
            return None
        try:
            message = decode_message(row.answer or "")
        except ValueError as error:
            raise JournalDamagedError(
                f"the journal {self.path} is damaged at position {row.position}: give another file",
                path=str(self.path),
            ) from error
        self.restored += 1
        # It belongs to this run from now on, at this position.
        found = JournalRow(row.prompt, row.occurrence, row.exact, index)
        self._waiting.put(((found,), None))
        return message

    async def record(
        self,
        index: int,
        keys: RequestKeys | str,
        message: AIMessage,
        money: Money | None = None,
        paid: PaidMark | None = None,
    ) -> None:
        """Record an answer; it is on disk when this returns.

        Args:
            index: The position in the batch.
            keys: Of the request.
            message: The answer.
            money: What it cost, if that is known.
            paid: Of the provider's batch that gave it; written together with the answer.
        """
        usage = message.usage_metadata
        row = self._row(index, keys, money)._replace(
            answer=encode_message(message),
            target=winner_of(message),
            input_tokens=usage["input_tokens"] if usage else None,
            output_tokens=usage["output_tokens"] if usage else None,
        )
        await self._write(*_with(row, paid))

    async def record_failure(
        self,
        index: int,
        keys: RequestKeys | str,
        error: BaseException,
        money: Money | None = None,
    ) -> None:
        """Record the text of a failure, for `journal show`; the next batch sends the item again."""
        text = f"{type(error).__name__}: {error}".encode(errors="replace").decode()
        await self._write(self._row(index, keys, money)._replace(error=text))

    def record_cancelled(
        self, index: int, keys: RequestKeys | str, money: Money, paid: PaidMark | None = None
    ) -> None:
        """Record what a request cost that was cancelled; `aclose` waits for that."""
        row = self._row(index, keys, money)._replace(error="cancelled")
        self._waiting.put((_with(row, paid), None))

    # -- the batches of providers that prompts are in ---------------------------------------------

    async def write_batch(self, row: BatchRow, custom_ids: tuple[str, ...] = ()) -> None:
        """Write down how a batch is; it is on disk when this returns.

        Args:
            row: The batch.
            custom_ids: Its requests, when it is new.
        """
        await self._write(BatchWrite(row, custom_ids))

    def batches(self) -> list[BatchRow]:
        """All batches that are written down, the oldest first."""
        return self._open_file().batches()

    def batch_of(self, custom_id: str) -> tuple[str, bool] | None:
        """The tag of the open batch that a request is in, and whether what it gave is counted."""
        return self._open_file().batch_of(custom_id)

    def custom_id(self, index: int, keys: RequestKeys) -> str:
        """Name a request within batches: by its key, and the how many-th of equal ones it is."""
        keys, occurrence = self._place(index, keys)
        key = keys.prompt if self.match == "prompt" else keys.exact
        return f"{key[:48]}-{occurrence}"

    def _place(self, index: int, keys: RequestKeys | str) -> tuple[RequestKeys, int]:
        """Where the journal has a request: under which keys, and the how many-th of equal ones."""
        if isinstance(keys, str):
            keys = RequestKeys(keys, keys)
        return keys, self._open_file().occurrence(keys.prompt, index)

    def _row(self, index: int, keys: RequestKeys | str, money: Money | None) -> JournalRow:
        keys, occurrence = self._place(index, keys)
        row = JournalRow(
            keys.prompt, occurrence, keys.exact, index, recorded=time.time(), text=keys.text
        )
        return row if money is None else row._replace(spent=money.spent, wasted=money.wasted)

    async def refresh(self) -> None:
        """Read what others have recorded in a folder since; a file shows that by itself."""
        if isinstance(self._file, SegmentFolder):
            await self._write()

    async def aclose(self) -> None:
        """Finish what is being written and close the file. Closing it again does nothing."""
        if self._ended is None:
            return
        ended, self._ended, self._file = self._ended, None, None
        self._waiting.put(None)
        if self.differing:
            logger.warning(_NOTICES[self.match], self.path, self.restored, self.differing)
        await ended
        if self._thread is not None:
            self._thread.join()  # it has nothing left to do

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    # -- writing ----------------------------------------------------------------------------------

    def _open_file(self) -> JournalFile:
        if self._file is None:
            raise RuntimeError(f"the journal {self.path} is not open")
        return self._file

    async def _write(self, *rows: JournalWrite) -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self._waiting.put((rows, done))
        await done

    def _run_thread(
        self,
        loop: asyncio.AbstractEventLoop,
        waiting: SimpleQueue[_PendingWrite | None],
        opened: asyncio.Future[JournalFile],
        ended: asyncio.Future[None],
    ) -> None:
        """Own the file, from opening it to closing it; runs in the journal's thread."""
        try:
            file = open_journal_file(self.path, lock_timeout=self._lock_timeout)
        except Exception as error:  # noqa: BLE001  # raised by `open`
            _resolve(loop, [opened], error)
            return
        _resolve(loop, [opened], file)
        more = True
        while more:
            batch, more = _take(waiting)
            try:
                if isinstance(file, SegmentFolder) and not all(rows for rows, _ in batch):
                    file.take_in()  # `refresh` wrote nothing
                if batch:
                    file.write(row for rows, _ in batch for row in rows)
            except Exception as error:  # noqa: BLE001  # raised by `record`
                _resolve(loop, [done for _, done in batch], error)
            else:
                _resolve(loop, [done for _, done in batch], None)
        with suppress(Exception):  # all that was reported is on disk, folded in or not
            if self.complete:
                file.end_run()
        with suppress(Exception):
            file.close()
        _resolve(loop, [ended], None)


def _with(row: JournalRow, paid: PaidMark | None) -> tuple[JournalWrite, ...]:
    return (row,) if paid is None else (row, paid)


def _take(waiting: SimpleQueue[_PendingWrite | None]) -> tuple[list[_PendingWrite], bool]:
    """Wait for rows to write; return all that wait, and whether more may come."""
    batch: list[_PendingWrite] = []
    with suppress(Empty):
        while len(batch) < MAX_ROWS_PER_WRITE:
            write = waiting.get(block=not batch)
            if write is None:
                return batch, False
            batch.append(write)
    return batch, True


def _resolve(
    loop: asyncio.AbstractEventLoop, futures: Sequence[asyncio.Future[Any] | None], result: Any
) -> None:
    def settle() -> None:
        for future in futures:
            if future is None or future.done():  # nobody waits, or no more
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    with suppress(RuntimeError):  # the loop is closed: nothing waits any more
        loop.call_soon_threadsafe(settle)


def check_match(match: Any) -> JournalMatch:
    """Check the name of a way to match.

    Raises:
        ValueError: If it is neither.
    """
    if match not in {"prompt", "exact"}:
        msg = f"journal_match must be 'prompt' or 'exact', not {match!r}"
        raise ValueError(msg)
    return cast("JournalMatch", match)


_NOTICES = {
    "prompt": "%s: %d answers were found by their prompts and used; %d of them were given by other "
    'targets or with other parameters of the model (journal_match="exact" asks for those again)',
    "exact": "%s: %d answers were found and used; %d more were given by other targets or with "
    'other parameters of the model, and were asked for again (journal_match="prompt" uses those)',
}


# -- messages as text -----------------------------------------------------------------------------


def encode_message(message: AIMessage) -> str:
    """Write a message as ASCII JSON, whatever its text holds, even half of a surrogate pair.

    Bytes, dates and the like, which no provider sends and JSON does not know, become strings.

    Example:
        ```python
        decode_message(encode_message(message)) == message
        ```
    """
    return json.dumps(message.model_dump(), default=str, separators=(",", ":"))


def decode_message(text: str) -> AIMessage:
    """Read a message that `encode_message` wrote.

    Raises:
        ValueError: If the text is not a message.
    """
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError(f"not a message but {type(fields).__name__}")  # noqa: TRY004  # of the text
    return AIMessage.model_validate(fields)


def winner_of(message: AIMessage) -> str | None:
    """Return the name of the target that answered, from the message's receipt."""
    receipt = message.response_metadata.get("resilience")
    winner = receipt.get("winner") if isinstance(receipt, dict) else None
    return winner if isinstance(winner, str) else None

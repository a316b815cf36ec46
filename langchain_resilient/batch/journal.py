"""`Journal`: what a batch has answered so far, on disk, so that no answer is paid for twice."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Self

from langchain_resilient.batch.journal_file import Item, JournalFile
from langchain_resilient.batch.stored import decode, encode, winner
from langchain_resilient.errors import JournalDamagedError

if TYPE_CHECKING:
    import os
    from types import TracebackType

    from langchain_core.messages import AIMessage

logger: logging.Logger = logging.getLogger("langchain_resilient")

MOST_AT_ONCE = 1000
"""Items that one transaction takes at most, so that none waits long for the others."""


class Journal:
    """A file of answers, by position in the batch and by what was asked there.

    An answer is on disk when `record` returns: it survives a crash of the process and of the
    machine. Records that wait at the same time share one transaction and so one fsync. A position
    may hold answers to several questions: who changes a prompt or a parameter and changes it back
    finds the first answers again. Several processes may use one file at once; the first answer to
    a question is kept. Prompts are not stored, keys of providers neither.

    Used from one event loop. A failed `record` leaves the journal usable, and what was recorded
    readable.

    Args:
        path: The SQLite file; made for its user alone (mode 0600) if it is missing.
        patience: Seconds to wait for another process that writes.

    Attributes:
        path: The file.
        restored: Answers that `look_up` found since it was opened.
        changed: Positions that `look_up` was asked for and that hold only answers to other
            questions.

    Raises:
        JournalError: From `open`, `look_up` and `record`, if the file cannot be used; its kinds
            tell a wrong, damaged, locked, read-only and full one.

    Example:
        ```python
        async with Journal("run.db") as journal:
            if (answer := journal.look_up(0, key)) is None:
                answer = await llm.ainvoke("Why is the sky blue?")
                await journal.record(0, key, answer)
        ```
    """

    def __init__(self, path: str | os.PathLike[str], *, patience: float = 10.0) -> None:
        self.path: Path = Path(path)
        self.restored: int = 0
        self.changed: int = 0
        self._patience = patience
        self._file: JournalFile | None = None
        self._waiting: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._ended: asyncio.Future[None] | None = None
        self._thread: threading.Thread | None = None

    async def open(self) -> None:
        """Open the file, or make it."""
        if self._ended is not None:
            raise RuntimeError(f"the journal {self.path} is already open")
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[JournalFile] = loop.create_future()
        self._ended = loop.create_future()
        self._waiting = SimpleQueue()
        self.restored = self.changed = 0
        # The thread owns the file: it opens it, writes to it, and closes it.
        work = (loop, self._waiting, opened, self._ended)
        self._thread = threading.Thread(target=self._keep, args=work, name="journal", daemon=True)
        self._thread.start()
        try:
            self._file = await opened
        except BaseException:
            self._waiting.put(None)
            self._ended = None
            raise

    def look_up(self, index: int, key: str) -> AIMessage | None:
        """Find the answer to a question at a position; None if there is none yet.

        Args:
            index: The position in the batch.
            key: What is asked; see `keys.request_key`.
        """
        found = self._opened().answers_at(index)
        text = next((answer for other, answer in found if other == key), None)
        if text is None:
            self.changed += bool(found)
            return None
        try:
            message = decode(text)
        except ValueError as error:
            raise JournalDamagedError(
                f"the journal {self.path} is damaged at position {index}: give another file",
                path=str(self.path),
            ) from error
        self.restored += 1
        return message

    async def record(self, index: int, key: str, message: AIMessage) -> None:
        """Keep an answer; it is on disk when this returns."""
        usage = message.usage_metadata
        sent, got = (usage["input_tokens"], usage["output_tokens"]) if usage else (None, None)
        text = encode(message)
        await self._write(Item(index, key, text, None, winner(message), sent, got, time.time()))

    async def record_failure(self, index: int, key: str, error: BaseException) -> None:
        """Keep what a failure said, for `journal show`; the item is sent again all the same."""
        text = f"{type(error).__name__}: {error}".encode(errors="replace").decode()
        await self._write(Item(index, key, None, text, None, None, None, time.time()))

    async def aclose(self) -> None:
        """Finish what is being written and close the file. Doing it again does nothing."""
        if self._ended is None:
            return
        ended, self._ended, self._file = self._ended, None, None
        self._waiting.put(None)
        if self.changed:
            logger.warning(
                "%s: %d answers were found and used, but %d prompts or their parameters have "
                "changed since they were answered and were sent anew",
                self.path, self.restored, self.changed,
            )  # fmt: skip
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

    def _opened(self) -> JournalFile:
        if self._file is None:
            raise RuntimeError(f"the journal {self.path} is not open")
        return self._file

    async def _write(self, item: Item) -> None:
        self._opened()
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self._waiting.put((item, done))
        await done

    def _keep(
        self,
        loop: asyncio.AbstractEventLoop,
        waiting: SimpleQueue[_Waiting | None],
        opened: asyncio.Future[JournalFile],
        ended: asyncio.Future[None],
    ) -> None:
        """What the thread does, from opening the file to closing it."""
        try:
            file = JournalFile(self.path, patience=self._patience)
        except Exception as error:  # noqa: BLE001  # whoever opens gets it
            _tell(loop, [opened], error)
            return
        _tell(loop, [opened], file)
        more = True
        while more:
            batch, more = _take(waiting)
            try:
                if batch:
                    file.write(item for item, _ in batch)
            except Exception as error:  # noqa: BLE001  # whoever records gets it
                _tell(loop, [done for _, done in batch], error)
            else:
                _tell(loop, [done for _, done in batch], None)
        with suppress(Exception):  # it holds all that was reported, folded in or not
            file.close()
        _tell(loop, [ended], None)


_Waiting = tuple[Item, "asyncio.Future[None]"]


def _take(waiting: SimpleQueue[_Waiting | None]) -> tuple[list[_Waiting], bool]:
    """Wait for something to write; take all that waits, and whether more may come."""
    batch: list[_Waiting] = []
    with suppress(Empty):
        while len(batch) < MOST_AT_ONCE:
            found = waiting.get(block=not batch)
            if found is None:
                return batch, False
            batch.append(found)
    return batch, True


def _tell(loop: asyncio.AbstractEventLoop, futures: list[asyncio.Future[Any]], result: Any) -> None:
    def settle() -> None:
        for future in futures:
            if future.done():  # whoever waited was cancelled
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(settle)

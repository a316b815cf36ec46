"""`Journal`: what a batch has answered so far, on disk, so that no answer is paid for twice."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import sqlite3
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from langchain_core.messages import AIMessage

from langchain_resilient.errors import (
    JournalDamagedError,
    JournalError,
    JournalFullError,
    JournalLockedError,
    JournalReadOnlyError,
    NotAJournalError,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from types import TracebackType


def encode_message(message: AIMessage) -> str:
    """Write a message as ASCII JSON, whatever its text holds, halves of surrogate pairs too.

    Bytes, dates and other things that no provider sends, and that JSON cannot say, become strings.

    Example:
        ```python
        decode(encode(message)) == message
        ```
    """
    return json.dumps(message.model_dump(), default=str, separators=(",", ":"))


def decode_message(text: str) -> AIMessage:
    """Read a message that `encode_message` wrote.

    Raises:
        ValueError: If the text is no message.
    """
    return AIMessage.model_validate(_object(text))


def _object(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"not a message but {type(found).__name__}")  # noqa: TRY004  # of the text
    return found


def winner_of(message: AIMessage) -> str | None:
    """Name the target that answered, as the receipt in the message says."""
    receipt = message.response_metadata.get("resilience")
    found = receipt.get("winner") if isinstance(receipt, dict) else None
    return found if isinstance(found, str) else None


VERSION = 1
"""Of the schema; a journal of a later one is refused, never rewritten."""


_APPLICATION = 0x4C43524A  # "LCRJ", which tells a journal from every other SQLite file


_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS items (
  position INTEGER NOT NULL,
  key TEXT NOT NULL,        -- what was asked, see `keys`
  answer TEXT,              -- the message as JSON; NULL for a failure
  error TEXT,               -- what a failure said; NULL for an answer
  target TEXT,              -- who answered
  input_tokens INTEGER,
  output_tokens INTEGER,
  recorded REAL NOT NULL,   -- seconds since 1970
  PRIMARY KEY (position, key),
  CHECK ((answer IS NULL) <> (error IS NULL))
);
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {VERSION};
COMMIT;
"""


# Who comes second with an answer changes nothing: what was reported once stays.
_RECORD = """
INSERT INTO items (position, key, answer, error, target, input_tokens, output_tokens, recorded)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (position, key) DO UPDATE SET
  answer = excluded.answer, error = excluded.error, target = excluded.target,
  input_tokens = excluded.input_tokens, output_tokens = excluded.output_tokens,
  recorded = excluded.recorded
WHERE items.answer IS NULL
"""


_FIND = "SELECT key, answer FROM items WHERE position = ? AND answer IS NOT NULL"


class JournalRow(NamedTuple):
    """One row: an answer or a failure at a position of the batch."""

    position: int
    key: str
    answer: str | None
    error: str | None
    target: str | None
    input_tokens: int | None
    output_tokens: int | None
    recorded: float


class JournalFile:
    """An open journal: `write` for one thread, `find` for another.

    WAL lets readers go on while a transaction is written; `synchronous=FULL` makes a transaction
    survive a power loss once it is committed (https://www.sqlite.org/pragma.html#pragma_synchronous).

    Args:
        path: The file; made, for its user alone, if it is missing.
        patience: Seconds to wait for another process that writes.
        create: Whether a missing file is made.

    Raises:
        JournalError: If it cannot be used; one of its kinds says why.
    """

    def __init__(self, path: Path, *, patience: float, create: bool = True) -> None:
        self._path = path
        with _in_words(path):
            if create:
                _make_private(path)
            elif not path.exists() or not path.stat().st_size:
                raise NotAJournalError(f"there is no journal {path}", path=str(path))
            self._writer = _connect(path, patience)
            try:
                _prepare(self._writer, path, time.monotonic() + patience)
                self._reader = _connect(path, patience)
            except BaseException:
                self._writer.close()
                raise

    def write(self, items: Iterable[JournalRow]) -> None:
        """Record all of them or none; on disk when it returns."""
        with _in_words(self._path):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                self._writer.executemany(_RECORD, items)
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def answers_at(self, position: int) -> list[tuple[str, str]]:
        """Return the answers at a position, each with its key: few, by one look into an index."""
        try:
            return self._reader.execute(_FIND, (position,)).fetchall()
        except sqlite3.Error as error:
            raise _error_text(error, self._path) from error

    def select(self, statement: str, *values: Any) -> Generator[sqlite3.Row, None, None]:
        """Run any query, for those who show journals; rows come as they are read."""
        with _in_words(self._path):
            cursor = self._reader.execute(statement, values)
            cursor.row_factory = sqlite3.Row
            yield from cursor

    def close(self) -> None:
        """Let go of the file; SQLite folds the write-ahead log into it."""
        self._reader.close()
        self._writer.close()


def _make_private(path: Path) -> None:
    """Make the file before SQLite does: its -wal and -shm take over its permissions."""
    try:
        # An existing file is never opened here: closing it would drop SQLite's locks on it
        # (https://www.sqlite.org/howtocorrupt.html, 2.2).
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        if not path.exists():
            # A link to nowhere: SQLite would make a file there that anybody may read.
            raise OSError(errno.ELOOP, "it is a symbolic link to no file", str(path)) from None


def _connect(path: Path, patience: float) -> sqlite3.Connection:
    # Each connection has one user at a time, but not always the thread that made it.
    connection = sqlite3.connect(
        path.absolute(), timeout=patience, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone does not reach the disk
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, until: float) -> None:
    """Check that it is a journal, or make it one."""
    while True:
        try:
            if _is_new(connection, path):
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(_SCHEMA)
        except sqlite3.OperationalError as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            # SQLite does not wait where waiting for each other could last for ever, as when two
            # processes turn one file into a journal.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def _is_new(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the file is still empty.

    Raises:
        NotAJournalError: If it is something else, or of a version that is not known here.
    """
    # One statement, so that another process cannot make it a journal in between.
    application, version, tables = connection.execute(
        "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema) "
        "FROM pragma_application_id, pragma_user_version"
    ).fetchone()
    if (application, version, tables) == (0, 0, 0):
        return True
    if application != _APPLICATION:
        raise NotAJournalError(
            f"{path} is not a journal but another SQLite database: give another file",
            path=str(path),
        )
    if version > VERSION:
        raise NotAJournalError(
            f"the journal {path} is of version {version}, this langchain-resilient knows only "
            f"{VERSION}: update langchain-resilient, or give another file",
            path=str(path),
        )
    return False


# -- what went wrong ------------------------------------------------------------------------------

_KEPT = "and run the same again; what was recorded is kept"


_OTHER_FILE = "or give another file"


_ERRORS: dict[int, tuple[type[JournalError], str]] = {
    sqlite3.SQLITE_NOTADB: (NotAJournalError, "is not a journal: give another file"),
    sqlite3.SQLITE_CORRUPT: (
        JournalDamagedError,
        f"is damaged ({{error}}): save what is left with `sqlite3 FILE .recover`, {_OTHER_FILE}",
    ),
    sqlite3.SQLITE_BUSY: (
        JournalLockedError,
        f"is locked by another program: wait for it or stop it, {_OTHER_FILE}",
    ),
    sqlite3.SQLITE_READONLY: (
        JournalReadOnlyError,
        f"cannot be written: check the permissions of it and of its directory, {_OTHER_FILE}",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        JournalReadOnlyError,
        f"cannot be opened: check that its directory exists and may be written, {_OTHER_FILE}",
    ),
    sqlite3.SQLITE_FULL: (JournalFullError, f"has no room to grow: make room on its disk {_KEPT}"),
}


_OTHER = (JournalError, f"failed ({{error}}): check its disk {_KEPT}")


_SAME = {sqlite3.SQLITE_LOCKED: sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PERM: sqlite3.SQLITE_READONLY}


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _error_text(error, path) from error
    except OSError as error:
        raise JournalReadOnlyError(
            f"the journal {path} cannot be opened ({error.strerror}): check that its directory "
            f"exists and may be written, {_OTHER_FILE}",
            path=str(path),
        ) from error


def _error_text(error: sqlite3.Error, path: Path) -> JournalError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    kind, words = _ERRORS.get(_SAME.get(code, code), _OTHER)
    name = getattr(error, "sqlite_errorname", "") or type(error).__name__
    told = words.replace("{error}", f"{name}: {error}")
    return kind(f"the journal {path} {told}", path=str(path))


logger: logging.Logger = logging.getLogger("langchain_resilient")


MAX_ROWS_PER_WRITE = 1000
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
        self._waiting: SimpleQueue[_PendingWrite | None] = SimpleQueue()
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
            message = decode_message(text)
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
        text = encode_message(message)
        await self._write(
            JournalRow(index, key, text, None, winner_of(message), sent, got, time.time())
        )

    async def record_failure(self, index: int, key: str, error: BaseException) -> None:
        """Keep what a failure said, for `journal show`; the item is sent again all the same."""
        text = f"{type(error).__name__}: {error}".encode(errors="replace").decode()
        await self._write(JournalRow(index, key, None, text, None, None, None, time.time()))

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

    async def _write(self, item: JournalRow) -> None:
        self._opened()
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self._waiting.put((item, done))
        await done

    def _keep(
        self,
        loop: asyncio.AbstractEventLoop,
        waiting: SimpleQueue[_PendingWrite | None],
        opened: asyncio.Future[JournalFile],
        ended: asyncio.Future[None],
    ) -> None:
        """What the thread does, from opening the file to closing it."""
        try:
            file = JournalFile(self.path, patience=self._patience)
        except Exception as error:  # noqa: BLE001  # whoever opens gets it
            _resolve(loop, [opened], error)
            return
        _resolve(loop, [opened], file)
        more = True
        while more:
            batch, more = _take(waiting)
            try:
                if batch:
                    file.write(item for item, _ in batch)
            except Exception as error:  # noqa: BLE001  # whoever records gets it
                _resolve(loop, [done for _, done in batch], error)
            else:
                _resolve(loop, [done for _, done in batch], None)
        with suppress(Exception):  # it holds all that was reported, folded in or not
            file.close()
        _resolve(loop, [ended], None)


_PendingWrite = tuple[JournalRow, "asyncio.Future[None]"]


def _take(waiting: SimpleQueue[_PendingWrite | None]) -> tuple[list[_PendingWrite], bool]:
    """Wait for something to write; take all that waits, and whether more may come."""
    batch: list[_PendingWrite] = []
    with suppress(Empty):
        while len(batch) < MAX_ROWS_PER_WRITE:
            found = waiting.get(block=not batch)
            if found is None:
                return batch, False
            batch.append(found)
    return batch, True


def _resolve(
    loop: asyncio.AbstractEventLoop, futures: list[asyncio.Future[Any]], result: Any
) -> None:
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

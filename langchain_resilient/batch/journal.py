"""Answers of a batch on disk (SQLite), so that none is paid for twice.

`Journal` is what a batch uses. Its thread owns a `JournalFile`, the one place that speaks SQL.
"""

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


logger: logging.Logger = logging.getLogger("langchain_resilient")

MAX_ROWS_PER_WRITE = 1000
"""Rows of one transaction at most, so that none waits long for the others."""


class JournalRow(NamedTuple):
    """One row of the file: an answer or a failure at a position of the batch."""

    position: int
    key: str
    answer: str | None
    error: str | None
    target: str | None
    input_tokens: int | None
    output_tokens: int | None
    recorded: float


_PendingWrite = tuple[JournalRow, "asyncio.Future[None]"]


class Journal:
    """A file of answers, by position in the batch and by the request made there.

    An answer is on disk when `record` returns: it survives a crash of the process and of the
    machine. Records that wait at the same time share one transaction and so one fsync. A position
    may hold answers to several requests: change a prompt or a parameter, change it back, and the
    first answers are found again. Several processes may use one file at once; the first answer to
    a request is kept. Neither prompts nor API keys are stored.

    A journal is used from one event loop, by one batch at a time, which opens and closes it. After
    a failed `record` it is still usable, and what was recorded readable.

    Args:
        path: The SQLite file; created with mode 0600 if it is missing.
        lock_timeout: Seconds to wait while another process writes.

    Attributes:
        path: The file.
        restored: The number of answers that `look_up` has found.
        changed: The number of times `look_up` found only answers to other requests at a position.

    Raises:
        JournalError: From `open`, `look_up` and `record`, if the file cannot be used; its
            subclasses tell a wrong, damaged, locked, read-only and full file apart.

    Example:
        ```python
        async with Journal("run.db") as journal:
            if (answer := journal.look_up(0, key)) is None:
                answer = await llm.ainvoke("Why is the sky blue?")
                await journal.record(0, key, answer)
        ```
    """

    def __init__(self, path: str | os.PathLike[str], *, lock_timeout: float = 10.0) -> None:
        self.path: Path = Path(path)
        self.restored: int = 0
        self.changed: int = 0
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
        self.restored = self.changed = 0
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

    def look_up(self, index: int, key: str) -> AIMessage | None:
        """Return the answer to a request at a position; None if there is none yet.

        Args:
            index: The position in the batch.
            key: Of the request; see `journal_keys.request_key`.
        """
        answers = self._open_file().answers_at(index)
        text = next((answer for other, answer in answers if other == key), None)
        if text is None:
            self.changed += bool(answers)
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
        """Record an answer; it is on disk when this returns."""
        usage = message.usage_metadata
        input_tokens, output_tokens = (
            (usage["input_tokens"], usage["output_tokens"]) if usage else (None, None)
        )
        text = encode_message(message)
        await self._write(
            JournalRow(
                index, key, text, None, winner_of(message), input_tokens, output_tokens, time.time()
            )
        )

    async def record_failure(self, index: int, key: str, error: BaseException) -> None:
        """Record the text of a failure, for `journal show`; the next batch sends the item again."""
        text = f"{type(error).__name__}: {error}".encode(errors="replace").decode()
        await self._write(JournalRow(index, key, None, text, None, None, None, time.time()))

    async def aclose(self) -> None:
        """Finish what is being written and close the file. Closing it again does nothing."""
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

    def _open_file(self) -> JournalFile:
        if self._file is None:
            raise RuntimeError(f"the journal {self.path} is not open")
        return self._file

    async def _write(self, row: JournalRow) -> None:
        self._open_file()
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self._waiting.put((row, done))
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
            file = JournalFile(self.path, lock_timeout=self._lock_timeout)
        except Exception as error:  # noqa: BLE001  # raised by `open`
            _resolve(loop, [opened], error)
            return
        _resolve(loop, [opened], file)
        more = True
        while more:
            batch, more = _take(waiting)
            try:
                if batch:
                    file.write(row for row, _ in batch)
            except Exception as error:  # noqa: BLE001  # raised by `record`
                _resolve(loop, [done for _, done in batch], error)
            else:
                _resolve(loop, [done for _, done in batch], None)
        with suppress(Exception):  # all that was reported is on disk, folded in or not
            file.close()
        _resolve(loop, [ended], None)


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
    loop: asyncio.AbstractEventLoop, futures: list[asyncio.Future[Any]], result: Any
) -> None:
    def settle() -> None:
        for future in futures:
            if future.done():  # the caller was cancelled
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    with suppress(RuntimeError):  # the loop is closed: nothing waits any more
        loop.call_soon_threadsafe(settle)


# -- the file -------------------------------------------------------------------------------------


VERSION = 1
"""Version of the schema; a journal of a later version is refused, never rewritten."""

_APPLICATION = 0x4C43524A  # "LCRJ": tells a journal from other SQLite files

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS items (
  position INTEGER NOT NULL,
  key TEXT NOT NULL,        -- what was asked, see `journal_keys`
  answer TEXT,              -- the message as JSON; NULL for a failure
  error TEXT,               -- the text of a failure; NULL for an answer
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


# A second answer to the same request changes nothing: what was reported stays.
_UPSERT = """
INSERT INTO items (position, key, answer, error, target, input_tokens, output_tokens, recorded)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (position, key) DO UPDATE SET
  answer = excluded.answer, error = excluded.error, target = excluded.target,
  input_tokens = excluded.input_tokens, output_tokens = excluded.output_tokens,
  recorded = excluded.recorded
WHERE items.answer IS NULL
"""

_SELECT_ANSWERS = "SELECT key, answer FROM items WHERE position = ? AND answer IS NOT NULL"


class JournalFile:
    """The open SQLite file of a journal: one thread calls `write`, another one reads.

    WAL lets readers go on while a transaction is written; `synchronous=FULL` makes a transaction
    survive a power loss once it is committed (https://www.sqlite.org/pragma.html#pragma_synchronous).

    Args:
        path: The file; created with mode 0600 if it is missing.
        lock_timeout: Seconds to wait while another process writes.
        create: Whether to create a missing file.

    Raises:
        JournalError: If it cannot be used; the subclass says why.
    """

    def __init__(self, path: Path, *, lock_timeout: float, create: bool = True) -> None:
        self._path = path
        with _journal_errors(path):
            if create:
                _make_private(path)
            elif not path.exists() or not path.stat().st_size:
                raise NotAJournalError(f"there is no journal {path}", path=str(path))
            self._writer = _connect(path, lock_timeout)
            try:
                _prepare(self._writer, path, time.monotonic() + lock_timeout)
                self._reader = _connect(path, lock_timeout)
            except BaseException:
                self._writer.close()
                raise

    def write(self, rows: Iterable[JournalRow]) -> None:
        """Write all rows or none; they are on disk when it returns."""
        with _journal_errors(self._path):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                self._writer.executemany(_UPSERT, rows)
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def answers_at(self, position: int) -> list[tuple[str, str]]:
        """Return `(key, answer)` of each answer at a position; there are few, found by an index."""
        try:
            return self._reader.execute(_SELECT_ANSWERS, (position,)).fetchall()
        except sqlite3.Error as error:
            raise _journal_error(error, self._path) from error

    def select(self, statement: str, *values: Any) -> Generator[sqlite3.Row, None, None]:
        """Run any query, e.g. to show a journal; yields rows as they are read."""
        with _journal_errors(self._path):
            cursor = self._reader.execute(statement, values)
            cursor.row_factory = sqlite3.Row
            yield from cursor

    def close(self) -> None:
        """Close the file; SQLite folds the write-ahead log into it."""
        self._reader.close()
        self._writer.close()


def _make_private(path: Path) -> None:
    """Create the file before SQLite does: its -wal and -shm inherit its permissions."""
    try:
        # An existing file is never opened here: closing it would drop SQLite's locks on it
        # (https://www.sqlite.org/howtocorrupt.html, 2.2).
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        if not path.exists():
            # A dangling link: SQLite would create a file there that anybody may read.
            raise OSError(errno.ELOOP, "it is a symbolic link to no file", str(path)) from None


def _connect(path: Path, lock_timeout: float) -> sqlite3.Connection:
    # Each connection has one user at a time, but not always the thread that made it.
    connection = sqlite3.connect(
        path.absolute(), timeout=lock_timeout, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone does not reach the disk
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, deadline: float) -> None:
    """Check that the file is a journal, or make an empty file one."""
    while True:
        try:
            if _is_new(connection, path):
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(_SCHEMA)
        except sqlite3.OperationalError as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            # SQLite fails at once where waiting could be a deadlock, as when two processes turn the
            # same file into a journal.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _is_new(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the file is still empty.

    Raises:
        NotAJournalError: If it is another database, or a journal of a later version.
    """
    # One statement, so that another process cannot turn it into a journal in between.
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


# -- errors that say what to do -------------------------------------------------------------------

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

_OTHER_ERROR = (JournalError, f"failed ({{error}}): check its disk {_KEPT}")

_SAME_ADVICE = {
    sqlite3.SQLITE_LOCKED: sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_PERM: sqlite3.SQLITE_READONLY,
}


@contextmanager
def _journal_errors(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the system into ones that say what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise _journal_error(error, path) from error
    except OSError as error:
        raise JournalReadOnlyError(
            f"the journal {path} cannot be opened ({error.strerror}): check that its directory "
            f"exists and may be written, {_OTHER_FILE}",
            path=str(path),
        ) from error


def _journal_error(error: sqlite3.Error, path: Path) -> JournalError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    error_class, advice = _ERRORS.get(_SAME_ADVICE.get(code, code), _OTHER_ERROR)
    name = getattr(error, "sqlite_errorname", "") or type(error).__name__
    text = advice.replace("{error}", f"{name}: {error}")
    return error_class(f"the journal {path} {text}", path=str(path))

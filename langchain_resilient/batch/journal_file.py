"""The journal's SQLite file: its schema, its statements, and SQLite's complaints in words."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

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
    from pathlib import Path

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


class Item(NamedTuple):
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

    def write(self, items: Iterable[Item]) -> None:
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
            raise _told(error, self._path) from error

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
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone does not reach the disk
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

_TROUBLE: dict[int, tuple[type[JournalError], str]] = {
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
        raise _told(error, path) from error
    except OSError as error:
        raise JournalReadOnlyError(
            f"the journal {path} cannot be opened ({error.strerror}): check that its directory "
            f"exists and may be written, {_OTHER_FILE}",
            path=str(path),
        ) from error


def _told(error: sqlite3.Error, path: Path) -> JournalError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    kind, words = _TROUBLE.get(_SAME.get(code, code), _OTHER)
    name = getattr(error, "sqlite_errorname", "") or type(error).__name__
    told = words.replace("{error}", f"{name}: {error}")
    return kind(f"the journal {path} {told}", path=str(path))

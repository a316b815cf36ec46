"""The SQLite file of a journal: the one place that speaks SQL."""

from __future__ import annotations

import errno
import logging
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

    from langchain_resilient.batch.journal_keys import RequestKeys


logger: logging.Logger = logging.getLogger("langchain_resilient")


class JournalRow(NamedTuple):
    """One row of the file: an answer or a failure; neither for one that was found and used."""

    prompt: str
    occurrence: int
    exact: str
    position: int
    answer: str | None = None
    error: str | None = None
    target: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    spent: float | None = None
    wasted: float | None = None
    recorded: float = 0.0
    text: str | None = None


class BatchRow(NamedTuple):
    """A batch of a provider that some of the prompts went into.

    Attributes:
        tag: Its name here, and of its file and our note there.
        target: Whose batch it is.
        endpoint: The API that it is for.
        json_mode: How JSON was asked for; None if it was not.
        requests: How many it has.
        file: The provider's id of its file; None before that is there.
        batch: The provider's id of the batch; None before that is there.
        status: `"open"`, or how it ended: `"done"`, `"failed"`, `"cancelled"`, `"lost"`.
        began: Seconds since 1970.
        ended: Likewise; None while it is open.
    """

    tag: str
    target: str
    endpoint: str
    json_mode: str | None
    requests: int
    file: str | None = None
    batch: str | None = None
    status: str = "open"
    began: float = 0.0
    ended: float | None = None


class BatchWrite(NamedTuple):
    """What is written of a batch; the requests only when it is new."""

    row: BatchRow
    custom_ids: tuple[str, ...] = ()


class PaidMark(NamedTuple):
    """Notes that what a batch gave for a request is counted: an answer, or none."""

    tag: str
    custom_id: str


JournalWrite = JournalRow | BatchWrite | PaidMark


VERSION = 3
"""Version of the schema; a journal of a later version is refused, never rewritten."""

_APPLICATION = 0x4C43524A  # "LCRJ": tells a journal from other SQLite files

_TABLES = """
CREATE TABLE runs (
  run INTEGER PRIMARY KEY AUTOINCREMENT,
  began REAL NOT NULL,      -- seconds since 1970
  ended REAL                -- NULL while it runs, and for good if it was stopped
);
CREATE TABLE items (
  prompt TEXT NOT NULL,     -- what was asked, see `journal_keys`
  occurrence INTEGER NOT NULL,  -- of equal prompts in one batch the how many-th, from 0
  exact TEXT NOT NULL,      -- what was asked, and of which model
  run INTEGER NOT NULL,     -- the last one that asked for it
  position INTEGER NOT NULL,    -- in that run, from 0
  answer TEXT,              -- the message as JSON, NULL for a failure
  error TEXT,               -- the text of a failure, NULL for an answer
  target TEXT,              -- who answered
  input_tokens INTEGER,
  output_tokens INTEGER,
  spent REAL,               -- dollars, in all runs
  wasted REAL,              -- of these, for what became no answer
  recorded REAL NOT NULL,   -- seconds since 1970
  text TEXT,                -- the prompt in words, NULL in rows of earlier versions
  PRIMARY KEY (prompt, occurrence, exact),
  CHECK ((answer IS NULL) <> (error IS NULL))
);
"""

_MARK = f"""
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {VERSION};
"""

# Version 1 knew an answer by its position and its exact key. The exact key stands for the prompt,
# too: `JournalFile.rows_of` looks for both. Of several rows at a position the newest is current.
_KEEP_VERSION_1 = "ALTER TABLE items RENAME TO items_1;"

_FROM_VERSION_1 = """
INSERT INTO runs (run, began, ended) SELECT 1, 0, 0 UNION ALL SELECT 2, 0, 0;
INSERT INTO items SELECT key, row_number() OVER (PARTITION BY key ORDER BY position) - 1, key,
  1 + (recorded = max(recorded) OVER (PARTITION BY position)), position,
  answer, error, target, input_tokens, output_tokens, NULL, NULL, recorded, NULL FROM items_1;
DROP TABLE items_1;
"""

_FROM_VERSION_2 = "ALTER TABLE items ADD COLUMN text TEXT;"

# A second answer to the same request changes nothing but what was paid: what was reported stays.
_UPSERT = """
INSERT INTO items (run, prompt, occurrence, exact, position, answer, error, target, input_tokens,
  output_tokens, spent, wasted, recorded, text)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (prompt, occurrence, exact) DO UPDATE SET
  run = excluded.run, position = excluded.position, text = coalesce(excluded.text, items.text),
  answer = coalesce(items.answer, excluded.answer),
  error = iif(items.answer IS NULL, excluded.error, NULL),
  target = iif(items.answer IS NULL, excluded.target, items.target),
  input_tokens = iif(items.answer IS NULL, excluded.input_tokens, items.input_tokens),
  output_tokens = iif(items.answer IS NULL, excluded.output_tokens, items.output_tokens),
  recorded = iif(items.answer IS NULL, excluded.recorded, items.recorded),
  spent = iif(excluded.spent IS NULL, items.spent, coalesce(items.spent, 0) + excluded.spent),
  wasted = iif(excluded.spent IS NULL, items.wasted, coalesce(items.wasted, 0)
    + iif(items.answer IS NULL, excluded.wasted, excluded.spent))
"""

_BEGIN_RUN = "INSERT INTO runs (began) VALUES (?)"

_FOUND = """
UPDATE items SET run = ?, position = ? WHERE prompt = ? AND occurrence = ? AND exact = ?
"""

_SELECT = """
SELECT prompt, occurrence, exact, position, answer, error, target, input_tokens, output_tokens,
  spent, wasted, recorded, text
FROM items WHERE prompt IN (?, ?) AND occurrence = ? ORDER BY recorded
"""

# Made when they are needed, so that releases without batches can read the file.
_BATCH_TABLES = (
    """CREATE TABLE IF NOT EXISTS batches (
  tag TEXT PRIMARY KEY, target TEXT NOT NULL, endpoint TEXT NOT NULL, json_mode TEXT,
  requests INTEGER NOT NULL, file TEXT, batch TEXT, status TEXT NOT NULL,
  began REAL NOT NULL, ended REAL
)""",
    """CREATE TABLE IF NOT EXISTS batch_requests (
  custom_id TEXT NOT NULL, tag TEXT NOT NULL,
  paid INTEGER NOT NULL DEFAULT 0,  -- whether what the batch gave for it is counted
  PRIMARY KEY (custom_id, tag)
) WITHOUT ROWID""",
)

_WRITE_BATCH = "INSERT OR REPLACE INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

_ADD_REQUEST = "INSERT OR IGNORE INTO batch_requests (custom_id, tag) VALUES (?, ?)"

_PAID = "UPDATE batch_requests SET paid = 1 WHERE tag = ? AND custom_id = ?"

_BATCHES = "SELECT * FROM batches ORDER BY began, tag"

_BATCH_OF = """
SELECT tag, paid FROM batch_requests JOIN batches USING (tag)
WHERE custom_id = ? AND status = 'open' ORDER BY paid LIMIT 1
"""

_UNPAID = "SELECT count(*) FROM batch_requests WHERE tag = ? AND NOT paid"

_HAS_BATCHES = "SELECT count(*) FROM sqlite_schema WHERE name = 'batches'"

# Prompts of this run by their keys: in a file that SQLite deletes, so that memory does not grow.
_SEEN = """
CREATE TEMP TABLE seen (
  prompt TEXT NOT NULL, position INTEGER NOT NULL, occurrence INTEGER NOT NULL,
  PRIMARY KEY (prompt, position)
) WITHOUT ROWID
"""

_LAST_SEEN = """
SELECT position, occurrence FROM seen WHERE prompt = ? AND position <= ?
ORDER BY position DESC LIMIT 1
"""

CURRENT = """
WITH last AS (SELECT max(run) AS run FROM runs),
  whole AS (SELECT coalesce(max(run), 0) AS run FROM runs WHERE ended IS NOT NULL),
  reached AS (SELECT coalesce(max(position), -1) AS position FROM items
    WHERE run = (SELECT run FROM last)),
  ranked AS (SELECT items.*, row_number()
    OVER (PARTITION BY items.position ORDER BY items.run DESC, recorded DESC) AS place
    FROM items JOIN last JOIN whole JOIN reached ON items.run = last.run
    OR (items.run >= whole.run AND items.position > reached.position)),
  current AS (SELECT * FROM ranked WHERE place = 1)
"""
"""Begins a query of `current`: one row for each prompt of the last run, with those of earlier runs
that it has not come to, if it was stopped. Others were changed or removed since."""


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
        self._run: int | None = None
        with _journal_errors(path):
            if create:
                _make_private(path)
            elif not path.exists() or not path.stat().st_size:
                raise NotAJournalError(f"there is no journal {path}", path=str(path))
            self._writer = _connect(path, lock_timeout)
            try:
                _prepare(self._writer, path, time.monotonic() + lock_timeout)
                self._reader = _connect(path, lock_timeout)
                self._reader.execute(_SEEN)
            except BaseException:
                self._writer.close()
                raise

    def write(self, rows: Iterable[JournalWrite]) -> None:
        """Write all rows or none; they are on disk when it returns."""
        with _journal_errors(self._path):
            self._writer.execute("BEGIN IMMEDIATE")
            run = self._run
            try:
                for row in rows:
                    if not isinstance(row, JournalRow):
                        self._write_of_batch(row)
                        continue
                    if run is None:
                        run = self._writer.execute(_BEGIN_RUN, (time.time(),)).lastrowid
                    if row.answer is None and row.error is None:
                        found = (run, row.position, row.prompt, row.occurrence, row.exact)
                        self._writer.execute(_FOUND, found)
                    else:
                        self._writer.execute(_UPSERT, (run, *row))
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
            self._run = run

    def _write_of_batch(self, write: BatchWrite | PaidMark) -> None:
        if isinstance(write, PaidMark):
            self._writer.execute(_PAID, write)
            return
        for table in _BATCH_TABLES:
            self._writer.execute(table)
        self._writer.execute(_WRITE_BATCH, write.row)
        tag = write.row.tag
        self._writer.executemany(_ADD_REQUEST, ((name, tag) for name in write.custom_ids))

    def batches(self) -> list[BatchRow]:
        """All batches of providers that are known, the oldest first."""
        if not self._has_batches():
            return []
        with _journal_errors(self._path):
            return [BatchRow(*row) for row in self._reader.execute(_BATCHES).fetchall()]

    def batch_of(self, custom_id: str) -> tuple[str, bool] | None:
        """The open batch that a request is in, and whether what it gave is counted."""
        with _journal_errors(self._path):
            row = self._reader.execute(_BATCH_OF, (custom_id,)).fetchone()
        return None if row is None else (str(row[0]), bool(row[1]))

    def unpaid_of(self, tag: str) -> int:
        """How many requests of a batch have given nothing that is counted."""
        with _journal_errors(self._path):
            return int(self._reader.execute(_UNPAID, (tag,)).fetchone()[0])

    def _has_batches(self) -> bool:
        with _journal_errors(self._path):
            return bool(self._reader.execute(_HAS_BATCHES).fetchone()[0])

    def end_run(self) -> None:
        """Note that this run had a result for all its prompts."""
        if self._run is not None:
            ended = (time.time(), self._run)
            self._writer.execute("UPDATE runs SET ended = ? WHERE run = ?", ended)

    def occurrence(self, prompt: str, position: int) -> int:
        """Count the equal prompts before a position; each position must be asked for in order."""
        try:
            last = self._reader.execute(_LAST_SEEN, (prompt, position)).fetchone()
            if last is not None and last[0] == position:
                return int(last[1])
            occurrence = 0 if last is None else int(last[1]) + 1
            self._reader.execute(
                "INSERT INTO seen VALUES (?, ?, ?)", (prompt, position, occurrence)
            )
        except sqlite3.Error as error:
            raise _journal_error(error, self._path) from error
        return occurrence

    def rows_of(self, keys: RequestKeys, occurrence: int) -> list[JournalRow]:
        """Return what is known of a request, of whichever model, in the order of time."""
        try:
            found = self._reader.execute(_SELECT, (keys.prompt, keys.exact, occurrence)).fetchall()
        except sqlite3.Error as error:
            raise _journal_error(error, self._path) from error
        return [JournalRow(*row) for row in found]

    def select(self, statement: str, *values: Any) -> Generator[sqlite3.Row, None, None]:
        """Run any query, e.g. to show a journal; yields rows as they are read."""
        with _journal_errors(self._path):
            cursor = self._reader.execute(statement, values)
            cursor.row_factory = sqlite3.Row
            yield from cursor

    def current(self, statement: str) -> Generator[sqlite3.Row, None, None]:
        """Run a query of `current`: the rows of the last run, one for each of its prompts."""
        return self.select(CURRENT + statement)

    def close(self) -> None:
        """Close the file; SQLite folds the write-ahead log into it."""
        self._reader.close()
        self._writer.close()


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a journal is a folder of segments; not if that cannot be seen.

    `Path.is_dir` would raise where a folder above is closed to us.
    """
    return os.path.isdir(path)  # noqa: PTH112  # see above


class LaneLock:
    """Keeps the lane of a journal for one run; it ends with the process, however that ends.

    Where a file system has no locks, there is none, and a line in the log.

    Args:
        journal: The journal. The lock is an empty file beside it, or in it if it is a folder, and
            stays there.

    Raises:
        JournalLockedError: If another run has it.
    """

    def __init__(self, journal: Path) -> None:
        journal = journal.resolve()
        path = journal / "lane" if is_folder(journal) else journal.with_name(f"{journal.name}.lane")
        self._db: sqlite3.Connection | None = None
        try:
            with _journal_errors(path):
                _make_private(path)
                self._db = sqlite3.connect(
                    path, timeout=0.0, isolation_level=None, check_same_thread=False
                )
                self._db.execute("BEGIN EXCLUSIVE")
        except JournalError as error:
            self.release()
            if isinstance(error, JournalLockedError):
                raise JournalLockedError(
                    f"another run works through the batch lane with the journal {journal}: wait "
                    f"for it or stop it, {_OTHER_FILE}",
                    path=str(journal),
                ) from None
            logger.info("nothing keeps a second run from the lane of %s: %s", journal, error)

    def release(self) -> None:
        """Let another run have it."""
        if self._db is not None:
            self._db.close()


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
            version = _version_of(connection, path)
            if version == 0:
                connection.execute("PRAGMA journal_mode = WAL")
                _create(connection, path)
            elif version < VERSION:
                _migrate(connection, path)
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


def _create(connection: sqlite3.Connection, path: Path) -> None:
    """Make an empty file a journal, unless another process has done it."""
    connection.execute("BEGIN IMMEDIATE")
    if _version_of(connection, path) == 0:
        for statement in f"{_TABLES}{_MARK}".split(";"):
            connection.execute(statement)
    connection.execute("COMMIT")


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Turn a journal of an earlier version into one of today, unless another process has."""
    connection.execute("BEGIN IMMEDIATE")
    steps = {1: f"{_KEEP_VERSION_1}{_TABLES}{_FROM_VERSION_1}{_MARK}", 2: _FROM_VERSION_2 + _MARK}
    for statement in steps.get(_version_of(connection, path), "").split(";"):
        connection.execute(statement)
    connection.execute("COMMIT")


def _version_of(connection: sqlite3.Connection, path: Path) -> int:
    """The version of the schema; 0 for a file that is still empty.

    Raises:
        NotAJournalError: If it is another database, or a journal of a later version.
    """
    # One statement, so that another process cannot turn it into a journal in between.
    application, version, tables = connection.execute(
        "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema) "
        "FROM pragma_application_id, pragma_user_version"
    ).fetchone()
    if (application, version, tables) == (0, 0, 0):
        return 0
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
    return int(version)


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

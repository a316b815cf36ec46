"""A journal in a folder that several machines share: each process appends to a file of its own.

SQLite needs locks that network file systems often lack. Here nobody writes what another one
writes: a segment has one writer, which appends lines and calls `fsync`, and everybody reads all
segments. The last line of a segment whose writer was killed may be torn: it was never reported.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import socket
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_resilient.batch.journal_file import (
    VERSION,
    BatchRow,
    BatchWrite,
    JournalFile,
    JournalRow,
    JournalWrite,
    PaidMark,
    is_folder,
)
from langchain_resilient.errors import JournalFullError, JournalReadOnlyError, NotAJournalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from langchain_resilient.batch.journal_keys import RequestKeys

logger: logging.Logger = logging.getLogger("langchain_resilient")

_PATTERN = "segment-*.jsonl"

_ROWS_PER_WRITE = 1000
"""Rows of others that are taken in together."""


def open_journal_file(path: Path, *, lock_timeout: float, create: bool = True) -> JournalFile:
    """Open a journal: the segments in an existing folder, or an SQLite file.

    Args:
        path: Of either.
        lock_timeout: See `JournalFile`.
        create: Whether it is opened to be written, and a missing file created.

    Raises:
        JournalError: If it cannot be used.
    """
    if is_folder(path):
        return SegmentFolder(path, lock_timeout=lock_timeout, create=create)
    return JournalFile(path, lock_timeout=lock_timeout, create=create)


@dataclass(slots=True)
class _Segment:
    """One file of the folder, as far as it was read.

    Attributes:
        number: What rows of the index call it.
        path: Where it is.
        read: Bytes of whole lines that were read, or written if it is our own.
    """

    number: int
    path: Path
    read: int = 0


class SegmentFolder(JournalFile):
    """A journal in a folder: what `JournalFile` is, for processes on several machines.

    What all segments hold is found by an index, a temporary SQLite file of this process. It holds
    the places of the answers, and no texts. The first answer to a request that was read is kept.

    Args:
        path: The folder. Other files in it are left alone.
        lock_timeout: See `JournalFile`; nobody else writes the index.
        create: Whether to begin a segment, to write. Otherwise the index holds the answers
            themselves, so that they can be shown.

    Raises:
        JournalError: If it cannot be used; the subclass says why.
    """

    def __init__(self, path: Path, *, lock_timeout: float, create: bool = True) -> None:
        self._index = tempfile.TemporaryDirectory(prefix="langchain-resilient-")
        self._segments: dict[str, _Segment] = {}
        self._by_number: list[_Segment] = []
        self._own: tuple[_Segment, int] | None = None
        self._writes = create
        self._taken_in = 0
        self._damaged = 0
        try:
            super().__init__(Path(self._index.name, "index"), lock_timeout=lock_timeout)
            self._path = path
            self._writer.execute("PRAGMA synchronous = OFF")  # it is gone with this process
            if create:
                self._own = self._begin_segment()
            else:
                _check_not_empty(path)
            self.take_in()
        except BaseException:
            self.close()
            raise

    # -- reading what others write ----------------------------------------------------------------

    def take_in(self) -> None:
        """Read what other processes have written since."""
        rows: list[JournalWrite] = []
        own = None if self._own is None else self._own[0].path.name
        with _segment_errors(self._path):
            # Names begin with the time: the oldest goes first.
            for path in sorted(self._path.glob(_PATTERN)):
                if path.name == own:
                    continue
                segment = self._segments.get(path.name) or self._known(path)
                for row in self._new_rows(segment):
                    rows.append(row)
                    if len(rows) >= _ROWS_PER_WRITE:
                        super().write(rows)
                        rows.clear()
        if rows:
            super().write(rows)
        if self._damaged:
            logger.warning(
                "%s: %s lines cannot be read and were left out; their prompts are asked again",
                self._path, self._damaged,
            )  # fmt: skip
            self._damaged = 0

    def _known(self, path: Path) -> _Segment:
        segment = self._segments[path.name] = _Segment(len(self._by_number), path)
        self._by_number.append(segment)
        return segment

    def _new_rows(self, segment: _Segment) -> Iterator[JournalWrite]:
        # Opened each time: a network file system looks whether a file has grown when it is opened.
        with segment.path.open("rb") as file:
            file.seek(segment.read)
            for line in file:
                if not line.endswith(b"\n"):  # being written, or torn by a kill
                    return
                begin, segment.read = segment.read, segment.read + len(line)
                try:
                    fields = json.loads(line)
                    if begin == 0:
                        self._check_header(fields, segment.path)
                        continue
                    row = _row_of(fields)
                except (ValueError, TypeError, KeyError):
                    self._damaged += 1
                    continue
                yield self._placed(row, segment, begin, len(line))

    def _placed(
        self, row: JournalWrite, segment: _Segment, begin: int, length: int
    ) -> JournalWrite:
        """Return a row as the index holds it: with the place of its answer."""
        if not isinstance(row, JournalRow):
            return row
        if not self._writes:  # for who looks at it: each row at a position of its own
            self._taken_in += 1
            return row._replace(position=self._taken_in - 1)
        row = row._replace(text=None)
        if row.answer is None:
            return row
        return row._replace(answer=f"{segment.number} {begin} {length}")

    def _check_header(self, fields: Any, path: Path) -> None:
        version = fields["journal"]
        if version > VERSION:
            raise NotAJournalError(
                f"the journal {path} is of version {version}, this langchain-resilient knows only "
                f"{VERSION}: update langchain-resilient, or give another folder",
                path=str(path),
            )

    def rows_of(self, keys: RequestKeys, occurrence: int) -> list[JournalRow]:
        """Return what is known of a request, of whichever model, in the order of time."""
        rows = super().rows_of(keys, occurrence)
        return [row._replace(answer=row.answer and self._read_answer(row.answer)) for row in rows]

    def _read_answer(self, place: str) -> str:
        if not self._writes:
            return place
        number, begin, length = map(int, place.split())
        with _segment_errors(self._path), self._by_number[number].path.open("rb") as file:
            file.seek(begin)
            row = _row_of(json.loads(file.read(length)))
        assert isinstance(row, JournalRow)  # noqa: S101  # only those have a place
        return row.answer or ""

    # -- writing ----------------------------------------------------------------------------------

    def write(self, rows: Iterable[JournalWrite]) -> None:
        """Write all rows; they are on disk when it returns."""
        rows = list(rows)
        lines = [(row, line) for row in rows if (line := _line_of(row)) is not None]
        placed: list[JournalWrite] = [row for row in rows if _only_says_where(row)]
        if lines:
            segment, file = self._own = self._own or self._begin_segment()
            begin = segment.read
            try:
                with _segment_errors(self._path):
                    _write_all(file, b"".join(line for _, line in lines))
                    os.fsync(file)
            except BaseException:
                # What is there of it may end within a line, so this segment has ended.
                self._own = None
                os.close(file)
                raise
            for row, line in lines:
                placed.append(self._placed(row, segment, begin, len(line)))
                begin += len(line)
            segment.read = begin
        super().write(placed)

    def _begin_segment(self) -> tuple[_Segment, int]:
        host = "".join(c if c.isalnum() else "-" for c in socket.gethostname())[:40]
        # Names sort by time, so that everybody takes the same of two answers for the first.
        name = f"segment-{time.time_ns() // 1000:016}-{host}-{os.getpid()}-{secrets.token_hex(4)}"
        path = self._path / f"{name}.jsonl"
        header = json.dumps({"journal": VERSION}).encode() + b"\n"
        with _segment_errors(self._path):
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND
            file = os.open(path, flags, 0o600)
            try:
                _write_all(file, header)
                os.fsync(file)
                _sync_folder(self._path)
            except BaseException:
                os.close(file)
                raise
        segment = self._known(path)
        segment.read = len(header)
        return segment, file

    def close(self) -> None:
        """Close the segment; one that nothing was written to is removed."""
        if self._own is not None:
            segment, file = self._own
            self._own = None
            os.close(file)
            with suppress(OSError):
                if segment.path.stat().st_size <= len(json.dumps({"journal": VERSION})) + 1:
                    segment.path.unlink()
        if hasattr(self, "_reader"):
            super().close()
        self._index.cleanup()


def _check_not_empty(path: Path) -> None:
    if next(path.glob(_PATTERN), None) is None:
        raise NotAJournalError(f"there is no journal in {path}", path=str(path))


# -- lines ----------------------------------------------------------------------------------------


def _line_of(row: JournalWrite) -> bytes | None:
    """Write a row as a line of ASCII; None for one that only says where an answer was used."""
    if isinstance(row, BatchWrite):
        fields: dict[str, Any] = {"batch": row.row._asdict(), "custom_ids": row.custom_ids}
    elif isinstance(row, PaidMark):
        fields = {"paid": row._asdict()}
    elif _only_says_where(row):
        return None
    else:
        fields = {name: value for name, value in row._asdict().items() if value is not None}
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _only_says_where(row: JournalWrite) -> bool:
    """Whether a row says only where a recorded answer was used: no other machine needs it."""
    return isinstance(row, JournalRow) and row.answer is None and row.error is None


def _row_of(fields: dict[str, Any]) -> JournalWrite:
    """Read what `_line_of` wrote."""
    if "batch" in fields:
        return BatchWrite(BatchRow(**fields["batch"]), tuple(fields["custom_ids"]))
    if "paid" in fields:
        return PaidMark(**fields["paid"])
    row = JournalRow(**fields)
    if (row.answer is None) == (row.error is None):
        raise ValueError("neither an answer nor a failure")
    return row


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _sync_folder(path: Path) -> None:
    """Have a new file's name on disk too, where the system knows how to say that."""
    with suppress(OSError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def _segment_errors(path: Path) -> Iterator[None]:
    """Turn errors of the system into ones that say what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise JournalFullError(
                f"the journal {path} has no room to grow: make room on its disk and run the same "
                "again; what was recorded is kept",
                path=str(path),
            ) from error
        raise JournalReadOnlyError(
            f"the journal {path} cannot be used ({error.strerror}): check the permissions of the "
            "folder and of the files in it, or give another one",
            path=str(path),
        ) from error

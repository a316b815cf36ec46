"""Files of the `batch` command: prompts in, and answers out in the order of the prompts."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from filelock import lock_descriptor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType


# -- prompts --------------------------------------------------------------------------------------

FORMATS = ("jsonl", "txt", "csv")
_SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAX_FIELD_LENGTH = 2**31 - 1


SPREADSHEETS = (".xlsx", ".xls", ".ods", ".numbers", ".parquet")
"""Files that hold tables in formats of their own."""


def check_prompts_name(name: str, kind: str | None) -> None:
    """Refuse files that are no text by their names, rather than at some byte of theirs.

    Raises:
        ValueError: Says what to do.
    """
    suffix = Path(name).suffix.lower()
    if kind is None and suffix in SPREADSHEETS:
        msg = f"{name} is a {suffix[1:]} file, not text: save it as .csv or .jsonl"
        raise ValueError(msg)


class BadRowError(ValueError):
    """A row is not a prompt; the message names the file and the line."""


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One prompt of a file.

    Attributes:
        line: The line on which it begins, counted from 1.
        prompt: Its text, or chat messages as LangChain takes them.
        rest: Its other fields.
    """

    line: int
    prompt: str | list[Any]
    rest: dict[str, Any] = field(default_factory=dict)


class PromptFile:
    """The rows of a file, read from its beginning by each loop over them; none is kept.

    Only one loop at a time may run.

    A JSON line holds a string, `{"prompt": "..."}` or `{"messages": [...]}`; the dicts may have
    other fields. Empty lines are skipped.

    Args:
        name: The file; `"-"` for standard input, which is copied to a temporary file first.
        kind: One of `FORMATS`. By default the suffix of the name decides; standard input is JSON
            lines if it begins with `{`, else plain lines.
        column: The column of a CSV file that holds the prompts; else the only one, or `prompt`.

    Raises:
        OSError: If the file cannot be read.
        BadRowError: From the loop, at a row that is not a prompt.

    Example:
        ```python
        with PromptFile("prompts.jsonl") as rows:
            for row in rows:
                print(row.line, row.prompt)
        ```
    """

    def __init__(self, name: str, kind: str | None = None, column: str | None = None) -> None:
        self.name: str = "standard input" if name == "-" else name
        self._column = column
        self._file = _open_seekable(name)
        self._kind = kind or _SUFFIXES.get(Path(name).suffix.lower()) or "txt"
        if (
            name == "-"
            and kind is None
            and self._file.read(64).lstrip(_BYTE_ORDER_MARK + b"\r\n\t ")[:1] == b"{"
        ):
            self._kind = "jsonl"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[PromptRow]:
        readers = {"jsonl": self._json_lines, "txt": self._plain_lines, "csv": self._table}
        self._file.seek(0)
        yield from readers[self._kind]()

    # -- the formats ------------------------------------------------------------------------------

    def _plain_lines(self) -> Iterator[PromptRow]:
        for number, text in self._lines():
            if text.strip():
                yield PromptRow(number, text.rstrip("\r\n"))

    def _json_lines(self) -> Iterator[PromptRow]:
        for number, text in self._lines():
            if text.strip():
                yield self._json_line(number, text)

    def _json_line(self, number: int, text: str) -> PromptRow:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._bad_row(number, f"is not JSON: {error}") from None
        if isinstance(value, str):
            return PromptRow(number, self._prompt(number, value))
        if not isinstance(value, dict) or ("prompt" in value) == ("messages" in value):
            raise self._bad_row(number, 'must be a string, {"prompt": ...} or {"messages": [...]}')
        if "prompt" in value:
            return PromptRow(number, self._prompt(number, value.pop("prompt")), value)
        return PromptRow(number, self._messages(number, value.pop("messages")), value)

    def _table(self) -> Iterator[PromptRow]:
        csv.field_size_limit(_MAX_FIELD_LENGTH)
        table = csv.reader((text for _, text in self._lines()), strict=True)
        first_line = 1
        try:
            header = next(table, [])
            column = self._prompt_column(header)
            first_line = table.line_num + 1
            for cells in table:
                if cells:
                    yield self._table_row(first_line, header, column, cells)
                first_line = table.line_num + 1
        except csv.Error as error:
            raise self._bad_row(first_line, f"is not CSV: {error}") from None

    def _prompt_column(self, header: list[str]) -> str:
        if len(set(header)) < len(header):
            raise self._bad_row(1, "names a column twice")
        column = self._column or (header[0] if len(header) == 1 else "prompt")
        if column not in header:
            raise self._bad_row(
                1, f"has no column {column!r}: choose with --column from {', '.join(header)}"
            )
        return column

    def _table_row(
        self, number: int, header: list[str], column: str, cells: list[str]
    ) -> PromptRow:
        if len(cells) != len(header):
            raise self._bad_row(
                number, f"has {len(cells)} columns, the first row has {len(header)}"
            )
        rest = dict(zip(header, cells, strict=True))
        return PromptRow(number, self._prompt(number, rest.pop(column)), rest)

    # -- checks -----------------------------------------------------------------------------------

    def _lines(self) -> Iterator[tuple[int, str]]:
        for number, line in enumerate(self._file, 1):
            try:
                yield (
                    number,
                    (line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line).decode(),
                )
            except UnicodeDecodeError as error:
                raise self._bad_row(number, f"is not UTF-8: {error.reason}") from None

    def _prompt(self, number: int, value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self._bad_row(number, "has a prompt that is no text, or empty")
        return value

    def _messages(self, number: int, value: Any) -> list[Any]:
        from langchain_core.messages import convert_to_messages  # noqa: PLC0415  # import is slow

        if not isinstance(value, list) or not value:
            raise self._bad_row(number, "has messages that are no list, or empty")
        try:
            return list(convert_to_messages(value))
        except (ValueError, TypeError, KeyError, NotImplementedError) as error:
            reason = str(error).partition("\n")[0]
            raise self._bad_row(
                number, f"has messages that cannot be understood: {reason}"
            ) from None

    def _bad_row(self, number: int, reason: str) -> BadRowError:
        return BadRowError(f"{self.name}:{number}: the row {reason}")


def _open_seekable(name: str) -> BinaryIO:
    """Open a file that can be read twice; a pipe is copied to a file without a name."""
    source = sys.stdin.buffer if name == "-" else Path(name).open("rb")  # noqa: SIM115  # kept
    if name != "-" and source.seekable():
        return source
    copy = _temporary_file()
    shutil.copyfileobj(source, copy)
    copy.seek(0)
    if name != "-":
        source.close()
    return copy


def _temporary_file() -> BinaryIO:
    # typeshed gives it another type on each platform.
    make: Callable[[], BinaryIO] = tempfile.TemporaryFile
    return make()


# -- answers --------------------------------------------------------------------------------------

MAX_BYTES_IN_MEMORY = 8_000_000
"""Bytes of lines that wait for an earlier one; any more wait in a temporary file."""

_ANSWER_FIELDS = ("answer", "error", "target", "usage")


def answer_line(rest: dict[str, Any], answer: dict[str, Any]) -> bytes:
    """Write one row: the other fields of the prompt's row, then those of the answer.

    A field of the prompt's row with the name of an answer's field is renamed `input_...`.

    Args:
        rest: The other fields of the prompt's row.
        answer: The fields of the answer.
    """
    row: dict[str, Any] = {}
    for name, value in rest.items():
        while name in _ANSWER_FIELDS or name in row:
            name = f"input_{name}"  # noqa: PLW2901  # until it is free
        row[name] = value
    row |= answer
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, which UTF-8 cannot say
        return json.dumps(row).encode() + b"\n"


class OrderedWriter:
    """Puts lines into their order; returns each as soon as all before it have arrived.

    Example:
        ```python
        order = OrderedWriter()
        order.put(1, b"b")  # []
        order.put(0, b"a")  # [b"a", b"b"]
        ```
    """

    def __init__(self, max_bytes: int = MAX_BYTES_IN_MEMORY) -> None:
        self._next = 0
        self._waiting: dict[int, bytes | tuple[int, int]] = {}
        self._bytes_in_memory = 0
        self._max_bytes = max_bytes
        self._spill: BinaryIO | None = None

    def put(self, index: int, line: bytes) -> list[bytes]:
        """Add a line; returns all lines that can be written now."""
        ready = []
        if index != self._next:
            self._keep(index, line)
        else:
            ready.append(line)
            self._next += 1
            while self._next in self._waiting:
                ready.append(self._take(self._next))
                self._next += 1
        return ready

    def _keep(self, index: int, line: bytes) -> None:
        if self._bytes_in_memory + len(line) <= self._max_bytes:
            self._bytes_in_memory += len(line)
            self._waiting[index] = line
            return
        if self._spill is None:
            self._spill = _temporary_file()
        self._waiting[index] = (self._spill.seek(0, os.SEEK_END), len(line))
        self._spill.write(line)

    def _take(self, index: int) -> bytes:
        line = self._waiting.pop(index)
        if isinstance(line, bytes):
            self._bytes_in_memory -= len(line)
            return line
        assert self._spill is not None  # noqa: S101  # `_keep` put the line there
        offset, length = line
        self._spill.seek(offset)
        return self._spill.read(length)

    def close(self) -> None:
        """Drop the lines that still wait."""
        if self._spill is not None:
            self._spill.close()


def private(path: str, flags: int) -> int:
    """Open a file that only its user can read: an `opener` for files with predictable names.

    Symbolic links are not followed: in a shared folder another user may have planted one.

    Raises:
        OSError: If the path is a symbolic link.

    Example:
        ```python
        with open("answers.part", "ab", opener=private) as file:
            file.write(b"...")
        ```
    """
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def _try_lock(file: BinaryIO) -> bool:
    """Lock an open file until it is closed; False if another process has locked it."""
    try:
        return lock_descriptor(file.fileno(), blocking=False)
    except OSError:  # a file system without locks: writing is worth the risk
        return True


class AnswerFile:
    """Writes lines in order to `NAME.part`, and renames that to `NAME` when all are there.

    So `NAME` is never half written, whatever kills the process, and the first answers can already
    be read in `NAME.part`. The next run writes that anew.

    Args:
        name: The file; `"-"` for standard output, which gets each line as soon as its turn comes.

    Raises:
        OSError: If it cannot be written, or another process is writing it.
    """

    def __init__(self, name: str) -> None:
        self._path = None if name == "-" else Path(name)
        self._order = OrderedWriter()
        if self._path is None:
            self._file: BinaryIO = sys.stdout.buffer
            return
        self._part = self._path.with_name(f"{self._path.name}.part")
        self._file = open(self._part, "ab", opener=private)  # noqa: SIM115  # kept
        if not _try_lock(self._file) or not self._is_still_the_part():
            self._file.close()
            raise BlockingIOError(f"{self._part} is being written by another run: wait for it")
        self._file.truncate(0)

    def _is_still_the_part(self) -> bool:
        """Whether no other run has renamed the file since it was opened."""
        opened = os.fstat(self._file.fileno())
        return self._part.exists() and os.path.samestat(opened, self._part.stat())

    def put(self, index: int, line: bytes) -> None:
        """Write a line once all before it are written."""
        ready = self._order.put(index, line)
        self._file.writelines(ready)
        if ready:
            self._file.flush()

    def finish(self) -> None:
        """Give the file its name: all lines are there."""
        self._file.flush()
        if self._path is not None:
            os.fsync(self._file.fileno())
            if sys.platform == "win32":  # open files cannot be renamed there
                self._file.close()
            self._part.replace(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._order.close()
        if self._path is not None:
            self._file.close()

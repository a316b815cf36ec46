"""Answers to a file: JSON lines in the order of the prompts, whole or not at all."""

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


FORMATS = ("jsonl", "txt", "csv")


_SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}


_BOM = b"\xef\xbb\xbf"


_MAX_FIELD_LENGTH = 2**31 - 1


class BadRowError(ValueError):
    """A row that is no prompt; the message names the file and the line."""


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One prompt of a file.

    Attributes:
        line: Where it begins, counted from 1.
        prompt: Its text, or chat messages as LangChain takes them.
        rest: Its other fields.
    """

    line: int
    prompt: str | list[Any]
    rest: dict[str, Any] = field(default_factory=dict)


class PromptFile:
    """The rows of a file, read anew by each loop over them, one loop at a time; none is kept.

    JSON lines hold a string, `{"prompt": "..."}` or `{"messages": [...]}`, the dicts with any other
    fields. Empty lines do not count.

    Args:
        name: The file; `"-"` for standard input, which is copied to a nameless file first.
        kind: One of `FORMATS`; else what the name's ending says, and for standard input JSON lines
            if it begins with `{`, else plain lines.
        column: The column of a CSV file that holds the prompts; else the only one, or `prompt`.

    Raises:
        OSError: If the file cannot be read.
        BadRowError: From the loop, at a row that is no prompt.

    Example:
        ```python
        with Rows("prompts.jsonl") as rows:
            for row in rows:
                print(row.line, row.prompt)
        ```
    """

    def __init__(self, name: str, kind: str | None = None, column: str | None = None) -> None:
        self.name: str = "standard input" if name == "-" else name
        self._column = column
        self._file = _open(name)
        self._kind = kind or _SUFFIXES.get(Path(name).suffix.lower()) or "txt"
        if (
            name == "-"
            and kind is None
            and self._file.read(64).lstrip(_BOM + b"\r\n\t ")[:1] == b"{"
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
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._bad(number, f"is not JSON: {error}") from None
        if isinstance(found, str):
            return PromptRow(number, self._prompt(number, found))
        if not isinstance(found, dict) or ("prompt" in found) == ("messages" in found):
            raise self._bad(number, 'must be a string, {"prompt": ...} or {"messages": [...]}')
        if "prompt" in found:
            return PromptRow(number, self._prompt(number, found.pop("prompt")), found)
        return PromptRow(number, self._messages(number, found.pop("messages")), found)

    def _table(self) -> Iterator[PromptRow]:
        csv.field_size_limit(_MAX_FIELD_LENGTH)
        table = csv.reader((text for _, text in self._lines()), strict=True)
        begin = 1
        try:
            heads = next(table, [])
            column = self._choose(heads)
            begin = table.line_num + 1
            for cells in table:
                if cells:
                    yield self._table_row(begin, heads, column, cells)
                begin = table.line_num + 1
        except csv.Error as error:
            raise self._bad(begin, f"is not CSV: {error}") from None

    def _choose(self, heads: list[str]) -> str:
        if len(set(heads)) < len(heads):
            raise self._bad(1, "names a column twice")
        wanted = self._column or (heads[0] if len(heads) == 1 else "prompt")
        if wanted not in heads:
            raise self._bad(
                1, f"has no column {wanted!r}: choose with --column from {', '.join(heads)}"
            )
        return wanted

    def _table_row(self, number: int, heads: list[str], column: str, cells: list[str]) -> PromptRow:
        if len(cells) != len(heads):
            raise self._bad(number, f"has {len(cells)} columns, the first row has {len(heads)}")
        rest = dict(zip(heads, cells, strict=True))
        return PromptRow(number, self._prompt(number, rest.pop(column)), rest)

    # -- checks -----------------------------------------------------------------------------------

    def _lines(self) -> Iterator[tuple[int, str]]:
        for number, line in enumerate(self._file, 1):
            try:
                yield number, (line.removeprefix(_BOM) if number == 1 else line).decode()
            except UnicodeDecodeError as error:
                raise self._bad(number, f"is not UTF-8: {error.reason}") from None

    def _prompt(self, number: int, found: Any) -> str:
        if not isinstance(found, str) or not found.strip():
            raise self._bad(number, "has a prompt that is no text, or empty")
        return found

    def _messages(self, number: int, found: Any) -> list[Any]:
        from langchain_core.messages import convert_to_messages  # noqa: PLC0415  # import is slow

        if not isinstance(found, list) or not found:
            raise self._bad(number, "has messages that are no list, or empty")
        try:
            return list(convert_to_messages(found))
        except (ValueError, TypeError, KeyError, NotImplementedError) as error:
            reason = str(error).partition("\n")[0]
            raise self._bad(number, f"has messages that cannot be understood: {reason}") from None

    def _bad(self, number: int, reason: str) -> BadRowError:
        return BadRowError(f"{self.name}:{number}: the row {reason}")


def _open(name: str) -> BinaryIO:
    """Open a file that can be read twice; a pipe is copied to a file without a name."""
    source = sys.stdin.buffer if name == "-" else Path(name).open("rb")  # noqa: SIM115  # kept
    if name != "-" and source.seekable():
        return source
    copy: Callable[[], BinaryIO] = tempfile.TemporaryFile
    found = copy()
    shutil.copyfileobj(source, found)
    found.seek(0)
    if name != "-":
        source.close()
    return found


MAX_IN_MEMORY = 8_000_000
"""Bytes of lines that wait for an earlier one; what is more waits in a file without a name."""


_OURS = ("answer", "error", "target", "usage")


def answer_line(rest: dict[str, Any], found: dict[str, Any]) -> bytes:
    """Write one row: what the prompt's row held beside the prompt, then the answer.

    A field of the prompt's row that has the name of one of ours is called `input_...`.

    Args:
        rest: The prompt's other fields.
        found: The answer's.
    """
    row: dict[str, Any] = {}
    for name, value in rest.items():
        while name in _OURS or name in row:
            name = f"input_{name}"  # noqa: PLW2901  # until it is free
        row[name] = value
    row |= found
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, which UTF-8 cannot say
        return json.dumps(row).encode() + b"\n"


class OrderedWriter:
    """Puts lines that come in any order into their order; gives each as soon as it may go out.

    Example:
        ```python
        order = InOrder()
        order.put(1, b"b")  # []
        order.put(0, b"a")  # [b"a", b"b"]
        ```
    """

    def __init__(self, most: int = MAX_IN_MEMORY) -> None:
        self._next = 0
        self._waiting: dict[int, bytes | tuple[int, int]] = {}
        self._size = 0
        self._most = most
        self._spill: BinaryIO | None = None

    def put(self, index: int, line: bytes) -> list[bytes]:
        """Take a line; return all that can go out now."""
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
        if self._size + len(line) <= self._most:
            self._size += len(line)
            self._waiting[index] = line
            return
        if self._spill is None:
            self._spill = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        self._waiting[index] = (self._spill.seek(0, os.SEEK_END), len(line))
        self._spill.write(line)

    def _take(self, index: int) -> bytes:
        found = self._waiting.pop(index)
        if isinstance(found, bytes):
            self._size -= len(found)
            return found
        assert self._spill is not None  # noqa: S101  # somebody put the line there
        place, length = found
        self._spill.seek(place)
        return self._spill.read(length)

    def close(self) -> None:
        """Let go of what waits."""
        if self._spill is not None:
            self._spill.close()


def private(path: str, flags: int) -> int:
    """Open a file for its user alone: an `opener` for files whose names can be foreseen.

    A symbolic link that another user put there, in a folder that both may write, is not followed.

    Raises:
        OSError: If it is one.

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
    except OSError:  # a file system without locks: answers are worth the risk
        return True


class AnswerFile:
    """Writes lines in order to `NAME.part`, and makes that `NAME` when all are there.

    So `NAME` is never half written, whatever kills the process; and the answers that may already go
    out can be read in `NAME.part`. The next run writes that anew.

    Args:
        name: The file; `"-"` for standard output, which gets each line as soon as it may go out.

    Raises:
        OSError: If it cannot be written, or another process writes it.
    """

    def __init__(self, name: str) -> None:
        self._path = None if name == "-" else Path(name)
        self._order = OrderedWriter()
        if self._path is None:
            self._file: BinaryIO = sys.stdout.buffer
            return
        self._part = self._path.with_name(f"{self._path.name}.part")
        self._file = open(self._part, "ab", opener=private)  # noqa: SIM115  # kept
        if not _try_lock(self._file) or not self._is_there():
            self._file.close()
            raise BlockingIOError(f"{self._part} is being written by another run: wait for it")
        self._file.truncate(0)

    def _is_there(self) -> bool:
        """Whether the file was not made the output by another run since it was opened."""
        mine = os.fstat(self._file.fileno())
        return self._part.exists() and os.path.samestat(mine, self._part.stat())

    def put(self, index: int, line: bytes) -> None:
        """Write a line as soon as all before it are written."""
        ready = self._order.put(index, line)
        self._file.writelines(ready)
        if ready:
            self._file.flush()

    def finish(self) -> None:
        """All lines are there."""
        self._file.flush()
        if self._path is not None:
            os.fsync(self._file.fileno())
            if sys.platform == "win32":  # where what is open cannot be renamed
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

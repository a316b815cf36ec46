"""Prompts from a file: JSON lines, plain lines, or a column of a CSV file."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

FORMATS = ("jsonl", "txt", "csv")
_SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
_BOM = b"\xef\xbb\xbf"
_LONGEST_FIELD = 2**31 - 1


class BadRowError(ValueError):
    """A row that is no prompt; the message names the file and the line."""


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt of a file.

    Attributes:
        line: Where it begins, counted from 1.
        prompt: Its text, or chat messages as LangChain takes them.
        rest: Its other fields.
    """

    line: int
    prompt: str | list[Any]
    rest: dict[str, Any] = field(default_factory=dict)


class Rows:
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

    def __iter__(self) -> Iterator[Row]:
        readers = {"jsonl": self._json_lines, "txt": self._plain_lines, "csv": self._table}
        self._file.seek(0)
        yield from readers[self._kind]()

    # -- the formats ------------------------------------------------------------------------------

    def _plain_lines(self) -> Iterator[Row]:
        for number, text in self._lines():
            if text.strip():
                yield Row(number, text.rstrip("\r\n"))

    def _json_lines(self) -> Iterator[Row]:
        for number, text in self._lines():
            if text.strip():
                yield self._json_line(number, text)

    def _json_line(self, number: int, text: str) -> Row:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._bad(number, f"is not JSON: {error}") from None
        if isinstance(found, str):
            return Row(number, self._prompt(number, found))
        if not isinstance(found, dict) or ("prompt" in found) == ("messages" in found):
            raise self._bad(number, 'must be a string, {"prompt": ...} or {"messages": [...]}')
        if "prompt" in found:
            return Row(number, self._prompt(number, found.pop("prompt")), found)
        return Row(number, self._messages(number, found.pop("messages")), found)

    def _table(self) -> Iterator[Row]:
        csv.field_size_limit(_LONGEST_FIELD)
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

    def _table_row(self, number: int, heads: list[str], column: str, cells: list[str]) -> Row:
        if len(cells) != len(heads):
            raise self._bad(number, f"has {len(cells)} columns, the first row has {len(heads)}")
        rest = dict(zip(heads, cells, strict=True))
        return Row(number, self._prompt(number, rest.pop(column)), rest)

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

"""How results are written down: tables of fixed width, marks cell by cell, and CSV files."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path


class Table:
    """A table whose header and lines have the same widths.

    Args:
        columns: Title and format of each column; the format begins with alignment and width.
        gap: What stands between two columns.

    Example:
        ```python
        table = Table(("row", "<6"), ("p50", ">7.2f"))
        table.header()  # 'row       p50'
        table.line("hang", 1.5)  # 'hang     1.50'
        ```
    """

    def __init__(self, *columns: tuple[str, str], gap: str = "") -> None:
        self._columns = columns
        self._gap = gap

    def header(self) -> str:
        """Write the titles."""
        titles = (format(title, _width(spec)) for title, spec in self._columns)
        return self._gap.join(titles).rstrip()

    def line(self, *values: object) -> str:
        """Write one row; text in a column of numbers stands where they do."""
        cells = (
            format(value, _width(spec) if isinstance(value, str) else spec)
            for (_, spec), value in zip(self._columns, values, strict=True)
        )
        return self._gap.join(cells).rstrip()


def _width(spec: str) -> str:
    """Cut a format down to alignment and width, which suit any text."""
    alignment = re.match(r"[<>]\d+", spec)
    if alignment is None:
        msg = f"{spec!r} does not begin with an alignment and a width"
        raise ValueError(msg)
    return alignment.group()


def grid_header(ways: Sequence[str], dialects: Sequence[str], width: int) -> tuple[str, str]:
    """Write the two header lines of a grid with a cell for each way to ask and dialect.

    Args:
        ways: The ways to ask.
        dialects: Of the first target; their initials stand over the cells.
        width: Of a cell, in characters.
    """
    over = width * len(dialects)
    initials = "".join(f"{dialect[0]:<{width}}" for dialect in dialects)
    return "".join(f"{way:<{over}.{over - 1}}" for way in ways), initials * len(ways)


def error_line(error: BaseException) -> str:
    """Say in one line what was raised."""
    return f"{type(error).__name__}: {shorten(str(error).partition(chr(10))[0])}"


def shorten(text: str, max_length: int = 110) -> str:
    """Cut the middle out of a long text."""
    return text if len(text) <= max_length else f"{text[:70]} ... {text[-35:]}"


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows with the same keys, the keys first; numbers with six digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = list(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        for line in lines:
            writer.writerow(
                {k: f"{v:.6g}" if isinstance(v, int | float) else v for k, v in line.items()}
            )

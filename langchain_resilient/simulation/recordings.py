"""Reads recorded latencies from a CSV file."""

from __future__ import annotations

import csv
from math import inf, isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NEVER = frozenset({"", "inf", "infinity", "timeout"})
_LONG = ("target", "seconds")


class RecordingError(ValueError):
    """A file of latencies cannot be read; says which file, line and column."""


def read_latencies(path: Path) -> dict[str, list[float]]:
    """Read seconds to the first text, by target, in the order in which the file names them.

    The file has a header, and either the columns `target` and `seconds` (others are ignored), or
    one column a target. An empty cell, `inf` and `timeout` stand for a request that was never
    answered.

    Returns:
        At least one target, each with at least one latency; infinity where no answer came.

    Raises:
        RecordingError: If a cell is no number of seconds, or the file has none.
        OSError: If the file cannot be opened.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            result = _read(path, csv.reader(file))
    except UnicodeDecodeError as error:
        raise RecordingError(f"{path}: not a text file in UTF-8 ({error.reason})") from None
    except csv.Error as error:
        raise RecordingError(f"{path}: not a CSV file ({error})") from None
    if not result:
        raise RecordingError(f"{path}: there is no latency in it")
    return result


def _read(path: Path, rows: Iterator[list[str]]) -> dict[str, list[float]]:
    header = [name.strip() for name in next(rows, [])]
    lower = [name.lower() for name in header]
    missing = [name for name in _LONG if name not in lower]
    _check_header(path, header, missing)
    fields: dict[str, list[float]] = {}
    for number, row in enumerate(rows, start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            text = f"{path}, line {number}: {len(row)} cells, but the header has {len(header)}"
            raise RecordingError(text)
        if missing:
            cells = list(zip(header, header, row, strict=True))
        else:
            target, seconds = (lower.index(name) for name in _LONG)
            cells = [(_name(path, number, row[target]), header[seconds], row[seconds])]
        for target_name, column, cell in cells:
            fields.setdefault(target_name, []).append(_seconds(path, number, column, cell))
    return fields


def _check_header(path: Path, header: list[str], missing: list[str]) -> None:
    if len(missing) == 1 and len(header) > 1:
        text = f'{path}, line 1: the column "{missing[0]}" is missing beside "{_other(missing[0])}"'
        raise RecordingError(text)
    if not header or not all(header):
        text = f'{path}, line 1: every column needs a name: "target,seconds", or one a target'
        raise RecordingError(text)
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise RecordingError(f"{path}, line 1: two columns are named {', '.join(twice)}")


def _other(name: str) -> str:
    return next(other for other in _LONG if other != name)


def _name(path: Path, line: int, cell: str) -> str:
    name = cell.strip()
    if not name:
        raise RecordingError(f'{path}, line {line}, column "target": it is empty')
    return name


def _seconds(path: Path, line: int, column: str, cell: str) -> float:
    text = cell.strip().lower()
    if text in _NEVER:
        return inf
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not isfinite(seconds) or seconds < 0:
        message = (
            f'{path}, line {line}, column "{column}": {cell.strip()!r} is no number of seconds '
            '(nothing, "inf" or "timeout" stand for no answer)'
        )
        raise RecordingError(message)
    return seconds

"""Reads recorded latencies from a CSV file, with the sizes of their requests where it has them."""

from __future__ import annotations

import csv
from math import inf, isfinite
from typing import TYPE_CHECKING, NamedTuple

from langchain_resilient.engine.time_model import UNKNOWN, RequestProfile, Sample, TimeModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_NEVER = frozenset({"", "inf", "infinity", "timeout"})
_LONG = ("target", "seconds")
_FIT_SAMPLES = 1024
"""So many of a target's requests are fitted to, spread over all."""


class RecordingError(ValueError):
    """A file of latencies cannot be read; says which file, line and column."""


class Recording(NamedTuple):
    """One recorded request.

    Attributes:
        seconds: To the first text; infinity where none ever came.
        profile: Its prompt tokens and reasoning effort, where the file tells them.
    """

    seconds: float
    profile: RequestProfile = UNKNOWN


def read_recordings(path: Path) -> dict[str, list[Recording]]:
    """Read seconds to the first text, by target, in the order in which the file names them.

    The file has a header, and either the columns `target` and `seconds`, or one column a target.
    Beside the former there may be `tokens` (of the prompt) and `effort` (`low`, `high`, ...);
    others are ignored. An empty cell of seconds, `inf` and `timeout` stand for a request that was
    never answered.

    Returns:
        At least one target, each with at least one request.

    Raises:
        RecordingError: If a cell is no number of seconds or tokens, or the file has none.
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


def fit(recorded: Sequence[Recording]) -> TimeModel:
    """Fit a target's times to the sizes of its requests."""
    answered = [request for request in recorded if request.seconds < inf]
    step = -(-len(answered) // _FIT_SAMPLES) or 1
    model = TimeModel()
    model.restore(
        [
            Sample(request.seconds, float(number), request.profile, censored=False)
            for number, request in enumerate(answered[::step])
        ]
    )
    return model


def _read(path: Path, rows: Iterator[list[str]]) -> dict[str, list[Recording]]:
    header = [name.strip() for name in next(rows, [])]
    lower = [name.lower() for name in header]
    missing = [name for name in _LONG if name not in lower]
    _check_header(path, header, missing)
    recorded: dict[str, list[Recording]] = {}
    for number, row in enumerate(rows, start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            text = f"{path}, line {number}: {len(row)} cells, but the header has {len(header)}"
            raise RecordingError(text)
        if missing:
            for name, cell in zip(header, row, strict=True):
                latency = Recording(_seconds(path, number, name, cell))
                recorded.setdefault(name, []).append(latency)
            continue
        cells = dict(zip(lower, row, strict=True))
        target, seconds = (header[lower.index(name)] for name in _LONG)
        name = _name(path, number, cells[target.lower()])
        latency = Recording(
            _seconds(path, number, seconds, cells["seconds"]), _profile(path, number, cells)
        )
        recorded.setdefault(name, []).append(latency)
    return recorded


def _profile(path: Path, line: int, cells: Mapping[str, str]) -> RequestProfile:
    if "tokens" not in cells and "effort" not in cells:
        return UNKNOWN
    text = cells.get("tokens", "").strip()
    if not (text or "0").isdecimal():
        message = f'{path}, line {line}, column "tokens": {text!r} is no number of tokens'
        raise RecordingError(message)
    return RequestProfile(int(text or 0), cells.get("effort", "").strip().lower() or None)


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

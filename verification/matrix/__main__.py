"""Every fault, by every way to ask, at every place, in both dialects.

Example:
    ```sh
    python -m verification.matrix
    python -m verification.matrix --row "cut, in text" --way astream --place first --dialect openai
    ```
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING

from verification.kit.report import grid_header
from verification.kit.scripted_targets import DIALECTS
from verification.matrix.cells import PLACES, every_cell, matrix
from verification.matrix.rows import ROWS, WAYS
from verification.matrix.runs import AT_ONCE, WAVE, run_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from verification.matrix.cells import Cell, Verdict
    from verification.matrix.runs import Outcome


LEGEND = """\
W whole answer of one target, C put together from several, O the odd target's own, R the last
resort, E an error, P part of it and an error; then the requests made (+: over 9). Amiss: x text,
e error, c cause, l leak, s too slow, n requests, ? the fault did not happen.
o: the first target speaks OpenAI's dialect, t: Together's. s: the slowest cell's seconds."""

_NAME, _PLACE, _CELL = 38, 8, 4
_SLOWEST = 5


def table(outcome: Outcome) -> Iterator[str]:
    """Write the table."""
    over, initials = grid_header(WAYS, DIALECTS, _CELL)
    yield f"{'':<{_NAME + _PLACE}}{over}"
    yield f"{'fault':<{_NAME}}{'place':<{_PLACE}}{initials}{'s':>5}"
    by_line = groupby(outcome.verdicts, key=lambda r: (r.row, r.place))
    for (name, place), results in by_line:
        yield _line(name, place, results)
    yield LEGEND


def _line(name: str, place: str, results: Iterable[Verdict]) -> str:
    fields = {(r.way, r.dialect): r for r in results}
    cells = [fields.get((way, dialect)) for way in WAYS for dialect in DIALECTS]
    marks = "".join(f"{'' if one is None else _brief(one):<{_CELL}}" for one in cells)
    slowest = max(one.seconds for one in fields.values())
    return f"{name:<{_NAME}.{_NAME - 1}}{place:<{_PLACE}}{marks}{slowest:>5.2f}"


def _brief(result: Verdict) -> str:
    number = result.attempts if result.attempts < 10 else "+"
    about = {problem.about.value: None for problem in result.problems}
    return f"{result.mark}{number}{''.join(about)}"


def totals(outcome: Outcome) -> Iterator[str]:
    """Write what there is in all, and what is amiss."""
    results = outcome.verdicts
    marks = Counter(result.mark for result in results)
    bad = [result for result in results if result.problems]
    yield (
        f"{len(results)} cells, {len(results) - len(bad)} as they must be: "
        f"{', '.join(f'{number} {mark}' for mark, number in sorted(marks.items()))}; "
        f"{sum(r.attempts for r in results)} requests; {sum(r.again > 0 for r in results)} tried "
        "again alone, since the machine was busy"
    )
    yield "slowest:"
    for result in sorted(results, key=lambda r: -r.seconds)[:_SLOWEST]:
        yield f"  {result.seconds:.2f} s {result}"
    for result in bad:
        yield from _detail(result)
    yield f"left behind in the process: {'; '.join(outcome.leaks) or 'nothing'}"


def _detail(result: Verdict) -> Iterator[str]:
    yield f"FAILED {result} ({_brief(result)}, {result.seconds:.2f} s)"
    yield from (f"    {problem.what}" for problem in result.problems)
    yield f"    replay: {result.replay}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 1 if any cell fell short, or the process holds more than before.
    """
    options = _parser().parse_args(arguments)
    whole = options.every or options.row is not None
    usual = {str(cell) for cell in matrix()}
    numbers = [
        number
        for number, cell in enumerate(every_cell())
        if (whole or str(cell) in usual) and _chosen(cell, options)
    ]
    began = time.perf_counter()
    processes = options.processes if len(numbers) > WAVE else 1
    outcome = run_in(processes, numbers, options.at_once)
    print(*table(outcome), *totals(outcome), sep="\n")
    print(f"{time.perf_counter() - began:.0f} s")
    return int(not outcome.good)


def _chosen(cell: Cell, options: argparse.Namespace) -> bool:
    pairs = (
        (options.row, cell.row.name),
        (options.way, cell.way),
        (options.place, cell.place.name),
        (options.dialect, cell.dialect),
    )
    return all(wanted is None or wanted == name for wanted, name in pairs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m verification.matrix", description=__doc__)
    parser.add_argument("--row", choices=ROWS, metavar="ROW", help="one fault")
    parser.add_argument("--way", choices=WAYS, help="one way to ask")
    parser.add_argument("--place", choices=PLACES, help="one place of the fault")
    parser.add_argument("--dialect", choices=DIALECTS, help="one dialect of the first target")
    parser.add_argument("--every", action="store_true", help="all cells of variants, too")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, metavar="N", help="cells at a time")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="share them")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())

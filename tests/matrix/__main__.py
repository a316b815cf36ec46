"""`python -m tests.matrix`: every fault, by every way to ask, at every place, in both dialects.

Example:
    ```sh
    python -m tests.matrix
    python -m tests.matrix --row "cut, in text" --way astream --place first --dialect openai
    ```
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from tests.matrix import report
from tests.matrix.cover import every_cell, matrix
from tests.matrix.places import PLACES
from tests.matrix.processes import run_in
from tests.matrix.row import WAYS
from tests.matrix.rows import ROWS
from tests.matrix.runs import AT_ONCE, WAVE
from tests.streams.bench import DIALECTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.matrix.cell import Cell


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
    print(*report.table(outcome), *report.totals(outcome), sep="\n")
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
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
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

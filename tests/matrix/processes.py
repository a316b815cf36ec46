"""The whole matrix by several processes at once: one alone would use one core."""

from __future__ import annotations

import asyncio
import logging
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

from tests.matrix.cover import every_cell
from tests.matrix.runs import Outcome, run

if TYPE_CHECKING:
    from collections.abc import Sequence


def run_in(processes: int, numbers: Sequence[int], at_once: int) -> Outcome:
    """Play cells.

    Args:
        processes: How many to share them.
        numbers: Which of `every_cell()`.
        at_once: How many cells a process plays at the same time.

    Returns:
        What came of them, in their order.
    """
    if processes == 1:
        return play(numbers, at_once)
    shares = [numbers[start::processes] for start in range(processes)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        outcomes = list(pool.map(play, shares, [at_once] * processes))
    found = {
        number: verdict
        for share, outcome in zip(shares, outcomes, strict=True)
        for number, verdict in zip(share, outcome.verdicts, strict=True)
    }
    leaks = [leak for outcome in outcomes for leak in outcome.leaks]
    return Outcome([found[number] for number in numbers], leaks)


def play(numbers: Sequence[int], at_once: int) -> Outcome:
    """Play cells in this process."""
    logging.disable(logging.CRITICAL)  # faults are what this is about
    cells = every_cell()

    def told(done: int) -> None:
        sys.stderr.write(f"{done} of {len(numbers)}\n")

    mine = [cells[number] for number in numbers]
    try:
        return asyncio.run(run(mine, at_once=at_once, told=told))
    finally:
        logging.disable(logging.NOTSET)

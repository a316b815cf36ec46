"""Plays cells: some at a time, in waves, in one process or in several."""

from __future__ import annotations

import asyncio
import logging
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from random import Random
from typing import TYPE_CHECKING

from verification.kit.leftovers import (
    grown,
    stock,
)
from verification.kit.scripted_targets import DIALECTS
from verification.matrix.cells import (
    PLACES,
    Cell,
    Result,
    Stand,
    Verdict,
    every_cell,
    hire,
    play,
    stand,
)
from verification.matrix.judging import NOISE, judge
from verification.matrix.rows import ROWS, WAYS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


WAVE = 200
"""Cells between two stock-takings."""

AT_ONCE = 16
"""Cells at the same time."""

AGAIN = (4, 1)
"""In what company a cell is tried again that a busy machine may have spoilt: at last alone."""


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        verdicts: One for each cell, in the cells' order.
        leaks: What the process had more of than before, after all was closed.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether all is as it must be."""
        return not self.leaks and not any(verdict.problems for verdict in self.verdicts)


async def run(
    cells: Sequence[Cell],
    *,
    at_once: int = AT_ONCE,
    noise: float = NOISE,
    on_progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Play cells in an order without system.

    Args:
        cells: What to play.
        at_once: How many at the same time.
        noise: Seconds that the machine may take from each call of the model.
        on_progress: Called from time to time with the number of cells that are done.

    Returns:
        What came of them, in their order.
    """
    hire()
    await _warm_up()
    before, leaks = stock(), []
    fields: dict[Cell, Verdict] = {}
    mixed = Random(0).sample(cells, len(cells))
    for start in range(0, len(mixed), WAVE):
        if on_progress is not None:
            on_progress(start)
        wave = mixed[start : start + WAVE]
        results, left = await _wave(wave, at_once, noise)
        fields |= {result.cell: Verdict.of(result) for result in results}
        leaks += left + grown(before, stock())
    return Outcome([fields[cell] for cell in cells], leaks)


async def _wave(
    cells: Sequence[Cell], at_once: int, noise: float
) -> tuple[list[Result], list[str]]:
    async with stand() as made:
        outcome = await _played(made, cells, at_once, noise)
        for again, company in enumerate(AGAIN, 1):
            spoilt = [cell for cell, result in outcome.items() if result.noisy]
            outcome |= await _played(made, spoilt, company, noise, again)
        leaks = await made.census.close(made.sim)
    return list(outcome.values()), leaks


async def _played(
    made: Stand, cells: Sequence[Cell], at_once: int, noise: float, again: int = 0
) -> dict[Cell, Result]:
    """Play cells, some at the same time."""
    room = asyncio.Semaphore(at_once)

    async def one(cell: Cell) -> Result:
        async with room:
            result = await play(made, cell)
        judge(result, noise)
        result.again = again
        return result

    results = await asyncio.gather(*map(one, cells))
    return dict(zip(cells, results, strict=True))


async def _warm_up() -> None:
    """Import and open what stays, so that it is no part of any cell's time, nor of its leaks."""
    cells = [
        Cell(ROWS["nothing wrong"], way, PLACES["first"], dialect)
        for way in WAYS
        for dialect in DIALECTS
    ]
    for _ in range(2):
        async with stand() as made:
            for cell in cells:
                await play(made, cell)
            await made.census.close(made.sim)


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
        return play_here(numbers, at_once)
    shares = [numbers[start::processes] for start in range(processes)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        outcomes = list(pool.map(play_here, shares, [at_once] * processes))
    fields = {
        number: verdict
        for share, outcome in zip(shares, outcomes, strict=True)
        for number, verdict in zip(share, outcome.verdicts, strict=True)
    }
    leaks = [leak for outcome in outcomes for leak in outcome.leaks]
    return Outcome([fields[number] for number in numbers], leaks)


def play_here(numbers: Sequence[int], at_once: int) -> Outcome:
    """Play cells in this process."""
    logging.disable(logging.CRITICAL)  # faults are what this is about
    cells = every_cell()

    def on_progress(done: int) -> None:
        sys.stderr.write(f"{done} of {len(numbers)}\n")

    mine = [cells[number] for number in numbers]
    try:
        return asyncio.run(run(mine, at_once=at_once, on_progress=on_progress))
    finally:
        logging.disable(logging.NOTSET)

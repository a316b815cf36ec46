"""The first table: every fault, by every way to ask, in both dialects."""

from __future__ import annotations

import asyncio
from random import Random
from statistics import median
from typing import TYPE_CHECKING

from tests.streams.bench import DIALECTS
from tests.streams.cell import Cell, Result, play, wait_of
from tests.streams.faults import HEALTHY
from tests.streams.ways import TURNS, WAYS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.streams.bench import Bench
    from tests.streams.faults import Fault
    from tests.streams.limits import Limits

SLOWER = 1.2
"""An answer may take so many times what the fault's wait and a healthy answer take together ..."""

ALLOWANCE = 0.5
"""... and so many seconds more for each call of the model: other cells want the same processor."""


def cells(faults: Iterable[Fault], ways: Iterable[str] = tuple(WAYS)) -> list[Cell]:
    """List all cells of some rows."""
    return [Cell(f, way, dialect) for f in faults for way in ways for dialect in DIALECTS]


async def run(
    bench: Bench,
    chosen: Sequence[Cell],
    limits: Limits,
    *,
    at_once: int,
    allowance: float = ALLOWANCE,
) -> list[Result]:
    """Try all cells, some at a time, in an order without system.

    Args:
        bench: Where.
        chosen: What to try; the healthy row for the same ways is added.
        limits: What a fault may cost.
        at_once: How many cells at the same time.
        allowance: Seconds that the machine's noise may cost each call of the model.

    Returns:
        The results in the order of the cells, the healthy row first.
    """
    ways = list(dict.fromkeys(cell.way for cell in chosen))
    every = [*cells([HEALTHY], ways), *(cell for cell in chosen if cell.fault is not HEALTHY)]
    room = asyncio.Semaphore(at_once)

    async def one(cell: Cell) -> Result:
        async with room:
            return await play(bench, cell, limits)

    mixed = Random(0).sample(every, len(every))
    found = dict(zip(mixed, await asyncio.gather(*map(one, mixed)), strict=True))
    results = [found[cell] for cell in every]
    _bound(results, limits, allowance)
    return [await _once_more(bench, result, limits) for result in results]


async def _once_more(bench: Bench, result: Result, limits: Limits) -> Result:
    """Try a cell that was only too slow again, alone: the machine may have been busy elsewhere."""
    if not result.slow or not result.whole:
        return result
    again = await play(bench, result.cell, limits)
    again.bound, again.again = result.bound, True
    return again


def _bound(results: Sequence[Result], limits: Limits, allowance: float) -> None:
    """Work out how long each may take, from what the healthy row of the same way took."""
    healthy = [result for result in results if result.cell.fault is HEALTHY]
    for result in results:
        cell = result.cell
        own = median(one.got.seconds for one in healthy if one.cell.way == cell.way)
        noise = allowance * TURNS.get(cell.way, 1)
        result.bound = SLOWER * (wait_of(cell, limits) + own) + noise

"""The table of faults: each fault, in each way to ask, in each dialect of the target that fails."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from statistics import median
from typing import TYPE_CHECKING

from langchain_resilient.testing import ProviderSimulator
from verification.kit.leftovers import Census
from verification.kit.scripted_targets import DIALECTS, Bench
from verification.kit.ways import TURNS, WAYS, Got, ask
from verification.streams.faults import HEALTHY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from langchain_resilient.testing import RecordedRequest
    from verification.kit.scripted_targets import Limits
    from verification.streams.faults import Fault


RUNS = 3
"""How often a cell is tried, if a busy machine let the second target win before the fault."""

_GRACE = 5.0
"""Seconds over the deadline at which a call is taken for hung."""


class Mark(StrEnum):
    """What the user got."""

    WHOLE = "W"
    """The whole answer, from one request."""
    CONTINUED = "C"
    """The whole answer, put together from two targets' text."""
    PARTIAL = "P"
    """A part of it, and an error."""
    WRONG = "X"
    """No error, and not the answer."""
    ERROR = "E"
    """An error, and nothing else."""
    UNTESTED = "?"
    """The fault did not happen."""


@dataclass(frozen=True)
class Cell:
    """What is tried."""

    fault: Fault
    way: str
    dialect: str

    def __str__(self) -> str:
        return f"{self.fault.name} / {self.way} / {self.dialect}"


@dataclass
class Result:
    """What came of a cell.

    Attributes:
        cell: What was tried.
        mark: What the user got.
        got: The same in full.
        attempts: The requests that the server saw.
        leaks: What was left behind.
        bound: The seconds that it may take; set when the healthy row is known.
        again: Whether this is the second try, alone, of a cell that was only too slow.
    """

    cell: Cell
    mark: Mark
    got: Got
    attempts: int
    leaks: list[str]
    bound: float = field(default=float("inf"))
    again: bool = False

    @property
    def slow(self) -> bool:
        """Whether it took longer than it may."""
        return self.got.seconds > self.bound

    @property
    def good(self) -> bool:
        """Whether the answer was whole, in time, and nothing was left behind."""
        return self.whole and not self.slow and not self.leaks

    @property
    def whole(self) -> bool:
        """Whether the user got the right answer."""
        return self.mark in {Mark.WHOLE, Mark.CONTINUED}


async def play(bench: Bench, cell: Cell, limits: Limits) -> Result:
    """Try a cell, and again if the fault did not happen."""
    result = await _play(bench, cell, limits)
    for _ in range(RUNS - 1):
        if result.mark is not Mark.UNTESTED:
            break
        result = await _play(bench, cell, limits)
    return result


async def _play(bench: Bench, cell: Cell, limits: Limits) -> Result:
    number = bench.number()
    other = DIALECTS[1 - DIALECTS.index(cell.dialect)]
    specs = (
        bench.name(cell.dialect, "bad", number, [cell.fault.step]),
        bench.name(other, "next", number, cell.fault.then),
    )
    prompt = f"Tell the story of number {number}, please."
    work = ask(bench.model(*specs, **limits.fields), cell.way, prompt, limits.deadline + _GRACE)
    got = await bench.census.run(number, work)
    leaks = await bench.left(number, specs)
    first, second = map(bench.seen, specs)
    mark = judge(got, [*first, *second]) if happened(cell, got, first, second) else Mark.UNTESTED
    return Result(cell, mark, got, len(first) + len(second), leaks)


def judge(got: Got, seen: list[RecordedRequest]) -> Mark:
    """Say what the user got, held against the one right answer.

    Args:
        got: What the user got.
        seen: All requests of the call, as the server saw them.
    """
    if got.error is not None:
        return Mark.PARTIAL if got.text else Mark.ERROR
    if got.text != got.right:
        return Mark.WRONG
    return Mark.WHOLE if any(one.text == got.right for one in seen) else Mark.CONTINUED


def happened(
    cell: Cell, got: Got, first: list[RecordedRequest], second: list[RecordedRequest]
) -> bool:
    """Whether the first target was asked, did what it should, and the model noticed."""
    fault = cell.fault
    played = [seen for seen in first if seen.step == fault.step.name]
    if not played:
        return False
    if fault.survives:
        return True
    if not fault.says and getattr(fault.step, "resume", False):
        return _was_found_broken(got, first)  # the server goes on until it hears that it is left
    if not fault.says:
        silent = not any(seen.pieces for seen in played)
        return silent and (fault.waits != "nothing" or _failed_first(played, second))
    spoke = any(len(seen.pieces) >= fault.says for seen in played)
    return spoke and _was_heard(fault, got, first, second)


def _failed_first(first: list[RecordedRequest], second: list[RecordedRequest]) -> bool:
    """Whether each request failed before the next target was asked: else that was a hedge."""
    pairs = zip(first, second, strict=False)
    return all(a.ended_at is not None and a.ended_at <= b.at for a, b in pairs)


def _was_found_broken(got: Got, first: list[RecordedRequest]) -> bool:
    """Whether the first target's answer was given up as broken; a parser throws receipts away."""
    attempts = [a for receipt in got.receipts for a in receipt["attempts"]]
    faults = [a.get("fault") for a in attempts if a["target"] == first[0].target]
    return not got.receipts or "broken" in faults


def _was_heard(
    fault: Fault, got: Got, first: list[RecordedRequest], second: list[RecordedRequest]
) -> bool:
    """Whether the text before the fault reached the model: else a hedge had won already."""
    if got.receipts:
        target = first[0].target
        attempts = [a for receipt in got.receipts for a in receipt["attempts"]]
        return any("first_text" in a for a in attempts if a["target"] == target)
    # A parser threw the receipt away. What the second target said whole was not begun by the first,
    # for such a stream is shown as it comes.
    return fault.retold or got.error is not None or judge(got, second) is not Mark.WHOLE


def wait_of(cell: Cell, limits: Limits) -> float:
    """Return the seconds that the fault may cost in this way of asking."""
    return limits.of(cell.fault.waits) * TURNS.get(cell.way, 1)


_THREADS = 64
"""Enough that a synchronous stream never waits for a thread, which would be taken for slowness."""

_WARM_UP = 20.0


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    """Start the simulator and warm everything up: imports are no part of any answer's time."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
    with ProviderSimulator(remember=100_000) as sim, Census() as census:
        made = Bench(sim, census)
        for way in WAYS:
            specs = [f"{dialect}:warm-{way}" for dialect in DIALECTS]
            for order in (specs, specs[::-1]):
                await ask(made.model(*order), way, "Warm up.", _WARM_UP)
        yield made


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
    fields = dict(zip(mixed, await asyncio.gather(*map(one, mixed)), strict=True))
    results = [fields[cell] for cell in every]
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

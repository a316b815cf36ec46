"""One cell of the first table: one fault, one way to ask, one dialect of the target that fails."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from tests.streams.bench import DIALECTS
from tests.streams.ways import TURNS, Got, ask

if TYPE_CHECKING:
    from langchain_resilient.testing.request_log import RecordedRequest
    from tests.streams.bench import Bench
    from tests.streams.faults import Fault
    from tests.streams.limits import Limits

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
    if not fault.says:
        silent = not any(seen.pieces for seen in played)
        return silent and (fault.waits != "nothing" or _failed_first(played, second))
    spoke = any(len(seen.pieces) >= fault.says for seen in played)
    return spoke and _was_heard(fault, got, first, second)


def _failed_first(first: list[RecordedRequest], second: list[RecordedRequest]) -> bool:
    """Whether each request failed before the next target was asked: else that was a hedge."""
    pairs = zip(first, second, strict=False)
    return all(a.ended_at is not None and a.ended_at <= b.at for a, b in pairs)


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

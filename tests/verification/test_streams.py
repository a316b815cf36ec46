"""A part of both tables, small enough for every day; `make streams` runs all of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from verification.kit.scripted_targets import small_limits
from verification.streams import failover, fault_table
from verification.streams.failover import SCENARIOS
from verification.streams.fault_table import Cell, Mark, Result, bench
from verification.streams.faults import faults

ROWS = [
    "cut, before text",
    "cut, in text",
    "cut, text in a burst",
    "cut, the next repeats some",
    "cut, the next is cut too",
    "cut, after all the text",
    "stall (role chunk first), before text",
    "stall (role chunk first), in text",
    "clean end, no finish_reason, in text",
    "SSE error, in text",
    "malformed chunk in text, goes on",
    "no [DONE]",
    "reasoning, then dead at once",
    "refuses to stream",
    "500",
]
LIMITS = small_limits()
CELLS = [
    cell
    for number, cell in enumerate(
        fault_table.cells(fault for fault in faults(LIMITS) if fault.name in ROWS)
    )
    if number // 2 % 2 == number % 2  # one dialect and the other in turns
]
CHOSEN = [
    s for s in SCENARIOS if s.title[:3] in {"S02", "S06", "S08", "S09", "S10", "S11", "S14", "S16"}
]
VERDICTS = [(scenario.title, way) for scenario in CHOSEN for way in failover.WAYS]

NOISE = 2.0
"""Seconds that a call may lose to what else runs on the machine; the command allows less."""


@dataclass(frozen=True, repr=False)
class Everything:
    """What came of all, and what was left behind at the end."""

    results: dict[Cell, Result]
    verdicts: dict[tuple[str, str], failover.Verdict]
    leaks: list[str]


async def run() -> Everything:
    async with bench() as made:
        outcome, verdicts = await asyncio.gather(
            fault_table.run(made, CELLS, LIMITS, at_once=6, allowance=NOISE),
            failover.run(made, CHOSEN, rounds=1, at_once=8, allowance=NOISE),
        )
        leaks = await made.census.close(made.sim)
    return Everything(
        {result.cell: result for result in outcome}, {(v.title, v.way): v for v in verdicts}, leaks
    )


@pytest.fixture(scope="module")
def everything() -> Everything:
    """All cells at once, some at a time: one by one they would take a minute."""
    return asyncio.run(run())


def test_every_row_is_one_of_the_table():
    """A row that was renamed must not drop out here unnoticed."""
    assert [fault.name for fault in faults(LIMITS) if fault.name in ROWS] == ROWS


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_the_answer_is_whole(everything, cell):
    """Whatever the first target does: by one target, or begun by one and ended by the other."""
    result = everything.results[cell]
    assert result.mark in {Mark.WHOLE, Mark.CONTINUED}, (result.got.error, result.got.text)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_it_comes_in_time(everything, cell):
    """Within 1.2 x (what the fault has to wait for + a healthy answer), and some noise."""
    result = everything.results[cell]
    assert result.got.seconds <= result.bound


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_nothing_is_left_behind(everything, cell):
    """No task, and no request that the server still answers."""
    assert everything.results[cell].leaks == []


@pytest.mark.parametrize(("title", "way"), VERDICTS)
def test_a_public_failover_scenario_is_answered(everything, title, way):
    """With defaults: whole, in time, and the receipt, the usage and the model name are right."""
    assert everything.verdicts[title, way].problems == []


def test_the_process_is_clean_at_the_end(everything):
    """No loser is open, no socket, and nothing complains when it is collected."""
    assert everything.leaks == []

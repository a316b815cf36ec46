"""A part of the matrix, small enough for every day; `make matrix` runs all of it."""

from __future__ import annotations

import asyncio

import pytest

from verification.matrix.cells import cover
from verification.matrix.rows import ROWS
from verification.matrix.runs import Outcome, run

NOISE = 2.0
"""Seconds that a call may lose to what else runs on the machine; the command allows less."""


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    """All cells at once, some at a time: one by one they would take minutes."""
    return asyncio.run(run(cover(), noise=NOISE))


@pytest.mark.parametrize("row", ROWS)
def test_a_fault_ends_well(outcome, row):
    """Text, errors, causes, time, attempts, and nothing left, in some ways at some places."""
    mine = [verdict for verdict in outcome.verdicts if verdict.row == row]
    amiss = {str(v): [p.what for p in v.problems] for v in mine if v.problems}
    assert mine
    assert amiss == {}


def test_the_process_is_clean_at_the_end(outcome):
    """No loser, socket, thread or file is left, and nothing complains when it is collected."""
    assert outcome.leaks == []

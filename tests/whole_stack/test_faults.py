"""One kind of fault at a time at the first target, with all three ways of asking."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from langchain_resilient import testing as t
from tests.whole_stack.everyday import CHAINS, GAP, HEDGE, MODEL, OWN, slowest
from verification.whole_stack.scenario import (
    BLACK_HOLE,
    HEALTHY,
    HINT,
    REFUSED,
    WORDS,
    Scenario,
    every,
)
from verification.whole_stack.verdict import problems
from verification.whole_stack.world import Run, play

if TYPE_CHECKING:
    from langchain_resilient.testing import Step


AT_ONCE, LATE = 0.0, HEDGE
IN_TEXT = 0.5
"""Seconds after which the faults below that begin with some text show."""

FAULTS: list[tuple[Step, float]] = [
    (t.Status(500), AT_ONCE),
    (t.Status(429, retry_after=HINT), AT_ONCE),
    (t.Overloaded(), AT_ONCE),
    (t.Reset(), AT_ONCE),
    (t.Empty(), AT_ONCE),
    (t.Empty(null=True), AT_ONCE),
    (t.Whitespace(), AT_ONCE),
    (t.Garbage(), AT_ONCE),
    (t.Html(502), AT_ONCE),
    (t.Cut(0), AT_ONCE),
    (t.CleanEnd(0), AT_ONCE),
    (t.SseError(0), AT_ONCE),
    (t.Stall(0), LATE),
    (t.NoAnswer(), LATE),
    (t.KeepAlives(0.1), LATE),
    (t.Whitespace(forever=True), LATE),
    (t.SlowHeaders(20.0, reply=HEALTHY), LATE),
    (t.Reply(first_text=30.0, words=WORDS), LATE),
]
SKIPPED = t.Malformed(3, resume=True, reply=HEALTHY)
"""A bad line that goes by: there is nothing to go on from."""

MID_STREAM: list[tuple[Step, float]] = [
    (t.Cut(3, reply=HEALTHY), IN_TEXT),
    (t.Reset(3, reply=HEALTHY), IN_TEXT),
    (t.CleanEnd(3, reply=HEALTHY), IN_TEXT),
    (t.SseError(3, reply=HEALTHY), IN_TEXT),
    (SKIPPED, OWN),
    (t.Stall(3, reply=HEALTHY), IN_TEXT + GAP),
]


def faulty(chain: tuple[str, ...], step: Step, how: Any, **fields: Any) -> Run:
    """Play some calls at a chain whose first target does one thing only."""
    return play(
        Scenario(
            targets=chain,
            script={chain[0]: step, chain[1]: HEALTHY},
            calls=tuple(every(0.7, 4, how)),
            model=MODEL,
            **fields,
        )
    )


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize(("step", "hidden"), FAULTS, ids=repr)
def test_a_fault_before_the_text_costs_no_more_than_noticing_it(step, hidden, chain):
    """All three ways of asking get the second target's text, in its own time plus that."""
    run = faulty(chain, step, ("ainvoke", "astream", "abatch"))
    assert problems(run) == []
    assert slowest(run) <= hidden + OWN


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize(("step", "hidden"), MID_STREAM, ids=repr)
def test_a_fault_in_the_text_is_not_seen_by_who_waits_for_all_of_it(step, hidden, chain):
    """`ainvoke` and `abatch` get the second target's whole text."""
    run = faulty(chain, step, ("ainvoke", "abatch"))
    assert problems(run) == []
    assert slowest(run) <= hidden + OWN


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize(("step", "hidden"), MID_STREAM, ids=repr)
def test_a_reader_of_a_stream_gets_its_whole_text_though_two_targets_told_it(step, hidden, chain):
    """No word is missing or doubled where the second went on from the first."""
    run = faulty(chain, step, ("astream",))
    assert problems(run) == []
    assert slowest(run) <= hidden + OWN
    breaks = [receipt.get("breaks") for outcome in run.outcomes for receipt in outcome.receipts]
    assert any(breaks) or step == SKIPPED


@pytest.mark.parametrize(("address", "hidden"), [(REFUSED, AT_ONCE), (BLACK_HOLE, LATE)])
@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_a_server_that_cannot_be_reached_costs_no_more_than_noticing_it(address, hidden, chain):
    """Refused or swallowed, the connection is not waited for."""
    run = faulty(chain, HEALTHY, ("ainvoke", "astream"), addresses={chain[0]: address})
    assert problems(run) == []
    assert slowest(run) <= hidden + OWN

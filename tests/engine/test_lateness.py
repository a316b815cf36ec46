"""When an attempt is late, for a hedge, for the judgement, and for its limits."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from langchain_resilient.engine.events import Attempt, Lane
from langchain_resilient.engine.health import ENOUGH_SAMPLES, TargetState
from langchain_resilient.engine.lateness import LEAST, LEAST_LATE, MOST, due, hedge_delay, late_after
from langchain_resilient.policy import Hedge, Timeouts
from langchain_resilient.receipt import AttemptKind


def attempt(
    *seconds: float, times: int = ENOUGH_SAMPLES, plain: bool = False, **limits: Any
) -> Attempt:
    """One to a target that has spoken after these seconds, each so many times."""
    state = TargetState("p:m", "p")
    for _ in range(times):
        for x in seconds:
            state.spoke(x, 0.0, plain=plain, late=False)
    return Attempt(1, Lane(0, state, Timeouts(**limits)), AttemptKind.PRIMARY, 0.0, plain=plain)


# -- hedges ---------------------------------------------------------------------------------------


def test_a_number_is_the_delay():
    """Whatever was learned."""
    assert hedge_delay(Hedge(delay=1.25), attempt(3.0), 0.0) == 1.25


def test_an_unknown_target_is_hedged_after_the_cold_delay():
    """One sample less than enough teaches nothing."""
    unknown = attempt(1.0, times=ENOUGH_SAMPLES - 1)
    assert hedge_delay(Hedge(cold=1.7), unknown, 0.0) == 1.7


def test_the_delay_is_learned_from_enough_samples():
    """Then it is the target's own."""
    assert hedge_delay(Hedge(cold=1.7), attempt(1.0), 0.0) == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize(("budget", "expected"), [(0.1, 91.0), (0.5, 55.0), (1.0, 10.0)])
def test_the_delay_leaves_as_many_late_ones_as_the_budget_pays_for(budget, expected):
    """The percentile is `1 - 0.9 * budget`: a tenth is kept for variance."""
    even = attempt(*[i / 100 for i in range(1, 101)], times=1, first_text=None)
    delay = hedge_delay(Hedge(budget=budget), even, 0.0)
    assert delay == pytest.approx(expected / 100, rel=0.03)


def test_of_whole_answers_another_delay_is_learned():
    """A target that is asked plainly is judged by its answers."""
    plain = attempt(4.0, plain=True)
    plain.lane.state.spoke(0.3, 0.0, plain=False, late=False)
    assert hedge_delay(Hedge(), plain, 0.0) == pytest.approx(4.0, rel=0.02)


@pytest.mark.parametrize(
    ("seconds", "first_text", "expected"),
    [(0.002, 15.0, LEAST), (25.0, None, MOST), (8.0, 6.0, 3.0), (8.0, None, 8.0)],
)
def test_a_learned_delay_is_bounded(seconds, first_text, expected):
    """By 0.05 s, by 10 s, and by half the limit for the first text."""
    known = attempt(seconds, first_text=first_text)
    assert hedge_delay(Hedge(), known, 0.0) == pytest.approx(expected, rel=0.02)


# -- evidence -------------------------------------------------------------------------------------


def test_silence_counts_after_the_95th_percentile():
    """Whatever the budget for hedges is."""
    even = attempt(*[i / 100 for i in range(1, 101)], times=1)
    assert late_after(Hedge(budget=1.0), even, 0.0) == pytest.approx(0.95, rel=0.03)


def test_a_quarter_of_a_second_is_never_late():
    """Our own loop may have been busy."""
    assert late_after(Hedge(), attempt(0.01), 0.0) == LEAST_LATE


def test_an_unknown_target_has_four_times_the_cold_delay():
    """Nobody knows yet how long it thinks."""
    assert late_after(Hedge(cold=1.5), attempt(), 0.0) == 6.0


def test_an_unknown_target_that_was_slow_has_twice_its_slowest():
    """A model that thinks long is not sick."""
    assert late_after(Hedge(cold=1.5), attempt(9.0, times=1), 0.0) == 18.0


def test_without_hedging_the_cold_delay_is_the_default():
    """Health is watched all the same."""
    assert late_after(None, attempt(), 0.0) == 4 * Hedge().cold


# -- what is due ----------------------------------------------------------------------------------


def under_way(**fields: Any) -> Attempt:
    """An attempt that was sent at 100, with all limits."""
    found = attempt(first_text=15.0, chunk_gap=10.0, answer=600.0)
    found.started = found.last_chunk = 100.0
    for name, value in fields.items():
        setattr(found, name, value)
    return found


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({}, 115.0),
        ({"hedge_at": 102.0, "late_at": 108.0}, 102.0),
        ({"late_at": 101.0, "hedge_at": 102.0}, 101.0),
        ({"first_text": 101.0, "last_chunk": 104.0}, 114.0),
        ({"first_text": 101.0, "last_chunk": 699.0}, 700.0),
        ({"first_text": 101.0, "last_chunk": inf}, 700.0),
        ({"first_text": 101.0, "hedge_at": 102.0, "late_at": 103.0}, 110.0),
        ({"suspect": True}, 700.0),
    ],
)
def test_the_next_of_its_limits_is_due(fields, at):
    """Before the text: hedge, judgement, first text; then the gap; of a suspect only the whole."""
    assert due(under_way(**fields)) == at


def test_without_limits_nothing_is_ever_due():
    """Only the deadline ends it."""
    assert due(attempt(first_text=None, chunk_gap=None, answer=None)) == inf

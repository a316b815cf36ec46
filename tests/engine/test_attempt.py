"""Delays of hedges, lateness, and when an attempt's limits are reached."""

from __future__ import annotations

from math import inf

import pytest

from langchain_resilient import AttemptKind, Hedge, TimeLimits
from langchain_resilient.engine.attempt import Attempt, Candidate
from langchain_resilient.engine.limits import (
    MIN_HEDGE_DELAY,
    MIN_LATE_SECONDS,
    hedge_delay,
    late_after,
    next_limit_at,
    text_limit,
)
from langchain_resilient.engine.target_speed import ENOUGH_SAMPLES
from tests.engine.states import known, state

NONE = TimeLimits(first_text=None, chunk_gap=None, answer=None)


def attempt(target=None, limits: TimeLimits = NONE) -> Attempt:
    sent = Attempt(1, Candidate(0, target or state(), limits), AttemptKind.PRIMARY, 100.0)
    sent.text_limit = text_limit(sent, 100.0)
    return sent


def spoken(limits: TimeLimits) -> Attempt:
    """One that spoke after a second, and again after three."""
    sent = attempt(limits=limits)
    sent.first_text, sent.last_chunk = 101.0, 103.0
    return sent


def test_a_number_is_a_fixed_delay():
    """Whatever was learned of the target."""
    assert hedge_delay(Hedge(delay=1.5), attempt(known(0.1)), 100.0) == 1.5


def test_a_cold_target_has_the_cold_delay():
    """One sample less than enough."""
    target = known(0.1, count=ENOUGH_SAMPLES - 1)
    assert hedge_delay(Hedge(cold=3.0), attempt(target), 100.0) == 3.0


@pytest.mark.parametrize(("budget", "share"), [(0.05, 0.955), (0.5, 0.55), (1.0, 0.1)])
def test_a_learned_delay_is_the_percentile_that_the_budget_pays_for(budget, share):
    """All but nine tenths of the budget have spoken by then."""
    target = state()
    for i in range(1, 1001):
        target.speed.first_texts.add(i / 200, 0.0)
    delay = hedge_delay(Hedge(budget=budget), attempt(target), 100.0)
    assert delay == pytest.approx(5 * share, rel=0.03)


def test_a_learned_delay_is_not_too_short():
    """Our own loop may be busy for as long."""
    assert hedge_delay(Hedge(), attempt(known(0.002)), 100.0) == MIN_HEDGE_DELAY


def test_who_thinks_for_a_minute_is_late_after_more():
    """There is no longest delay: what is usual for a target is not late."""
    assert hedge_delay(Hedge(), attempt(known(60.0)), 100.0) >= 60.0


def test_a_learned_delay_is_at_most_half_of_the_limit():
    """The hedge must have time to speak before the first is given up."""
    sent = attempt(known(5.0), TimeLimits(first_text=4.0))
    assert hedge_delay(Hedge(), sent, 100.0) == 2.0


@pytest.mark.parametrize(("hedge", "seconds"), [(Hedge(cold=1.0), 4.0), (None, 8.0)])
def test_an_unknown_target_is_late_after_four_times_the_cold_delay(hedge, seconds):
    """The default one where nothing is hedged."""
    assert late_after(hedge, attempt(), 100.0) == seconds


def test_nobody_is_late_within_a_quarter_of_a_second():
    """Our own loop may have been busy."""
    assert late_after(Hedge(), attempt(known(0.01)), 100.0) == MIN_LATE_SECONDS


def test_without_limits_nothing_is_due():
    """Not ever."""
    assert next_limit_at(attempt()) == inf


@pytest.mark.parametrize("name", ["hedge_at", "late_at"])
def test_before_its_first_text_a_delay_is_due(name):
    """That of the hedge, or that of the judge."""
    sent = attempt(limits=TimeLimits(first_text=15.0))
    setattr(sent, name, 102.0)
    assert next_limit_at(sent) == 102.0


@pytest.mark.parametrize("limits", [TimeLimits(first_text=7.0), TimeLimits(answer=7.0)])
def test_before_its_first_text_a_limit_is_due(limits):
    """That of the first text, or that of the answer where it is shorter."""
    assert next_limit_at(attempt(limits=limits)) == 107.0


def test_after_its_first_text_the_gap_is_due():
    """Counted from its last chunk."""
    assert next_limit_at(spoken(TimeLimits(chunk_gap=10.0))) == 113.0


def test_after_its_first_text_no_delay_is_due():
    """What has spoken is neither hedged nor judged."""
    sent = spoken(NONE)
    sent.hedge_at = sent.late_at = 102.0
    assert next_limit_at(sent) == inf


def test_while_our_own_reader_holds_it_up_no_gap_is_due():
    """Only the answer's limit counts."""
    sent = spoken(TimeLimits(chunk_gap=10.0, answer=60.0))
    sent.last_chunk = inf
    assert next_limit_at(sent) == 160.0


def test_of_a_suspect_only_the_answers_limit_is_due():
    """It was given up on for the others already."""
    sent = attempt(limits=TimeLimits(first_text=1.0, answer=60.0))
    sent.timed_out, sent.hedge_at, sent.late_at = True, 102.0, 103.0
    assert next_limit_at(sent) == 160.0

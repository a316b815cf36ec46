"""What a target's state learns of its speed, and what teaches it nothing."""

from __future__ import annotations

from collections import deque

import pytest

from langchain_resilient.engine.target_state import (
    ENOUGH_SAMPLES,
    HELD_SECONDS,
    SLOW_PROBES,
    TargetState,
)
from langchain_resilient.engine.time_model import LatencyHistogram
from tests.engine.states import TRIP_AFTER, fail, known, silence, state, tripped


def quantile(target: TargetState, now: float, q: float = 0.95) -> float | None:
    return target.percentile(q, now, plain=False)


def test_too_few_samples_teach_no_percentile():
    """One less than enough."""
    assert quantile(known(count=ENOUGH_SAMPLES - 1), 1.0) is None


def test_a_percentile_is_known_from_enough_samples():
    """Within the histogram's step."""
    assert quantile(known(0.5), 1.0) == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize(("after", "found"), [(0.9, 0.5), (1.0, 4.0)])
def test_a_percentile_is_a_second_old_at_most(after, found):
    """Before that it is not worked out anew."""
    target = known(0.5)
    quantile(target, 0.0)
    for _ in range(10 * ENOUGH_SAMPLES):
        target.first_texts.add(4.0, 0.0)
    assert quantile(target, after) == pytest.approx(found, rel=0.03)


def test_a_percentile_that_all_samples_miss_stays_what_it_was():
    """Closed early, losers hide the tail, but it was known before."""
    target = known(0.5)
    quantile(target, 0.0)
    target.first_texts = LatencyHistogram()
    for _ in range(ENOUGH_SAMPLES):
        target.first_texts.add(0.1, 2.0, censored=True)
    assert quantile(target, 2.0) == pytest.approx(0.5, rel=0.03)


def test_whole_answers_are_learned_apart():
    """They take longer than first texts."""
    assert known(0.5).percentile(0.95, 1.0, plain=True) is None


def test_an_unknown_target_is_late_after_four_times_the_cold_delay():
    """A model that nobody has seen may think."""
    assert state().late_after(0.0, plain=False, cold=2.0) == 8.0


def test_an_unknown_target_is_late_after_twice_its_slowest_text():
    """Where that is longer."""
    assert known(6.0, count=1).late_after(0.0, plain=False, cold=2.0) == 12.0


def test_a_known_target_is_late_after_its_95th_percentile():
    """A fifth over it, whatever the cold delay is."""
    late = known(0.5).late_after(1.0, plain=False, cold=2.0)
    assert late == pytest.approx(0.6, rel=0.03)


def test_a_sample_is_held_back_for_a_while():
    """It does not count yet when it comes."""
    target = known()
    target.record_first_text(9.0, 10.0, plain=False, late=True)
    assert target.first_texts.slowest == 0.5


def test_a_held_sample_counts_after_a_while():
    """The next sample lets it in."""
    target = known()
    target.record_first_text(9.0, 10.0, plain=False, late=True)
    target.record_first_text(0.5, 10.0 + HELD_SECONDS, plain=False, late=False)
    assert target.first_texts.slowest == 9.0


@pytest.mark.parametrize("how", ["late", "failed"])
def test_held_samples_are_dropped_at_a_trip(how):
    """They were of its sickness."""
    target = known()
    target.record_first_text(9.0, 10.0, plain=False, late=True)
    if how == "late":
        silence(target)
    else:
        for _ in range(TRIP_AFTER):
            fail(target, now=10.0)
    target.record_first_text(0.5, 20.0, plain=False, late=False)
    assert target.first_texts.slowest == 0.5


def test_what_comes_late_from_a_tripped_target_teaches_nothing():
    """It too was of its sickness."""
    target = known()
    silence(target, now=10.0)
    target.record_first_text(9.0, 14.0, plain=False, late=True)
    target.record_first_text(0.5, 14.0 + HELD_SECONDS, plain=False, late=False)
    assert target.first_texts.slowest == 0.5


def test_a_trip_in_another_thread_does_not_break_the_sample_beside_it():
    """It may be lost, but the request goes on."""

    class TrippedMeanwhile(deque):
        def append(self, sample):
            super().append(sample)
            self.clear()

    target = known()
    target._held_samples = TrippedMeanwhile()
    target.record_first_text(0.5, 10.0, plain=False, late=False)


def test_a_loser_teaches_how_long_it_took_at_least():
    """As one censored sample."""
    target = state()
    target.record_lost(1.0, 1.0, plain=False)
    assert (target.first_texts.count, target.first_texts.slowest) == (1.0, 0.0)


def test_losers_of_a_silent_target_teach_nothing():
    """That it says nothing is no measure of its speed."""
    target = tripped()
    target.record_lost(1.0, 11.0, plain=False)
    assert target.first_texts.count == 0


@pytest.mark.parametrize(("probes", "out"), [(SLOW_PROBES - 1, True), (SLOW_PROBES, False)])
def test_many_slow_probes_show_that_it_became_slower(probes, out):
    """From the fortieth on it is believed."""
    target = tripped()
    for i in range(probes):
        target.record_probe(3.0, 20.0 + i, plain=False, good=1.0)
    assert target.circuit_breaker.tripped is out


def test_after_slow_probes_its_speed_is_theirs():
    """What it was before is forgotten."""
    target = silence(known(0.5))
    quantile(target, 20.0)
    for _ in range(SLOW_PROBES):
        target.record_probe(3.0, 20.0, plain=False, good=1.0)
    assert quantile(target, 20.0) == pytest.approx(3.0, rel=0.03)


@pytest.mark.parametrize("seconds", [None, 0.5])
def test_slow_probes_must_be_in_a_row(seconds):
    """One that failed, or was good, starts the count again."""
    target = tripped()
    for i in range(SLOW_PROBES):
        target.record_probe(seconds if i == 5 else 3.0, 20.0, plain=False, good=1.0)
    assert target.circuit_breaker.tripped

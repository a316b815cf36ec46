"""The sequential test: what trips a target, and what heals it."""

from __future__ import annotations

from random import Random

import pytest

from langchain_resilient.engine.circuit_breaker import (
    HEALTHY_SLOW_SHARE,
    MAX_PROBE_SECONDS,
    NO_TRIP_SECONDS,
    PROBE_AGAIN,
    PROBE_EXPIRY,
    PROBE_SECONDS,
    PROBES_TO_RECOVER,
    CircuitBreaker,
)

TRIP_AFTER = 5


def late(
    breaker: CircuitBreaker, count: int, now: float = 0.0, trip_after: int = TRIP_AFTER
) -> list[bool]:
    return [breaker.record_slow(now, trip_after) for _ in range(count)]


def tripped(now: float = 0.0) -> CircuitBreaker:
    breaker = CircuitBreaker()
    late(breaker, TRIP_AFTER, now)
    return breaker


def next_probe(breaker: CircuitBreaker, now: float) -> float:
    """Seconds from now until a probe is claimed, in steps of a quarter of a second."""
    for step in range(1000):
        if breaker.claim_probe(now + step / 4):
            return step / 4
    raise AssertionError("no probe at all")


@pytest.mark.parametrize("trip_after", [2, 5, 8])
def test_so_many_late_in_a_row_trip_it(trip_after):
    """The last of them says so, and only it."""
    assert late(CircuitBreaker(), trip_after, trip_after=trip_after) == [False] * (
        trip_after - 1
    ) + [True]


def test_three_failures_in_a_row_trip_it():
    """A failure is stronger evidence than lateness."""
    breaker = CircuitBreaker()
    assert [breaker.record_slow(0.0, TRIP_AFTER, failed=True) for _ in range(3)] == [
        False,
        False,
        True,
    ]


def test_a_good_one_undoes_part_of_a_late_one():
    """Four late, one good and two more late trip it."""
    breaker = CircuitBreaker()
    late(breaker, 4)
    breaker.record_fast(started=0.0)
    assert late(breaker, 2) == [False, True]


def test_many_good_ones_are_no_store_of_trust():
    """After a thousand good ones five late ones still trip it."""
    breaker = CircuitBreaker()
    for _ in range(1000):
        breaker.record_fast(started=0.0)
    assert late(breaker, TRIP_AFTER)[-1]


def test_a_healthy_share_of_late_ones_never_trips():
    """One hundred thousand requests of which five in a hundred are late, independently."""
    breaker, rng = CircuitBreaker(), Random(7)
    for i in range(100_000):
        if rng.random() < HEALTHY_SLOW_SHARE:
            breaker.record_slow(float(i), TRIP_AFTER)
        else:
            breaker.record_fast(started=float(i))
    assert breaker.trips == 0


def test_a_sick_share_of_late_ones_trips_within_fifty():
    """Seven late in ten, in every of a hundred sequences."""
    for seed in range(100):
        breaker, rng = CircuitBreaker(), Random(seed)
        for _ in range(50):
            if rng.random() < 0.7:
                breaker.record_slow(0.0, TRIP_AFTER)
            else:
                breaker.record_fast(started=0.0)
        assert breaker.tripped, seed


def test_more_lateness_while_tripped_is_no_second_trip():
    """One bout is counted once."""
    breaker = tripped()
    late(breaker, 20)
    assert breaker.trips == 1


def test_an_answer_to_what_was_sent_before_the_trip_does_not_heal():
    """However many of them come."""
    breaker = tripped(now=10.0)
    for _ in range(10 * PROBES_TO_RECOVER):
        breaker.record_fast(started=9.0)
    assert breaker.tripped


def test_answers_to_what_was_sent_after_the_trip_heal():
    """An ordinary request that is answered in time is as good as a probe."""
    breaker = tripped(now=10.0)
    for _ in range(PROBES_TO_RECOVER):
        breaker.record_fast(started=11.0)
    assert not breaker.tripped


def test_a_healthy_target_is_not_probed():
    """A probe costs money."""
    assert not CircuitBreaker().claim_probe(1e6)


def test_the_first_probe_waits():
    """Nothing is sent in the first second after the trip."""
    assert next_probe(tripped(), 0.0) == PROBE_SECONDS


def test_bad_probes_come_at_doubling_waits():
    """Up to the most."""
    breaker, now, waits = tripped(), 0.0, []
    for _ in range(8):
        waits.append(next_probe(breaker, now))
        now += waits[-1]
        breaker.record_probe(now, well=False)
    assert waits == [1, 1, 2, 4, 8, 16, MAX_PROBE_SECONDS, MAX_PROBE_SECONDS]


def test_only_one_probe_is_under_way():
    """Until its outcome is known nobody else gets one."""
    breaker = tripped()
    assert breaker.claim_probe(1.0)
    assert not any(breaker.claim_probe(1.0 + i) for i in range(50))


def test_an_ordinary_answer_allows_no_second_probe_beside_the_first():
    """The first one's outcome is not known yet."""
    breaker = tripped()
    assert breaker.claim_probe(1.0)
    breaker.record_fast(started=1.0)
    assert not breaker.claim_probe(1.5 + PROBE_AGAIN)


def test_after_a_good_probe_the_next_comes_soon():
    """Whatever the backoff was."""
    breaker = tripped()
    for _ in range(6):
        breaker.record_probe(0.0, well=False)
    breaker.record_probe(1.0, well=True)
    assert next_probe(breaker, 1.0) == PROBE_AGAIN


@pytest.mark.parametrize(
    ("good", "out"), [(PROBES_TO_RECOVER - 1, True), (PROBES_TO_RECOVER, False)]
)
def test_three_good_probes_recover_it(good, out):
    """Two do not."""
    breaker = tripped()
    for _ in range(good):
        breaker.record_probe(1.0, well=True)
    assert breaker.tripped is out


def test_a_bad_probe_starts_the_count_again():
    """The three must be in a row."""
    breaker = tripped()
    for well in (True, True, False, True, True):
        breaker.record_probe(1.0, well=well)
    assert breaker.tripped


def test_recovered_by_probes_it_has_a_clean_record():
    """It takes all five again to trip it."""
    breaker = tripped()
    for _ in range(PROBES_TO_RECOVER):
        breaker.record_probe(1.0, well=True)
    assert late(breaker, TRIP_AFTER) == [False] * 4 + [True]


def test_the_outcome_of_a_probe_that_came_too_late_is_nothing():
    """It recovered meanwhile; a bad probe does not trip it again."""
    breaker = CircuitBreaker()
    breaker.record_probe(1.0, well=False)
    assert not breaker.tripped


def test_a_probe_that_we_stopped_ourselves_was_none():
    """The next request may probe at once, and the wait does not grow."""
    breaker = tripped()
    for _ in range(5):
        assert breaker.claim_probe(PROBE_SECONDS + 0.1)
        breaker.abandon_probe()
    assert breaker.claim_probe(PROBE_SECONDS + 0.1)
    breaker.record_probe(2.0, well=False)
    assert next_probe(breaker, 2.0) == PROBE_SECONDS


def test_stopped_by_us_for_a_minute_it_is_on_trial():
    """Where each request has a loop of its own, which ends with it, no probe ever ends."""
    breaker = tripped()
    now = PROBE_SECONDS + 0.1
    while breaker.claim_probe(now):
        breaker.abandon_probe()
        now += 1.0
    assert not breaker.tripped
    assert now == pytest.approx(PROBE_SECONDS + PROBE_EXPIRY, abs=1.5)
    breaker.abandon_probe()
    assert not breaker.tripped


def test_unprobed_for_a_minute_it_is_on_trial():
    """Nobody came by to probe: the next request simply tries it."""
    breaker = tripped()
    breaker.claim_probe(PROBE_SECONDS + PROBE_EXPIRY + 0.1)
    assert not breaker.tripped


def test_being_forgotten_sends_no_probe():
    """The request that found it so is its test."""
    assert not tripped().claim_probe(PROBE_SECONDS + PROBE_EXPIRY + 0.1)


def test_on_trial_two_late_ones_trip_it():
    """Not one, and not five."""
    breaker = tripped()
    breaker.claim_probe(PROBE_SECONDS + PROBE_EXPIRY + 0.1)
    assert late(breaker, 2, now=100.0) == [False, True]


def test_believed_it_is_on_trial():
    """What became slower for good gets no clean record."""
    breaker = tripped()
    breaker.recover_on_trial()
    assert late(breaker, 2, now=2.0) == [False, True]


@pytest.mark.parametrize(
    ("again", "wait"), [(PROBE_EXPIRY - 1, 4.0), (PROBE_EXPIRY + 1, PROBE_SECONDS)]
)
def test_a_quick_second_trip_keeps_the_backoff(again, wait):
    """One that trips again a minute after the first trip starts from the shortest wait."""
    breaker = tripped()
    for well in (False, False, True, True, True):
        breaker.record_probe(1.0, well=well)
    late(breaker, TRIP_AFTER, now=again)
    assert next_probe(breaker, again) == wait


@pytest.mark.parametrize(
    ("after", "trips"), [(NO_TRIP_SECONDS - 0.1, False), (NO_TRIP_SECONDS, True)]
)
def test_nothing_trips_for_a_while_after_a_panic(after, trips):
    """Not in the first thirty seconds, but from then on."""
    breaker = tripped()
    breaker.reset(0.0)
    late(breaker, TRIP_AFTER, now=after)
    assert breaker.tripped is trips


def test_what_was_late_while_muted_is_no_evidence_later():
    """The one late request after it starts from nothing."""
    breaker = CircuitBreaker()
    breaker.reset(0.0)
    late(breaker, 10, now=1.0)
    late(breaker, TRIP_AFTER - 1, now=NO_TRIP_SECONDS + 1)
    assert not breaker.tripped

"""The sequential test for sickness, and the way back to health."""

from __future__ import annotations

from random import Random

import pytest

from langchain_resilient.engine.watch import (
    FORGOTTEN,
    MUTED,
    NORMAL,
    PROBE_AGAIN,
    PROBES_WELL,
    Watch,
)

TRIP_AFTER = 5


def tripped(now: float = 0.0) -> Watch:
    """One that five late requests have tripped."""
    watch = Watch()
    for _ in range(TRIP_AFTER):
        watch.slow(now, TRIP_AFTER)
    assert watch.tripped
    return watch


def slow(watch: Watch, count: int, *, failed: bool = False) -> int:
    """So many in a row; returns which one trips it, or 0."""
    trips = [watch.slow(0.0, TRIP_AFTER, failed=failed) for _ in range(count)]
    return trips.index(True) + 1 if True in trips else 0


# -- tripping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("trip_after", [2, 3, 5, 8])
def test_so_many_late_ones_in_a_row_trip_it(trip_after):
    """As many as the policy says, and none sooner."""
    watch = Watch()
    found = [watch.slow(0.0, trip_after) for _ in range(trip_after)]
    assert found == [False] * (trip_after - 1) + [True]
    assert watch.tripped


def test_three_failures_in_a_row_trip_it():
    """A healthy target hardly ever fails: that weighs more than lateness."""
    assert slow(Watch(), 3, failed=True) == 3


def test_a_good_one_undoes_about_half_of_a_late_one():
    """Alternating late and good requests are a sick target too, if they go on."""
    watch = Watch()
    slow(watch, 4)
    watch.fast(0.0, started=0.0)
    assert slow(watch, 2) == 2


def test_good_ones_are_not_saved_up():
    """A long time of health does not hide that it has just fallen sick."""
    watch = Watch()
    for _ in range(1000):
        watch.fast(0.0, started=0.0)
    assert slow(watch, 10) == TRIP_AFTER


def test_scattered_late_ones_never_trip_it():
    """A hundred thousand requests of a healthy target, 5 % of them late."""
    watch, rng, trips = Watch(), Random(5), 0
    for i in range(100_000):
        if rng.random() < NORMAL:
            trips += watch.slow(float(i), TRIP_AFTER)
        else:
            watch.fast(float(i), started=float(i))
        if watch.tripped:
            watch = Watch()
    assert trips == 0


def test_a_sick_one_is_found_within_a_dozen_requests():
    """Of requests that are late seven times in ten: the case that the test is made for."""
    rng, took = Random(6), []
    for _ in range(200):
        watch, count = Watch(), 0
        while not watch.tripped:
            count += 1
            if rng.random() < 0.7:
                watch.slow(0.0, TRIP_AFTER)
            else:
                watch.fast(0.0, started=0.0)
        took.append(count)
    assert sum(took) / len(took) < 12


def test_it_trips_once():
    """Further late ones are no news."""
    watch = tripped()
    assert slow(watch, 10) == 0
    assert watch.trips == 1


def test_it_remembers_when_it_tripped():
    """For statistics, and to tell old answers from new ones."""
    assert tripped(now=7.0).tripped_at == 7.0


# -- probes ---------------------------------------------------------------------------------------


def next_probe(watch: Watch, now: float) -> float:
    """When it may be probed next, to the tenth of a second; the probe is claimed."""
    step = 0
    while not watch.claim_probe(now + step / 10):
        step += 1
        assert step < 10 * FORGOTTEN, "no probe"
    return now + step / 10


def test_bad_probes_come_ever_more_rarely():
    """After 1, 1, 2, 4, ... 30 seconds, however long it lasts."""
    watch, now, waits = tripped(), 0.0, []
    for _ in range(8):
        at = next_probe(watch, now)
        waits.append(at - now)
        now = at
        watch.probed(now, well=False)
    assert waits == pytest.approx([1.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0], abs=0.1)


def test_there_is_one_probe_at_a_time():
    """Who asks first is the one to do it; while nothing is known of it there is no second."""
    watch = tripped()
    assert watch.claim_probe(1.0)
    assert not any(watch.claim_probe(now) for now in (1.0, 5.0, 30.0, 60.9))


def test_a_probe_that_never_comes_back_is_replaced():
    """Its caller may have died with its loop."""
    watch = tripped()
    assert watch.claim_probe(1.0)
    assert watch.claim_probe(1.0 + FORGOTTEN)


def test_a_healthy_target_is_not_probed():
    """Ordinary requests show how it is."""
    assert not Watch().claim_probe(1e6)


def test_three_good_probes_and_it_is_well():
    """Half a second apart."""
    watch, now = tripped(), 1.0
    for left in reversed(range(PROBES_WELL)):
        assert watch.claim_probe(now)
        watch.probed(now, well=True)
        assert watch.tripped == (left > 0)
        now += PROBE_AGAIN


def test_a_bad_probe_between_begins_the_count_anew():
    """Only three in a row are believed."""
    watch = tripped()
    for well in (True, True, False, True, True):
        watch.probed(1.0, well=well)
        assert watch.tripped
    watch.probed(1.0, well=True)
    assert not watch.tripped


def test_an_ordinary_request_that_is_answered_counts_as_a_good_probe():
    """One that was sent since the trip."""
    watch = tripped(now=10.0)
    for _ in range(PROBES_WELL):
        watch.fast(12.0, started=11.0)
    assert not watch.tripped


def test_an_answer_to_a_request_from_before_the_trip_proves_nothing():
    """It was sent while the target may still have been well."""
    watch = tripped(now=10.0)
    for _ in range(10):
        watch.fast(12.0, started=9.0)
    assert watch.tripped


def test_after_recovery_it_takes_a_whole_trip_again():
    """Nothing is held against one that proved itself."""
    watch = tripped()
    for _ in range(PROBES_WELL):
        watch.probed(1.0, well=True)
    assert slow(watch, 10) == TRIP_AFTER


def test_one_that_trips_again_and_again_is_probed_no_more_often_for_that():
    """A flapping target keeps its long wait."""
    watch = tripped()
    for _ in range(4):
        watch.probed(1.0, well=False)
    for _ in range(PROBES_WELL):
        watch.probed(20.0, well=True)
    for _ in range(TRIP_AFTER):
        watch.slow(30.0, TRIP_AFTER)
    assert next_probe(watch, 30.0) == pytest.approx(46.0, abs=0.1)


def test_a_probe_of_a_healthy_target_is_no_news():
    """It recovered meanwhile by other evidence."""
    watch = Watch()
    watch.probed(1.0, well=False)
    assert not watch.tripped


# -- forgotten, believed, calmed ------------------------------------------------------------------


def test_a_forgotten_trip_is_on_trial():
    """Nobody came by for a minute: the next request tries it, and two late ones take it out."""
    watch = tripped()
    assert not watch.claim_probe(1.0 + FORGOTTEN + 0.1)
    assert not watch.tripped
    assert slow(watch, 5) == 2


def test_one_that_is_believed_is_on_trial():
    """Without a good probe one cannot tell."""
    watch = tripped()
    watch.believe()
    assert not watch.tripped
    assert slow(watch, 5) == 2


def test_after_a_panic_nothing_trips_for_half_a_minute():
    """All targets were out, so lateness says nothing of this one."""
    watch = tripped()
    watch.calm(100.0)
    assert not watch.tripped
    assert not any(watch.slow(100.0 + MUTED - 0.1, TRIP_AFTER) for _ in range(20))


def test_what_was_late_while_muted_does_not_count_afterwards():
    """The count begins when the half minute is over."""
    watch = tripped()
    watch.calm(100.0)
    for _ in range(20):
        watch.slow(110.0, TRIP_AFTER)
    trips = [watch.slow(100.0 + MUTED, TRIP_AFTER) for _ in range(TRIP_AFTER)]
    assert trips == [False] * (TRIP_AFTER - 1) + [True]

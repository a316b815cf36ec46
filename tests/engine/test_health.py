"""When a target is sick, silent, or down, who is told, and what a panic is."""

from __future__ import annotations

import pytest

from langchain_resilient import FaultKind
from langchain_resilient.engine.circuit_breaker import NO_TRIP_SECONDS
from langchain_resilient.engine.target_state import (
    DOWN_AFTER,
    DOWN_SECONDS,
    LONG_SILENCE_SECONDS,
    SILENT_AFTER,
    reset_if_all_tripped,
)
from tests.engine.states import TRIP_AFTER, fail, silence, state, tripped


@pytest.mark.parametrize(
    ("kind", "count"), [(FaultKind.SERVER, 3), (FaultKind.TIMEOUT, 5), (FaultKind.EMPTY, None)]
)
def test_failures_of_the_target_trip_it(kind, count):
    """Three that failed, five that only took long, none of those that blame the request."""
    target = state()
    tripped_at = []
    for i in range(1, 11):
        fail(target, kind)
        if target.circuit_breaker.tripped:
            tripped_at.append(i)
    assert (tripped_at[0] if tripped_at else None) == count


def test_this_process_never_trips():
    """There is no network that could have died."""
    target = state(in_process=True)
    silence(target)
    for _ in range(10):
        fail(target)
    assert not target.circuit_breaker.tripped


def test_without_a_judge_nothing_trips():
    """`health=None` asks for that."""
    target = state()
    for _ in range(10):
        fail(target, trip_after=0)
    assert not target.circuit_breaker.tripped


@pytest.mark.parametrize(("late", "silent"), [(SILENT_AFTER - 1, False), (SILENT_AFTER, True)])
def test_five_late_ones_without_any_answer_are_silence(late, silent):
    """Four are not."""
    target = state()
    for _ in range(late):
        target.record_late(10.0, TRIP_AFTER, started=5.0)
    assert target.silent is silent


@pytest.mark.parametrize(("seconds", "silent"), [(6.0, True), (4.0, False)])
def test_an_answer_to_who_asked_later_ends_the_silence(seconds, silent):
    """One to who asked before says nothing."""
    target = tripped()
    target.record_first_text(seconds, 10.0, plain=False, late=True)
    assert target.silent is silent


@pytest.mark.parametrize(
    ("after", "long_silent"), [(LONG_SILENCE_SECONDS, False), (LONG_SILENCE_SECONDS + 0.1, True)]
)
def test_silent_for_a_while_it_is_passed_by_for_rescues(after, long_silent):
    """Counted from its last text to anybody."""
    target = tripped()
    target.record_first_text(6.0, 10.0, plain=False, late=True)
    assert target.long_silent(10.0 + after) is long_silent


def test_who_is_caught_is_told_once_when_it_is_silent():
    """Not again for each late one after that."""
    target, told = state(), []
    target.waiting["request"] = lambda: told.append("told")
    silence(silence(target))
    assert told == ["told"]


def test_who_is_caught_is_not_told_of_a_slow_target_that_answers():
    """If all are slow, asking elsewhere only adds load."""
    target, told = state(), []
    target.waiting["request"] = lambda: told.append("told")
    target.record_first_text(1.0, 8.0, plain=False, late=True)
    silence(target, started=5.0)
    assert (target.circuit_breaker.tripped, told) == (True, [])


def test_who_is_caught_is_told_when_it_comes_back():
    """Once more, by the first answer to who asked later."""
    target, told = tripped(), []
    target.waiting["request"] = lambda: told.append("told")
    for _ in range(3):
        target.record_first_text(1.0, 20.0, plain=False, late=False)
    assert told == ["told"]


def test_its_return_dates_from_when_the_answered_request_was_sent():
    """What was sent before that is lost."""
    target = tripped()
    target.record_first_text(1.0, 20.0, plain=False, late=False)
    assert target.answering_since == 19.0


def test_late_requests_after_its_return_are_no_silence_yet():
    """It takes five that were sent after the last answered one."""
    target = tripped()
    target.record_first_text(1.0, 20.0, plain=False, late=False)
    for _ in range(SILENT_AFTER - 1):
        target.record_late(25.0, TRIP_AFTER, started=21.0)
    assert not target.silent


def test_a_second_silence_tells_again():
    """After its return the alarm is armed anew."""
    target = tripped()
    target.record_first_text(1.0, 20.0, plain=False, late=False)
    told = []
    target.waiting["request"] = lambda: told.append("told")
    silence(target, now=30.0, started=25.0)
    assert told == ["told"]


def test_in_panic_those_that_spoke_lately_are_believed():
    """And only they."""
    speaking, quiet = tripped(), tripped()
    speaking.last_text_at = 20.0
    reset_if_all_tripped([speaking, quiet], 50.0)
    assert (speaking.circuit_breaker.tripped, quiet.circuit_breaker.tripped) == (False, True)


def test_in_panic_all_are_believed_if_none_spoke_lately():
    """Thirty seconds and more ago is too long."""
    states = [tripped(), tripped()]
    states[0].last_text_at = 19.9
    reset_if_all_tripped(states, 50.0)
    assert [s.circuit_breaker.tripped for s in states] == [False, False]


@pytest.mark.parametrize(
    ("after", "trips"), [(NO_TRIP_SECONDS - 1, False), (NO_TRIP_SECONDS + 1, True)]
)
def test_after_a_panic_nothing_trips_for_a_while(after, trips):
    """All were out, so lateness says nothing of one."""
    target = tripped()
    reset_if_all_tripped([target], 50.0)
    silence(target, now=50.0 + after, started=50.0)
    assert target.circuit_breaker.tripped is trips


@pytest.mark.parametrize(("failures", "down"), [(DOWN_AFTER - 1, False), (DOWN_AFTER, True)])
def test_five_failures_in_a_row_are_down(failures, down):
    """Four are not."""
    target = state()
    for _ in range(failures):
        fail(target, now=10.0)
    assert target.down(11.0) is down


def test_one_that_is_down_is_asked_by_one_at_a_time():
    """After five seconds by the first who comes, and by the next five seconds later."""
    target = state()
    for _ in range(DOWN_AFTER):
        fail(target, now=10.0)
    seen = [target.down(10.0 + DOWN_SECONDS)]
    target.record_send(10.0 + DOWN_SECONDS)
    seen += [target.down(10.1 + DOWN_SECONDS), target.down(10.0 + 2 * DOWN_SECONDS)]
    assert seen == [False, True, False]


@pytest.mark.parametrize("who", ["request", "late request", "probe", "slow probe"])
def test_one_that_speaks_is_up(who):
    """To a request or to a probe, in time or late."""
    target = state()
    for _ in range(DOWN_AFTER):
        fail(target, now=10.0)
    if "probe" in who:
        target.record_probe(1.0, 11.0, plain=False, good=0.5 if "slow" in who else 2.0)
    else:
        target.record_first_text(1.0, 11.0, plain=False, late="late" in who)
    assert not target.down(11.0)


def test_a_probe_that_hears_nothing_leaves_it_down():
    """Nothing is no sign of life."""
    target = state()
    for _ in range(DOWN_AFTER):
        fail(target, now=10.0)
    target.record_probe(None, 11.0, plain=False, good=1.0)
    assert target.down(11.0)

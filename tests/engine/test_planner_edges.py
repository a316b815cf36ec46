"""What the state machine has found, each as short as it can be told."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from tenacity import stop_after_attempt, wait_fixed

from langchain_resilient import (
    AttemptKind,
    Fault,
    FaultKind,
    Hedge,
    Outcome,
    Retry,
    TimeLimits,
)
from langchain_resilient.engine.attempt import Attempt
from langchain_resilient.engine.interfaces import CallEnd
from tests.engine.planning import Bench, Call, Setup
from tests.engine.test_planner_machine import Planners

PATIENT = TimeLimits(first_text=None, chunk_gap=None, answer=None)


def fault(kind: FaultKind = FaultKind.SERVER, retry_after: float | None = None) -> Fault:
    return Fault(kind, kind.value, retry_after=retry_after)


def names(call: Call) -> list[str]:
    """Whom a call is asking."""
    return [attempt.candidate.state.name for attempt in call.open]


def first(call: Call) -> Attempt:
    return call.planner.attempts[0]


def drain(bench: Bench) -> None:
    """Spend all retry tokens."""
    while bench.budgets.retry.take():
        pass


@pytest.mark.parametrize("how", ["cancelled", "lost"])
def test_text_of_a_stopped_attempt_wins_nothing(how):
    """Its task may go on for a little, or for ever."""
    bench = Bench(Setup(hedge=Hedge(delay=1.0)))
    call = bench.begin()
    if how == "cancelled":
        bench.cancel(call)
    else:
        bench.now += 1.0
        bench.timer(call)
        bench.done(call, call.open[1])
    bench.stray(call, first(call), fault())
    assert call.planner.winner is not first(call)


@pytest.mark.parametrize("late", [0.0, 5.0])
def test_a_failure_at_the_deadline_sends_nothing_more(late):
    """The timer, which is about to end it, may come after."""
    bench = Bench(Setup(deadline=10.0, time_limits=PATIENT, hedge=None))
    call = bench.begin()
    bench.now += 10.0 + late
    bench.fail(call, first(call), fault())
    assert len(call.planner.attempts) == 1
    assert call.planner.wake_at <= bench.now


def test_a_token_that_comes_at_the_deadline_is_given_back():
    """It is of use to somebody else."""
    bench = Bench(Setup(deadline=10.0, time_limits=PATIENT, hedge=Hedge(delay=1.0, burst=1)))
    call = bench.begin()
    bench.now += 1.0
    bench.timer(call)
    assert bench.budgets.hedge.waiting
    bench.budgets.hedge.refill(bench.now, 1.0)
    bench.now += 9.0
    bench.wake(call)
    assert (len(call.open), bench.budgets.hedge.take()) == (1, True)


def test_what_breaks_a_delivered_answer_is_remembered():
    """The call is over, but the next one must keep to the hint."""
    bench = Bench(Setup())
    call = bench.begin(streaming=True)
    bench.text(call, first(call))
    bench.fail(call, first(call), fault(FaultKind.SERVER, retry_after=30.0))
    assert call.planner.end is CallEnd.BROKEN
    assert names(bench.begin()) == ["p1:m1"]


def test_if_another_thread_takes_the_last_place_the_next_target_is_asked():
    """Not waited for the one that is full."""
    bench = Bench(Setup(limits=[1, None]))
    bench.states[0].concurrency.thief = True
    assert names(bench.begin()) == ["p1:m1"]


def test_if_another_thread_takes_the_last_place_the_token_comes_back():
    """It was not spent."""
    bench = Bench(Setup(providers=[0], limits=[1], hedge=None, retry=Retry(wait=wait_fixed(0))))
    call = bench.begin()
    before = bench.budgets.retry.tokens
    bench.states[0].concurrency.thief = True
    bench.fail(call, first(call), fault())
    bench.check()
    assert (call.open, bench.budgets.retry.tokens) == ([], before)


@pytest.mark.parametrize("released", [False, True])
def test_if_another_thread_takes_the_place_for_a_hedge_only_a_paid_token_comes_back(released):
    """One that was let go without a token mints none."""
    bench = Bench(Setup(limits=[None, 1], hedge=Hedge(delay=1.0, budget=0.0)))
    budget = bench.budgets.hedge
    call = bench.begin()
    bench.now += 1.0
    bench.timer(call)
    if released:
        budget.release(bench.now)
    else:
        budget.refill(bench.now, 1.0)
    bench.states[1].concurrency.thief = True
    bench.wake(call)
    assert (len(call.open), budget.take()) == (1, not released)


def test_a_token_for_a_retry_is_not_spent_on_a_first_try():
    """A target that nobody has asked yet is free, and has become free meanwhile."""
    bench = Bench(Setup(retry=Retry(wait=wait_fixed(0)), hedge=None))
    bench.states[1].keys[0].not_before = bench.now + 0.5
    drain(bench)
    call = bench.begin()
    bench.fail(call, first(call), fault())
    bench.now += 0.6
    bench.budgets.retry.refill(bench.now)
    before = bench.budgets.retry.tokens
    bench.wake(call)
    assert (names(call), bench.budgets.retry.tokens) == (["p1:m1"], before + 1)


def test_who_waits_for_a_token_asks_a_target_that_opens_meanwhile():
    """A first try costs none."""
    bench = Bench(Setup(retry=Retry(wait=wait_fixed(0)), hedge=None))
    bench.states[1].keys[0].not_before = bench.now + 0.3
    drain(bench)
    bench.budgets.retry.rate = 0.0
    call = bench.begin()
    bench.fail(call, first(call), fault())
    assert call.planner.wake_at == bench.now + 0.3
    bench.now = call.planner.wake_at
    bench.timer(call)
    assert names(call) == ["p1:m1"]


def test_a_target_that_is_down_is_not_asked_beside_one_that_is_well():
    """It costs a retry token, which nobody asked for."""
    chain = {"providers": [0, 1, 2], "limits": [None] * 3}
    bench = Bench(Setup(**chain, hedge=Hedge(delay=1.0), health=None))
    for _ in range(5):
        bench.states[2].record_failure(fault(), bench.now, bench._rng, 0, 0)
    call = bench.begin()
    bench.now += 1.0
    bench.timer(call)
    bench.fail(call, first(call), fault())
    assert names(call) == ["p1:m1"]


def test_a_last_resort_that_cannot_stream_is_asked_plainly():
    """And is still the last resort: without limits, and called so in the receipt."""
    bench = Bench(Setup(providers=[0], last_resort=True))
    call = bench.begin()
    bench.fail(call, first(call), fault(FaultKind.NOT_FOUND))
    bench.fail(call, call.open[0], fault(FaultKind.NO_STREAMING))
    (again,) = call.open
    assert (again.kind, again.plain, again.late_at) == (AttemptKind.LAST_RESORT, True, inf)


def test_a_full_last_resort_is_waited_for():
    """As any target is: two calls with one local model."""
    bench = Bench(Setup(providers=[0], last_resort=True, last_limit=1))
    one, two = bench.begin(), bench.begin()
    for call in (one, two):
        bench.fail(call, first(call), fault(FaultKind.NOT_FOUND))
    assert (names(one), names(two), two.planner.end) == (["text"], [], None)
    bench.done(one, one.open[0])
    bench.wake(two)
    assert names(two) == ["text"]


def test_a_full_last_resort_is_looked_at_again_before_the_deadline():
    """Also if others are still under way, when its room comes free."""
    bench = Bench(
        Setup(providers=[0], last_resort=True, last_limit=1, reserve=10.0, time_limits=PATIENT)
    )
    call = bench.begin()
    assert bench.last is not None
    assert bench.last.concurrency.take()
    bench.now += 50.0
    bench.timer(call)
    bench.last.concurrency.give_back()
    assert bench.now < call.planner.wake_at < 160.0
    bench.now = call.planner.wake_at
    bench.timer(call)
    assert "text" in names(call)


def test_a_token_that_is_given_up_may_come_back_to_the_same_call():
    """Paid for a retry, it looks at a first try, which another thread takes: and waits again."""
    retry = Retry(wait=wait_fixed(0), burst=1)
    bench = Bench(Setup(limits=[None, 1], hedge=None, retry=retry))
    slots: Any = bench.states[1].concurrency
    bench.budgets.retry.tokens = 0.0
    assert slots.take()
    call = bench.begin()
    bench.fail(call, first(call), fault())
    assert names(call) == []
    slots.give_back()
    slots.taken.clear()
    bench.now += 1.0
    slots.thief = True
    bench.budgets.retry.refill(bench.now)
    bench.wake(call)
    bench.check()
    assert names(call) == []
    bench.wake(call)
    bench.check()
    assert [a.kind for a in call.open] == [AttemptKind.RETRY]


ONCE_EACH: dict[str, Any] = {
    "hedge": Hedge(delay=2.0, cold=2.0, burst=1),
    "health": None,
    "time_limits": TimeLimits(first_text=1.0, chunk_gap=10.0),
    "retry": Retry(stop=stop_after_attempt(1)),
    "deadline": 8.0,
    "last_resort": True,
    "learned": True,
}
"""Nobody is asked twice, so whatever costs a retry token is a mistake."""


def test_a_last_resort_that_an_answer_stopped_in_its_first_words_may_be_asked_again():
    """It did not fail, so that is no retry: no token is spent, and nobody is told of one."""
    bench = Bench(Setup(providers=[0], limits=[None], reserve=1.0, **ONCE_EACH))
    call = bench.begin()
    bench.now += 1.0
    bench.timer(call)  # too late for a first text: the last resort is asked beside it
    bench.now += 0.5
    bench.text(call, first(call))
    assert names(call) == ["p0:m0"]
    bench.now += 2.1
    bench.timer(call)  # it pauses
    bench.now = 107.0
    bench.timer(call)
    asked = [a for a in call.planner.attempts if a.kind is AttemptKind.LAST_RESORT]
    assert [a.outcome for a in asked] == [Outcome.LOST, None]
    assert [a.retry_state for a in asked] == [None, None]
    bench.check()
    assert bench.all_budgets[2].spent == 0


def test_last_resorts_that_were_stopped_are_asked_again_in_a_crowd():
    """Three calls, one place at the last target, and newcomers after the silence."""
    machine = Planners()
    machine.bench = bench = Bench(Setup(providers=[0, 0, 0], limits=[None, None, 1], **ONCE_EACH))
    machine.begin(count=2, streaming=False, follows=False)
    machine.silence(moments=4, backwards=False)
    bench.now += 1.001
    machine.text(which=0)
    machine.wave(first=1, moments=3, then=1)
    bench.check()
    asked = [a.outcome for a in bench.calls[0].planner.attempts if a.candidate.state is bench.last]
    assert asked[0] is Outcome.LOST
    assert len(asked) == 2
    bench.settle()
    assert bench.all_budgets[2].spent == 0


def test_a_last_resort_that_failed_is_not_asked_again():
    """Only one that was stopped is: by nobody's fault, once for each answer that begins."""
    bench = Bench(Setup(providers=[0], limits=[None], reserve=1.0, **ONCE_EACH))
    call = bench.begin()
    bench.now += 1.0
    bench.timer(call)
    bench.fail(call, call.open[1], fault())
    bench.text(call, first(call))
    bench.fail(call, first(call), fault())
    assert call.planner.end is CallEnd.EXHAUSTED
    assert [a.kind for a in call.planner.attempts].count(AttemptKind.LAST_RESORT) == 1

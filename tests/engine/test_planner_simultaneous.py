"""Events of one and the same instant, in every order: one end, one winner, nothing lost."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations
from typing import TYPE_CHECKING

import pytest

from langchain_resilient import Fault, FaultKind, Health, Hedge, Outcome, TimeLimits
from langchain_resilient.engine.attempt import Attempt
from langchain_resilient.engine.interfaces import CallEnd
from tests.engine.planning import Bench, Call, Setup

if TYPE_CHECKING:
    from collections.abc import Callable

CHAIN = {"providers": [0, 1, 2, 3], "limits": [None] * 4}
HEDGE = Hedge(delay=2.0, budget=1.0, max_parallel=3)
LIMITS = TimeLimits(first_text=6.0, chunk_gap=2.0, answer=60.0)
BROKEN = Fault(FaultKind.SERVER, "scripted")
LIMITED = Fault(FaultKind.RATE_LIMIT, "scripted", retry_after=1.0)
REFUSED = Fault(FaultKind.AUTH, "scripted")
WRONG = Fault(FaultKind.BAD_REQUEST, "scripted")


@dataclass
class Instant:
    """A bench at the moment in which everything happens, and one call there.

    Its attempts are known by letters, in the order in which they were sent.
    """

    bench: Bench
    call: Call
    others: list[Call] = field(default_factory=list)

    def attempt(self, letter: str) -> Attempt | None:
        """Find one by its letter, if it has been sent already."""
        attempts = self.call.planner.attempts
        position = "abc".index(letter)
        return attempts[position] if position < len(attempts) else None

    def happen(self, event: str) -> None:
        """Bring one event to the planner, as far as the driver still would.

        A stopped attempt is cancelled; what it had to say goes unheard. An attempt that failed, or
        was whole, says nothing more.
        """
        what, _, letter = event.partition(" ")
        if not letter:
            self._to_the_call(what)
        else:
            attempt = self.attempt(letter)
            if attempt is not None and attempt in self.call.open:
                self._to_an_attempt(what, attempt)
        self.bench.check()

    def _to_the_call(self, what: str) -> None:
        if what == "wake" and self.call.wakes:
            self.bench.wake(self.call)
        elif what == "timer" and not self.call.over:
            self.bench.timer(self.call)
        elif what == "cancel" and not self.call.over:
            self.bench.cancel(self.call)
        elif what == "newcomer":
            self.others.append(self.bench.begin())

    def _to_an_attempt(self, what: str, attempt: Attempt) -> None:
        faults = {"breaks": BROKEN, "limited": LIMITED, "refused": REFUSED, "wrong": WRONG}
        if what == "text":
            self.bench.text(self.call, attempt)
        elif what == "chunk":
            self.bench.chunk(self.call, attempt)
        elif what == "done":
            self.bench.done(self.call, attempt)
        else:
            self.bench.fail(self.call, attempt, faults[what])


def under_way(setup: Setup, *, streaming: bool = False, hedges: int = 0) -> Instant:
    """One call, with so many hedges sent at the moments at which they were due."""
    bench = Bench(setup)
    call = bench.begin(streaming=streaming)
    for _ in range(hedges):
        bench.now = call.planner.wake_at
        bench.timer(call)
    assert len(call.open) == 1 + hedges
    return Instant(bench, call)


def two_at_the_limit() -> Instant:
    """The first of two attempts has just reached its limit for the first text."""
    instant = under_way(Setup(**CHAIN, hedge=HEDGE, time_limits=LIMITS), hedges=1)
    instant.bench.now += 4.0
    return instant


def three_streams_at_the_deadline() -> Instant:
    """All that may be under way is, and time is up."""
    instant = under_way(
        Setup(**CHAIN, hedge=HEDGE, time_limits=LIMITS, deadline=5.0), streaming=True, hedges=2
    )
    instant.bench.now = instant.call.deadline
    return instant


def late_and_a_token_comes() -> Instant:
    """It found no token and waits; the token, the answer and a failure come together."""
    hedge = Hedge(delay=2.0, budget=0.5, burst=1, max_parallel=2)
    bench = Bench(Setup(**CHAIN, hedge=hedge, time_limits=LIMITS))
    bench.budgets.hedge.tokens = 0.0
    call = bench.begin()
    bench.now += 2.0
    bench.timer(call)
    assert bench.budgets.hedge.waiting
    return Instant(bench, call)


def a_stalled_answer() -> Instant:
    """The winner has paused for as long as it may, and another was asked before."""
    instant = under_way(Setup(**CHAIN, hedge=HEDGE, time_limits=LIMITS))
    (attempt,) = instant.call.open
    instant.bench.text(instant.call, attempt)
    instant.bench.now += 2.0
    instant.bench.timer(instant.call)
    instant.bench.now += 2.0
    assert attempt.timed_out
    assert len(instant.call.open) == 2
    return instant


def a_last_resort_is_due() -> Instant:
    """The reserve for it begins as the hedge fails."""
    setup = Setup(**CHAIN, hedge=HEDGE, time_limits=LIMITS, deadline=9.0, reserve=4.0,
                  last_resort=True)  # fmt: skip
    instant = under_way(setup, hedges=1)
    instant.bench.now = instant.call.deadline - 4.0
    return instant


def room_comes_free() -> Instant:
    """Both targets are full; the call waits for room, and another thread is after it too."""
    bench = Bench(Setup(limits=[1, 1], hedge=None, health=Health(), deadline=9.0))
    for state in bench.states:
        assert state.concurrency.take()
        state.concurrency.stolen += 1  # type: ignore[attr-defined]
    call = bench.begin()
    bench.now = call.deadline
    bench.states[1].concurrency.bring_back()  # type: ignore[attr-defined]
    return Instant(bench, call)


INSTANTS: dict[str, tuple[Callable[[], Instant], tuple[str, ...]]] = {
    "limit, texts, failure": (two_at_the_limit, ("timer", "text a", "text b", "breaks b")),
    "limit, failures": (two_at_the_limit, ("timer", "refused a", "limited b", "cancel")),
    "limit, wrong everywhere": (two_at_the_limit, ("timer", "wrong a", "wrong b", "text b")),
    "deadline, texts": (
        three_streams_at_the_deadline, ("timer", "text a", "text b", "text c", "breaks a")
    ),
    "deadline, whole answers": (
        three_streams_at_the_deadline, ("timer", "text a", "done a", "done b", "cancel")
    ),
    "token, text, failure": (
        late_and_a_token_comes, ("newcomer", "newcomer", "wake", "text a", "breaks a", "timer")
    ),
    "token, cancel": (
        late_and_a_token_comes, ("newcomer", "newcomer", "wake", "cancel", "timer", "breaks a")
    ),
    "doubt, chunk, rival": (
        a_stalled_answer, ("timer", "chunk a", "text b", "done a", "breaks b")
    ),
    "doubt, failures": (a_stalled_answer, ("timer", "chunk a", "breaks a", "limited b", "cancel")),
    "last resort, texts": (
        a_last_resort_is_due, ("timer", "text a", "breaks b", "text c", "refused a")
    ),
    "room, deadline": (room_comes_free, ("timer", "wake", "newcomer", "cancel", "text a")),
}  # fmt: skip


@pytest.mark.parametrize("name", INSTANTS)
def test_in_every_order_there_is_one_end(name):
    """The invariants hold after each event and at the end, where nobody waits for anything."""
    make, events = INSTANTS[name]
    for order in permutations(events):
        instant = make()
        try:
            for event in order:
                instant.happen(event)
            instant.bench.settle()
        except AssertionError as error:
            error.add_note(f"in the order {', '.join(order)}")
            raise
        won = [a for a in instant.call.planner.attempts if a.outcome is Outcome.WON]
        assert len(won) == (instant.call.planner.end is CallEnd.ANSWERED), order

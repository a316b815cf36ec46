"""The planner under any order of events: a state machine that looks for a broken invariant.

`ENGINE_EXAMPLES=20 pytest tests/engine/test_planner_machine.py` looks twenty times as long, and
elsewhere each time.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tenacity import stop_after_attempt, wait_fixed

from langchain_resilient import Fault, FaultKind, Health, Hedge, Retry, TimeLimits
from tests.engine.planning import MAX_CALLS, Bench, Call, Setup

TIMES = int(os.environ.get("ENGINE_EXAMPLES", "1"))

hedges = st.one_of(
    st.none(),
    st.builds(
        Hedge,
        delay=st.sampled_from(["learned", 2.0, 0.0, 1.0]),
        budget=st.sampled_from([0.05, 0.0, 0.5, 1.0]),
        burst=st.sampled_from([1, 3, 20]),
        max_parallel=st.sampled_from([2, 3, 1]),
        on=st.sampled_from(["first_text", "first_text", "response"]),
        max_extra_cost=st.sampled_from([None, None, 0.0, 1.5]),
    ),
)
healths = st.one_of(
    st.none(),
    st.builds(
        Health,
        trip_after=st.sampled_from([2, 3, 5]),
        rescue=st.sampled_from([0.1, 0.0]),
        rescue_burst=st.sampled_from([50, 3, 1]),
    ),
)
limits = st.builds(
    TimeLimits,
    first_text=st.sampled_from([15.0, 5.0, 1.0, None]),
    chunk_gap=st.sampled_from([10.0, 1.0, None]),
    answer=st.sampled_from([600.0, 5.0, None]),
)
retries = st.builds(
    Retry,
    stop=st.sampled_from([None, stop_after_attempt(1), stop_after_attempt(3)]),
    wait=st.sampled_from([None, wait_fixed(0), wait_fixed(1)]),
    budget=st.sampled_from([0.05, 0.0]),
    burst=st.sampled_from([20, 1]),
)
faults = st.builds(
    Fault,
    kind=st.one_of(st.sampled_from([FaultKind.SERVER, FaultKind.RATE_LIMIT]),
                   st.sampled_from(FaultKind)),
    message=st.just("scripted"),
    status=st.sampled_from([None, 429, 503]),
    code=st.sampled_from([None, "length"]),
    retry_after=st.sampled_from([None, 0.0, 1.0, 30.0, 1e9]),
    should_retry=st.sampled_from([None, None, False]),
)  # fmt: skip


@st.composite
def setups(draw: Any) -> Setup:
    """Any chain of one to four targets with any policy."""
    count = draw(st.integers(1, 4))
    places = st.sampled_from([None, None, 1, 2])
    deadline = draw(st.sampled_from([60.0, 3.0, 8.0, None]))
    last = draw(st.booleans())
    only_some = frozenset({FaultKind.SERVER, FaultKind.RATE_LIMIT, FaultKind.TIMEOUT})
    return Setup(
        providers=[draw(st.integers(0, i)) for i in range(count)],
        keys=draw(st.integers(1, 3)),
        limits=[draw(places) for _ in range(count)],
        hedge=draw(hedges),
        health=draw(healths),
        time_limits=draw(limits),
        retry=draw(retries),
        deadline=deadline,
        last_resort=last,
        reserve=draw(st.sampled_from([0.0, 0.05, 1.0])) if last and deadline else 0.0,
        last_limit=draw(st.sampled_from([None, 1])),
        retry_first=draw(st.booleans()),
        in_process=draw(st.booleans()),
        replicated=draw(st.booleans()),
        fallback_on=draw(st.sampled_from([frozenset(FaultKind), only_some])),
        costs=draw(st.sampled_from([None, {0: 1.0, 1: 1.0, 2: None, 3: 0.5}])),
        learned=draw(st.sampled_from([True, True, False])),
    )


@st.composite
def crowded(draw: Any) -> Setup:
    """Targets that are known, and few tokens: here hangs trip, and calls wait for a token."""
    hedge = st.builds(
        Hedge,
        budget=st.sampled_from([0.5, 0.05, 0.0]),
        burst=st.sampled_from([1, 2, 5]),
        max_parallel=st.sampled_from([2, 3]),
        max_extra_cost=st.sampled_from([None, 0.5, 1.5]),
    )
    health = st.builds(
        Health,
        trip_after=st.sampled_from([2, 3]),
        rescue=st.sampled_from([0.1, 0.0, 1.0]),
        rescue_burst=st.sampled_from([2, 4, 50]),
    )
    retry = st.builds(Retry, budget=st.sampled_from([0.05, 0.0]), burst=st.sampled_from([1, 2]))
    count = draw(st.integers(2, 3))
    return Setup(
        providers=range(count),
        limits=[draw(st.sampled_from([None, None, 2])) for _ in range(count)],
        hedge=draw(hedge),
        health=draw(health),
        retry=draw(retry),
        time_limits=draw(limits),
        deadline=draw(st.sampled_from([60.0, None])),
        in_process=draw(st.booleans()),
        replicated=draw(st.booleans()),
        costs=draw(st.sampled_from([None, {0: 1.0, 1: 0.5, 2: None}])),
        learned=True,
    )


class Planners(RuleBasedStateMachine):
    """Several requests to one chain, each event at any time and in any order."""

    bench: Bench

    @initialize(setup=setups() | crowded())
    def build(self, setup: Setup) -> None:
        self.bench = Bench(setup)

    def call(self, which: int) -> Call:
        running = self.bench.running
        return running[which % len(running)]

    # -- requests -------------------------------------------------------------------------------

    @precondition(lambda self: len(self.bench.running) < 6)
    @rule(count=st.integers(1, 4), streaming=st.booleans(), follows=st.booleans())
    def begin(self, count: int, streaming: bool, follows: bool) -> None:
        for _ in range(count):
            self.bench.begin(streaming=streaming, follows=follows)
            self.bench.check()

    @precondition(lambda self: self.bench.running)
    @rule(which=st.integers(0, 5))
    def cancel(self, which: int) -> None:
        self.bench.cancel(self.call(which))

    @precondition(lambda self: any(call.wakes for call in self.bench.calls))
    @rule(which=st.integers(0, 5))
    def wake(self, which: int) -> None:
        woken = [call for call in self.bench.calls if call.wakes]
        self.bench.wake(woken[which % len(woken)])

    @precondition(lambda self: any(call.planner.winner for call in self.bench.running))
    @rule()
    def deliver(self) -> None:
        for call in self.bench.running:
            if call.planner.winner is not None and call.streaming:
                self.bench.deliver(call)

    # -- time -----------------------------------------------------------------------------------

    @precondition(lambda self: self.bench.running)
    @rule(which=st.integers(0, 5))
    def advance_to_a_timer(self, which: int) -> None:
        at = self.call(which).planner.wake_at
        if self.bench.now < at < 1e12:
            self.bench.now = at

    @rule(seconds=st.sampled_from([0.001, 0.3, 1.0, 7.0, 40.0]))
    def advance(self, seconds: float) -> None:
        self.bench.now += seconds

    @precondition(lambda self: self.bench.running)
    @rule(which=st.integers(0, 5), times=st.sampled_from([1, 2, MAX_CALLS]))
    def timer(self, which: int, times: int) -> None:
        call = self.call(which)
        for _ in range(times):
            if not call.over and (times == 1 or call.planner.wake_at <= self.bench.now):
                self.bench.timer(call)

    @precondition(lambda self: self.bench.running)
    @rule(moments=st.integers(1, 6), backwards=st.booleans())
    def silence(self, moments: int, backwards: bool) -> None:
        """As the driver does it: timer after timer, and all that are due, in either order."""
        for _ in range(moments):
            self.bench.wake_all()
            due = [call.planner.wake_at for call in self.bench.running]
            if due and min(due) < 1e12:
                self.bench.now = max(self.bench.now, min(due))
                for call in self.bench.running[:: -1 if backwards else 1]:
                    if call.planner.wake_at <= self.bench.now:
                        self.bench.timer(call)
                self.bench.check()

    @precondition(lambda self: len(self.bench.running) < 6)
    @rule(first=st.integers(1, 5), moments=st.integers(1, 4), then=st.integers(1, 3))
    def wave(self, first: int, moments: int, then: int) -> None:
        """A crowd that nobody answers, and newcomers that pay in what some of it wait for."""
        self.begin(first, streaming=False, follows=False)
        self.silence(moments, backwards=False)
        self.begin(then, streaming=False, follows=False)

    # -- attempts -------------------------------------------------------------------------------

    @precondition(lambda self: self.bench.in_flight())
    @rule(which=st.integers(0, 8))
    def text(self, which: int) -> None:
        flying = self.bench.in_flight()
        self.bench.text(*flying[which % len(flying)])

    @precondition(lambda self: self.bench.in_flight())
    @rule(which=st.integers(0, 8))
    def chunk(self, which: int) -> None:
        flying = self.bench.in_flight()
        self.bench.chunk(*flying[which % len(flying)])

    @precondition(lambda self: self.bench.in_flight())
    @rule(which=st.integers(0, 8))
    def done(self, which: int) -> None:
        flying = self.bench.in_flight()
        self.bench.done(*flying[which % len(flying)])

    @precondition(lambda self: self.bench.in_flight())
    @rule(which=st.integers(0, 8), fault=faults)
    def fail(self, which: int, fault: Fault) -> None:
        flying = self.bench.in_flight()
        self.bench.fail(*flying[which % len(flying)], fault)

    @precondition(lambda self: any(call.ended for call in self.bench.calls))
    @rule(which=st.integers(0, 8), fault=faults)
    def stray(self, which: int, fault: Fault) -> None:
        ended = [(call, a) for call in self.bench.calls for a in call.ended]
        ended.sort(key=lambda pair: (self.bench.calls.index(pair[0]), pair[1].number))
        self.bench.stray(*ended[which % len(ended)], fault)

    @precondition(lambda self: self.bench.shadows)
    @rule(which=st.integers(0, 3), well=st.booleans())
    def probed(self, which: int, well: bool) -> None:
        shadows = self.bench.shadows
        self.bench.probed(shadows[which % len(shadows)], well=well)

    # -- other threads --------------------------------------------------------------------------

    @rule(which=st.integers(0, 4))
    def another_thread_takes_a_place(self, which: int) -> None:
        states = self.bench.all_states
        slots: Any = states[which % len(states)].concurrency
        slots.thief = slots.limit is not None

    @rule()
    def another_thread_brings_its_places_back(self) -> None:
        for state in self.bench.all_states:
            slots: Any = state.concurrency
            if slots.stolen:
                slots.bring_back()

    # -- always ---------------------------------------------------------------------------------

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "bench"):
            self.bench.check()

    def teardown(self) -> None:
        if hasattr(self, "bench") and self.bench.sound:
            self.bench.settle()


TestPlanners = Planners.TestCase
TestPlanners.settings = settings(
    max_examples=300 * TIMES,
    stateful_step_count=40,
    deadline=None,
    derandomize=TIMES == 1,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)

"""The planner on a workbench: a driver without tasks, whose every event and moment a test picks.

`Bench` does what `engine.race` does with the planner's actions, keeps its own accounts, and holds
the planner to the invariants of the engine after each event.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any

from langchain_resilient import (
    AttemptKind,
    Fault,
    FaultKind,
    Health,
    Hedge,
    Outcome,
    Retry,
    TimeLimits,
)
from langchain_resilient.engine.attempt import Attempt
from langchain_resilient.engine.budgets import RETRIES_PER_SECOND, Budget, Budgets, TokenWaiter
from langchain_resilient.engine.interfaces import Action, CallEnd, Commit, Finish, Plan, Start, Stop
from langchain_resilient.engine.planner import Planner
from langchain_resilient.engine.target_state import Account, ConcurrencyLimiter, TargetState
from langchain_resilient.faults import TRAITS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_CALLS = 20
"""So many calls of `timer` at one moment are a spin."""

_HINTLESS = {kind for kind, traits in TRAITS.items() if traits.blocks_account} | {
    FaultKind.NOT_FOUND,
    FaultKind.NO_STREAMING,
}
_EXTRA = {AttemptKind.HEDGE, AttemptKind.RESCUE}
_TINY = 1e-6


class CountedBudget(Budget):
    """A budget that keeps accounts of what came in and went out."""

    def __init__(self, share: float, burst: int, rate: float = 0.0) -> None:
        super().__init__(share, burst, rate)
        self.paid_in = self.tokens
        self.spent = 0
        self.released = 0
        self.tickets: list[TokenWaiter] = []
        self._since: float | None = None

    def deposit(self, now: float, size: float = 0.0) -> None:
        self.paid_in += self.share
        self._since = now if self._since is None else self._since
        super().deposit(now, size)

    def take(self, size: float = 0.0) -> bool:
        taken = super().take(size)
        self.spent += taken
        return taken

    def give_back(self, now: float, size: float = 0.0) -> None:
        self.spent -= 1
        super().give_back(now, size)

    def release(self, now: float) -> None:
        before = self.waiting
        super().release(now)
        self.released += before - self.waiting

    def _serve(self, now: float) -> list[TokenWaiter]:
        served = super()._serve(now)
        self.spent += len(served)
        return served

    def _grant(self, index: int) -> TokenWaiter:
        ticket = super()._grant(index)
        self.tickets.append(ticket)
        return ticket

    def income(self, now: float) -> float:
        """All that ever came in."""
        return self.paid_in + self.rate * (now - (now if self._since is None else self._since))

    def pending(self, wake: Callable[[], None] | None = None) -> list[TokenWaiter]:
        """Tickets that were granted, and nobody has looked at them yet."""
        return [t for t in self.tickets if t.granted and wake in (None, t.wake)]

    def looked_at(self, tickets: Sequence[TokenWaiter]) -> None:
        self.tickets = [t for t in self.tickets if t.granted and t not in tickets]

    def has(self, wake: Callable[[], None]) -> bool:
        return any(t.wake == wake for t in self._waiting)


class RacedSlots(ConcurrencyLimiter):
    """Slots that another thread also takes from, between this one's look and its hand.

    They also note whether the target was down when a place was taken: one event may do both.
    """

    def __init__(self, limit: int | None, state: TargetState, clock: Callable[[], float]) -> None:
        super().__init__(limit)
        self.thief = False
        self.stolen = 0
        self.taken: list[bool] = []
        self._state, self._clock = state, clock

    def take(self) -> bool:
        if self.thief:
            self.thief = False
            self.stolen += self.limit is not None and super().take()
        taken = super().take()
        if taken:
            self.taken.append(self._state.down(self._clock()))
        return taken

    def bring_back(self) -> None:
        self.stolen -= 1
        self.give_back()

    @property
    def waiters(self) -> int:
        return len(self._waiters)

    def has(self, wake: Callable[[], None]) -> bool:
        return wake in self._waiters


@dataclass
class Setup:
    """A chain and its policy."""

    providers: Sequence[int] = (0, 1)
    keys: int = 1
    limits: Sequence[int | None] = (None, None)
    hedge: Hedge | None = field(default_factory=lambda: Hedge(delay=2.0))
    health: Health | None = field(default_factory=Health)
    time_limits: TimeLimits = field(default_factory=TimeLimits)
    retry: Retry = field(default_factory=Retry)
    deadline: float | None = 60.0
    reserve: float = 0.0
    last_resort: bool = False
    last_limit: int | None = None
    retry_first: bool = False
    in_process: bool = False
    replicated: bool = False
    fallback_on: frozenset[FaultKind] = frozenset(FaultKind)
    costs: dict[int, float | None] | None = None
    learned: bool = False


@dataclass(eq=False)
class Call:
    """One request: its planner, and what the bench knows of it."""

    planner: Planner
    deadline: float
    streaming: bool
    open: list[Attempt] = field(default_factory=list)
    ended: set[Attempt] = field(default_factory=set)
    wake: Callable[[], None] = lambda: None
    wakes: int = 0
    over: bool = False
    commits: int = 0
    delivered: bool = False
    follows: bool = False
    shown: Attempt | None = None
    extra: float = 0.0
    timers: tuple[float, int] = (-inf, 0)

    @property
    def live(self) -> list[Attempt]:
        return [a for a in self.open if not a.timed_out and a.kind is not AttemptKind.LAST_RESORT]


class Bench:
    """Some calls to one chain at one moment, which the test moves on."""

    def __init__(self, setup: Setup) -> None:
        self.now = 100.0
        self.sound = True
        self.setup = setup
        self.calls: list[Call] = []
        self.shadows: list[Attempt] = []
        self.sent: dict[AttemptKind, int] = defaultdict(int)
        self.owed = self.payable = 0
        self.hints: dict[tuple[TargetState, int], float] = {}
        self._rng = Random(1)
        self.states = [self._state(i, p) for i, p in enumerate(setup.providers)]
        self.last = self._last_resort() if setup.last_resort else None
        self.budgets = self._budgets(setup.hedge, setup.health or Health(), setup.retry)
        self.plan = Plan(
            setup.deadline, setup.time_limits, setup.hedge, setup.retry, self.budgets, setup.health,
            fallback_on=setup.fallback_on, reserve=setup.reserve,
            cost=None if setup.costs is None else self._cost,
        )  # fmt: skip

    def _state(self, index: int, provider: int) -> TargetState:
        accounts = [Account() for _ in range(self.setup.keys)]
        state = TargetState(
            f"p{provider}:m{index}",
            f"p{provider}",
            accounts=accounts,
            retry_first=self.setup.retry_first,
            in_process=self.setup.in_process and not index,
            replicated=self.setup.replicated,
        )
        state.concurrency = RacedSlots(self.setup.limits[index], state, lambda: self.now)
        for i in range(40 if self.setup.learned else 0):
            state.speed.first_texts.add(0.1 + i * 0.05, self.now)
        return state

    def _last_resort(self) -> TargetState:
        state = TargetState("text", "text")
        state.concurrency = RacedSlots(self.setup.last_limit, state, lambda: self.now)
        return state

    @staticmethod
    def _budgets(hedge: Hedge | None, health: Health, retry: Retry) -> Budgets:
        return Budgets(
            CountedBudget(hedge.budget, hedge.burst) if hedge is not None else CountedBudget(0, 1),
            CountedBudget(health.rescue, health.rescue_burst),
            CountedBudget(retry.budget, retry.burst, rate=RETRIES_PER_SECOND),
        )

    def _cost(self, state: TargetState) -> float | None:
        return (self.setup.costs or {}).get(int(state.provider[1:]), 0.0)

    # -- what a test may look at ----------------------------------------------------------------

    @property
    def running(self) -> list[Call]:
        return [call for call in self.calls if not call.over]

    @property
    def all_budgets(self) -> list[CountedBudget]:
        results: list[Any] = [self.budgets.hedge, self.budgets.rescue, self.budgets.retry]
        return results

    @property
    def all_states(self) -> list[TargetState]:
        return [*self.states, *([self.last] if self.last is not None else [])]

    def in_flight(self) -> list[tuple[Call, Attempt]]:
        return [(call, attempt) for call in self.running for attempt in call.open]

    # -- events ---------------------------------------------------------------------------------

    def begin(self, *, streaming: bool = False, plain: bool = False, follows: bool = False) -> Call:
        """Begin a call; one whose stream another target may go on with, if it `follows`."""
        plan = self.plan
        call: Call

        def wake() -> None:
            call.wakes += 1

        planner = Planner(
            [(state, None) for state in self.states], plan, now=self.now, rng=self._rng,
            wake=wake, last_resort=self.last, plain=plain,
            can_continue=(lambda _: follows or not call.delivered) if streaming else None,
        )  # fmt: skip
        deadline = inf if plan.deadline is None else self.now + plan.deadline
        call = Call(planner, deadline, streaming, wake=wake, follows=follows)
        self.calls.append(call)
        self._apply(call, planner.begin(self.now))
        return call

    def text(self, call: Call, attempt: Attempt) -> None:
        """A visible chunk comes."""
        if attempt.first_text is None:
            self._apply(call, call.planner.first_text(attempt, self.now))
        else:
            self.chunk(call, attempt)

    def chunk(self, call: Call, attempt: Attempt) -> None:
        """Content comes that shows nothing, or more text."""
        if attempt.first_text is not None and call.planner.winner is not attempt:
            self._apply(call, call.planner.chunk(attempt, self.now))
        else:
            attempt.last_chunk = self.now

    def done(self, call: Call, attempt: Attempt) -> None:
        self._end(call, attempt)
        self._apply(call, call.planner.done(attempt, self.now))
        assert call.planner.end is CallEnd.ANSWERED
        assert call.planner.winner is attempt

    def fail(self, call: Call, attempt: Attempt, fault: Fault) -> None:
        self._end(call, attempt)
        self._hint(attempt, fault)
        self._apply(call, call.planner.failed(attempt, fault, self.now))

    def deliver(self, call: Call) -> None:
        """Some of the winner's text reaches the caller."""
        call.delivered = True
        call.shown = call.planner.winner

    def wake(self, call: Call) -> None:
        """One of the calls of `wake` comes home."""
        call.wakes -= 1
        if call.over:
            return
        # Only these: it may be granted another meanwhile, which is for the next wake.
        pending = [budget.pending(call.wake) for budget in self.all_budgets]
        actions = call.planner.woken(self.now)
        for budget, tickets in zip(self.all_budgets, pending, strict=True):
            budget.looked_at(tickets)
        self._apply(call, actions)

    def wake_all(self) -> None:
        for call in self.calls:
            while call.wakes:
                self.wake(call)

    def timer(self, call: Call) -> None:
        """Time is up, or the driver merely looks."""
        at, count = call.timers
        due = call.planner.wake_at <= self.now
        call.timers = (self.now, count + 1 if at == self.now and due else 1)
        assert call.timers[1] <= MAX_CALLS, f"it spins: wake_at is {call.planner.wake_at}"
        self._apply(call, call.planner.timer(self.now))

    def cancel(self, call: Call) -> None:
        call.over = True
        self._apply(call, call.planner.cancel(self.now))
        assert call.planner.end is None
        assert not call.open

    def probed(self, shadow: Attempt, *, well: bool) -> None:
        self.shadows.remove(shadow)
        shadow.outcome = Outcome.LOST
        shadow.candidate.state.concurrency.give_back()
        seconds = 0.1 if well else None
        shadow.candidate.state.record_probe(seconds, self.now, plain=shadow.plain, good=1.0)

    def stray(self, call: Call, attempt: Attempt, fault: Fault) -> None:
        """A task that was stopped goes on a little: that changes nothing."""
        planner = call.planner
        assert attempt.outcome is not None
        before = (planner.winner, planner.end, planner.wake_at)
        assert not planner.first_text(attempt, self.now)
        assert not planner.chunk(attempt, self.now)
        assert not planner.done(attempt, self.now)
        assert not planner.failed(attempt, fault, self.now)
        assert (planner.winner, planner.end) == before[:2]

    def settle(self) -> None:
        """From now on every target answers: then every call ends, and nothing is left."""
        for state in self.all_states:
            slots: Any = state.concurrency
            slots.thief = False
            while slots.stolen:
                slots.bring_back()
        rounds = 0
        while self.running or any(call.wakes for call in self.calls):
            rounds += 1
            assert rounds < 1000, "it never ends"
            self._round()
            self.check()
        while self.shadows:
            self.probed(self.shadows[0], well=True)
        self.check()

    def _round(self) -> None:
        self.wake_all()
        for call, attempt in self.in_flight():
            if attempt in call.open:
                self.done(call, attempt)
        if self.running and not any(call.wakes for call in self.calls):
            at = min(call.planner.wake_at for call in self.running)
            assert at < inf, "it waits for ever"
            self.now = max(self.now, at)
            for call in self.running:
                if call.planner.wake_at <= self.now:
                    self.timer(call)

    # -- the driver's part ----------------------------------------------------------------------

    def _end(self, call: Call, attempt: Attempt) -> None:
        call.open.remove(attempt)
        call.ended.add(attempt)

    def _hint(self, attempt: Attempt, fault: Fault) -> None:
        if fault.retry_after is not None and fault.kind not in _HINTLESS:
            key = (attempt.candidate.state, attempt.key)
            self.hints[key] = max(self.hints.get(key, 0.0), self.now + fault.retry_after)

    def _apply(self, call: Call, actions: Sequence[Action]) -> None:
        self.sound = False
        finished = call.planner.end is not None and not any(
            isinstance(action, Finish) for action in actions
        )
        assert not (finished and actions), f"after the end: {actions}"
        for position, action in enumerate(actions):
            if isinstance(action, Finish):
                assert not call.over, "a second end"
                assert position == len(actions) - 1, "something after the end"
                call.over = True
            elif isinstance(action, Start):
                self._start(call, action.attempt)
            elif isinstance(action, Stop):
                assert action.attempt in call.open, "stopped what was not open"
                self._end(call, action.attempt)
            elif isinstance(action, Commit):
                self._commit(call, action.attempt)

    def _commit(self, call: Call, attempt: Attempt) -> None:
        same = call.follows or attempt is call.shown
        assert same or not call.delivered, "another winner after delivery"
        assert attempt in call.open
        assert call.planner.winner is attempt
        call.commits += 1
        if call.streaming:
            self.deliver(call)

    def _start(self, call: Call, attempt: Attempt) -> None:
        assert attempt not in call.ended
        assert attempt not in call.open
        assert not call.over, "started after the end"
        state = attempt.candidate.state
        if attempt.kind is not AttemptKind.LAST_RESORT:
            assert self.hints.get((state, attempt.key), 0.0) <= self.now, "sent before the hint"
        self.sent[attempt.kind] += 1
        was_down = state.concurrency.taken.pop(0)  # type: ignore[attr-defined]
        if attempt.kind is AttemptKind.SHADOW:
            self.shadows.append(attempt)
            return
        assert call.planner.winner is None or call.over, "started after the commit"
        if attempt.kind is AttemptKind.LAST_RESORT:
            # Asked late, because our own loop was held up, it still gets the time it was promised.
            call.deadline = max(call.deadline, self.now + self.setup.reserve)
        else:
            assert self.now < call.deadline, "started after the deadline"
        self._account(call, attempt, was_down=was_down)
        call.open.append(attempt)

    def _account(self, call: Call, attempt: Attempt, *, was_down: bool) -> None:
        candidate, state = attempt.candidate, attempt.candidate.state
        before = [
            a for a in call.planner.attempts[: attempt.number - 1] if a.candidate is candidate
        ]
        if attempt.kind is AttemptKind.LAST_RESORT:
            # One that was stopped for an answer that had only begun did not fail: asking it once
            # more is no retry.
            withdrawn = [a for a in before if a.outcome is Outcome.LOST]
            assert len(withdrawn) <= call.commits, "a last resort that was stopped for nobody"
            before = [a for a in before if a not in withdrawn]
        again = bool(before)
        if attempt.kind in _EXTRA:
            back = again and attempt.kind is AttemptKind.RESCUE and not state.silent
            assert back or not state.circuit_breaker.tripped, "an extra send to a sick target"
            assert state.overloaded_until <= self.now, "an extra send to a strained target"
            assert state.replicated or candidate.active <= 1, "two at once at one machine"
            call.extra += self._price(state)
        else:
            first = attempt.kind is AttemptKind.LAST_RESORT or not was_down
            owes = not candidate.no_charge and (again or not first)
            self.owed += owes
            # A rescue to where it was lost is a retry too.
            self.payable += owes or attempt.kind is AttemptKind.RETRY

    def _price(self, state: TargetState) -> float:
        cost = 0.0 if self.setup.costs is None else self._cost(state)
        hedge = self.setup.hedge
        if hedge is not None and hedge.max_extra_cost is not None:
            assert cost is not None, "a hedge of unknown price"
        return cost or 0.0

    # -- invariants -----------------------------------------------------------------------------

    def check(self) -> None:
        """Hold everything against the invariants."""
        for call in self.calls:
            self._check_call(call)
        for state in self.all_states:
            self._check_state(state)
        for budget in self.all_budgets:
            self._check_budget(budget)
        self._check_payments()
        self.sound = True

    def _check_call(self, call: Call) -> None:
        planner, hedge = call.planner, self.setup.hedge
        most = 1 if hedge is None else hedge.max_parallel
        assert len(call.live) <= most, "more attempts than max_parallel"
        assert sum(a.timed_out for a in call.open) <= 1, "two suspects"
        assert {a for a in planner.attempts if a.outcome is None} == set(call.open)
        if hedge is not None and hedge.max_extra_cost is not None:
            assert call.extra <= hedge.max_extra_cost + _TINY, "more dollars than allowed"
        assert not any(a.timed_out and a is planner.winner for a in call.open), "a doubtful winner"
        for candidate in planner.chain.candidates:
            counted = [a for a in call.open if a.candidate is candidate and not a.timed_out]
            assert candidate.active == len(counted), "who is counted on"
        if call.over:
            assert not call.open, "an attempt outlives its call"
            assert not self._waits(call), "a ticket or a place in a queue outlives its call"
        elif not call.open:
            waits = planner.wake_at < inf or self._waits(call) or call.wakes
            assert waits, "it waits for ever"
        won = [a for a in planner.attempts if a.outcome is Outcome.WON]
        assert len(won) == (planner.end is CallEnd.ANSWERED)

    def _waits(self, call: Call) -> bool:
        wake = call.wake
        return any(b.has(wake) or b.pending(wake) for b in self.all_budgets) or any(
            state.concurrency.has(wake)  # type: ignore[attr-defined]
            for state in self.all_states
        )

    def _check_state(self, state: TargetState) -> None:
        there = [a for _, a in self.in_flight() if a.candidate.state is state]
        slots: Any = state.concurrency
        if slots.limit is not None:
            shadows = sum(a.candidate.state is state for a in self.shadows)
            assert slots.used == len(there) + shadows + slots.stolen, "slots"
        offered = any(call.wakes for call in self.calls)
        assert slots.full or not slots.waiters or offered, "room that nobody is told of"
        silent = [a for a in there if a.first_text is None]
        expected = set() if self.setup.health is None or state is self.last else set(silent)
        assert set(state.waiting) == expected, "who waits for a first text"

    def _check_budget(self, budget: CountedBudget) -> None:
        assert -_TINY <= budget.tokens <= budget.burst
        made = budget.spent + budget.tokens - budget.income(self.now)
        assert made <= _TINY, "a token from nowhere"
        assert budget.tokens < 1 or not budget.waiting, "a token that nobody gets"
        running = [call.wake for call in self.running]
        assert all(t.wake in running for t in budget.pending()), "a token for nobody"

    def _check_payments(self) -> None:
        hedge, rescue, retry = self.all_budgets
        for budget, kind in ((hedge, AttemptKind.HEDGE), (rescue, AttemptKind.RESCUE)):
            held = sum(t.paid for t in budget.pending())
            assert self.sent[kind] == budget.spent - held, f"{kind} without a token, or no send"
        paid = retry.spent - sum(t.paid for t in retry.pending())
        assert paid <= self.payable, "a retry token without a send"
        assert self.owed <= paid + retry.released, "a retry without a token"

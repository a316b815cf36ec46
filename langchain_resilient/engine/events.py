"""What the planner and its driver say to each other: attempts, actions, and how a call ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import TYPE_CHECKING, Any

from langchain_resilient.policy import ALL_FAULTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_resilient.engine.ask import Ask
    from langchain_resilient.engine.budget import Budgets
    from langchain_resilient.engine.health import TargetState
    from langchain_resilient.engine.pacing import Grant
    from langchain_resilient.fault import Fault
    from langchain_resilient.policy import FallbackOn, Health, Hedge, Retry, Timeouts
    from langchain_resilient.receipt import AttemptKind, Outcome


class End(StrEnum):
    """How a call ended."""

    ANSWERED = "answered"
    EXHAUSTED = "exhausted"
    """No target is left that could answer before the deadline."""
    DEADLINE = "deadline"
    REJECTED = "rejected"
    """The request itself is wrong."""
    BROKEN = "broken"
    """The answer died after some of it was delivered."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A model's policy, normalised once and read by every request.

    Attributes:
        deadline: Seconds for the whole call; None for no limit.
        timeouts: The limits inside it, for targets without their own.
        hedge: None for never.
        retry: When a failed target is asked again.
        fallback_on: After which faults another target is asked.
        budgets: What pays for hedges, rescues and retries, shared by all requests.
        health: When a target is taken for sick; None for never.
        reserve: Seconds before the deadline at which the last resort is asked.
        grace: Seconds that it has from then on at least, even past the deadline: for one that
            answers at once, which only a busy loop can hold up.
        cost: Dollars that one more send to a target may cost; None if nobody knows.
        spread: Whether the next target is asked where one is saturated, or that one waited for.
    """

    deadline: float | None
    timeouts: Timeouts
    hedge: Hedge | None
    retry: Retry
    budgets: Budgets
    health: Health | None = None
    fallback_on: FallbackOn = ALL_FAULTS
    reserve: float = 0.0
    cost: Callable[[TargetState], float | None] | None = None
    spread: bool = True
    grace: float = 0.0

    def moves_on(self, fault: Fault) -> bool:
        """Whether another target is asked after this fault."""
        policy: Any = self.fallback_on
        return bool(policy(fault)) if callable(policy) else fault.kind in policy


class Lane:
    """One target within one request.

    Attributes:
        index: Its place in the chain.
        limits: Its own, or the model's.
        tries: How often it was asked.
        draws: How often its whole answer was no good.
        active: How many of these are still waited for.
        ready_at: When its backoff is over.
        excluded: Asking it again cannot help this request.
        again: It is owed one try at once, before the chain moves on.
        free: That try is no retry in the budget's sense: another key, or asked plainly.
        forgiven: It is asked although its account is blocked, for want of any other.
        ask: What the request wants of pacers; None where it is not paced.
    """

    __slots__ = ("active", "again", "ask", "draws", "excluded", "forgiven", "free", "index",
                 "limits", "ready_at", "state", "tries")  # fmt: skip

    def __init__(
        self, index: int, state: TargetState, limits: Timeouts, ask: Ask | None = None
    ) -> None:
        self.index = index
        self.state = state
        self.limits = limits
        self.tries = 0
        self.draws = 0
        self.active = 0
        self.ready_at = 0.0
        self.excluded = False
        self.again = False
        self.free = False
        self.forgiven = False
        self.ask = ask

    def available_at(self) -> float:
        """The earliest time at which this request may ask it."""
        state = self.state
        at = max(state.available_at(forgiven=self.forgiven), self.ready_at)
        if state.paced and self.ask is not None:
            return max(at, state.turn_at(self.ask))
        return at

    def saturated(self, now: float) -> bool:
        """Whether nothing but its pace, its hint or its room is in the way."""
        if self.excluded or self.ready_at > now:
            return False
        if self.available_at() <= now:
            return self.state.slots.full
        return self.ask is not None and bool(self.state.lines(now))


class Attempt:
    """One request under way to one target. The planner owns all but the driver's three fields.

    Attributes:
        key: Which of the target's keys is used.
        plain: It is judged by its whole answer, not by its first text.
        hedge_at: When another is to be asked beside it; `inf` for no more.
        late_at: When its silence counts against the target; `inf` once it was judged.
        late: It was.
        suspect: It is over a limit: others are asked, but it may still win.
        paused: It fell silent in the middle: another is asked beside it; whoever speaks first wins.
        last_chunk: When content last came; `inf` while our own reader holds it up.
        longest: Its longest pause since the first text, in seconds.
        pause: Seconds of silence after which it counts as paused; `inf` for never.
        pace_at: When its throughput is looked at next; `inf` for never.
        pace_from: How many tokens it had when that was looked at last; None before its first.
        excused: Seconds that our own reader, or our own standstill, held it up.
        retry_state: tenacity's view, where this is a retry.
        draft: The driver's: what was received.
        task: The driver's: who reads it.
        held: The driver's: chunks that wait for the commit.
        grant: What was reserved for it; None where it is not paced.
    """

    __slots__ = ("draft", "ended", "excused", "fault", "first_text", "grant", "hedge_at", "held",
                 "key", "kind", "lane", "last_chunk", "late", "late_at", "longest", "number",
                 "outcome", "pace_at", "pace_from", "pause", "paused", "plain", "retry_state",
                 "started", "suspect", "task")  # fmt: skip

    def __init__(
        self,
        number: int,
        lane: Lane,
        kind: AttemptKind,
        now: float,
        *,
        key: int = 0,
        plain: bool = False,
    ) -> None:
        self.number: int = number
        self.lane: Lane = lane
        self.kind: AttemptKind = kind
        self.key: int = key
        self.plain: bool = plain
        self.started: float = now
        self.first_text: float | None = None
        self.last_chunk: float = now
        self.ended: float | None = None
        self.hedge_at: float = inf
        self.late_at: float = inf
        self.late: bool = False
        self.suspect: bool = False
        self.paused: bool = False
        self.longest: float = 0.0
        self.pause: float = inf
        self.pace_at: float = inf
        self.pace_from: int | None = None
        self.excused: float = 0.0
        self.outcome: Outcome | None = None
        self.fault: Fault | None = None
        self.retry_state: Any = None
        self.draft: Any = None
        self.task: Any = None
        self.held: list[Any] = []
        self.grant: Grant | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """Send this attempt now."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Stop:
    """Close this attempt; nobody waits for it."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Commit:
    """This attempt's text is the answer, as far as one can tell now."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Finish:
    """The call is over."""

    end: End
    winner: Attempt | None = None


Action = Start | Stop | Commit | Finish

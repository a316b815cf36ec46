"""What a race is to do and how it went: the plan, the planner's actions, and how a call ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from langchain_resilient.options import ALL_FAULTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_resilient.engine.attempt import Attempt
    from langchain_resilient.engine.budgets import Budgets
    from langchain_resilient.engine.target_state import TargetState
    from langchain_resilient.faults import Fault
    from langchain_resilient.options import FallbackOn, Health, Hedge, Retry, TimeLimits


class CallEnd(StrEnum):
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
        time_limits: The limits inside it, for targets without their own.
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
    time_limits: TimeLimits
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

    end: CallEnd
    winner: Attempt | None = None


Action = Start | Stop | Commit | Finish

"""The policy of a race, the actions of its planner, and how a call can end."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from langchain_resilient.options import ALL_FAULTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_resilient.engine.attempt import Attempt
    from langchain_resilient.engine.budgets import Budgets
    from langchain_resilient.engine.interfaces import Funds
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
    """A chat model's policy, normalised once and shared by all its requests.

    Attributes:
        deadline: Seconds for the whole call; None for no limit.
        time_limits: The limits within it, for targets without their own.
        hedge: When another target is asked beside a slow one; None for never.
        retry: When a failed target is asked again.
        fallback_on: After which faults another target is asked.
        budgets: What pays for hedges, rescues and retries, shared by all requests.
        health: When a target counts as sick; None for never.
        reserve: Seconds before the deadline at which the last resort is asked.
        last_resort_after: Seconds after which it is asked where no target can be reached.
        grace: Seconds that the last resort has at least, even past the deadline: for one that
            answers at once, so that only a busy event loop can hold it up.
        funds: What the call may still spend; None where nothing limits that.
        cost: Gives the dollars that one more send to a target may cost; None if that is unknown.
        equal: Whether the targets are as good as each other, so that none is waited for.
        spread: Whether another target is asked while one is saturated, rather than waiting for it.
    """

    deadline: float | None
    time_limits: TimeLimits
    hedge: Hedge | None
    retry: Retry
    budgets: Budgets
    health: Health | None = None
    _: KW_ONLY
    fallback_on: FallbackOn = ALL_FAULTS
    reserve: float = 0.0
    last_resort_after: float = 5.0
    cost: Callable[[TargetState], float | None] | None = None
    spread: bool = True
    equal: bool = False
    grace: float = 0.0
    funds: Funds | None = None

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
    """Close this attempt, without waiting for that."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Commit:
    """This attempt's text is the answer, unless it breaks."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Finish:
    """The call is over."""

    end: CallEnd
    winner: Attempt | None = None


Action = Start | Stop | Commit | Finish

"""What the engine is given by other rooms, and what its planner says.

The protocols are seams: their implementations are in rooms that the engine must not import. `Plan`
is the policy of a chat model as the planner reads it; the planner answers with actions, and a call
ends in one of the ways of `CallEnd`.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from langchain_resilient.policies import ALL_FAULTS

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Callable, Sequence
    from random import Random

    from langchain_resilient.engine.attempt import Attempt
    from langchain_resilient.engine.budgets import Budgets
    from langchain_resilient.engine.target_state import TargetState
    from langchain_resilient.exchange import ChatRequest, Chunk, Provider
    from langchain_resilient.faults import Fault
    from langchain_resilient.policies import FallbackOn, Health, Hedge, Retry, TimeLimits


class Accumulator(Protocol):
    """An answer being received; `ResponseAccumulator` of the room `wire` is one."""

    def add(self, chunk: Chunk) -> int:
        """Add a chunk; returns 2 or more if it shows text or a tool call, 0 without content."""
        ...

    def fault(self, request: ChatRequest) -> Fault | None:
        """What is wrong with the answer to this request, after its stream has ended."""
        ...

    def end(self) -> None:
        """Count the answer as ended, although no `finish_reason` said so."""
        ...

    @property
    def text(self) -> str:
        """The visible text so far."""
        ...

    @property
    def ended(self) -> bool:
        """Whether the provider has said that the answer is complete; usage may still follow."""
        ...

    @property
    def has_usage(self) -> bool:
        """Whether usage has been received."""
        ...

    def tokens(self) -> int:
        """The approximate number of tokens so far, thoughts and tool calls included."""
        ...

    def input_tokens(self) -> int | None:
        """Prompt tokens, as far as known."""
        ...

    def cache_tokens(self) -> tuple[int | None, int | None]:
        """Prompt tokens read from the provider's cache, and written to it, as far as known."""
        ...

    def output_tokens(self) -> int | None:
        """Answer tokens, as far as known."""
        ...


class BreakStrategy(Protocol):
    """How another target continues an answer whose stream broke after text was delivered."""

    @property
    def appends(self) -> bool:
        """Whether what follows is added to what was delivered: then it may be empty."""
        ...

    def may_follow(self, response: Any) -> bool:
        """Whether another answer may follow what was delivered of this one."""
        ...

    def request(self, responses: Sequence[Any]) -> ChatRequest:
        """The request for what follows these broken answers."""
        ...

    def used_up(self, responses: Sequence[Any]) -> bool:
        """Whether nothing may follow these: their tokens are all that was asked for."""
        ...


class AttemptListener(Protocol):
    """Is told when attempts of one request begin and end. Must be quick, and must never raise."""

    def began(self, attempt: Attempt) -> None:
        """An attempt is about to be sent."""
        ...

    async def enter(self, attempt: Attempt) -> None:
        """Prepare the task that reads it; awaited in that task."""
        ...

    def over(self, attempt: Attempt) -> None:
        """An attempt has ended; not called for those that end because the caller went away."""
        ...

    async def close(self, keep: Callable[[Task[None]], None]) -> None:
        """End what is still under way; called once, by the owner of the race.

        Args:
            keep: Given a task that must not end with the caller; see `Reaper.keep`.
        """
        ...


class Funds(Protocol):
    """The money of one call, where a cap limits it."""

    def may_send(self, state: TargetState) -> bool:
        """Whether another request to a target can be paid for."""
        ...

    def may_wait(self, state: TargetState) -> bool:
        """Whether it may be payable later, once other calls have ended."""
        ...


class Route:
    """One entry of the chain: a target's state, its provider, and its own limits.

    Attributes:
        state: What all requests know of the target.
        sources: The provider, once per key of the target.
        limits: The target's own; None for the plan's.
    """

    __slots__ = ("limits", "sources", "state")

    def __init__(
        self,
        state: TargetState,
        source: Provider,
        limits: TimeLimits | None = None,
        *,
        other_keys: Sequence[Provider] = (),
    ) -> None:
        self.state: TargetState = state
        self.sources = (source, *other_keys)
        self.limits: TimeLimits | None = limits


class Dependencies:
    """Injected functions, the same for all races of a chat model.

    Attributes:
        classify: Turns an exception into a fault.
        response: Makes an empty accumulator.
        rng: The engine's generator.
        on_fault: Called with a target's name and each of its faults, for logs and warnings.
    """

    __slots__ = ("classify", "on_fault", "response", "rng")

    def __init__(
        self,
        classify: Callable[[BaseException], Fault],
        response: Callable[[], Accumulator],
        rng: Random,
        on_fault: Callable[[str, Fault], None] | None = None,
    ) -> None:
        self.classify = classify
        self.response = response
        self.rng: Random = rng
        self.on_fault = on_fault


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

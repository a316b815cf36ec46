"""What the engine needs from other rooms.

The protocols are seams: their implementations are in rooms that the engine must not import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from langchain_resilient.engine.attempt import Attempt
    from langchain_resilient.engine.reaper import Reaper
    from langchain_resilient.engine.target_state import TargetState
    from langchain_resilient.exchange import ChatRequest, Chunk, Provider
    from langchain_resilient.faults import Fault
    from langchain_resilient.options import TimeLimits


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

    async def close(self, reaper: Reaper) -> None:
        """End what is still under way; called once, by the owner of the race."""
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

"""What the engine needs from outside, as small protocols: it imports no provider and no wire."""

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
    """An answer being received: `ResponseAccumulator` of the room `wire`."""

    def add(self, chunk: Chunk) -> int:
        """Fold a chunk in; at least 2 if it shows text or a tool call."""
        ...

    def fault(self) -> Fault | None:
        """After the stream's end: what is wrong with the answer, if anything is."""
        ...

    @property
    def text(self) -> str:
        """The visible text so far."""
        ...

    @property
    def ended(self) -> bool:
        """Whether the provider said that this is all, though usage may still come."""
        ...

    @property
    def has_usage(self) -> bool:
        """Whether usage has come."""
        ...

    def tokens(self) -> int:
        """About how much has come so far, thoughts and tool calls included."""
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
    """How an answer goes on at another target when its stream broke after text was delivered."""

    @property
    def appends(self) -> bool:
        """Whether what follows is added to what was delivered: then nothing may be an answer."""
        ...

    def may_follow(self, response: Any) -> bool:
        """Whether another answer may follow what is delivered of this one."""
        ...

    def request(self, responses: Sequence[Any]) -> ChatRequest:
        """Make the request for what follows these broken answers."""
        ...


class AttemptListener(Protocol):
    """Is told when the attempts of one request begin and end. Must be quick, and never raise."""

    def began(self, attempt: Attempt) -> None:
        """Hear that it is sent."""
        ...

    async def enter(self, attempt: Attempt) -> None:
        """Prepare the task that reads it."""
        ...

    def over(self, attempt: Attempt) -> None:
        """Hear that it has ended; those that the caller's going away ends are not told."""
        ...

    async def close(self, reaper: Reaper) -> None:
        """End what is still under way; called once, by whoever owns the race."""
        ...


class Route:
    """One place of the chain: the target's state, its provider, and its own limits.

    Attributes:
        sources: The provider, once for each key of the target.
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
    """What a race needs from outside, the same for all races of a model.

    Attributes:
        classify: Turns an exception into a fault.
        response: Makes an empty draft.
        rng: The engine's generator.
        on_fault: Told each fault and its target's name, for logs and warnings.
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

"""Puts the engine together for a simulation.

It does what `runtime.runtime` and `runtime.shared_state` do for a chat model, without providers,
wire and LangChain.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from langchain_resilient.engine.background import Reaper
from langchain_resilient.engine.budgets import Budgets
from langchain_resilient.engine.interfaces import Dependencies, Plan, Route
from langchain_resilient.engine.race import Race
from langchain_resilient.engine.target_state import Account, TargetState
from langchain_resilient.engine.time_model import UNKNOWN, RequestProfile
from langchain_resilient.exchange import ChatRequest, Chunk
from langchain_resilient.faults import Fault, FaultKind
from langchain_resilient.policies import Health, Hedge, Retry, TimeLimits
from langchain_resilient.simulation.targets import ScriptedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_resilient.simulation.targets import ScriptedSource


@dataclass(frozen=True, slots=True)
class Rules:
    """A model's policy, as far as the engine acts on it.

    Attributes:
        deadline: Seconds for a whole call; None for no limit.
        hedge: None for never.
        health: When a target is taken for sick; None for never.
        time_limits: The limits inside the deadline.
        retry: When a failed target is asked again.
    """

    deadline: float | None = 60.0
    hedge: Hedge | None = field(default_factory=Hedge)
    health: Health | None = field(default_factory=Health)
    time_limits: TimeLimits = field(default_factory=TimeLimits)
    retry: Retry = field(default_factory=Retry)

    @property
    def budget(self) -> float:
        """Hedges as a share of requests."""
        return self.hedge.budget if self.hedge is not None else 0.0

    @property
    def burst(self) -> int:
        """How many hedges may be saved up."""
        return self.hedge.burst if self.hedge is not None else 0

    @property
    def max_parallel(self) -> int:
        """The most attempts of one call that are waited for at the same time."""
        return self.hedge.max_parallel if self.hedge is not None else 1


class Engine:
    """The engine's objects of one model over scripted targets, on the running loop.

    Args:
        rules: Its policy.
        sources: Its chain.
        seed: Of the engine's own generator.
    """

    def __init__(self, rules: Rules, sources: Sequence[ScriptedSource], seed: int) -> None:
        hedge = rules.hedge
        self._plan = Plan(
            deadline=rules.deadline,
            time_limits=rules.time_limits,
            hedge=hedge,
            retry=rules.retry,
            budgets=Budgets.of(hedge, rules.health, rules.retry),
            health=rules.health,
        )
        self._chain = [Route(_state(source), source, rules.time_limits) for source in sources]
        self._tools = Dependencies(_classify, _Draft, Random(seed))
        self._reaper = Reaper()
        self._plain = hedge is not None and hedge.on == "response"

    def race(self, number: int, profile: RequestProfile = UNKNOWN) -> Race:
        """Make the race of one request, known to the targets by its number."""
        request = ChatRequest([{"role": "user", "content": number}])
        plain = self._plain
        return Race(
            self._chain,
            request,
            self._plan,
            self._tools,
            self._reaper,
            plain=plain,
            profile=profile,
        )

    async def close(self) -> None:
        """Wait for the losers."""
        await self._reaper.drain()

    def waiters(self) -> int:
        """How many calls the budgets still hold a place for."""
        budgets = self._plan.budgets
        return budgets.hedge.waiting + budgets.rescue.waiting + budgets.retry.waiting


def _state(source: ScriptedSource) -> TargetState:
    """Make a target's state; every scripted target has an account of its own."""
    script = source.script
    return TargetState(script.name, script.provider, accounts=[Account()], thinks=script.thinks)


def _classify(error: BaseException) -> Fault:
    if isinstance(error, ScriptedError):
        return error.fault
    return Fault(FaultKind.INTERNAL, repr(error), cause=error)


class _Draft:
    """As much of an answer as the engine looks at."""

    __slots__ = ("_finished", "text")

    def __init__(self) -> None:
        self.text = ""
        self._finished = False

    def add(self, chunk: Chunk) -> int:
        if "text" in chunk:
            self.text += chunk["text"]
            return 2
        self._finished = "finish" in chunk
        return 1

    @property
    def ended(self) -> bool:
        return self._finished

    @property
    def has_usage(self) -> bool:
        return True

    def tokens(self) -> int:
        return len(self.text)

    def end(self) -> None:
        self._finished = True

    def fault(self, request: ChatRequest) -> Fault | None:  # noqa: ARG002
        if not self.text:
            return Fault(FaultKind.EMPTY, "no text")
        return None if self._finished else Fault(FaultKind.BROKEN, "no end")

    def input_tokens(self) -> int | None:
        return None

    def cache_tokens(self) -> tuple[int | None, int | None]:
        return None, None

    def output_tokens(self) -> int | None:
        return None

"""Targets that do as their script says, at the simulator, and the models over them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from langchain_resilient import Hedge, ResilientChatModel, Target, TimeLimits
from langchain_resilient.testing import Exchange, Reply, Step
from verification.kit.leftovers import Census, settled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel

    from langchain_resilient.testing import ProviderSimulator, RecordedRequest


CANARY = "sk-canary-0123456789abcdef"


def target(sim: ProviderSimulator, spec: str, **fields: Any) -> Target:
    """A target at the simulator, in the dialect of its provider."""
    fields = {"api_key": CANARY, **fields}
    return Target(spec, base_url=sim.base_url(spec.partition(":")[0]), **fields)


def chain(sim: ProviderSimulator, *specs: str, **fields: Any) -> ResilientChatModel:
    """A model over targets at the simulator."""
    return ResilientChatModel(targets=[target(sim, spec) for spec in specs], **fields)


Wait = Literal["nothing", "hedge", "pause", "gap", "pace"]
"""What has to pass before a fault shows: nothing, the hedge delay, a silence in the text, the limit
for such a silence, or the time in which the throughput is measured."""


@dataclass(frozen=True)
class Limits:
    """Seconds, but for the drip.

    Attributes:
        hedge: The hedge delay of a target that nothing is known of.
        pause: The silence in the text after which another target is asked.
        gap: The longest silence in the text.
        pace: Until the throughput of an answer can be judged.
        drip: Tokens a second that are too few, in pauses that are none too long.
        deadline: For a whole call.
        fields: What makes a model keep these limits; empty for its defaults.
    """

    hedge: float
    pause: float
    gap: float
    pace: float
    drip: float
    deadline: float
    fields: dict[str, Any]

    def of(self, wait: Wait) -> float:
        """Return the seconds that a fault costs."""
        return 0.0 if wait == "nothing" else float(getattr(self, wait))


def small_limits() -> Limits:
    """The defaults in proportion, but so small that a table of them takes half a minute."""
    window = {"min_tokens_per_second": 5.0, "throughput_window": 0.9}
    time_limits = _made(TimeLimits, first_text=1.0, chunk_gap=0.8, **window)
    fields = {
        "hedge": _made(Hedge, cold=0.3, pause=0.4),
        "time_limits": time_limits,
        "timeout": 10.0,
    }
    return Limits(0.3, 0.4, 0.8, pace=0.9, drip=3.0, deadline=10.0, fields=fields)


def real_limits() -> Limits:
    """The defaults of the model."""
    hedge, time_limits = Hedge(), TimeLimits()
    gap = time_limits.chunk_gap or 0.0
    pause = getattr(hedge, "pause", gap)
    pace = getattr(time_limits, "throughput_window", gap)
    deadline = ResilientChatModel.model_fields["timeout"].default
    return Limits(hedge.cold, pause, gap, pace=pace, drip=0.9, deadline=deadline, fields={})


def _made(policy: type[BaseModel], **fields: float) -> BaseModel:
    """Make a policy of the fields that it has: a limit that it does not know is not kept."""
    return policy(**{name: value for name, value in fields.items() if name in policy.model_fields})


_THOUGHT = "Let me see what is asked here, and what is known of it, one by one. " * 8


@dataclass(frozen=True)
class Thinks(Step):
    """Reasoning and no text, until the connection is closed in the middle of the body.

    Attributes:
        pieces: How many pieces of reasoning.
        gap: Seconds between them.
    """

    pieces: int
    gap: float = 0.0

    async def play(self, exchange: Exchange) -> None:
        """Think aloud, and die."""
        writer = exchange.prepare(Reply(reasoning=_THOUGHT))
        await writer.open()
        thoughts = [f for f in writer.rendered.pieces if f.early and not f.text]
        for thought in thoughts[: self.pieces]:
            writer.inject(thought.data.decode())
            await exchange.sleep(self.gap)
        exchange.close()


@dataclass(frozen=True)
class ThenKeepAlives(Step):
    """Some text, and then keep-alives for ever: bytes come, content does not.

    Attributes:
        after: How many pieces of the answer come first.
        interval: Seconds between two keep-alives.
    """

    after: int
    interval: float = 0.05

    async def play(self, exchange: Exchange) -> None:
        """Begin, and keep the client waiting."""
        writer = exchange.prepare(Reply())
        await writer.open()
        await writer.write_pieces(self.after)
        while exchange.request.stream:
            writer.inject(": keep-alive\n\n")
            await exchange.drain()
            await exchange.sleep(self.interval)
        await exchange.sleep(math.inf)


DIALECTS = ("openai", "together")


class Bench:
    """One simulator, and models over targets of their own.

    What is learned of a target is the process's: names that were never used before keep the runs
    apart, and so they can go at the same time.

    Args:
        sim: It runs in a thread of its own.
        census: Knows what the runs leave.
    """

    def __init__(self, sim: ProviderSimulator, census: Census) -> None:
        self.sim = sim
        self.census = census
        self._numbers = 0
        self._began = time.monotonic()

    def number(self) -> int:
        """Give a number that no run had before."""
        self._numbers += 1
        return self._numbers

    def now(self) -> float:
        """Seconds since the simulator's start, as its `Timeline` counts them."""
        return time.monotonic() - self._began

    def name(self, dialect: str, role: str, number: int, steps: Sequence[Step]) -> str:
        """Name a target, and say what it does: step after step, the last for ever."""
        spec = f"{dialect}:{role}-{number}"
        self.sim.script(spec, *steps[:-1], then=steps[-1])
        return spec

    def model(self, *specs: str, **fields: Any) -> ResilientChatModel:
        """Make a model over named targets."""
        return ResilientChatModel(targets=[target(self.sim, s) for s in specs], **fields)

    def seen(self, spec: str) -> list[RecordedRequest]:
        """Return the requests to a target, in the order of coming."""
        return [seen for seen in self.sim.requests if seen.target == spec]

    async def left(self, number: int, specs: Sequence[str]) -> list[str]:
        """Wait for what a run made to be gone, and list what is still there."""

        def at_server() -> list[str]:
            seen = (one for spec in specs for one in self.seen(spec) if one.ended_at is None)
            return [f"request left open: {one.target} {one.step}" for one in seen]

        return await self.census.left(number) + await settled(at_server)

"""Scripted targets: what each does to a request follows from its number and the time of sending."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_resilient.faults import Fault, FaultKind
from langchain_resilient.simulation.faults import (
    CutStream,
    Effect,
    Fail,
    Hang,
    Phase,
    Schedule,
    Slow,
    StallStream,
)
from langchain_resilient.simulation.latency import HeavyTail, Latency, uniform
from langchain_resilient.simulation.sizes import ALIKE

if TYPE_CHECKING:
    from langchain_resilient.exchange import ChatRequest, Chunk
    from langchain_resilient.simulation.sizes import SizedRequest
    from langchain_resilient.simulation.trace import Trace


class Fate(NamedTuple):
    """What becomes of a request: seconds from sending to its end, and whether that is an answer."""

    seconds: float
    answered: bool


@dataclass(frozen=True)
class Script:
    """One target: how fast it is, and what goes wrong when.

    Attributes:
        name: As in receipts; the part before the colon is its provider.
        latency: Of its time to first text, in seconds.
        phases: What goes wrong, and when.
        tail: Seconds from the first text to the answer's end.
        thinks: Whether the engine is told that its model reasons.
        reasoning: Seconds between the pieces of reasoning before its text; None for silence.
    """

    name: str
    latency: Latency = field(default_factory=HeavyTail)
    phases: tuple[Phase, ...] = ()
    tail: float = 0.0
    thinks: bool = False
    reasoning: float | None = None
    schedule: Schedule = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedule", Schedule(self.phases))

    @property
    def provider(self) -> str:
        """Whose it is: hedges prefer another."""
        return self.name.partition(":")[0]

    def fate(self, u: float, at: float, factor: float = 1.0) -> Fate:
        """Tell what becomes of a request, whether anyone waits for it or not.

        Args:
            u: The request's uniform number for this target and attempt.
            at: When it is sent, in seconds since the run began.
            factor: Of the request's size, on the time to its first text.
        """
        effect = self.schedule.at(at)
        if effect is None:
            return Fate(self.latency.at(u) * factor + self.tail, answered=True)
        if isinstance(effect, Slow):
            seconds = self.latency.at(u) * factor * effect.factor
            return Fate(seconds + self.tail, answered=True)
        if isinstance(effect, Fail):
            return Fate(effect.after, answered=False)
        after = self.latency.at(u) * factor + self.tail if isinstance(effect, CutStream) else inf
        return Fate(after, answered=False)


class ScriptedError(Exception):
    """What a scripted target raises; carries the fault that a classifier would read from it."""

    def __init__(self, kind: FaultKind, retry_after: float | None = None) -> None:
        super().__init__(kind.value)
        self.fault: Fault = Fault(kind, "scripted", retry_after=retry_after, cause=self)


class ScriptedSource:
    """A `Source` of the engine that follows a script.

    Args:
        script: What to do.
        position: Its number among the targets of the run: part of what its latencies depend on.
        seed: The run's.
        trace: Told every event.

    Attributes:
        live: How many requests are under way here.
        sends: How many came, ever.
        pushbacks: Each time it asked to be left alone: (when it said so, until when).
        requests: By number, those whose size is known.
    """

    def __init__(self, script: Script, position: int, seed: int, trace: Trace) -> None:
        self.script = script
        self.live: int = 0
        self.sends: int = 0
        self.pushbacks: list[tuple[float, float]] = []
        self.requests: dict[int, SizedRequest] = {}
        self._place = position
        self._seed = seed
        self._trace = trace
        self._tries: dict[int, int] = {}
        self._loop = asyncio.get_running_loop()

    async def open(self, request: ChatRequest, *, stream: bool) -> Any:  # noqa: ARG002
        """Take a request; its number stands in place of a prompt."""
        number: int = request.messages[0]["content"]
        tries = self._tries.get(number, 0)
        self._tries[number] = tries + 1
        self.sends += 1
        self.live += 1
        now = self._loop.time()
        self.tell(number, "send")
        effect = self.script.schedule.at(now)
        if isinstance(effect, Fail):
            await self._refuse(number, effect)
        u = uniform(self._seed, self._place, number, tries)
        first = self.script.latency.at(u) * self.requests.get(number, ALIKE).factor_at(self._place)
        return _Stream(self, number, first, effect)

    async def _refuse(self, number: int, effect: Fail) -> None:
        what = "close"
        try:
            await asyncio.sleep(effect.after)
            what = "fail"
        finally:
            self.live -= 1
            self.tell(number, what)
        if effect.retry_after is not None:
            now = self._loop.time()
            self.pushbacks.append((now, now + effect.retry_after))
        raise ScriptedError(effect.kind, effect.retry_after)

    def tell(self, number: int, what: str) -> None:
        """Add an event to the trace."""
        self._trace.add(self._loop.time(), number, what, self.script.name)


class _Stream:
    """One answer: a chunk with text, then the chunk that ends it."""

    __slots__ = ("_effect", "_first", "_next", "_number", "_open", "_source")

    def __init__(
        self, source: ScriptedSource, number: int, first: float, effect: Effect | None
    ) -> None:
        self._source = source
        self._number = number
        self._first = first * effect.factor if isinstance(effect, Slow) else first
        self._effect = effect
        self._next = 0
        self._open = True

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> Chunk:
        gap = self._source.script.reasoning
        if gap is not None and self._first > gap and not isinstance(self._effect, Hang):
            self._first -= gap
            await self._wait(gap)
            return {"reasoning": True}
        self._next += 1
        if self._next == 1:
            await self._wait(inf if isinstance(self._effect, Hang) else self._first)
            self._source.tell(self._number, "text")
            return {"text": "answer"}
        if self._next > 2:  # noqa: PLR2004  # both chunks are out
            raise StopAsyncIteration
        if isinstance(self._effect, StallStream):
            await self._wait(inf)
        if self._source.script.tail or isinstance(self._effect, CutStream):
            await self._wait(self._source.script.tail)
        if isinstance(self._effect, CutStream):
            raise ScriptedError(FaultKind.BROKEN)
        return {"finish": True}

    async def _wait(self, seconds: float) -> None:
        if seconds < inf:
            await asyncio.sleep(seconds)
        else:
            await asyncio.get_running_loop().create_future()

    async def aclose(self) -> None:
        """Close it; a second time changes nothing."""
        if self._open:
            self._open = False
            self._source.live -= 1
            self._source.tell(self._number, "close")

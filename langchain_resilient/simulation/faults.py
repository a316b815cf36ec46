"""What goes wrong at a target, and when: effects over windows of time.

Whatever holds at the moment of sending decides the fate of that request: one that was sent into a
black hole stays without an answer when the hole is mended (its connection is gone), and one that
was sent before is answered as ever.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from langchain_resilient.faults import FaultKind

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Hang:
    """The request is taken and never answered."""


@dataclass(frozen=True, slots=True)
class Slow:
    """Every latency is so many times as long."""

    factor: float


@dataclass(frozen=True, slots=True)
class Fail:
    """The request is refused.

    Attributes:
        kind: As the engine's classifier would name it.
        after: Seconds from sending to the refusal.
        retry_after: Seconds the target asks to be left alone; None if it does not say.
    """

    kind: FaultKind = FaultKind.SERVER
    after: float = 0.05
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class CutStream:
    """Text comes in time, then the connection breaks."""


@dataclass(frozen=True, slots=True)
class StallStream:
    """Text comes in time, then nothing more, and no end."""


Effect = Hang | Slow | Fail | CutStream | StallStream


@dataclass(frozen=True, slots=True)
class Phase:
    """An effect from `start` until just before `end`, in seconds since the run began."""

    start: float
    end: float
    effect: Effect


@dataclass(frozen=True)
class Schedule:
    """The phases of one target: in order, and never two at a time.

    Raises:
        ValueError: If they overlap or are out of order.
    """

    phases: tuple[Phase, ...] = ()
    _starts: list[float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        edges = [t for phase in self.phases for t in (phase.start, phase.end)]
        if edges != sorted(edges):
            msg = f"phases overlap or are out of order: {self.phases}"
            raise ValueError(msg)
        object.__setattr__(self, "_starts", [phase.start for phase in self.phases])

    def at(self, time: float) -> Effect | None:
        """What is wrong at this moment; None if nothing is."""
        position = bisect_right(self._starts, time) - 1
        if position < 0:
            return None
        phase = self.phases[position]
        return phase.effect if time < phase.end else None

    def changes(self, since: float, until: float) -> Iterable[float]:
        """The moments in (since, until] at which something begins or ends, in order."""
        first = max(0, bisect_right(self._starts, since) - 1)
        for phase in self.phases[first:]:
            if phase.start > until:
                return
            if phase.start > since:
                yield phase.start
            if since < phase.end <= until:
                yield phase.end

"""Durations, counted in steps of two per cent, for the quantiles that people read."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PER_STEP = 50.0
"""Steps in a factor of e: each is 2 % wide."""

_SMALLEST = 0.001
"""Seconds; all that is faster counts as this fast."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """How long something takes, in seconds, within one per cent. None where it is not known.

    Attributes:
        p50: Half of the times are shorter.
        p95: 95 % are shorter.
        p99: 99 % are shorter.
    """

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        told = {"p50": self.p50, "p95": self.p95, "p99": self.p99}
        return {name: None if t is None else round(t, 4) for name, t in told.items()}


UNKNOWN = Quantiles()


class Times:
    """A log-histogram of all durations of a life, with those among it that were cut short.

    A loser that was closed after a second did not take a second: it took longer. Such times count
    as right-censored (Kaplan & Meier, "Nonparametric Estimation from Incomplete Observations",
    JASA 1958); left out, they would make a slow target look fast. Unlike the engine's histogram it
    never fades, and adding costs half a microsecond. No lock: its owner has one.

    Example:
        ```python
        times = Times()
        times.add(0.42)
        times.add(1.20, cut=True)  # closed after 1.2 s, since another was faster
        times.quantiles().p50
        ```
    """

    __slots__ = ("_cut", "_ended")

    def __init__(self) -> None:
        self._ended: dict[int, int] = {}
        self._cut: dict[int, int] = {}

    def add(self, seconds: float, *, cut: bool = False) -> None:
        """Count one; `cut` where it would have taken longer."""
        step = int(log(seconds / _SMALLEST) * _PER_STEP) + 1 if seconds > _SMALLEST else 0
        counts = self._cut if cut else self._ended
        counts[step] = counts.get(step, 0) + 1

    @property
    def count(self) -> int:
        """How many were not cut short."""
        return sum(self._ended.values())

    def quantiles(self) -> Quantiles:
        """The quantiles of all that was added."""
        return Quantiles(*self._quantiles((0.5, 0.95, 0.99)))

    def curve(self) -> tuple[tuple[float, float], ...]:
        """Which share had ended by when: seconds and shares, both growing."""
        return tuple((_middle(step), 1.0 - left) for step, left in self._survival())

    def _quantiles(self, shares: Sequence[float]) -> list[float | None]:
        found: list[float | None] = []
        for step, surviving in self._survival():
            while len(found) < len(shares) and surviving <= 1.0 - shares[len(found)] + 1e-12:
                found.append(_middle(step))
        return found + [None] * (len(shares) - len(found))

    def _survival(self) -> Iterator[tuple[int, float]]:
        """Each step at which some ended, and the share that takes longer."""
        at_risk = sum(self._ended.values()) + sum(self._cut.values())
        surviving = 1.0
        for step in sorted(self._ended.keys() | self._cut.keys()):
            ended = self._ended.get(step, 0)
            surviving *= 1.0 - ended / at_risk
            if ended:
                yield step, surviving
            at_risk -= ended + self._cut.get(step, 0)


def _middle(step: int) -> float:
    return _SMALLEST * exp((step - 0.5) / _PER_STEP) if step else _SMALLEST

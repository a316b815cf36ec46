"""Figures of interleaved rounds, as medians and as ratios to one contender in the same round."""

from __future__ import annotations

import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """What is measured.

    Attributes:
        key: Its column in the results.
        title: What the table calls it, with the unit.
        digits: After the point.
        more_is_better: As for throughput.
    """

    key: str
    title: str
    digits: int = 2
    more_is_better: bool = False


MEASURES = (
    Measure("call_1", "CPU ms/call, 1 in flight", 3),
    Measure("call_64", "CPU ms/call, 64 in flight", 3),
    Measure("rate_1", "calls/s, 1 in flight", 0, more_is_better=True),
    Measure("rate_64", "calls/s, 64 in flight", 0, more_is_better=True),
    Measure("chunk", "CPU us/chunk of a stream", 1),
    Measure("import", "CPU s to import"),
    Measure("first_answer", "CPU s from start to first answer"),
    Measure("modules", "modules loaded by import", 0),
    Measure("memory_import", "MB after import", 0),
    Measure("memory_calls", "MB after 1,000 calls", 0),
    Measure("installed", "MB installed", 0),
)

Rounds = dict[str, dict[str, list[float]]]
"""Figures by measure and contender, one a round, in the order of the rounds."""


@dataclass(frozen=True)
class Spread:
    """A median with its extremes."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Sum some values up."""
        return cls(statistics.median(values), min(values), max(values))


def add(rounds: Rounds, key: str, name: str, value: float) -> None:
    """Note one figure of one round."""
    rounds.setdefault(key, {}).setdefault(name, []).append(value)


def ratios(by_name: dict[str, list[float]], name: str, base: str) -> Spread | None:
    """Compare with the base, round by round; None where there is nothing to compare."""
    pairs = zip(by_name.get(name, ()), by_name.get(base, ()), strict=False)
    results = [own / other for own, other in pairs if other]
    return Spread.of(results) if results else None

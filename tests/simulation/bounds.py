"""What must hold for a row: a figure and its limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from langchain_resilient.simulation.latency import HeavyTail
from langchain_resilient.simulation.oracle import Exact

if TYPE_CHECKING:
    from tests.simulation.figures import Figures


@dataclass(slots=True)
class Findings:
    """All that was measured of a row, over its seeds.

    Attributes:
        parts: Figures by part; `whole` is always there.
        healthy: The whole stationary row of the same size and seeds.
        budget: Hedges as a share of requests.
        burst: How many hedges may be saved up.
        excess: Hedges beyond their budget in the worst window of the worst seed.
        leaks: Of all seeds, by what leaked.
        complaints: Of the event loops.
        slack: What limits on quantiles are multiplied by: 1 but for small samples.
    """

    parts: dict[str, Figures]
    healthy: Figures
    budget: float
    burst: int
    excess: float
    leaks: dict[str, int]
    complaints: list[str]
    slack: float = 1.0


class Verdict(NamedTuple):
    """A bound held against what was found."""

    what: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the bound holds; never, where there is nothing to measure."""
        room = 1e-9 * abs(self.limit) + 1e-9  # for sums of floats
        return self.value >= self.limit - room if self.at_least else self.value <= self.limit + room

    def __str__(self) -> str:
        """Read like `p99 2.21 <= 2.63`."""
        sign = ">=" if self.at_least else "<="
        return f"{self.what} {self.value:.5g} {sign} {self.limit:.5g}"


Bound = Callable[[Findings], Verdict]


def always(found: Findings) -> list[Verdict]:
    """What must hold for every row."""
    return [
        Verdict("hedges over share", found.excess, found.burst),
        Verdict("late calls", found.parts["whole"].late, 0),
        Verdict("leaks", sum(found.leaks.values()) + len(found.complaints), 0),
    ]


def rho99(limit: float, part: str = "whole") -> Bound:
    """Hold p99 against the best possible at the load used."""

    def bound(found: Findings) -> Verdict:
        it = found.parts[part]
        return Verdict(f"{part} p99 / best", it.p99 / it.best99, limit * found.slack)

    return bound


def rho999(limit: float) -> Bound:
    """Hold p99.9 against the best possible at the load used."""

    def bound(found: Findings) -> Verdict:
        it = found.parts["whole"]
        # Ten times fewer samples decide it: three times the margin (standard errors go by the root).
        slack = 1 + 3 * (found.slack - 1)
        return Verdict("p99.9 / best", it.p999 / it.best999, limit * slack)

    return bound


def p50(times: float) -> Bound:
    """Hold the median within the fault against the stationary one."""

    def bound(found: Findings) -> Verdict:
        limit = times * found.healthy.p50 * found.slack
        return Verdict("fault p50", found.parts["fault"].p50, limit)

    return bound


def p99(times: float) -> Bound:
    """Hold p99 within the fault against the stationary one."""

    def bound(found: Findings) -> Verdict:
        limit = times * found.healthy.p99 * found.slack
        return Verdict("fault p99", found.parts["fault"].p99, limit)

    return bound


def p99_seconds(limit: float) -> Bound:
    """Hold p99 within the fault against a time."""
    return lambda found: Verdict("fault p99", found.parts["fault"].p99, limit * found.slack)


def wasted(limit: float) -> Bound:
    """Hold the sends that failed while a caller waited against a share of the requests."""
    return lambda found: Verdict("fault wasted sends", found.parts["fault"].wasted, limit)


def extra(part: str) -> Bound:
    """Hold all extra sends against the hedges' budget and one percent."""

    def bound(found: Findings) -> Verdict:
        return Verdict(f"{part} extra sends", found.parts[part].extra, found.budget + 0.01)

    return bound


def no_worse_than_alone() -> Bound:
    """Hold p99 within the fault against that of no hedging."""

    def bound(found: Findings) -> Verdict:
        it = found.parts["fault"]
        return Verdict("fault p99 vs. alone", it.p99, it.alone99)

    return bound


def relearned(factor: float) -> Bound:
    """Hold the delay of the hedges against what it should be by now, within a tenth."""

    def bound(found: Findings) -> Verdict:
        one = HeavyTail()
        ideal = factor * Exact(one, one).alone(1 - 0.9 * found.budget)
        off = abs(found.parts["relearned"].delay / ideal - 1)
        return Verdict("relearned delay is off by", off, 0.1)

    return bound


def available() -> Bound:
    """Hold the answers against what an oracle could have answered."""

    def bound(found: Findings) -> Verdict:
        share = found.parts["whole"].availability
        return Verdict("availability", share, 0.9999, at_least=True)

    return bound


def recovered() -> Bound:
    """Hold p99 from a minute after the fault on against the stationary one."""

    def bound(found: Findings) -> Verdict:
        limit = 1.1 * found.healthy.p99 * found.slack
        return Verdict("p99 60 s after", found.parts["after"].p99, limit)

    return bound


def back_at_first() -> Bound:
    """Hold the share of the first target's traffic from a minute after the fault on."""

    def bound(found: Findings) -> Verdict:
        return Verdict("back at first 60 s after", found.parts["after"].at_first, 0.95, at_least=True)

    return bound


def sends_when_all_is_down(limit: float) -> Bound:
    """Hold the sends per request while nothing works."""
    return lambda found: Verdict("sends a request, all down", 1 + found.parts["dead"].extra, limit)

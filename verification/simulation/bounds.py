"""What must hold for a row: a figure and its limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from langchain_resilient.simulation.latency import HeavyTail
from langchain_resilient.simulation.oracle import Exact

if TYPE_CHECKING:
    from verification.simulation.figures import Figures


@dataclass(frozen=True, slots=True)
class Slack:
    """What limits are widened by, where samples are few; nothing by default.

    Attributes:
        p50: Factor for medians.
        p99: Factor for p99 against the stationary row: other requests, so their noise counts whole.
        rho99: Factor for p99 against the best possible: the same requests, so it mostly cancels.
        rho999: Factor for p99.9 against the best possible.
        extra: Added to shares of extra sends.
        missed: Taken from availability: 0.9999 of 7,000 requests allows not one to miss.
    """

    p50: float = 1.0
    p99: float = 1.0
    rho99: float = 1.0
    rho999: float = 1.0
    extra: float = 0.0
    missed: float = 0.0


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
        slack: What limits are widened by.
    """

    parts: dict[str, Figures]
    healthy: Figures
    budget: float
    burst: int
    excess: float
    leaks: dict[str, int]
    complaints: list[str]
    slack: Slack = Slack()


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


def always(findings: Findings) -> list[Verdict]:
    """What must hold for every row."""
    return [
        Verdict("hedges over share", findings.excess, findings.burst),
        Verdict("late calls", findings.parts["whole"].late, 0),
        Verdict("leaks", sum(findings.leaks.values()) + len(findings.complaints), 0),
    ]


def rho99(limit: float, part: str = "whole") -> Bound:
    """Hold p99 against the best possible at the load used."""

    def bound(findings: Findings) -> Verdict:
        value = findings.parts[part]
        return Verdict(f"{part} p99 / best", value.p99 / value.best99, limit * findings.slack.rho99)

    return bound


def rho999(limit: float) -> Bound:
    """Hold p99.9 against the best possible at the load used."""

    def bound(findings: Findings) -> Verdict:
        value = findings.parts["whole"]
        return Verdict("p99.9 / best", value.p999 / value.best999, limit * findings.slack.rho999)

    return bound


def p50(times: float) -> Bound:
    """Hold the median within the fault against the stationary one."""

    def bound(findings: Findings) -> Verdict:
        limit = times * findings.healthy.p50 * findings.slack.p50
        return Verdict("fault p50", findings.parts["fault"].p50, limit)

    return bound


def p99(times: float) -> Bound:
    """Hold p99 within the fault against the stationary one."""

    def bound(findings: Findings) -> Verdict:
        limit = times * findings.healthy.p99 * findings.slack.p99
        return Verdict("fault p99", findings.parts["fault"].p99, limit)

    return bound


def p99_seconds(limit: float) -> Bound:
    """Hold p99 within the fault against a time."""
    return lambda result: Verdict("fault p99", result.parts["fault"].p99, limit * result.slack.p99)


def wasted(limit: float) -> Bound:
    """Hold the sends that failed while a caller waited against a share of the requests."""
    return lambda result: Verdict("fault wasted sends", result.parts["fault"].wasted, limit)


def extra_sends(part: str) -> Bound:
    """Hold all extra sends against the hedges' budget and one percent."""

    def bound(findings: Findings) -> Verdict:
        limit = findings.budget + 0.01 + findings.slack.extra
        return Verdict(f"{part} extra sends", findings.parts[part].extra, limit)

    return bound


def load_in_tokens(limit: float = 0.055) -> Bound:
    """Hold what is sent beyond once a request, in requests and in prompt tokens."""

    def bound(findings: Findings) -> Verdict:
        value = findings.parts["whole"]
        worst = max(value.extra, value.extra_tokens)
        return Verdict("extra requests or tokens", worst, limit + findings.slack.extra)

    return bound


def sends(limit: float, part: str) -> Bound:
    """Hold the sends per request."""
    return lambda result: Verdict(
        f"{part} sends a request", 1 + result.parts[part].extra, limit + result.slack.extra
    )


def asked_first(share: float, part: str) -> Bound:
    """Hold the first sends that go to the first target."""
    return lambda result: Verdict(
        f"{part} first sends to the first", result.parts[part].at_first, share, at_least=True
    )


def answered_by_first(share: float) -> Bound:
    """Hold the answers that come from the first target."""
    return lambda result: Verdict(
        "answered by the first", result.parts["whole"].by_first, share, at_least=True
    )


def left_within(requests: float) -> Bound:
    """Hold the requests that a target takes to be left, once it hangs."""
    return lambda result: Verdict(
        "requests until it is left", result.parts["fault"].before_left, requests
    )


def p99_over_own(part: str, limit: float) -> Bound:
    """Hold p99 within the fault against that of a healthy part, and seconds more."""

    def bound(findings: Findings) -> Verdict:
        own = findings.parts[part].p99
        return Verdict("fault p99", findings.parts["fault"].p99, own + limit * findings.slack.p99)

    return bound


def nobody_trips() -> Bound:
    """Hold the probes: they are only sent to targets that tripped."""
    return lambda result: Verdict("probes", result.parts["whole"].shadows, 0)


def no_worse_than_alone() -> Bound:
    """Hold p99 within the fault against that of no hedging."""

    def bound(findings: Findings) -> Verdict:
        value = findings.parts["fault"]
        return Verdict("fault p99 vs. alone", value.p99, value.alone99)

    return bound


def relearned(factor: float) -> Bound:
    """Hold the delay of the hedges against what it should be by now, within a tenth."""

    def bound(findings: Findings) -> Verdict:
        one = HeavyTail()
        ideal = factor * Exact(one, one).alone(1 - 0.9 * findings.budget)
        off = abs(findings.parts["relearned"].delay / ideal - 1)
        return Verdict("relearned delay is off by", off, 0.1)

    return bound


def available() -> Bound:
    """Hold the answers against what an oracle could have answered."""

    def bound(findings: Findings) -> Verdict:
        share = findings.parts["whole"].availability
        return Verdict("availability", share, 0.9999 - findings.slack.missed, at_least=True)

    return bound


def fairly_available() -> Bound:
    """Hold the answers against an oracle that must notice an outage's end before it can act.

    Requests whose deadline comes within a moment of that end are lost to anybody who cannot foresee
    it; the share of all that a clairvoyant could have answered stands in the table beside it.
    """

    def bound(findings: Findings) -> Verdict:
        share = findings.parts["whole"].fair_availability
        limit = 0.9999 - findings.slack.missed
        return Verdict("availability, end noticed", share, limit, at_least=True)

    return bound


def recovered() -> Bound:
    """Hold p99 from a minute after the fault on against the stationary one."""

    def bound(findings: Findings) -> Verdict:
        limit = 1.1 * findings.healthy.p99 * findings.slack.p99
        return Verdict("p99 60 s after", findings.parts["after"].p99, limit)

    return bound


def back_at_first() -> Bound:
    """Hold the share of the first target's traffic from a minute after the fault on."""

    def bound(findings: Findings) -> Verdict:
        return Verdict(
            "back at first 60 s after", findings.parts["after"].at_first, 0.95, at_least=True
        )

    return bound


def sends_when_all_is_down(limit: float) -> Bound:
    """Hold the sends per request while nothing works."""
    return lambda result: Verdict(
        "sends a request, all down", 1 + result.parts["dead"].extra, limit
    )

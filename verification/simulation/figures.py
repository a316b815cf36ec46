"""The figures of a run, or of those of its requests that arrived within some windows of time."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import inf, nan
from statistics import mean, median
from typing import TYPE_CHECKING

from langchain_resilient import AttemptKind, Outcome
from langchain_resilient.simulation.baselines import Samples
from langchain_resilient.simulation.oracle import Sampled, quantile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langchain_resilient.simulation.run import Call, Run

Windows = tuple[tuple[float, float], ...]
"""Times from-to; a request belongs to them if it arrived within one."""

ALWAYS: Windows = ((0.0, inf),)

LATE = 0.05
"""Seconds after its deadline at which a call is late."""


NOTICE = 2.0
"""Seconds: a probe every half second, and 95 in 100 answer it within 1.5."""


@dataclass(slots=True)
class Figures:
    """What was measured; shares are of the requests. Latencies are seconds, infinite if unanswered.

    Attributes:
        requests: How many.
        p50: Half of them were answered by then; and so on.
        best99: The best possible p99 at the load used; see `oracle`.
        alone99: Without hedging or fallback, from the same samples.
        plain99: With a plain fallback.
        extra: Sends beyond one a request, as counted in the receipts.
        kinds: Sends of each kind that is not the first.
        feasible: How many an oracle could have answered in time.
        missed: How many of those were not.
        known: How many an oracle could have answered that learns of a target's return no sooner
            than its first answer could tell (`NOTICE`).
        unknown: How many of those were not.
        wasted: Sends that failed while a caller waited for them.
        at_first: First sends that went to the first target.
        delay: The median time after which the first target's requests were hedged.
        late: Calls that ended later than their deadline and 50 ms.
        by_first: Answers by the first target.
        extra_tokens: Prompt tokens sent beyond once a request, as a share of those sent once.
    """

    requests: float
    p50: float
    p95: float
    p99: float
    p999: float
    best99: float
    best999: float
    alone99: float
    plain99: float
    extra: float
    hedges: float
    fallbacks: float
    rescues: float
    retries: float
    shadows: float
    feasible: float
    missed: float
    known: float
    unknown: float
    wasted: float
    at_first: float
    delay: float
    late: float
    extra_tokens: float
    by_first: float
    before_left: float

    @property
    def fair_availability(self) -> float:
        """The same, of what could have been answered by who is not clairvoyant."""
        return 1 - self.unknown / self.known if self.known else 1.0

    @property
    def availability(self) -> float:
        """The share answered of what an oracle could have answered."""
        return 1 - self.missed / self.feasible if self.feasible else 1.0


@dataclass(slots=True)
class _Asked:
    """A call beside what else could have become of it."""

    call: Call
    alone: float
    plain: float
    pair: tuple[float, float]
    feasible: bool
    known: bool


class Sheet:
    """Takes the figures of a run.

    Args:
        run: A run.
        in_order: Whether the best possible policy must keep to the chain's order.
    """

    def __init__(self, run: Run, *, in_order: bool = False) -> None:
        self._first = run.scenario.targets[0].name
        self._deadline = run.scenario.rules.deadline or inf
        sizes = {call.number: call.size for call in run.calls}
        samples = Samples(run.scenario.targets, run.seed, self._deadline, sizes)
        self._asked = [
            _Asked(
                c,
                samples.alone(c.number, c.arrived),
                samples.plain(c.number, c.arrived),
                samples.pair(c.number, c.arrived, in_order=in_order),
                samples.feasible(c.number, c.arrived),
                samples.feasible(c.number, c.arrived, NOTICE),
            )
            for c in run.calls
        ]

    def figures(
        self,
        windows: Windows = ALWAYS,
        *,
        best: bool = True,
        label: str | None = None,
        scaled: bool = False,
    ) -> Figures | None:
        """Measure the requests that arrived within these windows; None if there were none.

        Args:
            windows: Times from-to.
            best: Whether to compute the best possible, which takes longest; else it is not a
                number.
            label: The class of the requests to measure; None for all.
            scaled: Divide each time by what the request's profile explains of it.
        """
        asked = [
            x
            for x in self._asked
            if (label is None or x.call.size.label == label)
            and any(a <= x.call.arrived < b for a, b in windows)
        ]
        if scaled:
            asked = [_scaled(x) for x in asked]
        if not asked:
            return None
        calls = [x.call for x in asked]
        extra = _share(sum(len(c.attempts) for c in calls) - len(calls), calls)
        bound = Sampled([x.pair[0] for x in asked], [x.pair[1] for x in asked]) if best else None
        taken = sorted(c.latency for c in calls)
        return Figures(
            requests=len(calls),
            p50=quantile(taken, 0.5),
            p95=quantile(taken, 0.95),
            p99=quantile(taken, 0.99),
            p999=quantile(taken, 0.999),
            best99=bound.best(0.99, extra) if bound else nan,
            best999=bound.best(0.999, extra) if bound else nan,
            alone99=quantile(sorted(x.alone for x in asked), 0.99),
            plain99=quantile(sorted(x.plain for x in asked), 0.99),
            extra=extra,
            hedges=_kind("hedge", calls),
            fallbacks=_kind("fallback", calls),
            rescues=_kind("rescue", calls),
            retries=_kind("retry", calls),
            shadows=_kind("shadow", calls),
            feasible=sum(x.feasible for x in asked),
            missed=sum(x.feasible and x.call.latency > self._deadline + LATE for x in asked),
            known=sum(x.known for x in asked),
            unknown=sum(x.known and x.call.latency > self._deadline + LATE for x in asked),
            wasted=_share(sum(_wasted(c) for c in calls), calls),
            at_first=_at_first(calls, self._first),
            delay=_hedge_delay(calls, self._first),
            extra_tokens=_extra_tokens(calls),
            by_first=_by_first(calls, self._first),
            before_left=_before_left(calls, self._first),
            late=sum(c.seconds > self._deadline + LATE for c in calls),
        )


def _scaled(asked: _Asked) -> _Asked:
    factor = asked.call.size.known
    first, second = asked.pair
    return replace(
        asked,
        call=replace(asked.call, seconds=asked.call.seconds / factor),
        alone=asked.alone / factor,
        plain=asked.plain / factor,
        pair=(first / factor, second / factor),
    )


def _extra_tokens(calls: Sequence[Call]) -> float:
    sizes = [call.size.profile.prompt_tokens or 1 for call in calls]
    extra = sum(size * (len(call.attempts) - 1) for size, call in zip(sizes, calls, strict=True))
    return extra / sum(sizes)


def hedge_excess(run: Run) -> float:
    """By how many hedges the worst window exceeds `budget` x its requests; at most the burst.

    Over all windows at once: the largest rise of (hedges so far - budget x requests so far).
    """
    hedges = [
        # In clock ticks: a request pays for a hedge of the same moment.
        (round(call.arrived + a.started, 6), 1.0)
        for call in run.calls
        for a in call.attempts
        if a.kind is AttemptKind.HEDGE
    ]
    requests = [(round(call.arrived, 6), -run.scenario.rules.budget) for call in run.calls]
    level = lowest = worst = 0.0
    for _, step in sorted(hedges + requests):
        level += step
        lowest = min(lowest, level)
        worst = max(worst, level - lowest)
    return round(worst, 6)


def average(measured: Sequence[Figures]) -> Figures:
    """Figures over several seeds: the mean of each, which is infinite where one is."""
    return Figures(
        **{f.name: _mean([getattr(one, f.name) for one in measured]) for f in fields(Figures)}
    )


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if v == v]  # noqa: PLR0124  # not a number: nothing to measure
    return mean(known) if known else nan


def _share(count: float, calls: Sequence[Call]) -> float:
    return count / len(calls)


def _kind(kind: str, calls: Sequence[Call]) -> float:
    # By name: an engine that has no such kind sends none of it.
    return _share(sum(a.kind.value == kind for c in calls for a in c.attempts), calls)


def _at_first(calls: Iterable[Call], first: str) -> float:
    went = [c.attempts[0].target for c in calls if c.attempts]
    return sum(target == first for target in went) / max(1, len(went))


def _by_first(calls: Sequence[Call], first: str) -> float:
    return _share(
        sum(a.target == first and a.outcome is Outcome.WON for c in calls for a in c.attempts),
        calls,
    )


def _before_left(calls: Sequence[Call], first: str) -> float:
    """How many requests that had gone to the first target were over when it was left.

    That is when a request goes elsewhere at first, or when those that wait there are rescued.
    """
    elsewhere = [c.arrived for c in calls if c.attempts and c.attempts[0].target != first]
    rescued = [
        c.arrived + a.started
        for c in calls
        for a in c.attempts
        if a.kind is AttemptKind.RESCUE and a.target != first
    ]
    left = min([*elsewhere, *rescued], default=inf)
    return float(sum(c.arrived + c.seconds < left for c in calls))


def _wasted(call: Call) -> int:
    return sum(a.outcome is Outcome.FAILED and a.kind.value != "shadow" for a in call.attempts)


def _hedge_delay(calls: Iterable[Call], first: str) -> float:
    """The median wait of requests to the first target before they were hedged; nan for none."""
    waits = [
        call.attempts[1].started - call.attempts[0].started
        for call in calls
        if len(call.attempts) > 1
        and call.attempts[0].target == first
        and call.attempts[1].kind is AttemptKind.HEDGE
    ]
    return median(waits) if waits else nan

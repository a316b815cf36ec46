"""The figures of a run, or of those of its requests that arrived within some windows of time."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf, nan
from statistics import mean, median
from typing import TYPE_CHECKING

from langchain_resilient.receipt import AttemptKind, Outcome
from langchain_resilient.simulation.baselines import Samples
from langchain_resilient.simulation.oracle import Sampled, quantile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langchain_resilient.simulation.run import Call, Run

Windows = tuple[tuple[float, float], ...]
"""Times from-to; a request belongs to them if it arrived within one."""

FIRST = (AttemptKind.PRIMARY.value,)
_LATE = 0.05
"""Seconds after its deadline at which a call is late."""


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
        wasted: Sends that failed while a caller waited for them.
        back: First sends that went to the first target.
        delay: The median time after which the first target's requests were hedged.
        late: Calls that ended later than their deadline and 50 ms.
    """

    requests: float
    p50: float
    p95: float
    p99: float
    p999: float
    best99: float
    best999: float
    alone99: float
    alone999: float
    plain99: float
    plain999: float
    extra: float
    hedges: float
    fallbacks: float
    rescues: float
    retries: float
    shadows: float
    feasible: float
    missed: float
    wasted: float
    back: float
    delay: float
    late: float

    @property
    def availability(self) -> float:
        """The share answered of what an oracle could have answered."""
        return 1 - self.missed / self.feasible if self.feasible else 1.0


def measure(run: Run, windows: Windows | None = None, *, in_order: bool = False) -> Figures | None:
    """Take the figures of a run.

    Args:
        run: A run.
        windows: Count only requests that arrived within these; None counts all.
        in_order: Whether the best possible policy must keep to the chain's order.

    Returns:
        None if no request arrived there.
    """
    calls = [c for c in run.calls if windows is None or _within(c.arrived, windows)]
    if not calls:
        return None
    deadline = run.scenario.rules.deadline or inf
    samples = Samples(run.scenario.targets, run.seed, deadline)
    taken = sorted(c.latency for c in calls)
    alone = sorted(samples.alone(c.number, c.arrived) for c in calls)
    plain = sorted(samples.plain(c.number, c.arrived) for c in calls)
    extra = _share(sum(len(c.attempts) for c in calls) - len(calls), calls)
    pairs = [samples.pair(c.number, c.arrived, in_order=in_order) for c in calls]
    best = Sampled([x for x, _ in pairs], [y for _, y in pairs])
    could = [c for c in calls if samples.feasible(c.number, c.arrived)]
    kinds = {k: _share(_count(calls, k), calls) for k in
             ("hedge", "fallback", "rescue", "retry", "shadow")}  # fmt: skip
    firsts = [a.target for c in calls for a in c.attempts if a.kind.value == "primary"]
    return Figures(
        requests=len(calls),
        p50=quantile(taken, 0.5),
        p95=quantile(taken, 0.95),
        p99=quantile(taken, 0.99),
        p999=quantile(taken, 0.999),
        best99=best.best(0.99, extra),
        best999=best.best(0.999, extra),
        alone99=quantile(alone, 0.99),
        alone999=quantile(alone, 0.999),
        plain99=quantile(plain, 0.99),
        plain999=quantile(plain, 0.999),
        extra=extra,
        hedges=kinds["hedge"],
        fallbacks=kinds["fallback"],
        rescues=kinds["rescue"],
        retries=kinds["retry"],
        shadows=kinds["shadow"],
        feasible=len(could),
        missed=sum(c.latency > deadline + _LATE for c in could),
        wasted=_share(sum(_wasted(c) for c in calls), calls),
        back=sum(t == run.scenario.targets[0].name for t in firsts) / max(1, len(firsts)),
        delay=_hedge_delay(calls, run.scenario.targets[0].name),
        late=sum(c.seconds > deadline + _LATE for c in calls),
    )


def hedge_excess(run: Run) -> float:
    """By how many hedges the worst window exceeds `budget` x its first sends; at most the burst.

    Over all windows at once: the largest rise of (hedges so far - budget x first sends so far).
    """
    events = sorted(
        (call.arrived + a.started, a.kind is AttemptKind.HEDGE)
        for call in run.calls
        for a in call.attempts
        if a.kind in (AttemptKind.HEDGE, AttemptKind.PRIMARY)
    )
    level = lowest = worst = 0.0
    for _, is_hedge in events:
        level += 1 if is_hedge else -run.scenario.rules.budget
        lowest = min(lowest, level)
        worst = max(worst, level - lowest)
    return worst


def average(found: Sequence[Figures]) -> Figures:
    """Figures over several seeds: the mean of each, which is infinite where one is."""
    return Figures(
        **{f.name: _mean([getattr(one, f.name) for one in found]) for f in fields(Figures)}
    )


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if v == v]  # noqa: PLR0124  # not a number: nothing to measure
    return mean(known) if known else nan


def _within(time: float, windows: Windows) -> bool:
    return any(a <= time < b for a, b in windows)


def _share(count: float, calls: Sequence[Call]) -> float:
    return count / len(calls)


def _count(calls: Iterable[Call], kind: str) -> int:
    return sum(a.kind.value == kind for c in calls for a in c.attempts)


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

"""The rows of the table: what happens to the targets, and what the engine must make of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from random import Random
from typing import TYPE_CHECKING

from langchain_resilient import FaultKind
from langchain_resilient.engine.target_speed import TEXT_LIMIT
from langchain_resilient.simulation.engine import Rules
from langchain_resilient.simulation.faults import Effect, Fail, Hang, Phase, Slow
from langchain_resilient.simulation.latency import HeavyTail
from langchain_resilient.simulation.oracle import Exact
from langchain_resilient.simulation.run import Scenario
from langchain_resilient.simulation.sizes import Classes, LogNormalLengths, Sizes
from langchain_resilient.simulation.targets import Script
from verification.simulation import bounds

if TYPE_CHECKING:
    from collections.abc import Callable

    from verification.simulation.bounds import Bound
    from verification.simulation.figures import Windows

RATE = 20.0
DEADLINE = 60.0
RELEARN_SECONDS = 360.0
"""Three half-lives of what is learned of latencies."""

RECOVERY_SECONDS = 60.0
SHOWN = ("whole", "fault", "relearned")
"""Parts that stand in the table, beside the best possible; others only serve a bound."""


@dataclass(frozen=True)
class Size:
    """How long a row is. Times are seconds.

    Attributes:
        requests: How many a seed.
        start: When the fault begins.
        length: How long it lasts.
    """

    requests: int
    start: float
    length: float

    @property
    def end(self) -> float:
        """When the fault ends."""
        return self.start + self.length


FULL = Size(50_000, 600.0, 600.0)
SMALL = Size(7_000, 80.0, 120.0)


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: Its name on the command line and in the table.
        scenario: What is run.
        parts: Windows whose requests are looked at alone, by name; `whole` is always there.
        bounds: What must hold.
        in_order: Whether the best possible policy must keep to the chain's order.
        classes: The classes of requests that are looked at alone.
    """

    name: str
    scenario: Scenario
    parts: dict[str, Windows] = field(default_factory=dict)
    bounds: tuple[Bound, ...] = ()
    in_order: bool = False
    classes: tuple[str, ...] = ()


def chain(*phases: tuple[Phase, ...], count: int = 3) -> tuple[Script, ...]:
    """Targets of the reference distribution, each at its own provider, with their phases."""
    padded = [*phases, *[()] * (count - len(phases))]
    return tuple(Script(f"p{i + 1}:m", phases=p) for i, p in enumerate(padded))


def _scenario(size: Size, targets: tuple[Script, ...], rate: float = RATE) -> Scenario:
    return Scenario(targets, Rules(deadline=DEADLINE), rate, size.requests)


def _after(end: float) -> Windows:
    """The five minutes that begin a minute after the end, or as much of them as there is."""
    return ((end + RECOVERY_SECONDS, end + RECOVERY_SECONDS + 300),)


def _one(size: Size, effect: Effect) -> tuple[Phase, ...]:
    return (Phase(size.start, size.end, effect),)


def _fault_of_first(name: str, size: Size, effect: Effect, *limits: Bound) -> Row:
    return Row(
        name,
        _scenario(size, chain(_one(size, effect))),
        {"fault": ((size.start, size.end),), "after": _after(size.end)},
        (*limits, bounds.available(), bounds.recovered(), bounds.back_at_first()),
    )


def stationary(size: Size) -> Row:
    """Nothing happens."""
    limits = (bounds.rho99(1.05), bounds.rho999(1.10), bounds.available())
    return Row("stationary", _scenario(size, chain()), {}, limits)


def stationary_two(size: Size) -> Row:
    """Nothing happens to two targets."""
    limits = (bounds.rho99(1.05), bounds.rho999(1.10), bounds.available())
    return Row("stationary-2", _scenario(size, chain(count=2)), {}, limits)


def hang(size: Size) -> Row:
    """The first target takes requests and never answers."""
    return _fault_of_first("hang", size, Hang(), bounds.p50(1.05), bounds.p99(1.25))


def brown_out(size: Size) -> Row:
    """The first target takes six times as long."""
    return _fault_of_first("brown-out", size, Slow(6), bounds.p99(1.25))


def fast_503(size: Size) -> Row:
    """The first target refuses at once."""
    # What is wasted is wasted on finding out: so many sends an outage, however long it is.
    wasted = 0.002 * FULL.length / size.length
    return _fault_of_first("fast-503", size, Fail(), bounds.p99(1.10), bounds.wasted(wasted))


def all_slower(size: Size) -> Row:
    """Every target takes four times as long."""
    slow = _one(size, Slow(4))
    limits = (bounds.extra_sends("fault"), bounds.no_worse_than_alone(), bounds.available())
    return Row(
        "all-x4",
        _scenario(size, chain(slow, slow, slow)),
        {"fault": ((size.start, size.end),)},
        limits,
    )


def permanent(size: Size) -> Row:
    """The first target takes twice as long, and that is how it is from now on."""
    slow = (Phase(size.start, inf, Slow(2)),)
    relearned = ((size.start + RELEARN_SECONDS, inf),)
    shortest = int((size.start + RELEARN_SECONDS + 150) * RATE)
    limits = (
        bounds.relearned(2),
        bounds.rho99(1.10, "relearned"),
        bounds.extra_sends("fault"),
        bounds.available(),
    )
    return Row(
        "permanent-x2",
        _scenario(replace(size, requests=max(size.requests, shortest)), chain(slow)),
        {"fault": ((size.start, inf),), "relearned": relearned},
        limits,
        in_order=True,
    )


def slow_rate(size: Size) -> Row:
    """One request a second, and ten minutes of every hour the first target hangs."""
    starts = range(1200, size.requests, 3600)
    windows = tuple((float(a), a + 600.0) for a in starts)
    phases = tuple(Phase(a, b, Hang()) for a, b in windows)
    return Row(
        "one-a-second",
        _scenario(size, chain(phases), rate=1.0),
        {"fault": windows},
        (bounds.p99_seconds(5.0), bounds.available()),
    )


def _outage(name: str, size: Size, targets: tuple[Script, ...], end: float, *more: Bound) -> Row:
    return Row(
        name,
        _scenario(size, targets),
        {"fault": ((size.start, end),), "after": _after(end)},
        (bounds.available(), bounds.recovered(), *more),
    )


_REFUSED = Fail(FaultKind.CONNECTION, after=0.01)


def single(size: Size) -> Row:
    """The first target refuses connections."""
    targets = chain(_one(size, _REFUSED))
    return _outage("outage-single", size, targets, size.end, bounds.back_at_first())


def overlapping(size: Size) -> Row:
    """The first hangs; before it is back the second begins to fail, and fails on for a while."""
    third = size.length / 3
    first = (Phase(size.start, size.end - third, Hang()),)
    second = (Phase(size.start + third, size.end, Fail()),)
    return _outage("outage-overlapping", size, chain(first, second), size.end)


def rolling(size: Size) -> Row:
    """One target after another refuses connections, as when a release is rolled out."""
    third = size.length / 3
    phases = [
        (Phase(size.start + i * third, size.start + (i + 1) * third, _REFUSED),) for i in range(3)
    ]
    return _outage("outage-rolling", size, chain(*phases), size.end)


def flapping(size: Size) -> Row:
    """The first two go up and down every 1 to 60 s, now hanging, now failing."""
    rng = Random(20)
    phases = [tuple(_flaps(rng, size)) for _ in range(2)]
    return _outage("outage-flapping", size, chain(*phases), size.end)


def _flaps(rng: Random, size: Size) -> list[Phase]:
    results, at = [], size.start
    while True:
        end = at + rng.uniform(1, 60)
        if end > size.end:
            return results
        results.append(Phase(at, end, rng.choice([Hang(), Fail(), _REFUSED])))
        at = end + rng.uniform(1, 60)


def total(size: Size) -> Row:
    """All targets fail at once, for less time than a request has."""
    return _total("outage-total", size, Fail(), 45.0, bounds.available())


def total_hang(size: Size) -> Row:
    """All targets hang, for less time than a request has."""
    return _total("outage-total-hang", size, Hang(), 45.0, bounds.available())


def long_total(size: Size) -> Row:
    """All targets fail at once, for three minutes: most requests of that time are lost."""
    return _total("outage-long", size, Fail(), 180.0, bounds.fairly_available())


def long_total_hang(size: Size) -> Row:
    """All targets hang, for three minutes."""
    return _total("outage-long-hang", size, Hang(), 180.0, bounds.fairly_available())


def _total(name: str, size: Size, effect: Effect, seconds: float, available: Bound) -> Row:
    end = size.start + min(seconds, size.length)
    return Row(
        name,
        _scenario(size, chain(*[(Phase(size.start, end, effect),)] * 3)),
        {
            "fault": ((size.start, end),),
            "after": _after(end),
            # Of an outage that requests may outlive, all of it; else those that cannot.
            "dead": ((size.start, end - DEADLINE if seconds > DEADLINE else end),),
        },
        (available, bounds.recovered(), bounds.sends_when_all_is_down(3.1)),
    )


_MIXED = Classes({"x1": (300, 0.7), "x4": (13_200, 0.2), "x12": (47_600, 0.1)})
"""A chat's prompts, those with some documents, and long documents: 1, 4 and 12 times as long to the
first text where 4,000 tokens double it."""


def _sized(name: str, size: Size, sizes: Sizes, classes: tuple[str, ...], *more: Bound) -> Row:
    # The longest prompts take a minute to their first text where all is well.
    scenario = replace(_scenario(size, chain()), sizes=sizes, rules=Rules(deadline=300.0))
    limits = (*more, bounds.rho99(1.08, "scaled"), bounds.load_in_tokens(), bounds.available())
    return Row(name, scenario, {}, limits, classes=classes)


def mixed_sizes(size: Size) -> Row:
    """Short prompts beside long ones, at three healthy targets."""
    classes = tuple(_MIXED.lengths)
    limits = [bounds.rho99(1.10, label) for label in classes]
    return _sized("mixed-sizes", size, Sizes([(0.0, _MIXED)]), classes, *limits)


def lognormal_sizes(size: Size) -> Row:
    """Prompts of all lengths."""
    return _sized("lognormal-sizes", size, Sizes([(0.0, LogNormalLengths())]), ("all",))


def hidden_factor(size: Size) -> Row:
    """Short prompts beside long ones, and something else about a request that nobody is told."""
    sizes = Sizes([(0.0, _MIXED)], hidden=0.5)
    return _sized("hidden-factor", size, sizes, tuple(_MIXED.lengths))


_CHAT = LogNormalLengths(300, 0.7)
_DOCUMENTS = LogNormalLengths(40_000, 0.3)
"""Long ones: some 11 times as long to the first text."""


def _documents(name: str, size: Size, rate: float, *, start: float) -> Row:
    """A chat for a while, then only long documents, at healthy targets."""
    sizes = Sizes([(0.0, _CHAT), (start, _DOCUMENTS)])
    scenario = Scenario(chain(), Rules(deadline=300.0), rate, size.requests, sizes=sizes)
    limits = (
        bounds.asked_first(0.98, "documents"),
        bounds.sends(1.07, "documents"),
        bounds.nobody_trips(),
        bounds.available(),
    )
    return Row(name, scenario, {"documents": ((start, inf),)}, limits)


def documents(size: Size) -> Row:
    """At twenty requests a second."""
    return _documents("documents", size, RATE, start=size.start)


def documents_hang(size: Size) -> Row:
    """And the first target hangs meanwhile."""
    sizes = Sizes([(0.0, _CHAT), (size.start / 2, _DOCUMENTS)])
    scenario = replace(
        _scenario(size, chain(_one(size, Hang()))), sizes=sizes, rules=Rules(deadline=300.0)
    )
    limits = (bounds.left_within(5), bounds.available())
    return Row("documents-hang", scenario, {"fault": ((size.start, size.end),)}, limits)


def documents_slowly(size: Size) -> Row:
    """At one request a second."""
    return _documents("documents-1/s", size, 1.0, start=size.requests / 4)


_EFFORTS = {3.0: "low", 8.0: "low", 20.0: "medium", 40.0: "high", 90.0: "xhigh"}
"""What a caller asked for whose model thinks for so many seconds."""


def _thinking(name: str, size: Size, median: float, reasoning: float | None) -> Row:
    """A healthy first target that thinks as hard as it was told to, and a fast fallback."""
    thinker = Script(
        "p1:m",
        HeavyTail(median, 0.4, tail=0.02, tail_least=3 * median, tail_index=2.0, hangs=0.001),
        thinks=True,
        reasoning=reasoning,
    )
    sizes = Sizes([(0.0, Classes({"all": (300, 1.0)}))], effort=_EFFORTS[median])
    targets = (thinker, *chain(count=2)[1:])
    rate = 8 / median  # some eight are under way at a time
    scenario = Scenario(targets, Rules(deadline=600.0), rate, size.requests, sizes=sizes)
    first = 50 / rate
    limits = (
        bounds.answered_by_first(0.93),
        bounds.sends(1.06, "warm"),
        bounds.sends(1.3, "first 50"),
        bounds.available(),
    )
    return Row(
        name, scenario, {"first 50": ((0.0, first),), "warm": ((10 * median + 60, inf),)}, limits
    )


def _thinker_hangs(name: str, size: Size, median: float) -> Row:
    """The same, until it hangs."""
    healthy = _thinking(name, size, median, None)
    start = size.requests / healthy.scenario.rate / 2
    thinker, *others = healthy.scenario.targets
    hanging = replace(thinker, phases=(Phase(start, inf, Hang()),))
    limit = max(TEXT_LIMIT, 3 * Exact(thinker.latency, thinker.latency).alone(0.95))
    return Row(
        name,
        replace(healthy.scenario, targets=(hanging, *others)),
        {"warm": ((10 * median + 60, start),), "fault": ((start, start + 30 * median),)},
        (bounds.left_within(5), bounds.p99_over_own("warm", limit), bounds.available()),
    )


THINKING = {
    f"thinks-{median:g}s" + ("-aloud" if reasoning else ""): partial(
        _thinking, f"thinks-{median:g}s" + ("-aloud" if reasoning else ""),
        median=median, reasoning=reasoning,
    )
    for median in (3.0, 8.0, 20.0, 40.0, 90.0)
    for reasoning in (None, median / 10)
}  # fmt: skip


THINKING |= {
    f"thinks-{median:g}s-hangs": partial(_thinker_hangs, f"thinks-{median:g}s-hangs", median=median)
    for median in (3.0, 8.0, 20.0, 40.0, 90.0)
}


ROWS: dict[str, Callable[[Size], Row]] = {
    "stationary": stationary,
    "stationary-2": stationary_two,
    "hang": hang,
    "brown-out": brown_out,
    "fast-503": fast_503,
    "all-x4": all_slower,
    "permanent-x2": permanent,
    "one-a-second": slow_rate,
    "outage-single": single,
    "outage-overlapping": overlapping,
    "outage-rolling": rolling,
    "outage-flapping": flapping,
    "outage-total": total,
    "outage-total-hang": total_hang,
    "outage-long": long_total,
    "outage-long-hang": long_total_hang,
    "mixed-sizes": mixed_sizes,
    "lognormal-sizes": lognormal_sizes,
    "hidden-factor": hidden_factor,
    "documents": documents,
    "documents-1/s": documents_slowly,
    "documents-hang": documents_hang,
    **THINKING,
}

"""Random fault schedules, and the invariants that hold after every run."""

from __future__ import annotations

from collections import Counter, defaultdict
from math import inf
from multiprocessing import get_context
from random import Random
from typing import TYPE_CHECKING, Any

from tenacity import stop_after_attempt, wait_fixed

from langchain_resilient import FaultKind, Health, Hedge, Outcome, Retry, TimeLimits
from langchain_resilient.simulation.engine import Rules
from langchain_resilient.simulation.faults import (
    CutStream,
    Effect,
    Fail,
    Hang,
    Phase,
    Slow,
    StallStream,
)
from langchain_resilient.simulation.latency import HeavyTail, Latency, Recorded
from langchain_resilient.simulation.run import Scenario, run
from langchain_resilient.simulation.targets import Script
from verification.simulation.figures import LATE, hedge_excess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_resilient import AttemptRecord
    from langchain_resilient.simulation.run import Run


def scenario(seed: int) -> Scenario:
    """Make up targets, faults, a policy, and callers that go away."""
    rng = Random(seed)
    requests = rng.randint(30, 100)
    rate = 10 ** rng.uniform(-0.3, 2.3)
    seconds = max(30.0, requests / rate)
    targets = _targets(rng, seconds)
    going = [n for n in range(requests) if rng.random() < rng.choice([0.0, 0.0, 0.3])]
    cancels = {n: rng.choice([0.0, _moment(rng, 20.0)]) for n in going}
    return Scenario(targets, _rules(rng), rate, requests, cancels)


def _targets(rng: Random, seconds: float) -> tuple[Script, ...]:
    count = rng.randint(1, 4)
    providers = [rng.randrange(count) for _ in range(count)]
    return tuple(
        Script(f"p{providers[i]}:m{i}", _latency(rng), _phases(rng, seconds),
               tail=rng.choice([0.0, 0.0, 0.5, 3.0]))
        for i in range(count)
    )  # fmt: skip


def _latency(rng: Random) -> Latency:
    if rng.random() < 0.3:
        # On the same grid as the delays and limits below: events at the very same moment.
        return Recorded([rng.randint(0, 8) * 0.5 for _ in range(10)])
    return HeavyTail(median=10 ** rng.uniform(-1.5, 0.5), hangs=rng.choice([0.0, 0.003, 0.05]))


def _phases(rng: Random, seconds: float) -> tuple[Phase, ...]:
    edges = sorted(_moment(rng, seconds) for _ in range(2 * rng.randint(0, 4)))
    pairs = zip(edges[::2], edges[1::2], strict=True)
    results = [Phase(a, b, _effect(rng)) for a, b in pairs]
    # Once in a while it never works at all.
    return tuple(results) if rng.random() < 0.9 else (Phase(0.0, 1e9, _effect(rng)),)


def _effect(rng: Random) -> Effect:
    after = rng.choice([0.0, 0.01, 1.0, _moment(rng, 20.0)])
    fail = Fail(rng.choice(list(FaultKind)), after)
    hint = rng.choice([0.0, 0.5, 1.0, 5.0, 10 ** rng.uniform(-1, 2)])
    limit = Fail(rng.choice([FaultKind.RATE_LIMIT, FaultKind.SERVER]), after, retry_after=hint)
    return rng.choice(
        [Hang(), Slow(10 ** rng.uniform(-0.5, 1.5)), fail, limit, CutStream(), StallStream()]
    )


def _rules(rng: Random) -> Rules:
    limits: dict[str, Any] = {
        "first_text": rng.choice([1.0, 5.0, 15.0, None]),
        "chunk_gap": rng.choice([0.5, 10.0, None]),
        "answer": rng.choice([5.0, 600.0, None]),
    }
    retry: dict[str, Any] = {
        "stop": rng.choice([None, stop_after_attempt(rng.randint(1, 4))]),
        "wait": rng.choice([None, wait_fixed(rng.choice([0.0, 0.5, 3.0]))]),
    }
    deadline = rng.choice([1.0, 5.0, 60.0, _moment(rng, 60.0)])
    hedge, health = _hedge(rng), _health(rng)
    if health is not None:
        retry |= {"budget": rng.choice([0.0, 0.1, 1.0]), "burst": rng.choice([1, 20])}
    return Rules(deadline, hedge, health, TimeLimits(**limits), Retry(**retry))


def _health(rng: Random) -> Health | None:
    if rng.random() < 0.15:
        return None
    return Health(
        trip_after=rng.choice([2, 5, 5]),
        rescue=rng.choice([0.0, 0.1, 0.1, 1.0]),
        rescue_burst=rng.choice([1, 50]),
    )


def _hedge(rng: Random) -> Hedge | None:
    if rng.random() < 0.15:
        return None
    options: dict[str, Any] = {
        "budget": rng.choice([0.0, 0.05, 0.05, 0.3, 1.0]),
        "burst": rng.choice([1, 5, 20]),
        "max_parallel": rng.randint(1, 4),
        "on": rng.choice(["first_text", "first_text", "first_text", "response"]),
    }
    if rng.random() < 0.6:
        options["delay"] = rng.choice([0.0, 0.5, 1.0, 2.0])
    return Hedge(**options)


def _moment(rng: Random, most: float) -> float:
    """Any time, or one on the grid of half seconds."""
    return rng.uniform(0.001, most) if rng.random() < 0.5 else rng.randint(1, int(2 * most)) * 0.5


def check(seed: int) -> list[str]:
    """Run one seed; returns what is broken, in words."""
    try:
        return broken(run(scenario(seed), seed, keep=True))
    except Exception as error:  # noqa: BLE001  # a crash is one more thing that must not be
        return [f"crash: {error!r}"]


def check_all(seeds: range, processes: int) -> Iterator[tuple[int, list[str]]]:
    """Run many seeds in several processes; yields (seed, what is broken)."""
    with get_context("spawn").Pool(processes) as pool:
        yield from zip(seeds, pool.imap(check, seeds, chunksize=10), strict=True)


_TICK = 1.1e-6
"""Seconds; the virtual clock's step, and a little for floats."""

_ENDS = {"answered", "exhausted", "deadline", "rejected", "broken", "cancelled"}


def broken(run: Run) -> list[str]:
    """Say which invariants a run breaks; it must have kept its trace."""
    rules = (_one_end, _nothing_after_the_end, _answers, _live, _punctual, _each_send_ends,
             _each_send_is_known, _pushback, _budget, _nothing_left)  # fmt: skip
    return [f"{rule.__name__.strip('_')}: {what}" for rule in rules for what in rule(run)]


def _one_end(run: Run) -> Iterator[str]:
    """Every request ends, once, in a way that is known."""
    ends = Counter(e.request for e in run.trace.events if e.what in _ENDS)
    for number in range(run.scenario.requests):
        if ends[number] != 1:
            yield f"#{number} ended {ends[number]} times"
    if len(run.calls) != run.scenario.requests:
        yield f"{len(run.calls)} calls of {run.scenario.requests}"


def _nothing_after_the_end(run: Run) -> Iterator[str]:
    """Nothing is sent for a request that is over, or after its deadline."""
    over = {call.number: call.arrived + call.seconds for call in run.calls}
    for event in run.trace.events:
        if event.what == "send" and event.time > over.get(event.request, inf) + _TICK:
            yield f"#{event.request} was sent to {event.target} after its end, at {event.time}"


def _answers(run: Run) -> Iterator[str]:
    """An answered request has one winner, and sends nothing after that one's first text."""
    for call in run.calls:
        won = [a for a in call.attempts if a.outcome is Outcome.WON]
        # A caller may go away in the very moment of the answer.
        wanted = {"answered": {1}, "cancelled": {0, 1}}.get(call.end, {0})
        if len(won) not in wanted:
            yield f"#{call.number} {call.end} with {len(won)} winners"
        if won and _committed(won[0], run.scenario.rules):
            later = [a for a in call.attempts if a.started > (won[0].first_text or 0) + _TICK]
            if later:
                yield f"#{call.number} was sent to {later[0].target} after the commit"


def _committed(winner: AttemptRecord, rules: Rules) -> bool:
    """Whether its first text settled the matter: no silence made the engine doubt it again."""
    if winner.first_text is None or (rules.hedge is not None and rules.hedge.on == "response"):
        return False
    pauses = [rules.time_limits.chunk_gap, rules.hedge.pause if rules.hedge is not None else None]
    least = min((pause for pause in pauses if pause is not None), default=inf)
    return winner.ended - winner.first_text < least - _TICK


def _live(run: Run) -> Iterator[str]:
    """At most `max_parallel` attempts are waited for, and one more is suspect."""
    most = run.scenario.rules.max_parallel + 1
    for call in run.calls:
        waited = [a for a in call.attempts if a.kind.value != "shadow"]
        for a in waited:
            live = sum(b.started <= a.started < b.ended for b in waited)
            if live > most:
                yield f"#{call.number} had {live} attempts at once at {a.started}"


def _punctual(run: Run) -> Iterator[str]:
    """No call outlives its deadline, or its caller."""
    deadline = run.scenario.rules.deadline or inf
    for call in run.calls:
        limit = min(deadline, run.scenario.cancels.get(call.number, inf))
        if call.seconds > limit + LATE:
            yield f"#{call.number} took {call.seconds} s of {limit}"


def _each_send_ends(run: Run) -> Iterator[str]:
    """What was sent failed or was closed, once."""
    balance: dict[tuple[int, str], int] = defaultdict(int)
    for event in run.trace.events:
        if event.what in ("send", "fail", "close"):
            balance[event.request, event.target] += 1 if event.what == "send" else -1
    for (number, target), left in balance.items():
        if left:
            yield f"#{number} at {target}: {left} more sends than ends"


def _each_send_is_known(run: Run) -> Iterator[str]:
    """What reached a target stands in the request's receipt, with its time."""
    planned = {
        call.number: [(a.target, call.arrived + a.started) for a in call.attempts]
        for call in run.calls
    }
    for event in run.trace.events:
        if event.what == "send" and not any(
            target == event.target and abs(at - event.time) <= _TICK
            for target, at in planned.get(event.request, [])
        ):
            yield f"#{event.request} was sent to {event.target} at {event.time}: no receipt"


def _pushback(run: Run) -> Iterator[str]:
    """A target that asked to be left alone is left alone."""
    for event in run.trace.events:
        until = (
            max(
                (b for a, b in run.pushbacks[event.target] if a + _TICK < event.time < b - _TICK),
                default=None,
            )
            if event.what == "send"
            else None
        )
        if until is not None:
            yield (
                f"#{event.request} was sent to {event.target} at {event.time:.6f}, which had asked "
                f"to be left alone until {until:.6f}"
            )


def _budget(run: Run) -> Iterator[str]:
    """Hedges keep to their share of the requests, in every window."""
    excess = hedge_excess(run)
    if excess > run.scenario.rules.burst + 1e-6:
        yield f"{excess} hedges over their share in one window"


def _nothing_left(run: Run) -> Iterator[str]:
    """No task, stream or place in a queue is left; the loop has nothing to complain of."""
    yield from (f"{count} {what} left" for what, count in run.leaks.items() if count)
    yield from run.complaints

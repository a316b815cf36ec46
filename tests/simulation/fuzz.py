"""Random fault schedules: whatever happens, the engine's invariants hold."""

from __future__ import annotations

from multiprocessing import get_context
from random import Random
from typing import TYPE_CHECKING, Any

from tenacity import stop_after_attempt, wait_fixed

from langchain_resilient.faults import FaultKind
from langchain_resilient.options import Health, Hedge, Retry, TimeLimits
from langchain_resilient.simulation.engine import Rules
from langchain_resilient.simulation.faults import Cut, Effect, Fail, Hang, Phase, Slow, Stall
from langchain_resilient.simulation.latency import HeavyTail, Latency, Recorded
from langchain_resilient.simulation.run import Scenario, run
from langchain_resilient.simulation.targets import Script
from tests.simulation.invariants import broken

if TYPE_CHECKING:
    from collections.abc import Iterator


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
    found = [Phase(a, b, _effect(rng)) for a, b in pairs]
    # Once in a while it never works at all.
    return tuple(found) if rng.random() < 0.9 else (Phase(0.0, 1e9, _effect(rng)),)


def _effect(rng: Random) -> Effect:
    after = rng.choice([0.0, 0.01, 1.0, _moment(rng, 20.0)])
    fail = Fail(rng.choice(list(FaultKind)), after)
    hint = rng.choice([0.0, 0.5, 1.0, 5.0, 10 ** rng.uniform(-1, 2)])
    limit = Fail(rng.choice([FaultKind.RATE_LIMIT, FaultKind.SERVER]), after, retry_after=hint)
    return rng.choice([Hang(), Slow(10 ** rng.uniform(-0.5, 1.5)), fail, limit, Cut(), Stall()])


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
    return Rules(deadline, _hedge(rng), _health(rng), TimeLimits(**limits), Retry(**retry))


def _health(rng: Random) -> Health | None:
    if rng.random() < 0.15:
        return None
    return Health(
        trip_after=rng.choice([2, 5, 5]),
        rescue=rng.choice([0.0, 0.1, 0.1, 1.0]),
        rescue_burst=rng.choice([1, 50]),
        retry=rng.choice([0.0, 0.1, 1.0]),
        retry_burst=rng.choice([1, 20]),
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

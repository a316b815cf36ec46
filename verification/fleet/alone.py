"""What processes pay that learn alone, and what a fleet pays: caps, hanging targets, latency."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from statistics import median
from typing import Any

from verification.fleet.runs import START_SECONDS, Simulator, _quiet, _reports
from verification.kit.redis_server import RedisServer

CAP = 0.01
"""Dollars an hour, of all processes together."""

SLOW_SECONDS = 1.0
"""What counts as a slow call, where an answer takes 0.05 s."""


def _spend(i: int, urls: dict[str, str], url: str | None, start: Any, results: Any) -> None:
    _quiet()
    from langchain_resilient import ResilientChatModel, SpendCap, SpendCapError, Target

    llm = ResilientChatModel(
        targets=[Target("openai:m", base_url=urls["openai"], api_key="k", price=(2.5, 10))],
        spend_cap=SpendCap(CAP, per="hour", name="team"),
        max_tokens=50,
        shared=url,
    )
    start.wait()
    spent = 0.0
    while True:
        try:
            usage: Any = llm.invoke(f"{i} why").usage_metadata  # type: ignore[attr-defined]
        except SpendCapError:
            break
        spent += usage["input_tokens"] * 2.5e-6 + usage["output_tokens"] * 10e-6
    results.put(spent)


def _ask(i: int, urls: dict[str, str], url: str | None, start: Any, results: Any) -> None:
    _quiet()
    from langchain_resilient import ResilientChatModel, Target

    llm = ResilientChatModel(
        targets=[
            Target("openai:m", base_url=urls["openai"], api_key="k"),
            Target("together:m", base_url=urls["together"], api_key="k"),
        ],
        shared=url,
    )
    start.wait()
    slow = 0
    for k in range(CALLS):
        began = time.monotonic()
        llm.invoke(f"{i}-{k} why")
        slow += time.monotonic() - began > SLOW_SECONDS
    results.put(slow)


CALLS = 30


def _all(work: Any, processes: int, *, shared: bool, **simulated: Any) -> list[Any]:
    """What each of some processes reports."""
    context = multiprocessing.get_context("spawn")
    with Simulator(median=0.05, **simulated) as sim, RedisServer() as redis:
        start, results = context.Barrier(processes + 1), context.Queue()
        url = redis.url if shared else None
        workers = [
            context.Process(target=work, args=(i, sim.urls, url, start, results), daemon=True)
            for i in range(processes)
        ]
        for worker in workers:
            worker.start()
        start.wait(START_SECONDS)
        reports = list(_reports(results, processes, limit=240))
        for worker in workers:
            worker.join(10)
    return reports


async def _latency(sim: Simulator, url: str, calls: int) -> tuple[float, float]:
    """The median of interactive calls in seconds, without and with a fleet, asked in turn."""
    from langchain_resilient import ResilientChatModel, Target

    models = [
        ResilientChatModel(
            targets=[Target("openai:m", base_url=sim.urls["openai"], api_key="k")], shared=shared
        )
        for shared in (None, url)
    ]
    times: tuple[list[float], list[float]] = ([], [])
    for k in range(calls + 20):
        for model, taken in zip(models, times, strict=True):
            began = time.perf_counter()
            await model.ainvoke("why")
            if k >= 20:
                taken.append(time.perf_counter() - began)
    return median(times[0]), median(times[1])


def main() -> int:
    """Print the three; how many bounds are broken."""
    spent = sum(_all(_spend, 4, shared=True))
    together = sum(_all(_spend, 4, shared=False))
    single = sum(_all(_ask, 1, shared=True, primary="hang"))
    four = sum(_all(_ask, 4, shared=True, primary="hang"))
    apart = sum(_all(_ask, 4, shared=False, primary="hang"))
    with Simulator(median=0.02, requests_per_minute=60_000) as sim, RedisServer() as redis:
        before, after = asyncio.run(_latency(sim, redis.url, 200))
    in_flight = 4 * 55 * 10e-6
    print(
        f"\ncap of ${CAP} in 4 processes: ${spent:.4f} spent (nothing shared: ${together:.4f})\n"
        f"hanging primary, {CALLS} calls a process: {four} slow calls in 4 processes, {single} in "
        f"one (4, nothing shared: {apart})\n"
        f"interactive calls, median: {before * 1000:.2f} ms alone, {after * 1000:.2f} ms shared",
        flush=True,
    )
    return (spent > CAP + in_flight) + (four > 1.5 * max(1, single)) + (after - before > 0.0005)

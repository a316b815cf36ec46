"""One run without sockets: the engine, or a plain semaphore, before the simulator's limits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from langchain_resilient.engine.budgets import Budgets
from langchain_resilient.engine.interfaces import Dependencies, Route
from langchain_resilient.engine.plan import Plan
from langchain_resilient.engine.race import Race
from langchain_resilient.engine.reaper import Reaper
from langchain_resilient.engine.target_state import TargetState
from langchain_resilient.exchange import ChatRequest
from langchain_resilient.faults import Fault, FaultKind
from langchain_resilient.options import Health, Hedge, Retry, TimeLimits
from langchain_resilient.runtime.token_estimate import count_characters, estimate_tokens
from langchain_resilient.simulation.clock import run_virtual
from tests.limits.rows import WORKERS, Row, ideal
from tests.limits.server import LimitedSource, RefusedError, Words

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Item = dict[str, Any]
    One = Callable[[Item], Awaitable[bool]]


@dataclass(frozen=True)
class Result:
    """How a run went.

    Attributes:
        row: What was run.
        seconds: Of virtual time, from the first prompt to the last answer.
        sends: What came to the servers, by target.
        refused: How many of these got a 429.
        failed: Prompts without an answer.
    """

    row: Row
    seconds: float
    sends: tuple[int, ...]
    refused: int
    failed: int

    @property
    def ratio(self) -> float:
        """Its time as a multiple of the ideal."""
        return self.seconds / ideal(self.row)

    @property
    def share_refused(self) -> float:
        """429s as a share of sends."""
        return self.refused / sum(self.sends)

    def broken(self) -> list[str]:
        """Say which promises of ours were not kept; the plain way promised nothing."""
        row, found = self.row, list[str]()
        if row.how == "plain":
            return found
        if self.failed:
            found.append(f"{self.failed} without an answer")
        if row.spread and self.ratio > 1.05:
            found.append("makespan")
        if self.share_refused > row.most_refused:
            found.append("429s")
        return found


@dataclass(frozen=True)
class _Load:
    prompt: int
    max_tokens: int
    batch: bool = True

    def prompt_tokens(self) -> int:
        return self.prompt


def play(row: Row) -> Result:
    """Run it."""
    return run_virtual(_play(row))


async def _play(row: Row) -> Result:
    loop = asyncio.get_running_loop()
    sources = [LimitedSource(limits, row.seed + i) for i, limits in enumerate(row.limits)]
    one = _plain(sources[0], row) if row.how == "plain" else _ours(sources, row)
    began = loop.time()
    failed = await crowd(one, row)
    return Result(
        row,
        loop.time() - began,
        tuple(source.sends for source in sources),
        sum(source.refused for source in sources),
        failed,
    )


async def crowd(one: One, row: Row) -> int:
    """Let the workers do it all; returns how many prompts got no answer."""
    work, failed = iter(row.work()), 0

    async def worker() -> None:
        nonlocal failed
        for item in work:
            failed += not await one(item)

    await asyncio.gather(*(worker() for _ in range(WORKERS)))
    return failed


def _ours(sources: list[LimitedSource], row: Row) -> One:
    """The engine, as `langchain_resilient.runtime.runtime` puts it together."""
    hedge, health, reaper = Hedge(), Health(), Reaper()
    plan = Plan(
        120.0, TimeLimits(), hedge, Retry(), Budgets.of(hedge, health), health, spread=row.spread
    )
    tools = Dependencies(_classify, Words, Random(row.seed))
    routes = []
    for number, (source, limits) in enumerate(zip(sources, row.limits, strict=True)):
        state = TargetState(f"p{number}:m", f"p{number}")
        if row.how == "configured":
            state.keys[0].rate_limiter.configure(limits.requests, limits.tokens)
        routes.append(Route(state, source))

    async def one(item: Item) -> bool:
        most = item.get("max_tokens", 0)
        request = ChatRequest(item["messages"], overrides={"max_tokens": most} if most else {})
        load = _Load(estimate_tokens(count_characters(request.messages)), most)
        return await Race(routes, request, plan, tools, reaper, load=load).answer() is not None

    return one


def _classify(error: BaseException) -> Fault:
    if isinstance(error, RefusedError):
        return error.fault
    return Fault(FaultKind.INTERNAL, repr(error), cause=error)


def _plain(source: LimitedSource, row: Row) -> One:
    """A semaphore with the openai SDK's own retries, as many as it takes.

    0.5 to 8 s with a quarter of jitter, unless the server says how long (openai 3.54,
    `_base_client._calculate_retry_timeout`).
    """
    random = Random(row.seed)

    async def one(item: Item) -> bool:
        overrides = {k: v for k, v in item.items() if k != "messages"}
        request, tries = ChatRequest(item["messages"], overrides=overrides), 0
        while True:
            try:
                async for _ in await source.open(request, stream=False):
                    pass
            except RefusedError as error:
                said = error.fault.retry_after
                backoff = min(0.5 * 2.0 ** min(tries, 4), 8.0) * (1 - 0.25 * random.random())
                tries += 1
                await asyncio.sleep(said if said is not None and 0 < said <= 120 else backoff)
            else:
                return True

    return one

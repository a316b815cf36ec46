"""Plays a row: the engine, a plain semaphore, or the whole stack, before the limits.

Without sockets a provider is the simulator's own limits and true headers, in virtual time; the
whole stack is the model, the real SDK and the simulator's HTTP on a virtual loop.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Any

from langchain_resilient import (
    Fault,
    FaultKind,
    Health,
    Hedge,
    ResilientChatModel,
    Retry,
    Target,
    TimeLimits,
)
from langchain_resilient.engine.background import Reaper
from langchain_resilient.engine.budgets import Budgets
from langchain_resilient.engine.interfaces import Dependencies, Plan, Route
from langchain_resilient.engine.race import Race
from langchain_resilient.engine.target_state import TargetState
from langchain_resilient.exchange import ChatRequest
from langchain_resilient.providers import connection
from langchain_resilient.providers.rate_limit_headers import rate_limit_status, retry_after
from langchain_resilient.runtime.token_estimate import estimate_prompt_tokens
from langchain_resilient.simulation.clock import run_virtual
from langchain_resilient.testing import ProviderSimulator, Reply, Uniform
from langchain_resilient.testing.admission import RateLimit
from langchain_resilient.testing.dialects import DIALECTS
from langchain_resilient.testing.dialects.base import IncomingRequest
from verification.kit import virtual_time
from verification.kit.scripted_engine import WordAccumulator, classify
from verification.limits.rows import FASTEST, SLOWEST, WORKERS, Row, ideal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Item = dict[str, Any]
    One = Callable[[Item], Awaitable[bool]]
    from langchain_resilient.exchange import RateLimitStatus
    from langchain_resilient.testing.admission import RateLimitStates, Window
    from verification.kit.virtual_time import VirtualLoop
    from verification.limits.rows import Limits


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
        row, result = self.row, list[str]()
        if row.how == "plain":
            return result
        if self.failed:
            result.append(f"{self.failed} without an answer")
        if row.spread and self.ratio > 1.05:
            result.append("makespan")
        if self.share_refused > row.most_refused:
            result.append("429s")
        return result


@dataclass(frozen=True)
class _Load:
    prompt: int
    max_tokens: int
    batch: bool = True

    def prompt_tokens(self) -> int:
        return self.prompt

    def max_tokens_at(self, _: str) -> int:
        return self.max_tokens


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
    hedge, health, retry, reaper = Hedge(), Health(), Retry(), Reaper()
    budgets = Budgets.of(hedge, health, retry)
    plan = Plan(
        120.0, TimeLimits(), hedge, retry, budgets, health, spread=row.spread, equal=row.equal
    )
    tools = Dependencies(classify, _Answered, Random(row.seed))
    routes = []
    for number, (source, limits) in enumerate(zip(sources, row.limits, strict=True)):
        state = TargetState(f"p{number}:m", f"p{number}")
        if row.how == "configured":
            state.keys[0].rate_limiter.configure(limits.requests, limits.tokens)
        routes.append(Route(state, source))

    async def one(item: Item) -> bool:
        most = item.get("max_tokens", 0)
        request = ChatRequest(item["messages"], overrides={"max_tokens": most} if most else {})
        load = _Load(estimate_prompt_tokens(request.messages), most)
        return await Race(routes, request, plan, tools, reaper, size=load).answer() is not None

    return one


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
                hint = error.fault.retry_after
                backoff = min(0.5 * 2.0 ** min(tries, 4), 8.0) * (1 - 0.25 * random.random())
                tries += 1
                await asyncio.sleep(hint if hint is not None and 0 < hint <= 120 else backoff)
            else:
                return True

    return one


_HEAD_SECONDS = 0.05
"""From sending a request to the head of its response, or to its refusal."""

_ANSWER_TOKENS = 30

_dialect = DIALECTS["openai"]


class RefusedError(Exception):
    """A 429, with its headers."""

    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__("429")
        self.fault = Fault(
            FaultKind.RATE_LIMIT, "429", status=429, retry_after=retry_after(headers), cause=self
        )


class LimitedSource:
    """A `Source` of the engine behind a rate limit.

    Attributes:
        sends: How many came.
        refused: How many of them got a 429.
    """

    def __init__(self, limits: Limits, seed: int) -> None:
        self.sends = 0
        self.refused = 0
        self._limit = RateLimit(limits.requests, limits.tokens, limits.window, others=limits.others)
        self._random = Random(seed)

    async def open(self, request: ChatRequest, *, stream: bool) -> _Answer:
        """Let it in or refuse it; the time that its answer takes is left to chance."""
        self.sends += 1
        body = {**request.overrides, "messages": request.messages}
        now = asyncio.get_running_loop().time()
        denied, meters = self._limit.admit(IncomingRequest(_dialect, "m", body, stream), "key", now)
        await asyncio.sleep(_HEAD_SECONDS)
        if denied is not None:
            self.refused += 1
            raise RefusedError(_dialect.wait_headers(denied.wait or 0.0))
        seconds = self._random.uniform(FASTEST, SLOWEST) - _HEAD_SECONDS
        return _Answer(meters, seconds)


class _Answer:
    def __init__(self, meters: RateLimitStates, seconds: float) -> None:
        self._meters = meters
        self._seconds = seconds
        self._chunks = iter([{"word": "answer"}, {"finish": True}])

    def rate_limit_status(self) -> RateLimitStatus | None:
        return rate_limit_status(dict(_dialect.ok_headers(*self._meters)))

    def __aiter__(self) -> _Answer:
        return self

    async def __anext__(self) -> dict[str, Any]:
        chunk = next(self._chunks, None)
        if chunk is None:
            raise StopAsyncIteration
        if "word" in chunk:
            await asyncio.sleep(self._seconds)
        return chunk

    async def aclose(self) -> None:
        self._chunks = iter(())


class _Answered(WordAccumulator):
    """As much of an answer as the engine looks at, counted by the server: all have one length."""

    @property
    def has_usage(self) -> bool:
        return True

    def tokens(self) -> int:
        return _ANSWER_TOKENS

    def output_tokens(self) -> int | None:
        return _ANSWER_TOKENS


def play_whole_stack(row: Row) -> Result:
    """Run a row that is ours."""

    async def main(loop: VirtualLoop) -> Result:
        async with ProviderSimulator(row.seed, wall_clock=loop.calendar, remember=1) as sim:
            llm = ResilientChatModel(targets=_targets(sim, row), spread=row.spread)

            async def one(item: dict[str, Any]) -> bool:
                most = {"max_tokens": item["max_tokens"]} if "max_tokens" in item else {}
                return bool(await llm.ainvoke(item["messages"], priority="batch", **most))

            began = loop.time()
            failed = await crowd(one, row)
            seconds = loop.time() - began
            await connection.close_clients()
            names = [f"openai:m{number}" for number in range(len(row.limits))]
            sends = tuple(sim.count(name) for name in names)
            refused = sum(sim.count(name, status=429) for name in names)
        return Result(row, seconds, sends, refused, failed)

    return virtual_time.run_virtual(main, seed=row.seed)


_FEW = 10
"""Requests a minute up to which answers are quick, so that only the limit takes time."""


@dataclass(frozen=True)
class LowLimit:
    """A few calls at a target that lets in very little, over the real SDK, in virtual time.

    Attributes:
        limit: Requests a minute.
        how: As of `Row`. Where it is `"learned"`, OpenAI's headers say the limit, Together's only
            when they refuse how long to wait, and in whole seconds.
        batch: Whether the calls are one batch, rather than one after the other.
        dialect: Whose SDK.
        minutes: How many minutes' worth of calls.
        window: What the provider lets in at once.
        hints: Whether its refusals say how long to wait.
    """

    limit: int
    how: str
    batch: bool
    dialect: str = "openai"
    minutes: float = 2.0
    window: Window = "minute"
    hints: bool = True

    def calls(self) -> int:
        """One more than these minutes' worth."""
        return round(self.minutes * self.limit) + 1

    def fair(self) -> float:
        """Seconds that they take at least: a provider's bucket is full at first."""
        limited = (self.calls() - self.burst()) * 60 / self.limit
        # Else what takes time is that only so many are asked at once.
        return max(limited, self.calls() / WORKERS) if self.limit > _FEW else limited

    def burst(self) -> int:
        """How many may come at once at first."""
        if self.how == "configured":
            return 1
        return self.limit if self.window == "minute" else max(1, self.limit // 60)


@dataclass(frozen=True)
class LowResult:
    """What became of them.

    Attributes:
        seconds: How long they took.
        busiest: The most that came within a minute.
        refused: How many the server refused.
        answered: How many were answered.
        gap: The longest time between two that were let in, after the first burst.
    """

    seconds: float
    busiest: int
    refused: int
    answered: int
    gap: float


def play_low(low: LowLimit, *, real: bool = False) -> LowResult:
    """Run it in virtual time, or in real time over the sockets of the operating system."""

    async def main(loop: Any) -> LowResult:
        clock = time.time if real else loop.calendar
        async with ProviderSimulator(0, wall_clock=clock) as sim:
            name = f"{low.dialect}:m"
            text: Any = Uniform(FASTEST, SLOWEST) if low.limit > _FEW else 0.3
            sim.script(name, then=Reply(words=3, first_text=text))
            sim.limit(
                name,
                requests_per_minute=low.limit,
                window=low.window,
                headers=low.hints,
            )
            stated = {"requests_per_minute": low.limit} if low.how == "configured" else {}
            url = sim.base_url(low.dialect)
            target = Target(name, base_url=url, api_key="k", **stated)
            llm = ResilientChatModel(targets=[target], timeout=600)
            began, prompts = loop.time(), [f"question {n}" for n in range(low.calls())]
            if low.batch:
                answers = await llm.abatch(prompts, {"max_concurrency": WORKERS})
            else:
                answers = [await llm.ainvoke(prompt) for prompt in prompts]
            seconds = loop.time() - began
            await connection.close_clients()
            times = [request.at for request in sim.requests]
            busiest = max(bisect_left(times, at + 59.9) - i for i, at in enumerate(times))
            served = [request.at for request in sim.requests if request.status == 200]
            gaps = [b - a for a, b in pairwise(served[max(1, low.burst()) - 1 :])]
        return LowResult(
            seconds, busiest, sim.count(name, status=429), len(answers), max(gaps, default=0.0)
        )

    async def in_real_time() -> LowResult:
        return await main(asyncio.get_running_loop())

    return asyncio.run(in_real_time()) if real else virtual_time.run_virtual(main, seed=0)


def _targets(sim: ProviderSimulator, row: Row) -> list[Target]:
    results = []
    for number, limits in enumerate(row.limits):
        name = f"openai:m{number}"
        fields = {
            "requests_per_minute": limits.requests,
            "tokens_per_minute": limits.tokens,
        }
        reply = Reply(words=10, latency=0.05, first_text=Uniform(FASTEST, SLOWEST))
        sim.script(name, then=reply)
        sim.limit(name, **fields, window=limits.window, others=limits.others)
        configured = fields if row.how == "configured" else {}
        results.append(Target(name, base_url=sim.base_url("openai"), api_key="k", **configured))
    return results

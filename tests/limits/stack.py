"""One run: the simulator, workers, and the model or the bare SDK, on one virtual loop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import openai

from langchain_resilient import ResilientChatModel, Target
from langchain_resilient.providers import clients
from langchain_resilient.testing import ProviderSimulator, Reply, Uniform
from tests.limits.rows import FASTEST, SLOWEST, WORKERS, Row, ideal
from tests.whole_stack.virtual import run_virtual

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.whole_stack.virtual import VirtualLoop


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
        row, found = self.row, []
        if row.how == "plain":
            return found
        if self.failed:
            found.append(f"{self.failed} without an answer")
        if row.spread and self.ratio > 1.05:
            found.append("makespan")
        if self.share_refused > row.most_refused:
            found.append("429s")
        return found


def play(row: Row) -> Result:
    """Run it."""

    async def main(loop: VirtualLoop) -> Result:
        async with ProviderSimulator(row.seed, wall_clock=loop.calendar, remember=1) as sim:
            names = _targets(sim, row)
            one = _plain(sim, names[0]) if row.how == "plain" else _ours(sim, names, row)
            began = loop.time()
            failed = await _crowd(one, row)
            seconds = loop.time() - began
            await clients.close_clients()
            sends = tuple(sim.count(name) for name in names)
            refused = sum(sim.count(name, status=429) for name in names)
        return Result(row, seconds, sends, refused, failed)

    return run_virtual(main, seed=row.seed)


def _targets(sim: ProviderSimulator, row: Row) -> list[str]:
    names = [f"openai:m{i}" for i in range(len(row.limits))]
    for name, limits in zip(names, row.limits, strict=True):
        sim.script(name, then=Reply(words=10, latency=0.05, first_text=Uniform(FASTEST, SLOWEST)))
        sim.limit(
            name,
            requests_per_minute=limits.requests,
            tokens_per_minute=limits.tokens,
            window=limits.window,
            others=limits.others,
        )
    return names


async def _crowd(one: Callable[[dict[str, Any]], Awaitable[object]], row: Row) -> int:
    """Let the workers do it all."""
    work, failed = iter(row.work()), 0

    async def worker() -> None:
        nonlocal failed
        for item in work:
            try:
                await one(dict(item))
            except Exception:
                failed += 1

    await asyncio.gather(*(worker() for _ in range(WORKERS)))
    return failed


def _ours(
    sim: ProviderSimulator, names: list[str], row: Row
) -> Callable[[dict[str, Any]], Awaitable[object]]:
    def target(number: int) -> Target:
        limits = row.limits[number]
        configured = {}
        if row.how == "configured":
            configured = {
                "requests_per_minute": limits.requests,
                "tokens_per_minute": limits.tokens,
            }
        return Target(names[number], base_url=sim.base_url("openai"), api_key="k", **configured)

    targets = [target(number) for number in range(len(names))]
    llm = ResilientChatModel(targets=targets, spread=row.spread)

    async def one(item: dict[str, Any]) -> object:
        return await llm.ainvoke(item.pop("messages"), priority="batch", **item)

    return one


def _plain(sim: ProviderSimulator, name: str) -> Callable[[dict[str, Any]], Awaitable[object]]:
    """A semaphore and the SDK's own retries: 0.5 to 8 s with jitter, or what the server says."""
    client = openai.AsyncOpenAI(api_key="k", base_url=sim.base_url("openai"), max_retries=200)

    async def one(item: dict[str, Any]) -> object:
        return await client.chat.completions.create(model=name.partition(":")[2], **item)

    return one

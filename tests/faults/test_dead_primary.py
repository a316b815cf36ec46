"""A dead primary costs almost nothing: over real sockets, beside the fallback in the same run."""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from typing import TYPE_CHECKING, Any

import pytest

from langchain_resilient import ResilientChatModel, Target
from langchain_resilient.testing import NoAnswer, ProviderSimulator, Reply, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

HEDGE_DELAY = 0.3
FALLBACK_SECONDS = 0.05
ROUNDS = 7
MEASUREMENTS = 3
"""A busy machine can only add to a time: the bound must hold in one of these."""


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    """A simulator with a healthy fallback that takes a while."""
    with ProviderSimulator() as simulator:
        simulator.script("together:back", then=Reply("the answer", first_text=FALLBACK_SECONDS))
        yield simulator


def refused() -> str:
    """A loopback address where nobody listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{s.getsockname()[1]}/v1"


class Pair:
    """The chain with a dead primary, and the fallback alone.

    Each round's primary is one that the process has no memory of: else a 429 would be met once and
    then avoided.
    """

    def __init__(self, sim: ProviderSimulator, primary_url: str) -> None:
        self._url = primary_url
        self._back = Target("together:back", base_url=sim.base_url("together"), api_key="k")
        self.alone = ResilientChatModel(targets=[self._back], hedge=None)
        self._round = 0

    def chain(self) -> ResilientChatModel:
        self._round += 1
        dead = Target(f"openai:dead-{self._round}", base_url=self._url, api_key="k")
        return ResilientChatModel(targets=[dead, self._back], hedge=HEDGE_DELAY)


async def first_text(llm: ResilientChatModel) -> float:
    """Seconds to the first text of a stream."""
    began = time.perf_counter()
    async for chunk in llm.astream("hello"):
        if chunk.content:
            return time.perf_counter() - began
    pytest.fail("no text came")


async def compare(pair: Pair) -> tuple[float, float]:
    """Median seconds to first text of the chain and of the fallback alone, interleaved."""
    await first_text(pair.alone)
    await first_text(pair.chain())
    with_dead, own = [], []
    for _ in range(ROUNDS):
        own.append(await first_text(pair.alone))
        with_dead.append(await first_text(pair.chain()))
    return statistics.median(with_dead), statistics.median(own)


@pytest.mark.parametrize(
    ("fault", "hidden"),
    [
        (Status(500), 0.0),
        (Status(429, retry_after=30), 0.0),
        ("refused", 0.0),
        (NoAnswer(), HEDGE_DELAY),
    ],
    ids=["500", "429 Retry-After 30", "refused", "no answer"],
)
def test_a_dead_primary_costs_at_most_20_ms(sim: ProviderSimulator, fault: Any, hidden: float):
    """The text comes within the fallback's own time + 20 ms; for a hang, + the hedge delay."""
    url = refused() if fault == "refused" else sim.base_url("openai")
    if fault != "refused":
        sim.script("openai:*", then=fault)
    pair = Pair(sim, url)
    for measurement in range(1, MEASUREMENTS + 1):
        with_dead, own = asyncio.run(compare(pair))
        if fault != "refused":
            asked = sum(r.dialect == "openai" for r in sim.requests)
            assert asked == measurement * (ROUNDS + 1)
        if with_dead <= own + hidden + 0.020:
            return
    pytest.fail(
        f"{with_dead:.3f} s with the dead primary, {own:.3f} s without: {MEASUREMENTS} times"
    )

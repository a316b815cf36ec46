"""Batches over real sockets, against the simulator."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from langchain_resilient import ResilientChatModel
from langchain_resilient.testing import NoAnswer, ProviderSimulator, Reset, Status
from verification.kit.scripted_targets import chain, target

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as simulator:
        yield simulator


def _prompts(count: int) -> list[Any]:
    return [f"Say exactly: number {n}" for n in range(count)]


async def test_faults_never_mix_up_answers(sim):
    """One request in five fails: retries and fallbacks answer, each prompt its own."""
    sim.chaos("*", {Status(500): 0.1, Reset(): 0.1})
    llm = chain(sim, "openai:a", "together:b")
    messages = await llm.abatch(_prompts(100), {"max_concurrency": 20})
    assert [message.text for message in messages] == [f"number {n}" for n in range(100)]
    report = llm.batch_report()
    assert sum(target.requests for target in report.targets) >= 100
    assert sum(sum(target.faults.values()) for target in report.targets) > 0


async def test_a_targets_bound_holds_on_the_wire(sim):
    """`Target.max_concurrency` under a wider batch: the server sees no more at a time."""
    most: list[int] = []

    def look(_: Any) -> None:
        most.append(sim.in_flight)

    llm = ResilientChatModel(targets=[target(sim, "openai:a", max_concurrency=3)], hedge=None)
    # On a busy machine some prompt may take long: its tail hedge would be one request more.
    await llm.abatch(_prompts(60), {"max_concurrency": 20}, progress=look, tail_hedge=False)
    assert sim.count("openai:a") == 60
    assert max(most) <= 3


async def test_a_cancelled_batch_closes_its_connections(sim):
    """The server sees the callers go, and nothing runs on."""
    sim.script("*", then=NoAnswer())
    task = asyncio.create_task(chain(sim, "openai:a").abatch(_prompts(10)))
    async with asyncio.timeout(30):
        while sim.in_flight < 10:  # noqa: ASYNC110  # the simulator tells nobody
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await sim.await_idle()
    assert sim.aborted == 10

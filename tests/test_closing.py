"""Closing a model: its connections go, and it works again afterwards."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.language_models import FakeListChatModel

from langchain_resilient import ResilientChatModel, Target
from langchain_resilient.runtime import background_loop
from langchain_resilient.testing import NoAnswer, ProviderSimulator, Reply
from tests.streaming.stories import until


@pytest.fixture
def sim():
    """A simulator in a thread, so that sync calls may go to it."""
    with ProviderSimulator() as simulator:
        yield simulator


def model(sim: ProviderSimulator, *names: str, **fields) -> ResilientChatModel:
    """Over targets of the simulator."""
    targets = [
        Target(name, api_key="k", base_url=sim.base_url(name.partition(":")[0])) for name in names
    ]
    return ResilientChatModel(targets=targets, share_learning=False, **fields)


@pytest.mark.parametrize("provider", ["openai", "together"])
async def test_the_end_of_the_block_closes_the_connections(sim, provider):
    """The server sees it."""
    async with model(sim, f"{provider}:m") as llm:
        await llm.ainvoke("hello")
        assert sim.open_sockets
    await until(lambda: not sim.open_sockets)


@pytest.mark.parametrize("provider", ["openai", "together"])
def test_so_does_the_end_of_a_synchronous_block(sim, provider):
    """Sync calls run on the background loop."""
    with model(sim, f"{provider}:m") as llm:
        llm.invoke("hello")
        assert sim.open_sockets
    asyncio.run(until(lambda: not sim.open_sockets))


async def test_aclose_closes_those_of_synchronous_calls_too(sim):
    """Whichever way the model was called."""
    llm = model(sim, "openai:m")
    await asyncio.to_thread(llm.invoke, "hello")
    await llm.ainvoke("hello")
    await llm.aclose()
    await until(lambda: not sim.open_sockets)


async def test_every_target_and_key_is_closed(sim):
    """Also one that was given with a call."""
    llm = model(sim, "openai:m", "together:m")
    other = Target("openai:other", api_key=("a", "b"), base_url=sim.base_url("openai"))
    await llm.ainvoke("hello")
    await llm.ainvoke("hello", model="together:m")
    await llm.ainvoke("hello", model=other)
    await llm.aclose()
    await until(lambda: not sim.open_sockets)


async def test_a_closed_model_works_again(sim):
    """And may be closed twice."""
    llm = model(sim, "openai:m")
    for _ in range(2):
        assert (await llm.ainvoke("hello")).text
        await llm.aclose()
        await llm.aclose()
    await until(lambda: not sim.open_sockets)


async def test_losers_are_closed_first(sim):
    """They hold a connection until their provider has been left."""
    sim.script("openai:slow", then=NoAnswer())
    sim.script("together:fast", then=Reply())
    async with model(sim, "openai:slow", "together:fast", hedge=0.05) as llm:
        await llm.ainvoke("hello")
    await until(lambda: not sim.in_flight and not sim.open_sockets)
    assert sim.aborted == 1


async def test_another_account_is_left_alone(sim):
    """Its connections are those of another model."""
    llm = model(sim, "openai:m")
    target = Target("openai:m", api_key="another", base_url=sim.base_url("openai"))
    async with ResilientChatModel(targets=[target], share_learning=False) as other:
        await other.ainvoke("hello")
        async with llm:
            await llm.ainvoke("hello")
        await until(lambda: sim.open_sockets == 1)
    await until(lambda: not sim.open_sockets)


async def test_a_model_that_was_never_called_can_be_closed():
    """Also one of targets that hold no connections of ours, and one that was copied."""
    llm = ResilientChatModel(targets=[FakeListChatModel(responses=["yes"])])
    await llm.aclose()
    await llm.model_copy().aclose()
    llm.close()
    assert (await llm.ainvoke("hello")).text == "yes"


def test_closing_starts_no_background_loop(monkeypatch):
    """There is nothing on a loop that never ran."""
    monkeypatch.setattr(background_loop, "_background_loop", None)
    ResilientChatModel(targets=[FakeListChatModel(responses=["yes"])]).close()
    assert background_loop._background_loop is None

"""Warm models: connections are there before the first call and the first hedge, and stay."""

from __future__ import annotations

import asyncio
import gc
import pickle
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from langchain_resilient import Hedge, ResilientChatModel, Target
from langchain_resilient.providers.http import KEEPALIVE_SECONDS
from langchain_resilient.runtime.routes import REFRESH_SECONDS, Connections
from langchain_resilient.simulation.clock import run_virtual
from langchain_resilient.testing import ProviderSimulator, Reply
from tests.streaming.stories import until

NAMES = ("openai:gpt-4.1", "together:qwen")


def model(sim: ProviderSimulator, *names: str, **fields) -> ResilientChatModel:
    targets = [
        Target(name, api_key="k", base_url=sim.base_url(name.partition(":")[0]))
        for name in names or NAMES
    ]
    return ResilientChatModel(targets=targets, share_learning=False, **fields)


@pytest.fixture
def sim():
    with ProviderSimulator() as simulator:
        yield simulator


async def test_awarm_connects_to_every_target(sim):
    """A call then opens no connection, and neither does its hedge; `aclose` closes all."""
    llm = model(sim, hedge=Hedge(delay=0.01))
    assert await llm.awarm() == dict.fromkeys(NAMES)
    warm = set(sim._server.connections)
    assert len(warm) == 2
    assert sim.count() == 0
    sim.script(NAMES[0], then=Reply(first_text=1.0))
    answer = await llm.ainvoke("hello")
    assert answer.response_metadata["resilience"]["winner"] == NAMES[1]
    assert sim.count() == 2
    assert set(sim._server.connections) <= warm
    await llm.aclose()
    await until(lambda: not sim.open_sockets)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_warm_is_the_same_for_synchronous_calls(sim):
    """On the background loop."""
    with model(sim) as llm:
        assert llm.warm() == dict.fromkeys(NAMES)
        warm = set(sim._server.connections)
        llm.invoke("hello")
        assert set(sim._server.connections) == warm
    asyncio.run(until(lambda: not sim.open_sockets))


async def test_two_targets_at_one_server_have_a_connection_each(sim):
    """Else a hedge would wait for the first one's."""
    llm = model(sim, "openai:gpt-4.1", "openai:gpt-4.1-mini")
    await llm.awarm()
    assert sim.open_sockets == 2
    await llm.aclose()


async def test_a_model_that_wants_the_responses_api_for_tools_is_ready_for_both(sim):
    """Each API has connections of its own."""
    llm = model(sim, "openai:gpt-6.1-sol")
    await llm.awarm()
    assert sim.open_sockets == 2
    await llm.aclose()


async def test_warm_at_construction_inside_a_loop(sim):
    """Without waiting for it, on that loop."""
    llm = model(sim, warm=True)
    await until(lambda: sim.open_sockets == 2)
    await asyncio.sleep(0.05)  # the questions on them are answered
    warm = set(sim._server.connections)
    await llm.ainvoke("hello")
    assert set(sim._server.connections) <= warm
    await llm.aclose()


def test_warm_at_construction_outside_a_loop(sim):
    """For synchronous calls; an asynchronous one warms its own loop, beside its answer."""
    llm = model(sim, warm=True)
    asyncio.run(until(lambda: sim.open_sockets == 2))

    async def call() -> None:
        await llm.ainvoke("hello")
        await until(lambda: sim.open_sockets >= 4)

    asyncio.run(call())
    llm.close()
    asyncio.run(until(lambda: not sim.open_sockets))


async def test_what_cannot_be_reached_is_told_and_nothing_is_raised(sim):
    """A key is in no message."""
    dead = Target("openai:m", base_url="http://127.0.0.1:9/v1", api_key="sk-canary-4711")
    llm = ResilientChatModel(targets=[dead, "text:fine"], share_learning=False)
    results = await llm.awarm()
    assert results["text:fine"] is None
    assert "Connect" in results["openai:m"]
    assert "canary" not in str(results)
    await llm.aclose()


async def test_nothing_is_kept_for_a_model_that_is_gone(sim):
    """Its task holds it only while it connects, and ends with its next look."""
    llm = model(sim)
    await llm.awarm()
    kept = weakref.ref(llm._runtime._connections)
    (keeper,) = kept()._keepers.values()
    del llm
    gc.collect()
    await until(lambda: kept() is None)
    keeper.cancel()


def test_a_warm_model_is_set_copied_and_pickled_like_any_other(sim):
    """By either name."""
    llm = model(sim, warm=True)
    assert llm.keep_warm
    assert pickle.loads(pickle.dumps(llm)).keep_warm  # noqa: S301
    assert not model(sim).keep_warm
    assert model(sim, keep_warm=True) == llm
    assert "keep_warm" not in llm._identifying_params
    llm.timeout = 5.0
    assert llm.keep_warm
    llm.close()


class Account:
    """A provider that notes when it is connected to."""

    def __init__(self) -> None:
        self.at: list[float] = []

    async def connect(self) -> None:
        self.at.append(asyncio.get_running_loop().time())


def test_connections_are_used_before_they_would_be_closed(monkeypatch):
    """Through idle minutes, every key's, until they are closed."""
    accounts = [Account(), Account(), object()]
    routes: Any = [
        SimpleNamespace(sources=accounts[:2], state=SimpleNamespace(name="two keys")),
        SimpleNamespace(sources=accounts[2:], state=SimpleNamespace(name="text")),
    ]

    async def idle() -> None:
        async def here(function, *args):
            return function(*args)  # virtual time does not wait for threads

        monkeypatch.setattr(asyncio, "to_thread", here)
        connections = Connections(routes)
        assert await connections.open() == {"two keys": None, "text": None}
        connections.keep(after=REFRESH_SECONDS)
        await asyncio.sleep(120)
        await connections.close()
        await asyncio.sleep(120)

    run_virtual(idle())
    for account in accounts[:2]:
        assert [at - account.at[0] for at in account.at] == [0, 45, 90]
    assert REFRESH_SECONDS < KEEPALIVE_SECONDS

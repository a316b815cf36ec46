"""Starting, stopping, waiting, and leaving nothing behind."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import math
import socket
import sys
import threading
import warnings

import pytest

from langchain_resilient.testing import (
    Exchange,
    KeepAlives,
    Lognormal,
    NoAnswer,
    ProviderSimulator,
    Reply,
    Stall,
    Step,
    answer_to,
)
from tests.testing.wire_client import PATHS, ask, chat, request_bytes
from verification.kit.virtual_time import virtual_time


def post(port: int, body: object) -> str:
    """A blocking client."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST", PATHS["openai"], json.dumps(body))
        return json.load(connection.getresponse())["choices"][0]["message"]["content"]
    finally:
        connection.close()


def test_it_serves_blocking_clients_from_a_thread_of_its_own() -> None:
    """A `with` is all it takes."""
    with ProviderSimulator() as sim:
        assert post(sim.port, chat()) == answer_to("Hello")
        assert sim.count("openai:gpt-4") == 1


def test_it_can_be_started_again() -> None:
    """Scripts and counts stay, the port need not."""
    sim = ProviderSimulator()
    sim.script("*", then=Reply("again"))
    for run in (1, 2):
        with sim:
            assert post(sim.port, chat()) == "again"
        assert sim.count() == run


def test_stopping_twice_does_nothing() -> None:
    """Nor does stopping what never ran."""
    sim = ProviderSimulator()
    sim.stop()
    sim.start()
    sim.stop()
    sim.stop()


def test_stopping_closes_what_has_only_just_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accepted, but not yet made a connection of: asyncio alone would leave it open."""
    leaks: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda leak: leaks.append(str(leak.exc_value)))
    for _ in range(5):
        sim = ProviderSimulator().start()
        with socket.create_connection(("127.0.0.1", sim.port)):
            sim.stop()
        del sim
    gc.collect()
    assert leaks == []


def test_starting_twice_is_refused() -> None:
    """It would lose the first one."""
    with ProviderSimulator() as sim, pytest.raises(RuntimeError, match="is running"):
        sim.start()


def test_a_port_that_is_taken_is_reported() -> None:
    """And the thread is not left behind."""
    before = threading.active_count()
    with ProviderSimulator() as sim:
        other = ProviderSimulator(port=sim.port)
        with pytest.raises(OSError, match="address"):
            other.start()
        assert threading.active_count() == before + 1


def test_a_stopped_simulator_has_no_address() -> None:
    """Before and after; the error says what to do."""
    sim = ProviderSimulator()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="use it in a with"):
            sim.base_url("openai")
        with sim:
            pass


async def test_base_urls(sim: ProviderSimulator) -> None:
    """As the SDKs want them: the Together SDK adds `/v1` itself."""
    assert sim.base_url("openai") == f"http://127.0.0.1:{sim.port}/openai/v1"
    assert sim.base_url("together") == f"http://127.0.0.1:{sim.port}/together"
    with pytest.raises(ValueError, match="openai, together"):
        sim.base_url("anthropic")


def test_the_thread_form_leaves_nothing_behind_even_with_hanging_requests() -> None:
    """No thread, no socket, no warning."""
    before = threading.active_count()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ProviderSimulator() as sim:
            sim.script("*", then=NoAnswer())
            connection = http.client.HTTPConnection("127.0.0.1", sim.port, timeout=5)
            connection.request("POST", PATHS["openai"], json.dumps(chat()))
            sim.wait_requests(1)
        connection.close()
        gc.collect()
    assert threading.active_count() == before
    assert (sim.in_flight, sim.open_sockets, sim.aborted) == (0, 0, 0)


@pytest.mark.parametrize("step", [NoAnswer(), Stall(after=2), KeepAlives(0.001)])
async def test_the_async_form_leaves_nothing_behind(step: Step) -> None:
    """Tasks that hang are cancelled, and connections aborted."""
    async with ProviderSimulator() as sim:
        sim.script("*", then=step)
        asking = asyncio.create_task(ask(sim, chat(stream=True)))
        await sim.await_requests(1)
    assert (await asking).end in {"closed", "reset"}
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert (sim.in_flight, sim.open_sockets) == (0, 0)
    assert sim.requests[0].ended_at is not None


async def test_a_client_that_goes_away_is_noticed(sim: ProviderSimulator) -> None:
    """In flight, then aborted, with what it had got by then."""
    sim.script("*", then=Stall(after=3))
    await ask(sim, chat(stream=True), patience=0.1)
    await sim.await_idle(sockets=0)
    await asyncio.sleep(0)
    seen = sim.requests[0]
    assert (sim.aborted, seen.aborted, len(seen.pieces)) == (1, True, 3)
    assert seen.ended_at is not None
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_step_that_lingers_after_its_end_is_stopped() -> None:
    """Nobody waits for it any more, and yet it must not outlive the simulator."""

    class Lingering(Step):
        async def play(self, exchange: Exchange) -> None:
            exchange.respond(200, b"{}")
            await exchange.sleep(math.inf)

    async with ProviderSimulator() as sim:
        sim.script("*", then=Lingering())
        assert (await ask(sim)).status == 200
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_client_that_goes_away_after_the_end_does_not_count(sim: ProviderSimulator) -> None:
    """The answer was complete."""
    await ask(sim, chat(stream=True))
    await sim.await_idle(sockets=0)
    assert sim.aborted == 0


async def test_waiting_says_what_is_left(sim: ProviderSimulator) -> None:
    """A test that fails there should not be a riddle."""
    sim.script("*", then=NoAnswer())
    asking = asyncio.create_task(ask(sim, patience=0.2))
    await sim.await_requests(1)
    with pytest.raises(TimeoutError, match=r"1 are in flight \['openai:gpt-4 NoAnswer'\]"):
        await sim.await_idle(0.01)
    assert not sim._waiters._conditions
    await asking


async def test_waiting_for_requests_counts_them_as_they_come(sim: ProviderSimulator) -> None:
    """Hanging ones too, and only those that fit the pattern."""
    sim.script("*", then=NoAnswer())
    asking = asyncio.create_task(ask(sim, dialect="together", patience=0.1))
    await sim.await_requests(1, pattern="together:*")
    with pytest.raises(TimeoutError, match="1 requests have come"):
        await sim.await_requests(1, 0.01, pattern="openai:*")
    await asking


async def test_waiting_for_sockets_waits_for_idle_ones_too(sim: ProviderSimulator) -> None:
    """Connections that a pool keeps are open, though nothing is in flight."""
    _, writer = await asyncio.open_connection("127.0.0.1", sim.port)
    writer.write(request_bytes(PATHS["openai"], chat()))
    await sim.await_requests(1)
    await sim.await_idle()
    with pytest.raises(TimeoutError, match="1 connections are open"):
        await sim.await_idle(0.01, sockets=0)
    writer.close()
    await sim.await_idle(sockets=0)


def test_waiting_from_another_thread() -> None:
    """The blocking twin."""
    with ProviderSimulator() as sim:
        sim.script("*", then=Reply(latency=0.05))
        thread = threading.Thread(target=post, args=(sim.port, chat()))
        thread.start()
        sim.wait_requests(1, pattern="openai:gpt-4")
        sim.wait_idle()
        assert sim.in_flight == 0
        thread.join()


async def test_waiting_in_the_wrong_way_is_explained(sim: ProviderSimulator) -> None:
    """It would block the loop that it waits for."""
    with pytest.raises(RuntimeError, match="await_idle"):
        sim.wait_idle()
    with pytest.raises(RuntimeError, match="await_requests"):
        sim.wait_requests(1)


async def test_a_thread_form_can_be_used_from_a_loop() -> None:
    """For tests that mix both."""
    with ProviderSimulator() as sim:
        assert (await ask(sim)).status == 200
        await sim.await_idle(sockets=0)


async def test_many_requests_at_once(sim: ProviderSimulator) -> None:
    """Answers do not get mixed up."""
    wires = await asyncio.gather(*(ask(sim, chat(f"number {i}")) for i in range(100)))
    assert [wire.text for wire in wires] == [answer_to(f"number {i}") for i in range(100)]


async def test_ended_requests_are_logged() -> None:
    """One call each, at the end."""
    lines: list[str] = []
    async with ProviderSimulator(
        log=lambda seen: lines.append(f"{seen.target} {seen.status}")
    ) as sim:
        await ask(sim)
        await ask(sim, dialect="together", body=chat(model="m"))
    assert lines == ["openai:gpt-4 200", "together:m 200"]


async def test_its_repr_says_how_it_is(sim: ProviderSimulator) -> None:
    """Address and counts."""
    await ask(sim)
    assert repr(sim) == (
        f"<ProviderSimulator http://127.0.0.1:{sim.port}, 1 requests, 0 in flight, 0 aborted>"
    )


@virtual_time
async def test_an_hour_passes_at_once_in_virtual_time() -> None:
    """The loop's clock is the only one."""
    loop = asyncio.get_running_loop()
    async with ProviderSimulator() as sim:
        sim.script("*", then=Stall(after=2, seconds=3600))
        wire = await ask(sim, chat(stream=True), patience=9999)
        assert wire.text == answer_to("Hello")
        assert loop.time() == pytest.approx(3600)
        assert sim.requests[0].ended_at == pytest.approx(3600)


@virtual_time
async def test_the_same_seed_takes_the_same_time() -> None:
    """To the last bit, for any number of targets."""
    times = []
    for _ in range(2):
        async with ProviderSimulator(seed=3) as sim:
            start = asyncio.get_running_loop().time()
            sim.script(
                "*", then=Reply(first_text=Lognormal(0.5, 0.5), chunk_gap=Lognormal(0.02, 1))
            )
            await asyncio.gather(
                *(ask(sim, chat(model=f"m{i}", stream=True), patience=99) for i in range(5))
            )
            times.append([seen.ended_at - start for seen in sim.requests if seen.ended_at])
    assert times[0] == pytest.approx(times[1])
    assert len(set(times[0])) == 5


async def test_slow_readers_do_not_fill_the_memory(sim: ProviderSimulator) -> None:
    """A client that does not read makes the answer wait."""
    sim.script("*", then=Reply("word " * 40_000, chunk_gap=0.0))
    _, writer = await asyncio.open_connection("127.0.0.1", sim.port, limit=1024)
    writer.write(request_bytes(PATHS["openai"], chat(stream=True)))
    sent = -1
    while not sim.requests or len(sim.requests[0].pieces) > sent:
        sent = len(sim.requests[0].pieces) if sim.requests else -1
        await asyncio.sleep(0.05)
    assert 0 < sent < 40_000
    assert sim.in_flight == 1
    writer.close()

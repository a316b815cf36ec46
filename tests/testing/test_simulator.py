"""What the simulator records, refuses and resets."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from langchain_resilient.testing import NoAnswer, ProviderSimulator, Status, answer_to
from tests.testing.wire_client import ask, chat


async def statuses(sim: ProviderSimulator, times: int, **more: str) -> list[int | None]:
    """The statuses of some requests in a row."""
    return [(await ask(sim, chat(**more))).status for _ in range(times)]


async def test_what_is_remembered(sim: ProviderSimulator) -> None:
    """Everything a test may want to know of a request, and no secret."""
    sim.script("openai:gpt-4", Status(429))
    await ask(sim, headers={"authorization": "Bearer sk-1", "x-trace": "7"})
    await ask(sim, chat(stream=True))
    refused, streamed = sim.requests
    assert (refused.dialect, refused.model, refused.target) == ("openai", "gpt-4", "openai:gpt-4")
    assert (refused.status, refused.step, refused.stream) == (429, "Status 429", False)
    assert refused.body["messages"][0]["content"] == "Hello"
    assert refused.headers["x-trace"] == "7"
    assert "authorization" not in refused.headers
    assert refused.key
    assert not streamed.key
    assert (streamed.step, streamed.stream, streamed.aborted) == ("Reply", True, False)
    assert streamed.text == answer_to("Hello")
    assert streamed.ended_at is not None
    assert streamed.ended_at >= streamed.at >= refused.at


async def test_counts(sim: ProviderSimulator) -> None:
    """By pattern and by status, refusals included."""
    sim.script("openai:gpt-4", Status(500))
    await statuses(sim, 3)
    await ask(sim, chat(model="o3", max_tokens=1))
    await ask(sim, dialect="together")
    assert [
        sim.count(),
        sim.count("openai:*"),
        sim.count("openai:gpt-4"),
        sim.count("together:x"),
    ] == [5, 4, 3, 0]
    assert [sim.count(status=200), sim.count("openai:o3", status=400)] == [3, 1]


async def test_only_the_last_requests_are_remembered() -> None:
    """A million requests must not fill the memory; counts stay true."""
    async with ProviderSimulator(remember=2) as sim:
        await statuses(sim, 5)
        assert (len(sim.requests), sim.count()) == (2, 5)


async def test_keys_retired_models_and_windows(sim: ProviderSimulator) -> None:
    """They are refused in the words of the provider, and no step is taken."""
    sim.script("*", Status(500))
    sim.keys = {"good"}
    assert (await ask(sim)).error["message"].startswith("You didn't provide an API key")
    assert (await ask(sim, headers={"authorization": "Bearer bad"})).error[
        "code"
    ] == "invalid_api_key"
    sim.keys = None
    sim.retire("openai:gpt-3*")
    wire = await ask(sim, chat(model="gpt-3.5"))
    assert (wire.status, wire.error["code"]) == (404, "model_not_found")
    sim.context_window("openai:gpt-4", 50)
    assert (await ask(sim, chat("x" * 400))).error["code"] == "context_length_exceeded"
    assert (await ask(sim)).status == 500


async def test_reset_forgets_everything(sim: ProviderSimulator) -> None:
    """The next test starts afresh."""
    sim.script("*", then=Status(500))
    sim.limit("*", requests_per_minute=1)
    sim.retire("openai:gpt-4")
    await ask(sim)
    sim.reset()
    assert (sim.count(), sim.requests, sim.aborted) == (0, [], 0)
    assert await statuses(sim, 2) == [200, 200]


async def test_what_is_in_flight_does_not_count_after_a_reset(sim: ProviderSimulator) -> None:
    """It belongs to the test before."""
    sim.script("*", then=NoAnswer())
    asking = asyncio.create_task(ask(sim, patience=0.05))
    await sim.await_requests(1)
    sim.reset()
    await asking
    await sim.await_idle(sockets=0)
    assert (sim.count(), sim.aborted, sim.in_flight) == (0, 0, 0)


async def test_a_reset_draws_afresh(sim: ProviderSimulator) -> None:
    """The same script meets the same fate in the next test."""
    runs = []
    for _ in range(2):
        sim.chaos("*", {Status(500): 0.5})
        runs.append(await statuses(sim, 20))
        sim.reset()
    assert runs[0] == runs[1]


def test_importing_it_loads_nothing_but_the_standard_library() -> None:
    """No SDK, no LangChain, and none of the package's other rooms."""
    code = """
import sys, langchain_resilient
before = set(sys.modules)
import langchain_resilient.testing
ours = "langchain_resilient.testing"
new = {name for name in set(sys.modules) - before if not name.startswith(ours)}
print(sorted({name.partition(".")[0] for name in new} - sys.stdlib_module_names))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"

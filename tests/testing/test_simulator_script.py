"""Scripts: order, patterns, chance, and what is remembered."""

from __future__ import annotations

import asyncio
import math
import random
import subprocess
import sys
import threading
from collections import Counter

import pytest

from langchain_resilient.testing.delays import (
    Exponential,
    Fixed,
    Lognormal,
    Mixture,
    Pareto,
    Uniform,
)
from langchain_resilient.testing.notation import load_script
from langchain_resilient.testing.simulator import ProviderSimulator
from langchain_resilient.testing.steps.faults import Reset
from langchain_resilient.testing.steps.oddities import Delayed, Timeline
from langchain_resilient.testing.steps.presets import NoStreaming
from langchain_resilient.testing.steps.refusals import Status
from langchain_resilient.testing.steps.reply import Reply
from langchain_resilient.testing.steps.silences import NoAnswer
from langchain_resilient.testing.text import answer_to
from tests.testing.wire_client import ask, chat
from verification.kit.virtual_time import virtual_time


async def statuses(sim: ProviderSimulator, times: int, **more: str) -> list[int | None]:
    """The statuses of some requests in a row."""
    return [(await ask(sim, chat(**more))).status for _ in range(times)]


async def test_steps_are_played_in_order_and_then_the_last_for_ever(sim: ProviderSimulator) -> None:
    """One a request."""
    sim.script("openai:gpt-4", Status(500), Status(503), then=Status(429))
    assert await statuses(sim, 4) == [500, 503, 429, 429]


async def test_then_is_a_reply_unless_said_otherwise(sim: ProviderSimulator) -> None:
    """A script without an end ends well."""
    sim.script("openai:gpt-4", Status(500))
    assert await statuses(sim, 3) == [500, 200, 200]


async def test_the_most_specific_pattern_wins(sim: ProviderSimulator) -> None:
    """In whatever order they were set."""
    sim.script("openai:gpt-4", then=Status(501))
    sim.script("openai:gpt-*", then=Status(502))
    sim.script("openai:*", then=Status(503))
    sim.script("*", then=Status(504))
    models = ["gpt-4", "gpt-4o", "o3"]
    assert [(await ask(sim, chat(model=model))).status for model in models] == [501, 502, 503]
    assert (await ask(sim, dialect="together")).status == 504


async def test_a_new_script_replaces_the_old_one(sim: ProviderSimulator) -> None:
    """From the next request on."""
    sim.script("*", then=Status(500))
    assert await statuses(sim, 1) == [500]
    sim.script("*", then=Reply())
    assert await statuses(sim, 1) == [200]


async def test_model_names_may_hold_anything(sim: ProviderSimulator) -> None:
    """Slashes, colons and brackets are no patterns."""
    model = "meta-llama/Llama-3[turbo]:free"
    sim.script(f"together:{model}", then=Reply("hi"))
    assert (await ask(sim, chat(model=model), dialect="together")).text == "hi"
    assert sim.count(f"together:{model}") == 1


@pytest.mark.parametrize("pattern", ["gpt-4", "openai:", "anthropic:claude", ""])
def test_a_pattern_that_matches_nothing_is_refused(pattern: str) -> None:
    """A typo must not pass for a quiet script."""
    with pytest.raises(ValueError, match="matches no target"):
        ProviderSimulator().script(pattern)


async def test_chaos_is_the_same_for_the_same_seed() -> None:
    """And about as frequent as wanted."""
    runs = []
    for seed in (1, 1, 2):
        async with ProviderSimulator(seed) as sim:
            sim.chaos("openai:*", {Status(500): 0.3})
            runs.append(await statuses(sim, 100))
    assert runs[0] == runs[1] != runs[2]
    assert 15 <= Counter(runs[0])[500] <= 45


async def test_chaos_does_not_depend_on_what_others_are_asked() -> None:
    """Each pattern has chance of its own."""
    runs = []
    for others in (0, 3):
        async with ProviderSimulator(7) as sim:
            sim.chaos("openai:*", {Status(500): 0.5})
            sim.chaos("together:*", {Status(500): 0.5})
            run = []
            for _ in range(20):
                for _ in range(others):
                    await ask(sim, dialect="together")
                run.append((await ask(sim)).status)
            runs.append(run)
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    "odds", [{Reset(): 1.2}, {Reset(): -0.1}, {Reset(): 0.6, Status(500): 0.6}]
)
def test_odds_must_be_probabilities(odds: dict[Reset | Status, float]) -> None:
    """They add up to one at most."""
    with pytest.raises(ValueError, match="probabilities"):
        ProviderSimulator().chaos("*", odds)


@virtual_time
async def test_a_timeline_changes_with_time() -> None:
    """An outage of ten minutes, in virtual time."""
    async with ProviderSimulator() as sim:
        sim.script("*", then=Timeline((60, NoAnswer()), (660, Status(503)), (700, Reply("back"))))
        assert (await ask(sim)).text == answer_to("Hello")
        assert (await ask(sim, patience=60)).status == 200
        wire = await ask(sim, patience=100)
        assert wire.status == 200
        await _until(60)
        assert (await ask(sim, patience=500)).end == "open"
        await _until(660)
        assert (await ask(sim)).status == 503
        await _until(700)
        assert (await ask(sim)).text == "back"


async def _until(time: float) -> None:
    await asyncio.sleep(time - asyncio.get_running_loop().time())


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
    """By pattern and by status, refusals at the door included."""
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
    """The door refuses them in the provider's words, and no step is taken."""
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


async def test_scripts_can_be_set_from_any_thread(sim: ProviderSimulator) -> None:
    """While requests come in."""
    threads = [
        threading.Thread(target=lambda: [sim.script("*", then=Status(503)) for _ in range(200)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    assert {200, 503} >= set(await statuses(sim, 20))
    for thread in threads:
        thread.join()
    assert await statuses(sim, 1) == [503]


@pytest.mark.parametrize(
    ("delay", "low", "high"),
    [
        (Fixed(2.0), 2.0, 2.0),
        (Uniform(1.0, 3.0), 1.8, 2.2),
        (Exponential(2.0), 1.6, 2.4),
        (Lognormal(2.0, 0.5), 2.0, 2.6),
        (Pareto(1.0, 3.0), 1.3, 1.8),
        (Mixture((1, Fixed(1)), (3, 3.0)), 2.3, 2.7),
    ],
)
def test_delays_are_drawn_around_their_mean(delay: Uniform, low: float, high: float) -> None:
    """From the random that is handed in, so the same seed draws the same."""
    draws = [delay.sample(random.Random(seed)) for seed in range(1500)]
    assert draws[:5] == [delay.sample(random.Random(seed)) for seed in range(5)]
    assert low <= sum(draws) / len(draws) <= high


def test_a_mixture_may_hang() -> None:
    """Infinity is a delay like any other."""
    assert Mixture((1, math.inf)).sample(random.Random(0)) == math.inf


async def test_a_script_from_json(sim: ProviderSimulator) -> None:
    """Steps in order, the last for ever, delays and nested steps."""
    load_script(
        sim,
        {
            "openai:gpt-4": [
                {"step": "Status", "code": 500, "retry_after": {"date": "HttpDate", "seconds": 5}},
                {"step": "Cut", "after": 1, "reply": {"step": "Reply", "text": "a b"}},
                {
                    "step": "Reply",
                    "text": "later",
                    "first_text": {
                        "delay": "Mixture",
                        "parts": [[1, {"delay": "Fixed", "seconds": 0.0}]],
                    },
                    "then": True,
                },
            ],
            "together:*": [{"step": "Status", "code": 503, "chance": 1.0}],
        },
    )
    assert (await ask(sim)).headers["retry-after"].endswith("GMT")
    assert (await ask(sim, chat(stream=True))).text == "a"
    assert [(await ask(sim)).text for _ in range(2)] == ["later", "later"]
    assert (await ask(sim, dialect="together")).status == 503


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ({"*": [{"step": "Explode"}]}, "there is no step 'Explode'"),
        ({"*": [{"step": "Status", "colour": "red"}]}, "colour"),
        (
            {"*": [{"step": "Reply"}, {"step": "Reply", "chance": 0.5}]},
            "either every step has a chance",
        ),
    ],
)
def test_a_wrong_script_is_explained(
    script: dict[str, list[dict[str, object]]], words: str
) -> None:
    """With the pattern where it went wrong."""
    with pytest.raises(ValueError, match=words):
        load_script(ProviderSimulator(), script)


def test_steps_show_only_what_is_unusual() -> None:
    """Test ids and failures stay readable."""
    assert repr(Reply()) == "Reply()"
    assert repr(Status(429, retry_after=2)) == "Status(code=429, retry_after=2)"
    assert repr(Timeline((5, NoAnswer()))) == "Timeline(phases=((5, NoAnswer()),))"
    assert repr(Reply("a", tool_calls=[])) == "Reply(text='a')"


async def test_any_step_can_be_delayed(sim: ProviderSimulator) -> None:
    """Those that depend on the request too."""
    sim.script("*", then=Delayed(NoStreaming(), 0.03))
    loop = asyncio.get_running_loop()
    start = loop.time()
    assert (await ask(sim, chat(stream=True))).status == 400
    assert (await ask(sim)).status == 200
    assert loop.time() - start >= 0.06


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


@pytest.mark.parametrize("steps", [({Status(500): 0.3},), (Status,), ("500",)])
def test_what_is_no_step_is_refused_at_once(steps):
    """In the server it would break a connection, and nobody would know why."""
    with ProviderSimulator() as sim, pytest.raises(TypeError, match="a step must be made of"):
        sim.script("*", *steps)

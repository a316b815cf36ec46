"""Scripts: which step is played for which target."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from langchain_resilient.testing import ProviderSimulator, Reply, Reset, Status
from tests.testing.wire_client import ask, chat


async def statuses(sim: ProviderSimulator, times: int, **more: str) -> list[int | None]:
    """The statuses of some requests in a row."""
    return [(await ask(sim, chat(**more))).status for _ in range(times)]


async def test_steps_are_played_in_order_and_then_the_last_for_ever(sim: ProviderSimulator) -> None:
    """One a request."""
    sim.script("openai:gpt-4", Status(500), Status(503), then=Status(429))
    assert await statuses(sim, 4) == [500, 503, 429, 429]


async def test_then_is_a_reply_by_default(sim: ProviderSimulator) -> None:
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


@pytest.mark.parametrize("steps", [({Status(500): 0.3},), (Status,), ("500",)])
def test_something_else_than_a_step_is_refused_at_once(steps):
    """In the server it would break a connection without an explanation."""
    with (
        ProviderSimulator() as sim,
        pytest.raises(TypeError, match="must be an instance of"),
    ):
        sim.script("*", *steps)

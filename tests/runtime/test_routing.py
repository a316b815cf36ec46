"""Whom a call asks and in what order, what it costs, and what the model says of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from langchain_resilient import Hedge, ResilientChatModel, SpendCap, SpendCapError, Stats
from langchain_resilient.faults import Fault, FaultKind
from langchain_resilient.receipt import AttemptKind, AttemptRecord, Outcome, Receipt
from langchain_resilient.runtime import shared_state
from langchain_resilient.runtime.routing import Affinity
from langchain_resilient.testing import (
    ContextTooLong,
    Delayed,
    InvalidKey,
    ProviderSimulator,
    RateLimited,
    Reply,
    Status,
)
from verification.kit.scripted_targets import CANARY, chain, target

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as running:
        yield running


def winner(message: Any) -> str:
    """Who answered."""
    return str(message.response_metadata["resilience"]["winner"])


# -- order ----------------------------------------------------------------------------------------


async def test_the_fastest_goes_first_once_it_is_known(sim):
    """Learned from the answers, nineteen times in twenty."""
    sim.script("openai:slow", then=Reply("a", first_text=0.1))
    sim.script("together:quick", then=Reply("b"))
    # The first call of each dialect imports its SDK, which takes seconds on a busy machine.
    await chain(sim, "openai:slow").ainvoke("hi")
    await chain(sim, "together:quick").ainvoke("hi")
    shared_state.reset()
    llm = chain(sim, "openai:slow", "together:quick", order="fastest", hedge=None)
    for _ in range(30):
        await llm.ainvoke("hi")
    asked = Counter([winner(await llm.ainvoke("hi")) for _ in range(30)])
    assert asked["together:quick"] >= 20


async def test_the_cheapest_goes_first(sim):
    """By the prices that the targets were given; one of unknown price goes last."""
    llm = ResilientChatModel(
        targets=[
            target(sim, "openai:unknown-to-any-list"),
            target(sim, "openai:dear", price=(30, 60)),
            target(sim, "together:cheap", price=(0.1, 0.2)),
        ],
        order="cheapest",
    )
    assert winner(await llm.ainvoke("hi")) == "together:cheap"
    sim.script("together:cheap", then=Status(500))
    assert winner(await llm.ainvoke("hi")) == "openai:dear"


async def test_weights_spread_the_load(sim):
    """Three to one; and one of weight zero is asked only when others fail."""
    targets = [
        target(sim, "openai:much", weight=3),
        target(sim, "together:little", weight=1),
        target(sim, "openai:spare", weight=0),
    ]
    llm = ResilientChatModel(targets=targets, order="balanced", hedge=None)
    asked = Counter([winner(await llm.ainvoke("hi")) for _ in range(200)])
    assert asked["openai:spare"] == 0
    assert 110 <= asked["openai:much"] <= 185


async def test_a_conversation_stays_where_it_was_answered(sim):
    """Its prompt is cached there; another conversation goes the usual way."""
    sim.script("openai:first", then=Status(500))
    llm = chain(sim, "openai:first", "together:second", affinity=True)
    opening = [SystemMessage("Be brief."), HumanMessage("My name is Ada.")]
    answer = await llm.ainvoke(opening)
    sim.script("openai:first", then=Reply("back"))
    turn = [*opening, AIMessage(answer.content), HumanMessage("What is my name?")]
    assert winner(answer) == "together:second"
    assert winner(await llm.ainvoke(turn)) == "together:second"
    assert winner(await llm.ainvoke("Something else")) == "openai:first"


async def test_a_conversation_leaves_a_target_that_is_limited(sim):
    """Affinity holds only while the target is well."""
    llm = chain(sim, "openai:first", "together:second")
    await llm.ainvoke("hi", affinity="c1")
    sim.script("openai:first", then=RateLimited(retry_after=30))
    await llm.ainvoke("hi", affinity="c1")
    before = sim.count("openai:first")
    assert winner(await llm.ainvoke("hi", affinity="c1")) == "together:second"
    assert sim.count("openai:first") == before


def attempt(
    target: str, outcome: Outcome, *, cached: int = 0, failed: bool = False
) -> AttemptRecord:
    """One attempt of a call whose prompt was partly in the target's cache."""
    fault = Fault(FaultKind.SERVER, "503") if failed else None
    return AttemptRecord(target, AttemptKind.PRIMARY, 0.0, 0.5, 1.0, outcome, fault, 900, 9, cached)


@pytest.mark.parametrize(
    ("attempts", "home"),
    [
        ([attempt("a", Outcome.LOST), attempt("b", Outcome.WON)], "a"),
        ([attempt("a", Outcome.FAILED, failed=True), attempt("b", Outcome.WON)], "b"),
        ([attempt("b", Outcome.WON)], "b"),
        ([attempt("a", Outcome.LOST)], "a"),
    ],
    ids=["a hedge was faster", "it failed", "it was not asked", "nobody answered"],
)
def test_a_conversation_stays_where_its_prompt_is_cached(attempts, home):
    """A hedge that was faster once does not take it away; a failure does."""
    affinity = Affinity()
    affinity.settle("c", Receipt((attempt("a", Outcome.WON, cached=800),), "a", 1.0))
    affinity.settle("c", Receipt(tuple(attempts), None, 1.0))
    assert affinity.target("c") == home


def test_without_a_cache_it_goes_with_the_winner():
    """Nothing holds it at the first target."""
    affinity = Affinity()
    affinity.settle("c", Receipt((attempt("a", Outcome.WON),), "a", 1.0))
    affinity.settle("c", Receipt((attempt("a", Outcome.LOST), attempt("b", Outcome.WON)), "b", 1.0))
    assert affinity.target("c") == "b"


# -- size -----------------------------------------------------------------------------------------


async def test_a_request_that_is_known_to_be_too_long_is_not_sent(sim):
    """The target said how much it takes; a short request goes to it again."""
    sim.script("openai:small", then=ContextTooLong(limit=1000))
    llm = chain(sim, "openai:small", "together:large")
    long = "lorem ipsum " * 2000
    await llm.ainvoke(long)
    sim.script("openai:small", then=Reply("short enough"))
    assert winner(await llm.ainvoke(long)) == "together:large"
    assert sim.count("openai:small") == 1
    assert winner(await llm.ainvoke("hi")) == "openai:small"


async def test_a_known_window_spares_even_the_first_refusal(sim):
    """`Target.context_window` is believed from the beginning."""
    targets = [target(sim, "openai:small", context_window=500), target(sim, "together:large")]
    llm = ResilientChatModel(targets=targets)
    assert winner(await llm.ainvoke("lorem ipsum " * 2000)) == "together:large"
    assert sim.count("openai:small") == 0


async def test_where_all_are_too_small_they_are_asked_all_the_same(sim):
    """An error of today beats an estimate."""
    llm = ResilientChatModel(targets=[target(sim, "openai:small", context_window=500)])
    assert winner(await llm.ainvoke("lorem ipsum " * 2000)) == "openai:small"


# -- keys -----------------------------------------------------------------------------------------


async def test_several_keys_are_used_in_turn(sim):
    """Each carries its share."""
    llm = ResilientChatModel(targets=[target(sim, "openai:m", api_key=["sk-one-1", "sk-two-2"])])
    for _ in range(6):
        await llm.ainvoke("hi")
    assert sorted(Counter(request.key for request in sim.requests).values()) == [3, 3]


async def test_a_dead_key_is_left_out_and_the_other_answers(sim):
    """Within the same call, on the same target; from then on it is not used."""
    sim.keys = {"sk-good-1"}
    llm = ResilientChatModel(
        targets=[target(sim, "openai:m", api_key=["sk-dead-1", "sk-good-1"])], max_retries=0
    )
    for _ in range(4):
        assert winner(await llm.ainvoke("hi")) == "openai:m"
    assert [request.status for request in sim.requests].count(401) <= 1


# -- money ----------------------------------------------------------------------------------------


async def test_a_spent_cap_is_a_clear_error_before_anything_is_sent(sim):
    """It says what was spent, when it opens again, and what to do."""
    targets = [target(sim, "openai:dear", price=(1e6, 1e6))]
    llm = ResilientChatModel(targets=targets, spend_cap=SpendCap(12, per="hour"))
    with pytest.raises(SpendCapError, match=r"\$12\.00 an hour") as raised:
        await llm.abatch(["hi"] * 3, {"max_concurrency": 1})
    assert raised.value.opens_in is not None
    assert raised.value.opens_in > 3000
    assert sim.count("openai:dear") <= 1


async def test_a_target_whose_cap_is_reached_gives_way_to_another(sim):
    """The cheaper one answers from then on."""
    llm = ResilientChatModel(
        targets=[
            target(sim, "openai:dear", price=(1e6, 1e6), spend_cap=20.0),
            target(sim, "together:cheap", price=(0.1, 0.1)),
        ]
    )
    asked = [winner(await llm.ainvoke("hi")) for _ in range(4)]
    assert asked[0] == "openai:dear"
    assert asked[-1] == "together:cheap"


async def test_the_last_resort_answers_when_the_money_is_spent(sim):
    """A fixed text costs nothing."""
    targets = [target(sim, "openai:dear", price=(1e6, 1e6))]
    llm = ResilientChatModel(targets=targets, spend_cap=0.001, last_resort="Come back tomorrow.")
    await llm.ainvoke("hi")
    assert (await llm.ainvoke("hi")).content == "Come back tomorrow."


@pytest.mark.parametrize(("most", "sent"), [(None, 1), (1.0, 1), (1e-9, 0)])
async def test_a_ceiling_on_extra_cost_bounds_hedges(sim, most, sent):
    """Estimated before sending, from the target's price."""
    sim.script("openai:late", then=Reply("late", first_text=0.4))
    llm = ResilientChatModel(
        targets=[target(sim, "openai:late"), target(sim, "together:other", price=(1, 1))],
        hedge=Hedge(delay=0.05, max_extra_cost=most),
    )
    await llm.ainvoke("hi")
    assert sim.count("together:other") == sent


# -- what is shared, and what is told --------------------------------------------------------------


async def test_models_with_the_same_targets_share_what_they_learn(sim):
    """The second never asks the account that refused the first; unless it was told not to share."""
    sim.script("openai:dead", then=InvalidKey())
    await chain(sim, "openai:dead", "together:m").ainvoke("hi")
    await chain(sim, "openai:dead", "together:m").ainvoke("hi")
    assert sim.count("openai:dead") == 1
    await chain(sim, "openai:dead", "together:m", share_learning=False).ainvoke("hi")
    assert sim.count("openai:dead") == 2


async def test_learning_is_shared_across_threads_and_loops(sim):
    """A hint that one loop was given holds in another thread's loop."""
    sim.script("openai:limited", then=RateLimited(retry_after=30))
    await chain(sim, "openai:limited", "together:m").ainvoke("hi")
    other = chain(sim, "openai:limited", "together:m")
    await asyncio.to_thread(lambda: asyncio.run(other.ainvoke("hi")))
    assert sim.count("openai:limited") == 1


async def test_stats_tell_requests_faults_health_and_money(sim):
    """As plain JSON, as a table, and without any key."""
    sim.script("openai:bad", then=InvalidKey())
    llm = ResilientChatModel(
        targets=[target(sim, "openai:bad"), target(sim, "together:good", price=(1, 1))]
    )
    await llm.ainvoke("hi")
    async for _ in llm.astream("hi"):
        pass
    stats = llm.stats()
    assert isinstance(stats, Stats)
    bad, good = stats.targets
    assert (stats.calls, stats.answered, good.wins) == (2, 2, 2)
    assert (bad.health, dict(bad.faults)) == ("account out", {"auth": 1})
    assert good.spent
    assert CANARY not in json.dumps(stats.as_dict()) + str(stats) + stats._repr_html_()


def test_stats_can_be_asked_for_before_any_call(sim):
    """Outside of any loop too."""
    assert chain(sim, "openai:m").stats().calls == 0


async def test_a_cancelled_call_is_counted_as_such(sim):
    """Neither answered nor failed."""
    sim.script("openai:m", then=Delayed(30, Reply("late")))
    llm = chain(sim, "openai:m")
    task = asyncio.create_task(llm.ainvoke("hi"))
    await asyncio.to_thread(sim.wait_requests, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stats = llm.stats()
    assert (stats.calls, stats.answered, stats.failed, stats.cancelled) == (1, 0, 0, 1)

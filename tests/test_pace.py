"""Rate limits as a user sets them: on targets, on the model, and with a call."""

from __future__ import annotations

import pytest
from langchain_core.messages import HumanMessage

from langchain_resilient import ResilientChatModel, Target
from langchain_resilient.runtime.call import CallOptions
from langchain_resilient.runtime.shared_state import SharedState
from langchain_resilient.testing import ProviderSimulator, Reply


def pacer(memory: SharedState, **fields):
    target = Target("openai:m", api_key="k", **fields)
    return memory.state_of(target).keys[0].rate_limiter


def test_targets_of_one_key_and_model_share_one_pace():
    """Whatever else is set on them; the lowest limit counts."""
    memory = SharedState()
    first = pacer(memory, requests_per_minute=600)
    second = pacer(memory, requests_per_minute=120, max_concurrency=3)
    assert first is second
    assert first.requests.rate == pytest.approx(2.0)


def test_another_model_has_a_pace_of_its_own():
    """As it has a limit of its own."""
    memory = SharedState()
    other = memory.state_of(Target("openai:other", api_key="k")).keys[0].rate_limiter
    assert other is not pacer(memory)


@pytest.mark.parametrize("wrong", [0, -1, float("inf"), "many"])
@pytest.mark.parametrize("field", ["requests_per_minute", "tokens_per_minute"])
def test_a_limit_is_a_positive_number(field, wrong):
    """The error names the field."""
    with pytest.raises(ValueError, match=field):
        Target("openai:m", **{field: wrong})


def test_a_call_says_how_urgent_it_is():
    """Interactive unless it says otherwise; the word goes to no provider."""
    kwargs = {"priority": "batch"}
    call = CallOptions({}, [HumanMessage("Hello")], None, kwargs, stream=False)
    assert call.batch
    assert "priority" not in call.request.overrides
    assert not CallOptions({}, [HumanMessage("Hello")], None, {}, stream=False).batch


def test_a_call_knows_its_size():
    """A quarter of its characters."""
    call = CallOptions({}, [HumanMessage("x" * 400)], None, {}, stream=False)
    assert call.prompt_tokens() == 100


def test_an_unknown_priority_is_refused():
    """Before anything is sent."""
    with pytest.raises(ValueError, match="interactive"):
        CallOptions({}, [HumanMessage("Hello")], None, {"priority": "soon"}, stream=False)


async def test_limits_are_learned_from_the_first_answer():
    """Over real HTTP, from OpenAI's headers."""
    async with ProviderSimulator(seed=0) as sim:
        sim.script("openai:m", then=Reply())
        sim.limit("openai:m", requests_per_minute=300, tokens_per_minute=90_000)
        target = Target("openai:m", base_url=sim.base_url("openai"), api_key="k")
        llm = ResilientChatModel(targets=[target], share_learning=False)
        await llm.ainvoke("Hello")
        (route,) = llm._ready().chain
        found = route.state.keys[0].rate_limiter
        assert (found.requests.rate, found.tokens.rate) == (pytest.approx(5), pytest.approx(1500))

"""Agents that change their target at every turn: thoughts go back to their maker, none refuses."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI

from langchain_resilient import ResilientChatModel, Target
from langchain_resilient.testing import ProviderSimulator

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = ("responses", "chat", "together", "wrapped")
VERSIONS = (None, "v1")


@pytest.fixture(scope="module")
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as simulator:
        yield simulator


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def target(sim: ProviderSimulator, kind: str) -> Target:
    url = sim.base_url("together" if kind == "together" else "openai")
    if kind == "responses":
        return Target("openai:gpt-6-luna", base_url=url, api_key="k")
    if kind == "chat":
        return Target("openai:gpt-4o", base_url=url, api_key="k")
    if kind == "together":
        return Target("together:deepseek-ai/DeepSeek-V4.1-Flash", base_url=url, api_key="k")
    wrapped = ChatOpenAI(
        model="gpt-5.5", base_url=url, api_key="k", store=False, max_retries=0,
        include=["reasoning.encrypted_content"],
    )  # fmt: skip
    return Target(wrapped, name="wrapped")


def turn(llm, history):
    """One model call, and the result of each tool that it calls."""
    answer = llm.invoke(history)
    receipt = answer.response_metadata["resilience"]
    assert [a.get("fault") for a in receipt["attempts"]] == [None], receipt
    results = [
        ToolMessage(str(add(**call["args"])), tool_call_id=call["id"]) for call in answer.tool_calls
    ]
    return [*history, answer, *results]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("first", "second"), itertools.product(KINDS, KINDS))
def test_an_agent_may_change_its_target_at_every_turn(sim, first, second, version):
    """Tools included: each turn is answered by the one target that is asked, at once."""
    fields = {"output_version": version} if version else {}
    one, other = (
        ResilientChatModel(targets=[target(sim, kind)], hedge=None, **fields).bind_tools([add])
        for kind in (first, second)
    )
    asked, good = sim.count(), sim.count(status=200)
    history = [HumanMessage("What is add(1, 2)?")]
    for llm in (one, other):
        history = turn(llm, history)
    assert "3" in history[-1].text
    history.append(HumanMessage("And what are add(3, 4) and add(5, 6)?"))
    for llm in (one, other):
        history = turn(llm, history)
    assert "7" in history[-1].text
    assert "11" in history[-1].text
    turn(one, [*history, HumanMessage("Thank you.")])
    sim.wait_idle()
    assert sim.count() - asked == sim.count(status=200) - good == 5

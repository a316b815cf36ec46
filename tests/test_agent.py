"""LangChain's own agent over our model, while the primary dies half way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from langchain.agents import create_agent
from langchain_core.messages import ToolMessage

from langchain_resilient.testing import ProviderSimulator, Reply, Reset, ToolCall
from tests.helpers import chain

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as found:
        yield found


def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"sunny in {city}"


def population(city: str) -> str:
    """Tell how many people live in a city."""
    return f"two million in {city}"


@pytest.mark.parametrize(("first", "second"), [("openai", "together"), ("together", "openai")])
@pytest.mark.parametrize("sync", [True, False], ids=["invoke", "ainvoke"])
async def test_an_agent_completes_though_the_primary_dies_half_way(sim, first, second, sync):
    """The loop moves to the other provider with the tool calls of the first in its history."""
    call = Reply(tool_calls=(ToolCall("weather", {"city": "Paris"}),))
    sim.script(f"{first}:a", call, then=Reset())
    other = Reply(tool_calls=(ToolCall("population", {"city": "Paris"}),))
    sim.script(f"{second}:b", other, then=Reply("Sunny, and two million people."))
    agent = create_agent(chain(sim, f"{first}:a", f"{second}:b"), tools=[weather, population])
    question = {"messages": [("human", "How are the weather and the population of Paris?")]}
    found = agent.invoke(question) if sync else await agent.ainvoke(question)
    results = [m.content for m in found["messages"] if isinstance(m, ToolMessage)]
    assert results == ["sunny in Paris", "two million in Paris"]
    assert found["messages"][-1].text == "Sunny, and two million people."
    winners = [
        m.response_metadata["resilience"]["winner"]
        for m in found["messages"]
        if "resilience" in m.response_metadata
    ]
    assert winners == [f"{first}:a", f"{second}:b", f"{second}:b"]

"""Tools whose names APIs refuse are called by their own names all the same."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import StructuredTool

from langchain_resilient import ResilientChatModel
from langchain_resilient.testing import ProviderSimulator
from langchain_resilient.wire.tool_names import function_name
from verification.kit.scripted_targets import chain, target

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ["weather/get", "my weather", "wetter_für", "weather" + "r" * 80, "weather.get"]


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as simulator:
        yield simulator


def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"sunny in {city}"


def named(name: str) -> StructuredTool:
    """The tool under another name."""
    return StructuredTool.from_function(weather, name=name)


def test_names_that_are_taken_stay():
    """And the others stay different."""
    assert function_name("get_weather-2") == "get_weather-2"
    made = [function_name(name) for name in ("a/b", "a b", "a_b", "x" * 65, "x" * 66)]
    assert len(set(made)) == len(made)
    assert all(len(name) <= 64 and name.isascii() for name in made)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dialect", ["openai", "together"])
@pytest.mark.parametrize("choice", [None, "any", "itself"])
def test_a_call_comes_back_under_the_tools_own_name(sim, name, dialect, choice):
    """Plainly, in a stream, in both loops; without a refused request."""
    llm = chain(sim, f"{dialect}:m").bind_tools(
        [named(name), named("other")], tool_choice=name if choice == "itself" else choice
    )
    prompt = f"Use {function_name(name)}: the weather in Paris"
    streamed = None
    for piece in llm.stream(prompt):
        streamed = piece if streamed is None else streamed + piece
    for answer in (llm.invoke(prompt), asyncio.run(llm.ainvoke(prompt)), streamed):
        assert [call["name"] for call in answer.tool_calls] == [name]
    assert (sim.count(), sim.count(status=400)) == (3, 0)


@pytest.mark.parametrize("name", NAMES)
async def test_an_agent_uses_such_a_tool(sim, name):
    """Its history names it as its request does."""
    agent = create_agent(chain(sim, "openai:m"), [named(name)])
    prompt = f"Use {function_name(name)}: the weather in Paris"
    answer = await agent.ainvoke({"messages": [("human", prompt)]})
    assert "sunny in" in answer["messages"][-1].text
    assert (sim.count(), sim.count(status=400)) == (2, 0)
    body = sim.requests[-1].body
    called = body["messages"][1]["tool_calls"][0]["function"]["name"]
    assert called == body["tools"][0]["function"]["name"] == function_name(name)


@pytest.mark.parametrize("stream", [False, True])
def test_the_responses_api_is_asked_alike(sim, stream):
    """Its blocks name the tool as well."""
    made = target(sim, "openai:m", api="responses")
    llm = ResilientChatModel(targets=[made]).bind_tools([named("weather/get")], tool_choice="any")
    answer = None
    for piece in llm.stream("weather in Paris") if stream else [llm.invoke("weather in Paris")]:
        answer = piece if answer is None else answer + piece
    assert [call["name"] for call in answer.tool_calls] == ["weather/get"]
    blocks = [block for block in answer.content if block.get("type") == "function_call"]
    assert [block["name"] for block in blocks] in ([], ["weather/get"])
    assert sim.requests[0].body["tools"][0]["name"] == function_name("weather/get")


def test_names_that_would_become_the_same_are_told_apart(sim):
    """In the history too."""
    llm = chain(sim, "openai:m").bind_tools([named("a/b"), named("a b")])
    call = {"name": "a b", "args": {"city": "Rome"}, "id": "1"}
    asked = [HumanMessage("hi"), AIMessage("", tool_calls=[call])]
    llm.invoke([*asked, ToolMessage("x", tool_call_id="1")])
    body = sim.requests[-1].body
    first, second = [tool["function"]["name"] for tool in body["tools"]]
    assert first != second == body["messages"][1]["tool_calls"][0]["function"]["name"]

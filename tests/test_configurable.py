"""Fields and models that a call's config chooses, beneath tools and schemas too."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.runnables import ConfigurableField
from pydantic import BaseModel

from langchain_resilient.testing import ProviderSimulator
from verification.kit.scripted_targets import chain

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as simulator:
        yield simulator


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def bind_add(llm):
    return llm.bind_tools([add])


def bind_joke(llm):
    return llm.with_structured_output(Joke)


def alternatives(sim):
    other = chain(sim, "together:other")
    return chain(sim, "openai:m").configurable_alternatives(
        ConfigurableField(id="which"), default_key="first", second=other, third=lambda: other
    )


@pytest.mark.parametrize("bind", [bind_add, bind_joke])
@pytest.mark.parametrize("call", [
    lambda llm, config: llm.invoke("joke", config),
    lambda llm, config: list(llm.stream("joke", config)),
    lambda llm, config: llm.batch(["joke"], config),
    lambda llm, config: llm.with_config(config).invoke("joke"),
    lambda llm, config: asyncio.run(llm.ainvoke("joke", config)),
])  # fmt: skip
def test_a_configured_field_holds_beneath_what_is_bound(sim, bind, call):
    """LangChain binds to the default, and says nothing."""
    llm = bind(chain(sim, "openai:m").configurable_fields(temperature=ConfigurableField(id="t")))
    call(llm, {"configurable": {"t": 0.5}})
    assert sim.requests[-1].body["temperature"] == 0.5
    llm.invoke("joke")
    assert "temperature" not in sim.requests[-1].body
    assert {"tools", "response_format"} & sim.requests[-1].body.keys()


@pytest.mark.parametrize("bind", [bind_add, bind_joke])
@pytest.mark.parametrize("which", ["second", "third"])
def test_a_configured_alternative_answers_beneath_what_is_bound(sim, bind, which):
    """Whichever the config says, with the same tools."""
    llm = bind(alternatives(sim))
    llm.invoke("joke", {"configurable": {"which": which}})
    assert sim.requests[-1].target == "together:other"
    llm.with_config(configurable={"which": "first"}).invoke("joke")
    assert sim.requests[-1].target == "openai:m"
    assert {"tools", "response_format"} & sim.requests[-1].body.keys()


def test_alternatives_of_configurable_fields_hold_too(sim):
    """One upon the other."""
    fields = chain(sim, "openai:m").configurable_fields(temperature=ConfigurableField(id="t"))
    llm = fields.configurable_alternatives(
        ConfigurableField(id="which"), second=chain(sim, "together:other")
    ).bind_tools([add])
    llm.invoke("hi", {"configurable": {"t": 0.5}})
    assert (sim.requests[-1].target, sim.requests[-1].body["temperature"]) == ("openai:m", 0.5)
    llm.invoke("hi", {"configurable": {"which": "second"}})
    assert sim.requests[-1].target == "together:other"


def test_what_cannot_be_bound_or_configured_is_said_at_once(sim):
    """Not at the first call."""
    llm = chain(sim, "openai:m")
    with pytest.raises(ValueError, match="is no tool"):
        llm.configurable_fields(temperature=ConfigurableField(id="t")).bind_tools([3])
    with pytest.raises(ValueError, match="nonsense"):
        llm.configurable_fields(nonsense=ConfigurableField(id="t"))


def agent_of(sim, kind, response_format):
    """An agent over a model that the config chooses, and the config that does."""
    if kind == "alternatives":
        model, config = alternatives(sim), {"which": "second"}
    else:
        field = ConfigurableField(id="t")
        model, config = chain(sim, "openai:m").configurable_fields(temperature=field), {"t": 0.5}
    made = create_agent(model, [add], response_format=response_format)
    return made, {"configurable": config}


@pytest.mark.parametrize("stream", [False, True], ids=["invoke", "stream"])
@pytest.mark.parametrize("strategy", [None, ToolStrategy, ProviderStrategy])
@pytest.mark.parametrize("kind", ["fields", "alternatives"])
def test_agents_ask_what_the_config_chooses(sim, kind, strategy, stream):
    """In each of their turns, with their tools and their format."""
    agent, config = agent_of(sim, kind, strategy(Joke) if strategy else None)
    asked = {"messages": [("human", "What is add(1, 2)?")]}
    if stream:
        answer = list(agent.stream(asked, config, stream_mode="values"))[-1]
    else:
        answer = agent.invoke(asked, config)
    assert "3" in str([message.content for message in answer["messages"]])
    assert isinstance(answer.get("structured_response"), Joke if strategy else type(None))
    expected = ("together:other", None) if kind == "alternatives" else ("openai:m", 0.5)
    seen = [(r.target, r.body.get("temperature")) for r in sim.requests]
    assert seen == [expected] * len(seen)
    assert len(seen) >= 2

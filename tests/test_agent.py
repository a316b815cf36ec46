"""LangChain's own agent over our model, whatever becomes of its targets and its history."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.language_models import GenericFakeChatModel, LangSmithParams
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from pydantic import BaseModel

from langchain_resilient import ResilientChatModel
from langchain_resilient.runtime.call import _log_repairs
from langchain_resilient.testing import Lacks, ProviderSimulator, Reply, Reset, Status, ToolCall
from langchain_resilient.testing.request_validation import find_error
from verification.kit.scripted_targets import chain, target

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as simulator:
        yield simulator


def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"sunny in {city}"


def population(city: str) -> str:
    """Tell how many people live in a city."""
    return f"two million in {city}"


class Report(BaseModel):
    """A weather report."""

    sky: str


def report(sky: str) -> Reply:
    """The model calls the tool that LangChain makes of a schema."""
    return Reply(tool_calls=[ToolCall("Report", {"sky": sky})])


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
    value = agent.invoke(question) if sync else await agent.ainvoke(question)
    results = [m.content for m in value["messages"] if isinstance(m, ToolMessage)]
    assert results == ["sunny in Paris", "two million in Paris"]
    assert value["messages"][-1].text == "Sunny, and two million people."
    winners = [
        m.response_metadata["resilience"]["winner"]
        for m in value["messages"]
        if "resilience" in m.response_metadata
    ]
    assert winners == [f"{first}:a", f"{second}:b", f"{second}:b"]


# -- parallel calls, interruptions, other providers' messages -------------------------------------


def history(result: dict) -> list:
    """What an agent's loop said, by kind."""
    return [message.type for message in result["messages"]]


@pytest.mark.parametrize(("first", "second"), [("openai", "together"), ("together", "openai")])
async def test_parallel_calls_keep_their_ids_when_the_loop_moves(sim, first, second):
    """The second provider is sent the first's ids, each with its own result."""
    calls = [ToolCall("weather", {"city": c}, id=f"{first}-{c}") for c in ("Paris", "Rome")]
    sim.script(f"{first}:a", Reply(tool_calls=calls), then=Reset())
    sim.script(f"{second}:b", then=Reply("Sunny in both."))
    agent = create_agent(chain(sim, f"{first}:a", f"{second}:b"), tools=[weather, population])
    answer = await agent.ainvoke({"messages": [("human", "The weather in Paris and Rome?")]})
    assert history(answer) == ["human", "ai", "tool", "tool", "ai"]
    (seen,) = [seen for seen in sim.requests if seen.target == f"{second}:b"]
    answers = {
        m["tool_call_id"]: m["content"] for m in seen.body["messages"] if m["role"] == "tool"
    }
    assert answers == {f"{first}-Paris": "sunny in Paris", f"{first}-Rome": "sunny in Rome"}


@pytest.mark.parametrize(
    "refusal",
    [
        "Tool call IDs should be alphanumeric strings with length 9!",
        "Tool call id was call_1 but must be a-z, A-Z, 0-9, with a length of 9.",
    ],
)
async def test_models_that_want_short_ids_get_them(sim, refusal):
    """Mistral's templates take nothing else; it is asked again at once, and known from then on."""
    sim.script("together:a", Status(400, message=refusal), then=Reply("Sunny."))
    llm = chain(sim, "together:a")
    call = {"name": "weather", "args": {}, "id": "call_of_another_provider"}
    asked = [
        HumanMessage("Weather?"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("sunny", tool_call_id=call["id"]),
    ]
    for _ in range(2):
        assert (await llm.ainvoke(asked)).text == "Sunny."
    refused, *others = [seen.body["messages"][1:] for seen in sim.requests]
    assert refused[0]["tool_calls"][0]["id"] == call["id"]
    assert len(others) == 2
    for answer, result in others:
        assert answer["tool_calls"][0]["id"] == result["tool_call_id"]
        assert re.fullmatch("[a-zA-Z0-9]{9}", result["tool_call_id"])


async def test_an_interrupted_agent_goes_on(sim):
    """Its last call was never run; providers refuse such a history, so the call is given a word."""
    left = AIMessage("", tool_calls=[{"name": "weather", "args": {"city": "Paris"}, "id": "1"}])
    sim.script("openai:a", then=Reply("As you like."))
    agent = create_agent(chain(sim, "openai:a"), tools=[weather])
    answer = await agent.ainvoke({"messages": [("human", "Weather?"), left, ("human", "Stop it.")]})
    assert answer["messages"][-1].text == "As you like."
    assert [m["role"] for m in sim.requests[0].body["messages"]] == [
        "user",
        "assistant",
        "tool",
        "user",
    ]


async def test_an_agent_recovers_from_a_call_that_cannot_be_read(sim):
    """If nobody does better, broken arguments end the turn; the next is not refused for them."""
    bad = Reply(tool_calls=[ToolCall("weather", '{"city": ')])
    sim.script("together:a", bad, bad, then=Reply("Once more: sunny."))
    agent = create_agent(chain(sim, "together:a"), tools=[weather])
    answer = await agent.ainvoke({"messages": [("human", "Weather?")]})
    assert sim.count() == 2
    answer = await agent.ainvoke({"messages": [*answer["messages"], ("human", "Again?")]})
    assert answer["messages"][-1].text == "Once more: sunny."
    assert "unreadable arguments" in sim.requests[-1].body["messages"][1]["content"]


async def test_repairs_are_told_once(sim, caplog):
    """One line in the log, however often the history is sent."""
    _log_repairs.cache_clear()
    llm = chain(sim, "openai:a")
    for _ in range(2):
        await llm.ainvoke([HumanMessage("Hi"), ToolMessage("3", tool_call_id="gone")])
    assert caplog.text.count("a conversation was mended") == 1


@pytest.mark.parametrize("strategy", [ToolStrategy, ProviderStrategy])
async def test_agents_give_structured_answers(sim, strategy):
    """By either of LangChain's strategies, beside tools of the agent's own."""
    last = report("sunny") if strategy is ToolStrategy else Reply('{"sky": "sunny"}')
    first = Reply(tool_calls=[ToolCall("weather", {"city": "Paris"})])
    sim.script("openai:a", first, then=last)
    agent = create_agent(chain(sim, "openai:a"), [weather], response_format=strategy(Report))
    answer = await agent.ainvoke({"messages": [("human", "The weather in Paris?")]})
    assert answer["structured_response"] == Report(sky="sunny")


@pytest.mark.parametrize("api", ["openai:a", "openai:a, responses", "together:a"])
@pytest.mark.parametrize("tools", [[], [weather]], ids=len)
@pytest.mark.parametrize("strategy", [Report, ToolStrategy(Report), ProviderStrategy(Report)],
                         ids=["class", "tool", "provider"])  # fmt: skip
async def test_the_simulators_own_answers_end_an_agent(sim, api, tools, strategy):
    """Without any script: it calls what it must, and then stops."""
    name, _, other = api.partition(", ")
    model = ResilientChatModel(targets=[target(sim, name, api=other or "auto")])
    agent = create_agent(model, tools, response_format=strategy)
    answer = await agent.ainvoke(
        {"messages": [("human", "The weather in Paris?")]}, {"recursion_limit": 9}
    )
    assert isinstance(answer["structured_response"], Report)


class Choosy(ResilientChatModel):
    """Has its agents say the choice in another provider's words."""

    words: Any = "any"

    def bind_tools(self, tools, **kwargs):
        return super().bind_tools(tools, **{**kwargs, "tool_choice": self.words})


@pytest.mark.parametrize("words", ["any", "required", True, {"type": "any"}, {"any": {}},
                                   {"function_calling_config": {"mode": "ANY"}}])  # fmt: skip
@pytest.mark.parametrize("dialect", ["openai", "together"])
async def test_agents_that_must_call_a_tool_end_with_that_of_their_format(sim, words, dialect):
    """Whoever's words for it they have: the schema's tool comes after a result."""
    model = chain(sim, f"{dialect}:m")
    model = Choosy(targets=model.targets, words=words)
    agent = create_agent(model, [weather], response_format=ToolStrategy(Report))
    asked = {"messages": [("human", "What is weather('Paris')?")]}
    answer = await agent.ainvoke(asked, {"recursion_limit": 12})
    assert history(answer) == ["human", "ai", "tool", "ai", "tool"]
    assert isinstance(answer["structured_response"], Report)
    assert [seen.body["tool_choice"] for seen in sim.requests] == ["required", "required"]


NAMED = [
    {"type": "tool", "name": "weather"},
    {"tool": {"name": "weather"}},
    {"type": "function", "name": "weather"},
    "weather",
]


@pytest.mark.parametrize("choice", NAMED)
def test_one_tool_may_be_chosen_in_any_providers_words(sim, choice):
    """The request says it in OpenAI's."""
    chain(sim, "openai:m").bind_tools([weather, population], tool_choice=choice).invoke("Paris?")
    sent = sim.requests[0].body["tool_choice"]
    assert sent == {"type": "function", "function": {"name": "weather"}}


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}, "any_"])
@pytest.mark.parametrize("dialect", ["openai", "together"])
def test_the_simulator_refuses_a_choice_that_it_does_not_know(dialect, choice):
    """It used to ignore it, and so hid the mistake."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "tools": [
        {"type": "function", "function": {"name": "weather"}}], "tool_choice": choice}  # fmt: skip
    error = find_error(dialect, body)
    assert error is not None
    assert error.param.startswith("tool_choice")


async def test_an_agents_format_moves_to_the_prompt(sim):
    """Its own tools stay, at a target that knows no schemas."""
    refuses = Lacks(("json_schema", "json_object"), Reply('Here: {"sky": "sunny"}'))
    sim.script("openai:a", then=refuses)
    model = chain(sim, "openai:a")
    agent = create_agent(model, [weather], response_format=ProviderStrategy(Report))
    answer = await agent.ainvoke({"messages": [("human", "The weather in Paris?")]})
    assert answer["structured_response"] == Report(sky="sunny")
    last = sim.requests[-1].body
    assert [tool["function"]["name"] for tool in last["tools"]] == ["weather"]


class Sees(GenericFakeChatModel):
    """A LangChain model of another provider, which keeps what it was sent."""

    seen: list = []  # noqa: RUF012  # pydantic copies it

    def _get_ls_params(self, stop=None, **kwargs):
        return LangSmithParams(ls_provider="elsewhere")

    def _generate(self, messages, *args, **kwargs):
        self.seen.append(messages)
        return super()._generate(messages, *args, **kwargs)


THOUGHTFUL = [
    {"type": "thinking", "thinking": "Hm", "signature": "EqQB"},
    {"type": "text", "text": "Let me see."},
]


@pytest.mark.parametrize(
    ("provider", "content"), [("anthropic", "Let me see."), ("elsewhere", THOUGHTFUL)]
)
async def test_a_langchain_model_reads_only_its_own_blocks(provider, content):
    """Another provider's signed thoughts are left out; its own must come back as they were."""
    message = AIMessage(THOUGHTFUL, response_metadata={"model_provider": provider})
    model = Sees(messages=iter(["Hello."]))
    llm = ResilientChatModel(targets=[model])
    await llm.ainvoke([HumanMessage("Hi"), message, HumanMessage("And?")])
    assert model.seen[0][1].content == content

"""Agents at targets that always refuse something: learned at the first turn, never asked again."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import openai
import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.messages import ChatMessage, HumanMessage, ToolMessage
from langchain_core.tools import StructuredTool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from langchain_resilient import ResilientChatModel, Target
from langchain_resilient.testing import ProviderSimulator, Reply, Status, Step, ToolCall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from langchain_resilient.testing import Exchange

OPENAI = tuple(map(int, openai.__version__.split(".")[:2]))
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
TEXTS = [{"type": "text", "text": "sunny"}]


class Report(BaseModel):
    """A weather report."""

    sky: str


def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"sunny in {city}"


def show(city: str) -> Any:
    """Show the sky over a city."""
    return [*TEXTS, IMAGE]


def describe(city: str) -> Any:
    """Describe the sky over a city."""
    return TEXTS


def collect(cities: list) -> str:
    """Tell the weather of cities."""
    return "sunny"


def roles(body: dict[str, Any]) -> list[str]:
    return [message["role"] for message in body["messages"]]


def blocks_of(body: dict[str, Any], *where: str) -> list[str]:
    """The types of the blocks in messages of these roles."""
    return [
        block["type"]
        for message in body["messages"]
        if message["role"] in where and isinstance(message.get("content"), list)
        for block in message["content"]
    ]


def forced(body: dict[str, Any]) -> bool:
    return body.get("tool_choice") in ("required", "any")


@dataclass(frozen=True, eq=False)
class Refusal:
    """What a server refuses, each time.

    Attributes:
        when: Whether it refuses a request.
        message: In these words.
        param: It names this parameter.
        status: With this status.
        fields: The model's, that lead to it.
        tool: What the agent calls.
        asked: The conversation's beginning.
        options: Further arguments of the agent.
        before: Requests that may be refused in the first turn.
    """

    name: str
    when: Callable[[dict[str, Any]], Any]
    message: str
    param: str | None = None
    status: int = 400
    fields: dict[str, Any] = field(default_factory=dict)
    tool: Any = weather
    asked: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    before: int = 1


UNSUPPORTED = "Unsupported parameter: '{}' is not supported with this model."
VALUES = "Unsupported value: '{}' does not support '{}' with this model. Supported values are: {}."

REFUSALS = [
    Refusal(
        "developer", lambda body: "developer" in roles(body),
        "Invalid value: 'developer'. Supported values are: 'system', 'assistant', 'user'.",
        param="messages[0].role", asked=(ChatMessage(role="developer", content="Be brief."),),
    ),
    Refusal(
        "system", lambda body: "system" in roles(body), "System role not supported",
        options={"system_prompt": "Be brief."},
    ),
    Refusal(
        "name", lambda body: any("name" in message for message in body["messages"]),
        "property 'messages.0.name' is unsupported", param="messages.0.name",
        asked=(HumanMessage("Hello", name="ann"),),
    ),
    Refusal(
        "image", lambda body: "image_url" in blocks_of(body, "tool"),
        "Invalid 'messages[2]'. Image URLs are only allowed for messages with role 'user', but "
        "this message with role 'tool' contains an image URL.",
        tool=show,
    ),
    Refusal(
        "lists", lambda body: blocks_of(body, "tool", "system", "assistant"),
        "Failed to deserialize the JSON body into the target type: messages[2]: invalid type: "
        "sequence, expected a string", status=422, tool=describe,
    ),
    Refusal(
        "ids", lambda body: any(len(message.get("tool_call_id", "x" * 9)) != 9
                                for message in body["messages"]),
        "Tool call id was call_1 but must be a-z, A-Z, 0-9, with a length of 9.",
    ),
    Refusal(
        "unknown", lambda body: "seed" in body, "Unrecognized request argument supplied: seed",
        fields={"seed": 1},
    ),
    Refusal(
        "value", lambda body: body.get("reasoning_effort") == "minimal",
        VALUES.format("reasoning_effort", "minimal", "'low', 'medium', and 'high'"),
        param="reasoning_effort", fields={"reasoning_effort": "minimal"},
    ),
    Refusal(
        "effort and tools", lambda body: "reasoning_effort" in body and "tools" in body,
        "Function tools with 'reasoning_effort' are not supported for m.",
        fields={"reasoning_effort": "high"},
    ),
    Refusal(
        "temperature and effort", lambda body: {"temperature", "reasoning_effort"} <= body.keys(),
        "'temperature' is not supported when 'reasoning_effort' is 'high'", param="temperature",
        fields={"reasoning_effort": "high", "temperature": 0.5},
    ),
    Refusal(
        "temperature", lambda body: body.get("temperature") == 0.5,
        "Unsupported value: 'temperature' does not support 0.5 with this model. Only the default "
        "(1) value is supported.", param="temperature", fields={"temperature": 0.5},
    ),
    Refusal(
        "too large",
        lambda body: max(body.get("max_tokens", 0), body.get("max_completion_tokens", 0)) > 8192,
        "max_tokens is too large: 16000. This model supports at most 8192 completion tokens.",
        param="max_tokens", fields={"max_tokens": 16_000},
    ),
    Refusal(
        "limit's name", lambda body: "max_tokens" in body,
        UNSUPPORTED.format("max_tokens") + " Use 'max_completion_tokens' instead.",
        param="max_tokens", fields={"max_tokens": 100},
    ),
    Refusal(
        "verbosity", lambda body: "verbosity" in body, UNSUPPORTED.format("verbosity"),
        param="verbosity", fields={"verbosity": "low"},
    ),
    Refusal(
        "tier", lambda body: body.get("service_tier") == "flex",
        "Flex is not available for this model.", param="service_tier",
        fields={"service_tier": "flex"},
    ),
    Refusal(
        "forced", forced,
        "The tool_choice parameter does not support being set to required in thinking mode",
        fields={"reasoning_effort": "high"}, options={"force": True},
    ),
    Refusal(
        "usage", lambda body: "stream_options" in body,
        "Unrecognized request argument supplied: stream_options",
    ),
    Refusal(
        "streams", lambda body: body.get("stream"),
        "Streaming is not supported for this model.", param="stream",
    ),
    Refusal(
        "schema", lambda body: "response_format" in body,
        "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this "
        "model.", param="response_format", options={"response_format": ProviderStrategy(Report)},
        before=2,
    ),
    Refusal(
        "odd name", lambda _: False, "The simulator refuses it itself.",
        tool=StructuredTool.from_function(weather, name="wetter/über uns"), before=0,
    ),
    Refusal("items", lambda _: False, "The simulator refuses it itself.", tool=collect),
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Refuses(Step):
    """A server that calls the agent's tool, then answers, where it does not refuse."""

    refusal: Refusal

    def choose(self, request: Any, elapsed: float) -> Step:
        body, refusal = request.body, self.refusal
        if refusal.when(body):
            return Status(refusal.status, message=refusal.message, param=refusal.param)
        tools = body.get("tools")
        questions = str(body["messages"]).count("The weather in Paris?")
        if tools and roles(body).count("tool") < questions:
            arguments = {"cities": ["Paris"]} if refusal.tool is collect else {"city": "Paris"}
            return Reply(tool_calls=[ToolCall(tools[0]["function"]["name"], arguments)])
        return Reply('{"sky": "sunny"}')

    async def play(self, exchange: Exchange) -> None:
        raise NotImplementedError("`choose` leaves it to others")


class Forced(ResilientChatModel):
    """Must call a tool, as some agents have it in their first step."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return super().bind_tools(tools, **{**kwargs, "tool_choice": "any"})


@pytest.fixture(scope="module")
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as simulator:
        yield simulator


def targets(sim: ProviderSimulator, model: str, kind: str) -> list[Target]:
    """The one that refuses; in a chain a healthy one follows."""
    url = sim.base_url("openai")
    refusing = Target(f"openai:{model}", base_url=url, api_key="k", api="chat")
    if kind == "wrapped":
        wrapped = ChatOpenAI(model=model, base_url=url, api_key="k", max_retries=0)
        refusing = Target(wrapped, name="wrapped")
    other = Target("openai:b", base_url=url, api_key="k")
    return [refusing, other] if kind == "chain" else [refusing]


def turn(agent: Any, messages: list[Any], *, stream: bool) -> list[Any]:
    """Run the agent to its end."""
    asked = {"messages": [*messages, HumanMessage("The weather in Paris?")]}
    if not stream:
        return agent.invoke(asked)["messages"]
    states = [part for mode, part in agent.stream(asked, stream_mode=["messages", "values"])
              if mode == "values"]  # fmt: skip
    return states[-1]["messages"]


WAYS = {
    "single": (False, False, True),
    "chain": (True, True, False),
    "wrapped": (False, True, True),
}
"""Which of an agent's turns are streamed, by its targets."""


@pytest.mark.parametrize("kind", WAYS)
@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_no_request_is_wasted_from_the_second_turn_on(sim, refusal, kind):
    """And no turn moves to the target that follows."""
    if (refusal.name, kind) == ("schema", "wrapped") and OPENAI < (3, 20):
        pytest.skip("this openai SDK wants strict tools beside a schema")
    model = f"{refusal.name}-{kind}"
    name = f"openai:{model}"
    sim.script(name, then=Refuses(refusal))
    options = dict(refusal.options)
    made = Forced if options.pop("force", False) else ResilientChatModel
    llm = made(targets=targets(sim, model, kind), hedge=None, **refusal.fields)
    agent = create_agent(llm, [refusal.tool], **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is left out
        streamed, *later = WAYS[kind]
        messages = turn(agent, list(refusal.asked), stream=streamed)
        sim.wait_idle()
        first = sim.count(name)
        assert sim.count(name, status=200) == 2
        assert first - 2 <= refusal.before
        for streamed in later:
            messages = turn(agent, messages, stream=streamed)
    sim.wait_idle()
    assert messages[-1].text == '{"sky": "sunny"}'
    results = [message for message in messages if isinstance(message, ToolMessage)]
    assert [message.status for message in results] == ["success"] * 3
    assert (sim.count(name), sim.count(name, status=200)) == (first + 4, 6)
    assert sim.count("openai:b") == 0

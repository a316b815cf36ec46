"""The calls that both models are asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from pydantic import BaseModel

from langchain_resilient.testing import (
    BadRequest,
    ContextTooLong,
    InvalidKey,
    ModelNotFound,
    Overloaded,
    Quota,
    RateLimited,
    Reply,
    Reset,
    Status,
    ToolCall,
)

if TYPE_CHECKING:
    from langchain_resilient.testing import Step


class Case(NamedTuple):
    """One call.

    Attributes:
        name: What it shows.
        prompt: The messages.
        fields: Of the model.
        call: Keyword arguments of the call.
        tools: Bound to the model, with these arguments of `bind_tools`.
        schema: For `with_structured_output`.
        method: Of the same; None for the default.
        step: What the server does.
        fails: Whether an error is compared rather than a message.
    """

    name: str
    prompt: Any = "Why is the sky blue?"
    fields: dict[str, Any] = {}  # noqa: RUF012  # never changed
    call: dict[str, Any] = {}  # noqa: RUF012  # as above
    tools: dict[str, Any] | None = None
    schema: Any = None
    method: str | None = None
    step: Step | None = None
    fails: bool = False


class Weather(BaseModel):
    """Say what the weather is like."""

    place: str
    days: int = 1


class Tree(BaseModel):
    """A tree of numbers."""

    value: int
    children: list[Tree] = []


class Counts(BaseModel):
    """How often each word comes."""

    counts: dict[str, int]


def _weather(place: str) -> str:
    """Say what the weather is like."""
    return f"sunny in {place}"


ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}

_CALL = {"name": "add", "args": {"a": 1, "b": 2}, "id": "call_1", "type": "tool_call"}
_SAID = [ToolCall("add", {"a": 1, "b": 2}, "call_9")]
_PICTURE = "data:image/png;base64,iVBORw0KGgo="

CASES = (
    Case("a question"),
    Case("a system message and a history", [
        SystemMessage("Be brief."), HumanMessage("Hi"), AIMessage("Hello!"), HumanMessage("Bye"),
    ]),
    Case("a name", [HumanMessage("Hi", name="ann")]),
    Case("a picture", [HumanMessage([
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": _PICTURE}},
    ])]),
    Case("a standard image block", [HumanMessage([
        {"type": "text", "text": "What is this?"},
        {"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"},
    ])]),
    Case("a finished tool call", [
        HumanMessage("1 + 2?"),
        AIMessage("", tool_calls=[_CALL]),
        ToolMessage("3", tool_call_id="call_1"),
    ], tools={"tools": [ADD]}),
    Case("temperature, top_p and a seed", fields={"temperature": 0.5, "top_p": 0.9, "seed": 7}),
    Case("max_tokens", fields={"max_tokens": 5}),
    Case("penalties", fields={"frequency_penalty": 0.5, "presence_penalty": 0.5}),
    Case("stop words of the call", call={"stop": ["4"]}),
    Case("temperature of the call", call={"temperature": 0.0}),
    Case("an extra field", fields={"model_kwargs": {"user": "ann"}}),
    Case("tools", tools={"tools": [ADD]}, step=Reply(tool_calls=_SAID)),
    Case("a pydantic tool, forced", tools={"tools": [Weather], "tool_choice": "Weather"},
         step=Reply(tool_calls=[ToolCall("Weather", {"place": "Oslo"}, "call_9")])),
    Case("any tool", tools={"tools": [ADD, Weather], "tool_choice": "any"},
         step=Reply(tool_calls=_SAID)),
    Case("arguments that are no JSON", tools={"tools": [ADD]},
         step=Reply(tool_calls=[ToolCall("add", '{"a": 1,', "call_9")])),
    Case("arguments in a fence", tools={"tools": [ADD]},
         step=Reply(tool_calls=[ToolCall("add", '```json\n{"a": 1, "b": 2}\n```', "call_9")])),
    Case("arguments encoded twice", tools={"tools": [ADD]},
         step=Reply(tool_calls=[ToolCall("add", '"{\\"a\\": 1, \\"b\\": 2}"', "call_9")])),
    Case("arguments with a comma too many", tools={"tools": [ADD]},
         step=Reply(tool_calls=[ToolCall("add", '{"a": 1, "b": 2,}', "call_9")])),
    Case("arguments that lack one", tools={"tools": [ADD]},
         step=Reply(tool_calls=[ToolCall("add", '{"a": 1}', "call_9")])),
    Case("a choice in Anthropic's words", tools={"tools": [ADD], "tool_choice": {"type": "any"}},
         step=Reply(tool_calls=_SAID)),
    Case("a function as a tool of the call", call={"tools": [_weather]},
         step=Reply(tool_calls=[ToolCall("_weather", {"place": "Oslo"}, "call_9")])),
    Case("a schema that holds itself", schema=Tree, step=Reply('{"value": 1, "children": []}')),
    Case("a schema with an open object", schema=Counts, step=Reply('{"counts": {"a": 1}}')),
    Case("ended by an error", step=Reply("The sky", finish_reason="error")),
    Case("ended by a filter in Google's words", step=Reply("The sky", finish_reason="SAFETY")),
    Case("a schema by the default method", schema=Weather),
    Case("a schema by tool", schema=Weather, method="function_calling"),
    Case("a schema as JSON mode", "Give me JSON with place and days.", schema=Weather,
         method="json_mode"),
    Case("a class as response_format", call={"response_format": Weather}),
    Case("a paid service tier", fields={"service_tier": "flex"}),
    Case("log probabilities", fields={"logprobs": True, "top_logprobs": 2}),
    Case("reasoning effort", fields={"reasoning_effort": "low"}),
    Case("a developer message", [
        SystemMessage("Be brief.", additional_kwargs={"__openai_role__": "developer"}),
        HumanMessage("Hi"),
    ]),
    Case("a cache mark", [HumanMessage([
        {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}},
    ])]),
    Case("cut by length", step=Reply("The sky", finish_reason="length")),
    Case("filtered", step=Reply("The sky", finish_reason="content_filter")),
    Case("400", step=BadRequest(), fails=True),
    Case("401", step=InvalidKey(), fails=True),
    Case("403", step=Status(403), fails=True),
    Case("404", step=ModelNotFound(), fails=True),
    Case("429", step=RateLimited(), fails=True),
    Case("quota", step=Quota(), fails=True),
    Case("500", step=Status(500), fails=True),
    Case("503", step=Overloaded(), fails=True),
    Case("too long", step=ContextTooLong(limit=10), fails=True),
    Case("a connection that is reset", step=Reset(0), fails=True),
)  # fmt: skip
"""Everything that a user of the one is likely to do with the other."""

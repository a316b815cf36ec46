"""Which tools are called with what, and JSON that fits its schema."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_resilient.testing.clues import Clues
from langchain_resilient.testing.schemas import instance
from langchain_resilient.testing.simulator import ProviderSimulator
from langchain_resilient.testing.tools import planned_calls
from tests.testing.wire_client import ask, chat


def tool(
    name: str, properties: dict[str, Any] | None = None, description: str = ""
) -> dict[str, Any]:
    """A tool that requires all of its properties."""
    parameters = {
        "type": "object",
        "properties": properties or {},
        "required": [*(properties or {})],
    }
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


TEXT, WHOLE, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
MAGIC = tool("magic_function", {"input": WHOLE})
WEATHER = tool("get_weather", {"location": TEXT})
ADDER = tool("my_adder_tool", {"a": WHOLE, "b": WHOLE})
POPULATION = tool("lookup", {"city": TEXT}, "Find the population of a city.")


def calls(prompt: str, *tools: dict[str, Any], **more: Any) -> list[tuple[str, Any]]:
    """What is called for a prompt."""
    body = {"messages": [{"role": "user", "content": prompt}], "tools": list(tools), **more}
    return [(call.name, json.loads(call.arguments)) for call in planned_calls(body, prompt)]


@pytest.mark.parametrize(
    ("prompt", "tools", "expected"),
    [
        (
            "What is the value of magic_function(3)? Use the tool.",
            [MAGIC],
            [("magic_function", {"input": 3})],
        ),
        ("Use magic_function on -7.", [MAGIC, WEATHER], [("magic_function", {"input": -7})]),
        (
            "magic_function(3) and magic_function(5)?",
            [MAGIC],
            [("magic_function", {"input": 3}), ("magic_function", {"input": 5})],
        ),
        (
            "Value of magic_function_no_args()?",
            [tool("magic_function_no_args")],
            [("magic_function_no_args", {})],
        ),
        (
            "What is the weather in San Francisco, CA?",
            [WEATHER],
            [("get_weather", {"location": "San Francisco, CA"})],
        ),
        (
            "The weather in Paris, Rome and Berlin?",
            [WEATHER],
            [("get_weather", {"location": c}) for c in ("Paris", "Rome", "Berlin")],
        ),
        ("What is 1 + 2", [ADDER], [("my_adder_tool", {"a": 1, "b": 2})]),
        (
            "What is 3 * 4?",
            [tool("add", {"a": NUMBER, "b": NUMBER}), tool("multiply", {"a": NUMBER, "b": NUMBER})],
            [("multiply", {"a": 3, "b": 4})],
        ),
        ("What is the population of Oslo?", [WEATHER, POPULATION], [("lookup", {"city": "Oslo"})]),
        (
            "Create a customer named '你好啊集团'",
            [tool("unicode_customer", {"customer_name": TEXT})],
            [("unicode_customer", {"customer_name": "你好啊集团"})],
        ),
        ("Hello!", [MAGIC, WEATHER], []),
        ("Tell me a story about a cat.", [MAGIC, POPULATION], []),
    ],
)
def test_auto_calls_what_the_prompt_asks_for(
    prompt: str, tools: list[dict[str, Any]], expected: list[tuple[str, Any]]
) -> None:
    """By name, by a telling word, or by its numbers; and nothing otherwise."""
    assert calls(prompt, *tools) == expected


@pytest.mark.parametrize("choice", ["required", "any"])
def test_required_calls_something(choice: str) -> None:
    """Whatever the prompt says."""
    assert calls("Hello!", MAGIC, WEATHER, tool_choice=choice) == [("magic_function", {"input": 1})]


def test_null_is_as_good_as_absent() -> None:
    """Clients send `tool_choice: null` and `parallel_tool_calls: null`."""
    prompt = "The weather in Paris and Rome?"
    assert len(calls(prompt, WEATHER, tool_choice=None, parallel_tool_calls=None)) == 2


def test_an_apostrophe_quotes_nothing() -> None:
    """Only marks around words do."""
    assert Clues("What's Bob's age, and 'x y'?").quoted == ["x y"]


def test_a_forced_tool_is_called_once() -> None:
    """Even where the prompt has several values, or wants another tool."""
    forced = {"type": "function", "function": {"name": "get_weather"}}
    prompt = "magic_function(3) in Paris and Rome"
    assert [name for name, _ in calls(prompt, MAGIC, WEATHER, tool_choice=forced)] == [
        "get_weather"
    ]


def test_none_calls_nothing() -> None:
    """Tools may be there for the history only."""
    assert calls("magic_function(3)", MAGIC, tool_choice="none") == []


def test_allowed_tools_are_the_only_ones() -> None:
    """OpenAI's `allowed_tools` narrows the choice."""
    allowed = {
        "mode": "required",
        "tools": [{"type": "function", "function": {"name": "get_weather"}}],
    }
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    assert [name for name, _ in calls("magic_function(3)", MAGIC, WEATHER, tool_choice=choice)] == [
        "get_weather"
    ]


def test_one_call_a_turn_without_parallel_calls() -> None:
    """The next one comes after the first was answered."""
    prompt = "The weather in Paris and Rome?"
    first = calls(prompt, WEATHER, parallel_tool_calls=False)
    assert first == [("get_weather", {"location": "Paris"})]
    answered = [
        {"role": "user", "content": prompt},
        {"role": "assistant", "tool_calls": [{"id": "1"}]},
        {"role": "tool", "tool_call_id": "1", "content": "Rain."},
    ]
    body = {"messages": answered, "tools": [WEATHER], "parallel_tool_calls": False}
    assert [call.arguments for call in planned_calls(body, prompt)] == ['{"location":"Rome"}']


async def test_an_answered_tool_is_quoted_and_not_called_again(sim: ProviderSimulator) -> None:
    """The agent's loop comes to its end."""
    body = chat("What is the weather in Oslo?", tools=[WEATHER])
    message = (await ask(sim, body)).json["choices"][0]["message"]
    answer = {
        "role": "tool",
        "tool_call_id": message["tool_calls"][0]["id"],
        "content": "It's sunny.",
    }
    body["messages"] += [message, answer]
    wire = await ask(sim, body)
    assert wire.text == "get_weather says: It's sunny."
    assert wire.json["choices"][0]["finish_reason"] == "stop"


async def test_ids_of_calls_differ_between_requests(sim: ProviderSimulator) -> None:
    """And within one."""
    body = chat("The weather in Paris and Rome?", tools=[WEATHER])
    ids = [
        call["id"]
        for _ in range(2)
        for call in (await ask(sim, body)).json["choices"][0]["message"]["tool_calls"]
    ]
    assert len(set(ids)) == 4


JOKE = {
    "type": "object",
    "properties": {"setup": TEXT, "punchline": {"anyOf": [TEXT, {"type": "null"}]}},
    "required": ["setup", "punchline"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("prompt", "schema", "expected"),
    [
        ("3 of 5", {"type": "array", "items": WHOLE}, [3, 5]),
        ("", {"enum": ["a", "b"]}, "a"),
        ("in celsius please", {"enum": ["fahrenheit", "celsius"]}, "celsius"),
        ("", {"const": 7}, 7),
        ("", {"type": ["null", "integer"], "minimum": 5}, 5),
        ("-9", {"type": "integer", "exclusiveMinimum": 0}, 1),
        ("", {"type": "string", "format": "date"}, "2026-01-01"),
        ("mail bob@example.org", {"type": "string", "format": "email"}, "bob@example.org"),
        ("", {"type": "boolean"}, True),
        ("", {"type": "object", "properties": {"a": TEXT}}, {}),
        ("", {"type": "array", "items": WHOLE, "minItems": 3}, [1, 1, 1]),
        ("", {"allOf": [{"properties": {"a": WHOLE}, "required": ["a"]}]}, {"a": 1}),
        ("name: Bob", {"properties": {"name": TEXT}, "required": ["name"]}, {"name": "Bob"}),
    ],
)
def test_instances(prompt: str, schema: dict[str, Any], expected: Any) -> None:
    """Values from the prompt where they are obvious, minimal ones elsewhere."""
    assert instance(schema, Clues(prompt)) == expected


def test_a_schema_may_contain_itself() -> None:
    """References are followed, and recursion ends."""
    node = {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
        "required": ["next"],
    }
    made = instance({"$ref": "#/$defs/Node", "$defs": {"Node": node}}, Clues("x"))
    while made is not None:
        made = made["next"]


def test_what_the_prompt_does_not_want_is_null() -> None:
    """Saying "no punchline" leaves an optional one out."""
    assert instance(JOKE, Clues("The setup to a joke, no punchline."))["punchline"] is None
    assert instance(JOKE, Clues("A joke about cats."))["punchline"] is not None


SCALARS = st.sampled_from(
    [TEXT, WHOLE, NUMBER, {"type": "boolean"}, {"type": "null"}, {"enum": [1, "a"]}]
)
SCHEMAS = st.recursive(
    SCALARS,
    lambda part: st.one_of(
        st.builds(
            lambda items, n: {"type": "array", "items": items, "minItems": n},
            part,
            st.integers(0, 3),
        ),
        st.builds(lambda parts: {"anyOf": parts}, st.lists(part, min_size=1, max_size=3)),
        st.builds(
            lambda parts: {"type": "object", "properties": parts, "required": [*parts]},
            st.dictionaries(st.sampled_from("abcd"), part, max_size=3),
        ),
    ),
    max_leaves=8,
)


@given(SCHEMAS, st.text(max_size=30))
def test_every_instance_fits_its_schema(schema: dict[str, Any], prompt: str) -> None:
    """For any schema and any prompt."""
    assert fits(instance(schema, Clues(prompt)), schema)


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """A validator for the schemas above."""
    if "enum" in schema:
        return value in schema["enum"]
    if "anyOf" in schema:
        return any(fits(value, part) for part in schema["anyOf"])
    match schema["type"]:
        case "object":
            parts = schema["properties"]
            return value.keys() == parts.keys() and all(fits(value[k], parts[k]) for k in parts)
        case "array":
            return len(value) >= schema["minItems"] and all(fits(v, schema["items"]) for v in value)
        case kind:
            kinds = {
                "string": str,
                "integer": int,
                "number": (int, float),
                "boolean": bool,
                "null": type(None),
            }
            return isinstance(value, kinds[kind])


@pytest.mark.parametrize("dialect", ["openai", "together"])
@pytest.mark.parametrize("stream", [False, True])
async def test_json_schema_answers(sim: ProviderSimulator, stream: bool, dialect: str) -> None:
    """Structured output, plain and streamed."""
    shape = {"type": "json_schema", "json_schema": {"name": "joke", "schema": JOKE, "strict": True}}
    wire = await ask(
        sim, chat("A joke about cats.", response_format=shape, stream=stream), dialect=dialect
    )
    joke = json.loads(wire.text)
    assert joke.keys() == {"setup", "punchline"}
    assert "cats" in joke["setup"]


async def test_json_mode_reads_the_keys_from_the_prompt(sim: ProviderSimulator) -> None:
    """Quoted words become keys."""
    prompt = "A joke as JSON with 'setup' and 'punchline' keys."
    wire = await ask(sim, chat(prompt, response_format={"type": "json_object"}))
    assert json.loads(wire.text).keys() == {"setup", "punchline"}

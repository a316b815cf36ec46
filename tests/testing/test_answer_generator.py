"""What the model answers: tools, JSON, continuations, limits."""

from __future__ import annotations

import json
from typing import Any

import pytest

from langchain_resilient.testing import ProviderSimulator, Reply, answer_to
from langchain_resilient.testing.answer_generator import planned_calls
from langchain_resilient.testing.answers import tokens
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


TEXT = {"type": "string"}


WHOLE = {"type": "integer"}


NUMBER = {"type": "number"}


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
    """By name, by a significant word, or by its numbers; and nothing otherwise."""
    assert calls(prompt, *tools) == expected


@pytest.mark.parametrize("choice", ["required", "any"])
def test_required_calls_something(choice: str) -> None:
    """Whatever the prompt says."""
    assert calls("Hello!", MAGIC, WEATHER, tool_choice=choice) == [("magic_function", {"input": 1})]


def test_null_is_as_good_as_absent() -> None:
    """Clients send `tool_choice: null` and `parallel_tool_calls: null`."""
    prompt = "The weather in Paris and Rome?"
    assert len(calls(prompt, WEATHER, tool_choice=None, parallel_tool_calls=None)) == 2


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


Q = "How do bees find home?"


T = answer_to(Q)


def conversation(*turns: tuple[str, str]) -> dict[str, object]:
    """A request with these messages."""
    return {"model": "m", "messages": [{"role": role, "content": text} for role, text in turns]}


CONTINUE = "Continue exactly where you left off."


@pytest.mark.parametrize("cut", [1, 8, 20, 55, len(T) - 1])
async def test_a_partial_answer_is_continued(sim: ProviderSimulator, cut: int) -> None:
    """Question, partial answer, a message that asks to go on: the rest comes."""
    body = conversation(("user", Q), ("assistant", T[:cut]), ("user", CONTINUE))
    assert T[:cut] + (await ask(sim, body)).text == T


async def test_prefill_is_continued(sim: ProviderSimulator) -> None:
    """The assistant's own last message, as some providers allow."""
    body = conversation(("user", Q), ("assistant", T[:33]))
    assert T[:33] + (await ask(sim, body)).text == T


async def test_several_rounds_are_continued(sim: ProviderSimulator) -> None:
    """What the assistant said since the question counts together."""
    turns = [("user", Q), ("assistant", T[:30]), ("user", CONTINUE)]
    turns += [("assistant", T[30:77]), ("user", CONTINUE)]
    assert T[:77] + (await ask(sim, conversation(*turns))).text == T


async def test_a_continuation_can_overlap(sim: ProviderSimulator) -> None:
    """Models like to repeat the last words."""
    sim.script("*", then=Reply(overlap=30))
    body = conversation(("user", Q), ("assistant", T[:100]), ("user", CONTINUE))
    assert T[:70] + (await ask(sim, body)).text == T


async def test_an_ordinary_second_question_is_not_continued(sim: ProviderSimulator) -> None:
    """Even after an answer that broke off."""
    body = conversation(("user", Q), ("assistant", T[:50]), ("user", "And ants?"))
    assert (await ask(sim, body)).text == answer_to("And ants?")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_whole_answer_has_no_rest(sim: ProviderSimulator, stream: bool) -> None:
    """Asked to go on, the model has nothing to add, and says so with `stop`."""
    body = conversation(("user", Q), ("assistant", T), ("user", CONTINUE))
    wire = await ask(sim, body | {"stream": stream})
    finish = wire.finish if stream else [wire.json["choices"][0]["finish_reason"]]
    assert (wire.text, finish) == ("", ["stop"])


async def test_the_end_of_a_whole_answer_may_be_repeated(sim: ProviderSimulator) -> None:
    """As a model does that is told to begin with the last words."""
    sim.script("*", then=Reply(overlap=30))
    body = conversation(("user", Q), ("assistant", T), ("user", CONTINUE))
    assert (await ask(sim, body)).text == T[-30:]


async def test_after_a_whole_answer_a_new_question_is_answered(sim: ProviderSimulator) -> None:
    """And its answer is continued, not the earlier one."""
    turns = [("user", Q), ("assistant", T), ("user", "And ants?")]
    assert (await ask(sim, conversation(*turns))).text == answer_to("And ants?")
    whole = answer_to("And ants?")
    body = conversation(*turns, ("assistant", whole[:70]), ("user", CONTINUE))
    assert whole[:70] + (await ask(sim, body)).text == whole


ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        },
    },
}


TOOL_TURNS = [
    {"role": "user", "content": "Add 3 and 4"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "add", "arguments": '{"a":3,"b":4}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "the sum of both is 7"},
]


async def test_an_answer_about_a_tool_is_continued(sim: ProviderSimulator) -> None:
    """The tool is not called once more, though the asking message has numbers for it."""
    body = {"model": "gpt-4", "messages": TOOL_TURNS, "tools": [ADD]}
    whole = (await ask(sim, body)).text
    asking = {"role": "user", "content": f'Cut off: "1 of 2 {whole[:9]}". {CONTINUE}'}
    partial = {"role": "assistant", "content": whole[:9]}
    rest = (await ask(sim, {**body, "messages": [*TOOL_TURNS, partial, asking]})).text
    assert whole[:9] + rest == whole == "add says: the sum of both is 7"


@pytest.mark.parametrize(
    ("dialect", "field"),
    [("openai", "max_tokens"), ("openai", "max_completion_tokens"), ("together", "max_tokens")],
)
async def test_max_tokens_cuts_the_answer(sim: ProviderSimulator, dialect: str, field: str) -> None:
    """With `length`, and the usage to match."""
    wire = await ask(sim, chat(Q, **{field: 5}), dialect=dialect)
    assert wire.text == "".join(tokens(T)[:5])
    assert wire.json["choices"][0]["finish_reason"] == "length"
    assert wire.json["usage"]["completion_tokens"] == 5


async def test_together_ignores_max_completion_tokens(sim: ProviderSimulator) -> None:
    """It does not know the field, and says nothing about it."""
    wire = await ask(sim, chat(Q, max_completion_tokens=5), dialect="together")
    assert wire.text == T


async def test_reasoning_may_use_up_the_tokens(sim: ProviderSimulator) -> None:
    """The well-known empty answer with `length`."""
    wire = await ask(sim, chat(Q, model="o4-mini", max_completion_tokens=50))
    assert (wire.text, wire.json["choices"][0]["finish_reason"]) == ("", "length")


@pytest.mark.parametrize("stop", [" 3 ", [" 9 ", " 3 "]])
async def test_stop_sequences(sim: ProviderSimulator, stop: object) -> None:
    """The answer ends before the first of them."""
    assert (await ask(sim, chat(Q, stop=stop))).text == T.partition(" 3 ")[0]


async def test_text_blocks_are_read(sim: ProviderSimulator) -> None:
    """Pictures cost tokens, and the text beside them is the prompt."""
    blocks = [
        {"type": "text", "text": Q},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
    ]
    wire = await ask(sim, chat(blocks))
    assert wire.text == T
    assert wire.json["usage"]["prompt_tokens"] > 85

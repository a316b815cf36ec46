"""Tool calls out of fragments."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import StructuredTool

from langchain_resilient import ResilientChatModel
from langchain_resilient.testing import ProviderSimulator
from langchain_resilient.wire.chunk_parser import ToolCallFragment, parse_choice
from langchain_resilient.wire.tool_call_assembler import ToolCallAssembler
from langchain_resilient.wire.tool_calls import function_name
from verification.kit.scripted_targets import chain, target

if TYPE_CHECKING:
    from collections.abc import Iterator


def put_together(*fragments):
    """The calls as `(id, name, args)`."""
    tools = ToolCallAssembler()
    for fragment in fragments:
        tools.add(ToolCallFragment(*fragment))
    return [(c.given_id, c.name, c.args) for c in tools.calls]


@pytest.mark.parametrize(
    "fragments",
    [
        # OpenAI: the id once, then the index.
        [(0, "a", "f", ""), (0, None, None, "{"), (0, None, None, "}"), (1, "b", "g", "[]")],
        # The id, or the name too, with every fragment.
        [(0, "a", "f", "{"), (0, "a", None, "}"), (1, "b", "g", "[]")],
        [(0, "a", "f", "{"), (0, "a", "f", "}"), (1, "b", "g", "[]")],
        # Interleaved.
        [(0, "a", "f", ""), (1, "b", "g", "["), (0, None, None, "{}"), (1, None, None, "]")],
        # Every call has the index 0.
        [(0, "a", "f", "{"), (0, None, None, "}"), (0, "b", "g", "["), (0, None, None, "]")],
        [(0, "a", "f", "{"), (0, "b", "g", "[]"), (0, "a", None, "}")],
        # No index: by id, or one after the other.
        [(None, "a", "f", "{"), (None, "b", "g", "[]"), (None, "a", None, "}")],
        [(None, "a", "f", "{"), (None, None, None, "}"), (None, "b", "g", "[]")],
        # A fresh id with every fragment (vLLM).
        [(0, "a", "f", "{"), (0, "x", None, "}"), (1, "b", "g", "[]")],
        [(None, "a", "f", "{"), (None, "x", None, "}"), (None, "b", "g", "[]")],
        # The id comes late; the name comes in pieces.
        [(0, None, "f", ""), (0, "a", None, "{}"), (1, "b", "g", "[]")],
        # A gap in the numbers.
        [(0, "a", "f", "{}"), (7, "b", "g", "[]")],
    ],
)
def test_ways_of_numbering(fragments):
    """However a server numbers its calls, each fragment finds its own."""
    assert put_together(*fragments) == [("a", "f", "{}"), ("b", "g", "[]")]


def test_calls_without_ids_and_indexes():
    """A second name begins a second call."""
    answer = put_together((None, None, "f", "{"), (None, None, None, "}"), (None, None, "g", "[]"))
    assert answer == [(None, "f", "{}"), (None, "g", "[]")]


def test_calls_with_the_same_id():
    """Where the index tells calls apart, equal ids do not join them; the second is not its own."""
    answer = put_together((0, "a", "f", "{"), (1, "a", "g", "["), (0, None, None, "}"))
    assert answer == [("a", "f", "{}"), (None, "g", "[")]


def test_calls_of_one_id_get_two():
    """A result could not be told from the other's."""
    tools = ToolCallAssembler()
    for fragment in [(0, "a", "f", '{"x":1}'), (1, "a", "f", '{"x":'), (1, "a", None, "2}")]:
        tools.add(ToolCallFragment(*fragment))
    first, second = tools.calls
    assert (first.id, second.args) == ("a", '{"x":2}')
    assert second.id not in ("", "a")


@pytest.mark.parametrize("placeholder", ["", "null", "None", "x", "a"])
def test_ids_that_mean_nothing_glue_no_calls_together(placeholder):
    """An id in a continuation belongs to a call only if it is that call's own."""
    function = [{"name": "f", "arguments": ""}, {"arguments": '{"x"'}, {"arguments": ":1}"}]
    tools = ToolCallAssembler()
    for piece in function:
        for index in (0, 1):
            id_ = "ab"[index] if "name" in piece else placeholder
            (fragment,) = parse_choice(
                {"delta": {"tool_calls": [{"index": index, "id": id_, "function": piece}]}}
            ).calls
            tools.add(fragment)
    assert [(c.id, c.name, c.args) for c in tools.calls] == [
        ("a", "f", '{"x":1}'),
        ("b", "f", '{"x":1}'),
    ]


ANEW = [
    # Gemini's way: each call whole, at index 0, without an id.
    [(0, None, "f", '{"x":1}'), (0, None, "f", '{"x":2}'), (0, None, "g", "{}")],
    [(0, None, "f", '{"x":1}'), (0, None, "f", '{"x":'), (0, None, None, "2}"), (0, None, "g", "")],
    [(None, None, "f", '{"x":1}'), (None, None, "f", '{"x":2}'), (None, None, "g", "{}")],
    # One id for all.
    [(0, "x", "f", '{"x":1}'), (0, "x", "f", '{"x":2}'), (0, "x", "g", "{}")],
    [(None, "x", "f", '{"x":1}'), (None, "x", "f", '{"x":2}'), (None, "x", "g", "{}")],
]


@pytest.mark.parametrize("fragments", ANEW)
def test_a_new_object_after_whole_arguments_is_a_new_call(fragments):
    """Where neither index nor id tells calls apart."""
    calls = [(name, args or "{}") for _, name, args in put_together(*fragments)]
    assert calls == [("f", '{"x":1}'), ("f", '{"x":2}'), ("g", "{}")]


def test_a_repetition_is_no_new_call():
    """Some servers send the whole call once more at its end."""
    once = (0, "a", "f", '{"x":1}')
    assert put_together(once, once) == [("a", "f", '{"x":1}')]
    assert put_together(once, (0, None, None, '{"x":1}')) == [("a", "f", '{"x":1}')]


@pytest.mark.parametrize("name", [("get_weather",), ("get_", "weather")])
def test_a_name_may_come_after_the_arguments(name):
    """Whole or in pieces."""
    pieces = [(0, None, piece, None) for piece in name]
    answer = put_together((0, "a", None, '{"x"'), (0, None, None, ":1}"), *pieces)
    assert answer == [("a", "get_weather", '{"x":1}')]


MENDED = [
    ('```json\n{"x":1}\n```', '{"x":1}'),
    ('```\n{"x":1}```', '{"x":1}'),
    ('"{\\"x\\":1}"', '{"x":1}'),
    ('{"x":1,}', '{"x":1}'),
    ('{"x":[1,2, ],\n}', '{"x":[1,2 ]\n}'),
    ('{"x":"a,}","y":",]",}', '{"x":"a,}","y":",]"}'),
    ('{"x":"\\",}"}', '{"x":"\\",}"}'),
    ("{}", "{}"),
    (" {}", "{}"),
    ("  ", ""),
    (' {"x":1}', '{"x":1}'),
    ('{"x":"}","y":[{"z":"\\\\"},{}]}', '{"x":"}","y":[{"z":"\\\\"},{}]}'),
    ('{"x":{"x":{"x":1}}}', '{"x":{"x":{"x":1}}}'),
]
LEFT = ['{"x":1', "{'x':1}", '[{"x":1}]', "7", "x", '{"x":1,', '```json\n{"x":', '"{"', '{"x":"a,']


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(("sent", "args"), [*MENDED, *((left, left) for left in LEFT)])
def test_arguments_are_mended_where_nothing_is_guessed(sent, args, size):
    """However they are cut; what could mean several things stays as it is."""
    pieces = [sent[at : at + size] for at in range(0, len(sent), size)]
    fragments = [(0, None, None, piece) for piece in pieces]
    assert put_together((0, "a", "f", ""), *fragments) == [("a", "f", args)]


def test_an_empty_object_before_the_real_arguments_is_none():
    """Gateways to Anthropic send it with the name; with another name it is a call of its own."""
    assert put_together((0, "a", "f", "{}"), (0, None, None, '{"x":'), (0, None, None, "1}")) == [
        ("a", "f", '{"x":1}')
    ]
    assert put_together((0, None, "f", "{}"), (0, None, "g", '{"x":1}')) == [
        (None, "f", "{}"),
        (None, "g", '{"x":1}'),
    ]


@pytest.mark.parametrize("piece", [" ", ",", "{", '{"a":1},', "x", '"', "\\"])
@pytest.mark.parametrize("first", ["", '{"x":[', '{"x":"', "{}", "["])
def test_the_work_grows_no_faster_than_the_arguments(first, piece):
    """Whatever a server repeats."""
    began = time.process_time()
    tools = ToolCallAssembler()
    for args in [first, *[piece] * 50_000]:
        tools.calls[1:] = []
        tools.add(ToolCallFragment(0, None, None, args))
    assert time.process_time() - began < 3


@pytest.mark.parametrize("sums", [
    ['{"ci', '{"city": "P', '{"city": "Paris"}'],
    ['{"city": "Paris"', '{"city": "Paris"}', '{"city": "Paris"}'],
])  # fmt: skip
def test_arguments_that_each_fragment_repeats_are_taken_once(sums):
    """Some servers send all that they have each time."""
    fragments = [(0, "a", "f", args) for args in sums]
    assert put_together(*fragments) == [("a", "f", '{"city": "Paris"}')]


def test_a_comma_that_is_repeated_with_all_before_it_is_taken_once():
    """One at the end is held back, for it may be one too many; then it comes again."""
    fragments = [(0, "a", "f", args) for args in ('{"a": 1,', '{"a": 1, "b": 2}')]
    assert put_together(*fragments) == [("a", "f", '{"a": 1, "b": 2}')]


def test_names_in_pieces():
    """A name that comes in pieces is joined, as long as no arguments have come."""
    assert put_together((0, "a", "get_", None), (0, None, "weather", None)) == [
        ("a", "get_weather", "")
    ]


def test_no_arguments_in_words():
    """`null` is how some models say that there are no arguments."""
    assert put_together((0, "a", "f", "null")) == [("a", "f", "")]


def test_ids_are_made_where_there_are_none():
    """A call without an id gets one that stays, and no other call has."""
    tools = ToolCallAssembler()
    tools.add(ToolCallFragment(0, None, "f", "{}"))
    tools.add(ToolCallFragment(1, None, "f", "{}"))
    first, second = tools.calls
    assert first.id == first.id != second.id


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

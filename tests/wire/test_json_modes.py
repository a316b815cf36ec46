"""Asking for JSON in another way, and reading the answer as if it had been asked in this one."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_resilient.wire.accumulator import ResponseAccumulator
from langchain_resilient.wire.json_modes import (
    JSONExtractor,
    JSONModeConverter,
    requested_json,
    reshape,
)
from langchain_resilient.wire.output import to_chat_result

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
MESSAGES = [{"role": "user", "content": "Hello"}]
FORMAT = {
    "messages": MESSAGES,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "Thing", "description": "A thing.", "schema": SCHEMA},
    },
}
TOOL = {"type": "function", "function": {"name": "Thing", "parameters": SCHEMA}}
FORCED = {
    "messages": MESSAGES,
    "tools": [TOOL],
    "tool_choice": {"type": "function", "function": {"name": "Thing"}},
    "parallel_tool_calls": False,
}
OTHER = {"type": "function", "function": {"name": "other"}}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": MESSAGES},
        {**FORCED, "tool_choice": "auto"},
        {**FORCED, "tool_choice": "none"},
        {**FORCED, "tool_choice": "required", "tools": [TOOL, OTHER]},
        {"response_format": {"type": "text"}},
    ],
)
def test_what_asks_for_no_json(body):
    """Any text, or any tool, will do."""
    assert requested_json(body) is None


@pytest.mark.parametrize("choice", ["required", "any", FORCED["tool_choice"]])
def test_a_forced_tool_asks_for_its_arguments(choice):
    """By name, or as the only one there is."""
    want = requested_json({**FORCED, "tool_choice": choice})
    assert (want.original_mode, want.name, want.schema) == ("tools", "Thing", SCHEMA)


def test_beside_other_tools_none_is_forced():
    """An agent's own tools must stay possible."""
    assert requested_json({**FORMAT, "tools": [OTHER]}).modes == (
        "json_schema",
        "json_object",
        "prompt",
    )


@pytest.mark.parametrize("body", [FORMAT, FORCED], ids=["format", "tool"])
def test_every_way_shares_nothing_but_what_it_keeps(body):
    """The request is many attempts' own; what one asks does not reach another."""
    before = copy.deepcopy(body)
    want = requested_json(body)
    for way in want.modes:
        reshape(body, want, way)
    assert body == before


@pytest.mark.parametrize("body", [FORMAT, FORCED], ids=["format", "tool"])
def test_each_way_asks_by_itself_alone(body):
    """A refused parameter is gone from the request."""
    want = requested_json(body)
    fields = {way: reshape(body, want, way) for way in want.modes}
    assert fields["tools"]["tool_choice"]["function"]["name"] == "Thing"
    assert "response_format" not in fields["tools"]
    assert fields["json_schema"]["response_format"]["json_schema"]["schema"] == SCHEMA
    assert fields["json_object"]["response_format"] == {"type": "json_object"}
    assert fields["prompt"].keys() == {"messages"}
    for way in ("json_object", "prompt"):
        assert json.dumps(SCHEMA) in fields[way]["messages"][-1]["content"]


def test_an_instruction_ends_the_conversation():
    """In the user's last message, in its last block, or in one of its own."""
    want = requested_json(FORMAT)
    blocks = [{"type": "text", "text": "Hello"}]
    for last, target in (
        ({"role": "user", "content": "Hello"}, -1),
        ({"role": "user", "content": blocks}, -1),
        ({"role": "tool", "tool_call_id": "1", "content": "3"}, 0),
    ):
        (first, *rest) = reshape({**FORMAT, "messages": [last]}, want, "prompt")["messages"]
        assert len(rest) == (target == 0)
        assert "JSON schema" in str((rest or [first])[-1]["content"])


# -- answers --------------------------------------------------------------------------------------


def read(chunks: list[dict[str, Any]], body: dict[str, Any], way: Any) -> Any:
    """The message that comes of turned chunks."""
    converter, response = JSONModeConverter(requested_json(body), way), ResponseAccumulator()
    for chunk in copy.deepcopy(chunks):
        response.add(converter.convert(chunk))
    assert response.fault() is None
    return to_chat_result(response, "openai", "m").generations[0].message


def delta(finish: str | None = None, **body: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": body, "finish_reason": finish}]}


def fragment(args: str, **more: Any) -> dict[str, Any]:
    return {"index": 0, "function": {"arguments": args}, **more}


CALLED = [
    delta(role="assistant", content="Let me see."),
    delta(tool_calls=[{**fragment(""), "id": "c1", "function": {"name": "T", "arguments": ""}}]),
    delta(tool_calls=[fragment('{"a"')]),
    delta(tool_calls=[fragment(": 1}")]),
    delta("tool_calls"),
]
SPOKEN = [
    delta(role="assistant", content=""),
    delta(content='```json\n{"a"'),
    delta(content=": 1}\n```"),
    delta("stop"),
]
WHOLE = [
    {"choices": [{"index": 0, "message": {"content": 'Sure: {"a": 1}.'}, "finish_reason": "stop"}]}
]
WHOLE_CALL = [
    {
        "choices": [
            {
                "index": 0,
                "message": {"content": None, "tool_calls": [{"id": "c", "function": {
                    "name": "T", "arguments": '{"a": 1}'}}]},
                "finish_reason": "tool_calls",
            }
        ]
    }
]  # fmt: skip


@pytest.mark.parametrize("chunks", [CALLED, SPOKEN, WHOLE, WHOLE_CALL])
def test_a_call_reads_as_text(chunks):
    """Even of a model that says what it should have called."""
    content = read(chunks, FORMAT, "tools")
    assert (content.content, content.tool_calls) == ('{"a": 1}', [])
    assert content.response_metadata["finish_reason"] == "stop"


@pytest.mark.parametrize("chunks", [SPOKEN, WHOLE])
@pytest.mark.parametrize("way", ["json_schema", "json_object", "prompt"])
def test_text_reads_as_a_call(chunks, way):
    """With an id, for whoever answers it."""
    content = read(chunks, FORCED, way)
    (call,) = content.tool_calls
    assert (content.content, call["name"], call["args"]) == ("", "Thing", {"a": 1})
    assert call["id"]
    assert content.response_metadata["finish_reason"] == "tool_calls"


def test_prose_stays_prose():
    """Where there is no JSON at all, the caller should see what was said."""
    chunks = [delta(content="I cannot "), delta(content="do that."), delta("stop")]
    assert read(chunks, FORCED, "prompt").content == "I cannot do that."
    assert read(chunks, FORMAT, "prompt").content == "I cannot do that."


def test_what_is_repeated_beside_a_delta_is_not_read_twice():
    """Together sends `text` beside `delta.content`."""
    chunks = copy.deepcopy(SPOKEN)
    for chunk in chunks:
        chunk["choices"][0]["text"] = chunk["choices"][0]["delta"].get("content")
    assert read(chunks, FORMAT, "prompt").content == '{"a": 1}'


# -- JSON in a text -------------------------------------------------------------------------------

JSONS = st.dictionaries(
    st.text(max_size=4),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=6,
    ),
    max_size=4,
)


def cut(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


@given(JSONS, st.integers(1, 9), st.sampled_from(["", "Sure!\n```json\n", "<think>{a}</think>"]))
@settings(max_examples=200, deadline=None)
def test_the_object_is_found_in_whatever_pieces(value, size, before):
    """Whatever stands before and after it."""
    text = f"{before}{json.dumps(value)}\n``` And {{more}}."
    reader = JSONExtractor()
    result = "".join(map(reader.feed, cut(text, size))) + reader.rest()
    assert json.loads(result) == value


def test_half_an_object_is_passed_on():
    """What was cut off is shown as far as it came."""
    reader = JSONExtractor()
    assert reader.feed('{"a": [1, ') + reader.rest() == '{"a": [1, '

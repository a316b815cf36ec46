"""What JSON cannot hold is sent as the nearest that it can."""

from __future__ import annotations

import json
import warnings
from datetime import UTC, datetime
from math import inf, nan

import pytest
from langchain_core.messages import AIMessage, ToolMessage

from langchain_resilient.wire import json_values
from langchain_resilient.wire.json_values import encode, json_text, writable_text
from langchain_resilient.wire.message_repair import repair_conversation
from langchain_resilient.wire.messages import to_chat_messages
from langchain_resilient.wire.request_params import convert_params


@pytest.fixture(autouse=True)
def unwarned():
    """The warning comes once per process."""
    json_values._warn_replaced.cache_clear()
    yield
    json_values._warn_replaced.cache_clear()


@pytest.mark.filterwarnings("ignore::UnicodeWarning")
@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("plain", "plain"),
        ("\U0001f600", "\U0001f600"),
        ("\ud83d\ude00", "\U0001f600"),
        ("a\ud83d", "a\ufffd"),
        ("\ude00a", "\ufffda"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
        ("\ud83d \ude00", "\ufffd \ufffd"),
    ],
)
def test_pairs_are_joined_and_halves_replaced(text, sent):
    """One character for each half that stands alone."""
    assert writable_text(text) == sent
    assert json.loads(encode({"messages": [{"content": text}]}))["messages"][0]["content"] == sent


@pytest.mark.filterwarnings("ignore::UnicodeWarning")
@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ({"a\ud83d": {"b": ["\ud83d"]}}, {"a\ufffd": {"b": ["\ufffd"]}}),
        (("\ud83d", nan), ["\ufffd", None]),
        ([nan, inf, -inf, 1.5], [None, None, None, 1.5]),
        (b"\xff", "\ufffd"),
        ({1: "one", None: 2}, {"1": "one", "None": 2}),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00Z"),
        ({"day": datetime(2026, 1, 2, tzinfo=UTC), "text": "\ud83d"},
         {"day": "2026-01-02T00:00:00Z", "text": "\ufffd"}),
    ],
)  # fmt: skip
def test_it_holds_at_any_depth_and_for_what_is_no_text(value, sent):
    """Names, arguments and metadata come from anywhere."""
    assert json.loads(encode({"metadata": value})) == {"metadata": sent}


@pytest.mark.filterwarnings("ignore::UnicodeWarning")
@pytest.mark.parametrize(
    ("args", "sent"),
    [
        ({"city": "Zürich", "days": [1, 2]}, '{"city": "Zürich", "days": [1, 2]}'),
        ({"a\ud83d": "b\ude00"}, '{"a\ufffd": "b\ufffd"}'),
        ({"a": "\ud83d\ude00"}, '{"a": "\U0001f600"}'),
        ({"a": nan, "b": -inf}, '{"a": null, "b": null}'),
        ({"day": datetime(2026, 1, 2, tzinfo=UTC)}, '{"day": "2026-01-02T00:00:00Z"}'),
    ],
)
def test_a_calls_arguments_are_json_too(args, sent):
    """A scraped argument comes back with the history, whose calls are read before it is sent."""
    call = {"name": "t", "args": args, "id": "1"}
    messages = [AIMessage("", tool_calls=[call]), ToolMessage("ok", tool_call_id="1")]
    (wire, _) = repair_conversation(to_chat_messages(messages))
    assert wire["tool_calls"][0]["function"]["arguments"] == sent == json_text(args)


@pytest.mark.filterwarnings("ignore::UnicodeWarning")
def test_arguments_that_are_a_text_already_are_mended():
    """Those of an invalid call may be anything."""
    call = {"name": "t", "args": '{"a": "\ud83d"', "id": "1", "error": "no JSON"}
    (call,) = to_chat_messages([AIMessage("", invalid_tool_calls=[call])])[0]["tool_calls"]
    assert call["function"]["arguments"] == '{"a": "\ufffd"'


@pytest.mark.filterwarnings("ignore::UnicodeWarning")
@pytest.mark.parametrize("name", ["tools", "functions", "response_format"])
def test_half_a_pair_in_a_schema_is_no_reason_to_refuse_it(name):
    """Tools are described by texts from anywhere, as those of MCP servers are."""
    schema = {"type": "object", "properties": {}, "description": "cut\ud83d"}
    function = {"name": "t", "description": "cut\ud83d", "parameters": schema}
    given = {
        "tools": [{"type": "function", "function": function}],
        "functions": [function],
        "response_format": {"title": "t", **schema},
    }
    params = {name: given[name]}
    convert_params(params)
    assert "cut\ufffd" in json_text(params)


def test_nothing_of_the_callers_is_changed():
    """The value belongs to other attempts too."""
    value = {"messages": [{"content": "\ud83d"}]}
    with pytest.warns(UnicodeWarning):
        encode(value)
    assert value == {"messages": [{"content": "\ud83d"}]}


def test_a_loss_is_warned_of_once_and_a_joined_pair_is_none():
    """A thousand scraped texts are one warning."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert encode({"text": "\ud83d\ude00"}) == '{"text":"\U0001f600"}'.encode()
    assert seen == []
    with pytest.warns(UnicodeWarning, match="U\\+FFFD") as caught:
        encode({"texts": ["\ud83d"] * 3})
    assert len(caught) == 1


def test_an_object_that_is_nothing_in_json_is_named():
    """So that its user finds it."""
    with pytest.raises(ValueError, match="type: <class 'object'>"):
        encode({"metadata": object()})

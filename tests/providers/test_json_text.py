"""The reader of what is nearly JSON: one reading or none."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage

from langchain_resilient.providers.json_text import (
    MAX_DEPTH,
    SurrogateJoiner,
    join_surrogates,
    parse_json,
    parse_leniently,
)

NEARLY = [
    (b'{"a":"x\ty\x00z\n"}', {"a": "x\ty\x00z\n"}),
    (rb'{"a":"\x41\q\'"}', {"a": "A\\q'"}),
    (b'{"a":[1,2,],}', {"a": [1, 2]}),
    (b"{'a': \"it's\", 'b': None, 'c': True}", {"a": "it's", "b": None, "c": True}),
    (rb"""{'a': 'say "x" \'q\' \"r\"'}""", {"a": "say \"x\" 'q' \"r\""}),
    (b'{"a":-inf,"b":Infinity,"c":[inf,-Infinity]}',
     {"a": float("-inf"), "b": float("inf"), "c": [float("inf"), float("-inf")]}),
    (b'data: data: {"a":1}', {"a": 1}),
    (b'\xef\xbb\xbf\x00{"a":1}\x00\x00', {"a": 1}),
    (b'{"a":1},', {"a": 1}),
    (b'{"a":"\xff"}', {"a": "\ufffd"}),
    (rb'{"a":"\ud83d"}', {"a": "\ud83d"}),
]  # fmt: skip


@pytest.mark.parametrize(("data", "value"), NEARLY)
def test_what_is_nearly_json_is_read(data, value):
    """As its writer meant it."""
    assert parse_leniently(data) == value


@pytest.mark.parametrize("data", [
    b"", b"{",
    b'{"a":', b'{"a":"x', b'{"a":1}}', b'{"a" 1}', b"{a: 1}", b'{"a":,}', b'{"a":1 "b":2}',
    b"[1,,2]", b"ping", b'{"a":1}{"b":2}', b"{'a': 'x}", b"[" * 100_000, b'{"a":1;}',
])  # fmt: skip
def test_what_has_no_one_reading_is_refused(data):
    """Nothing is guessed."""
    with pytest.raises(ValueError, match=r"\S"):
        parse_leniently(data)


def nested(depth):
    """Objects and a list, one in another."""
    return b'{"a":' * (depth - 1) + b"[1]" + b"}" * (depth - 1)


def test_what_is_read_can_be_written_again():
    """A message that holds it, as JSON: pydantic refuses what is much deeper."""
    value = parse_leniently(nested(MAX_DEPTH))
    assert value == parse_json(nested(MAX_DEPTH))
    written = AIMessage("", response_metadata=value).model_dump_json()
    assert json.loads(written)["response_metadata"] == value


@pytest.mark.parametrize("read", [parse_json, parse_leniently])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 900, 10_000])
def test_what_is_nested_deeper_is_refused(depth, read):
    """Both ways to read have one limit."""
    with pytest.raises(ValueError, match=r"recursion limit|nested too deep"):
        read(nested(depth))


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
))  # fmt: skip
def test_json_and_python_notation_read_the_same(value):
    """Whatever the texts hold."""
    assert parse_leniently(repr(value).encode("utf-8", "surrogatepass")) == value
    assert parse_leniently(json.dumps(value).encode()) == value


@given(st.lists(st.text(alphabet="a\ud83d\ude00", max_size=3), max_size=6))
def test_halves_meet_across_chunks_as_they_would_in_one_text(pieces):
    """However the text is cut."""
    joiner, shown = SurrogateJoiner(), []
    for piece in [*pieces, None]:
        delta = {} if piece is None else {"content": piece}
        choice = {"index": 0, "delta": delta, "finish_reason": "stop" if piece is None else None}
        shown.append(joiner.join({"choices": [choice]})["choices"][0]["delta"].get("content", ""))
    assert "".join(shown) == join_surrogates("".join(pieces))
    assert not joiner.halves


def test_a_whole_message_holds_nothing_back():
    """No other piece comes."""
    chunk = {"choices": [{"message": {"content": "x\ud83d"}, "finish_reason": "stop"}]}
    joined = SurrogateJoiner().join(chunk)
    assert joined["choices"][0]["message"]["content"] == "x\ufffd"

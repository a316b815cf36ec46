"""Tool calls out of fragments."""

import pytest

from langchain_resilient.wire.chunk_parser import ToolCallFragment
from langchain_resilient.wire.tool_calls import ToolCallAssembler


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
    """Where the index tells calls apart, equal ids do not join them."""
    answer = put_together((0, "a", "f", "{"), (1, "a", "g", "["), (0, None, None, "}"))
    assert answer == [("a", "f", "{}"), ("a", "g", "[")]


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

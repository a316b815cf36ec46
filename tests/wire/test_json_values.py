"""What JSON cannot hold is sent as the nearest that it can."""

from __future__ import annotations

import json
import warnings
from datetime import UTC, datetime
from math import inf, nan

import pytest

from langchain_resilient.wire import json_values
from langchain_resilient.wire.json_values import encode, writable_text


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


def test_nothing_of_the_callers_is_changed():
    """The value belongs to other attempts too."""
    value = {"messages": [{"content": "\ud83d"}]}
    with pytest.warns(UnicodeWarning):
        encode(value)
    assert value == {"messages": [{"content": "\ud83d"}]}


def test_a_loss_is_warned_of_once_and_a_joined_pair_is_none():
    """A thousand scraped texts are one warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encode({"text": "\ud83d\ude00"}) == '{"text":"\U0001f600"}'.encode()
    with pytest.warns(UnicodeWarning, match="U\\+FFFD") as caught:
        encode({"texts": ["\ud83d"] * 3})
    assert len(caught) == 1


def test_an_object_that_is_nothing_in_json_is_named():
    """So that its user finds it."""
    with pytest.raises(ValueError, match="type: <class 'object'>"):
        encode({"metadata": object()})

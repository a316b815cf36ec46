"""Token counts."""

import math

import pytest
from langchain_core.messages import AIMessage

from langchain_resilient.wire.accumulator import ResponseAccumulator, token_count, usage_metadata
from langchain_resilient.wire.output import to_chat_result
from langchain_resilient.wire.responses import whole_chunk


def test_all_the_details_of_openai():
    """Cache, audio and reasoning tokens find their places."""
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "total_tokens": 30,
        "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 7, "audio_tokens": None},
    }
    assert usage_metadata(usage) == {
        "input_tokens": 10,
        "output_tokens": 20,
        "total_tokens": 30,
        "input_token_details": {"audio": 0, "cache_read": 4},
        "output_token_details": {"reasoning": 7},
    }


@pytest.mark.parametrize(
    ("more", "details"),
    [
        ({"cached_tokens": 4}, {"cache_read": 4}),
        ({"prompt_cache_hit_tokens": 4}, {"cache_read": 4}),
        (
            {"cache_read_input_tokens": 4, "cache_creation_input_tokens": 2},
            {"cache_read": 4, "cache_creation": 2},
        ),
        (
            {"prompt_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 2}},
            {"cache_read": 1, "cache_creation": 2},
        ),
    ],
)
def test_caches_of_other_servers(more, details):
    """Together, DeepSeek and gateways count cached tokens under other names."""
    usage = usage_metadata({"prompt_tokens": 5, "completion_tokens": 1, **more})
    assert usage["input_token_details"] == details


def test_totals_are_made_up_where_missing():
    """The total is the sum unless the provider says otherwise."""
    assert usage_metadata({"prompt_tokens": 3, "completion_tokens": 2})["total_tokens"] == 5
    assert usage_metadata({"total_tokens": 9})["total_tokens"] == 9


@pytest.mark.parametrize("tier", [None, "default", "auto", "flex", "priority"])
def test_the_counts_of_a_tier_are_those_of_chat_openai(tier):
    """What has a price of its own is told apart by the tier; the details are always there."""
    theirs = pytest.importorskip("langchain_openai.chat_models.base")._create_usage_metadata
    details = {"cached_tokens": 4, "cache_write_tokens": 3, "audio_tokens": 1}
    made = {"reasoning_tokens": 7, "audio_tokens": 2}
    full = {"prompt_tokens_details": details, "completion_tokens_details": made}
    for more in ({}, full, {"prompt_tokens_details": {"cached_tokens": 2}}):
        usage = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30, **more}
        assert usage_metadata(usage, tier) == theirs(usage, tier)


@pytest.mark.parametrize("nothing", [None, {}, {"prompt_tokens": None}, {"prompt_tokens": "3"}])
def test_no_usage(nothing):
    """Where nothing was counted there are no counts, not zeros."""
    assert usage_metadata(nothing) is None


@pytest.mark.parametrize("value", [None, "3", True, math.nan, math.inf, [3], -1, -1.5, -(10**6)])
def test_what_is_no_count(value):
    """Only numbers count, and none below zero: it would give back money that was spent."""
    assert token_count({"n": value}, "n") is None
    assert token_count({"n": value, "m": 3.0}, "n", "m") == 3


_CHAT = {
    "choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": -5,
        "completion_tokens": -2,
        "total_tokens": -7,
        "prompt_tokens_details": {"cached_tokens": -3},
        "completion_tokens_details": {"reasoning_tokens": -1},
    },
}
_RESPONSE = {
    "status": "completed",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}],
    "usage": {
        "input_tokens": -5,
        "output_tokens": -2,
        "total_tokens": -7,
        "input_tokens_details": {"cached_tokens": -3},
        "output_tokens_details": {"reasoning_tokens": -1},
    },
}
_MESSAGE = AIMessage(
    "Hi",
    usage_metadata={
        "input_tokens": -5,
        "output_tokens": -2,
        "total_tokens": -7,
        "input_token_details": {"cache_read": -3},
    },
)


def _read(chunk):
    response = ResponseAccumulator()
    response.add(chunk)
    return response


@pytest.mark.parametrize(
    "chunk",
    [_CHAT, whole_chunk(_RESPONSE), {"message_chunk": _MESSAGE}],
    ids=["chat", "responses", "LangChain"],
)
def test_no_way_of_counting_gives_less_than_nothing(chunk):
    """What money is counted by is not known then, instead."""
    response = _read(chunk)
    assert response.input_tokens() is None
    assert (response.output_tokens() or 0) >= 0
    assert not any(response.cache_tokens())


@pytest.mark.parametrize("chunk", [_CHAT, whole_chunk(_RESPONSE)], ids=["chat", "responses"])
def test_no_message_says_less_than_nothing(chunk):
    """A provider that counts nonsense has counted nothing."""
    (generation,) = to_chat_result(_read(chunk), "openai", "m").generations
    assert generation.message.usage_metadata is None


@pytest.mark.parametrize("nonsense", ["many", [1], -1, math.nan])
def test_one_count_that_is_none_spoils_no_answer(nonsense):
    """Of the Responses API neither: the others are there."""
    usage = {"input_tokens": 5, "output_tokens": nonsense, "input_tokens_details": nonsense}
    response = _read(whole_chunk({**_RESPONSE, "usage": usage}))
    usage = to_chat_result(response, "openai", "m").generations[0].message.usage_metadata
    assert (usage["input_tokens"], usage["output_tokens"]) == (5, 0)

"""What a provider wants back of its own answers: kept, and given back to its target alone."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from langchain_resilient.wire.accumulator import ResponseAccumulator
from langchain_resilient.wire.message_repair import repair_conversation
from langchain_resilient.wire.messages import to_chat_messages
from langchain_resilient.wire.output import ChunkConverter, attach_receipt, to_chat_result
from langchain_resilient.wire.provider_state import give_back

SIGNATURE = {"google": {"thought_signature": "c2ln"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
RECEIPT = {"winner": "mine", "attempts": []}


def whole(**message: Any) -> AIMessage:
    """An answer that came at once."""
    response = ResponseAccumulator()
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    response.add({"id": "x", "model": "m", "choices": [choice]})
    return attach_receipt(to_chat_result(response, "openai", "m"), RECEIPT).generations[0].message


def streamed(*deltas: dict[str, Any]) -> AIMessage:
    """The same from a stream."""
    response, converter, total = ResponseAccumulator(), ChunkConverter("openai"), None
    chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": d}]} for d in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    for chunk in chunks:
        response.add(chunk)
        if (piece := converter.add(chunk)) is not None:
            total = piece if total is None else total + piece
    last = attach_receipt(converter.last_chunk(response, "m"), RECEIPT)
    return (last if total is None else total + last).message


def history(answer: AIMessage) -> list[dict[str, Any]]:
    messages = [HumanMessage("hi"), answer]
    messages += [ToolMessage("2", tool_call_id=call["id"]) for call in answer.tool_calls]
    return to_chat_messages([*messages, HumanMessage("go on")])


ANSWERS = {
    "reasoning_content": (
        whole(content="", reasoning_content="hm so", tool_calls=[CALL]),
        streamed(
            {"reasoning_content": "hm "}, {"reasoning_content": "so"},
            {"tool_calls": [{"index": 0, **CALL}]},
        ),
        {"reasoning_content": "hm so"},
    ),
    "reasoning": (
        whole(content="", reasoning="hm so", tool_calls=[CALL]),
        streamed({"reasoning": "hm "}, {"reasoning": "so"}, {"tool_calls": [{"index": 0, **CALL}]}),
        {"reasoning": "hm so"},
    ),
    "reasoning_details": (
        whole(
            content="", reasoning="hm so", tool_calls=[CALL],
            reasoning_details=[{"type": "reasoning.text", "index": 0, "text": "hm so"}],
        ),
        streamed(
            {"reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "hm "}]},
            {"reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "so"}]},
            {"tool_calls": [{"index": 0, **CALL}]},
        ),
        {"reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "hm so"}]},
    ),
    "extra_content": (
        whole(content="", tool_calls=[{**CALL, "extra_content": SIGNATURE}]),
        streamed({"tool_calls": [{"index": 0, **CALL, "extra_content": SIGNATURE}]}),
        {},
    ),
    "extra_content of a text": (
        whole(content="Hi", extra_content=SIGNATURE),
        streamed({"content": "Hi"}, {"content": "", "extra_content": SIGNATURE}),
        {"extra_content": SIGNATURE},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("way", ["whole", "streamed"])
def test_it_goes_back_to_the_target_that_made_it(kind, way):
    """In the fields in which it came."""
    at_once, in_pieces, expected = ANSWERS[kind]
    messages = history(at_once if way == "whole" else in_pieces)
    mine = give_back(messages, "mine")[1]
    assert {k: v for k, v in mine.items() if k not in ("role", "content", "tool_calls")} == expected
    if kind == "extra_content":
        assert mine["tool_calls"][0]["extra_content"] == SIGNATURE


@pytest.mark.parametrize("kind", ANSWERS)
def test_nobody_else_sees_it(kind):
    """Neither another target, nor whoever copies or writes the message."""
    messages = history(ANSWERS[kind][0])
    assert give_back(messages, "another") is messages
    for text in (json.dumps(messages), json.dumps(pickle.loads(pickle.dumps(messages)))):  # noqa: S301
        for word in ("hm so", "c2ln", "reasoning", "extra_content"):
            assert word not in text


def test_reasoning_without_a_call_stays_at_home_unless_it_is_wanted():
    """Some servers refuse it, others its absence."""
    messages = history(whole(content="Hi", reasoning_content="hm"))
    assert "reasoning_content" not in give_back(messages, "mine")[1]
    assert give_back(messages, "mine", all_thoughts=True)[1]["reasoning_content"] == "hm"


def test_what_is_refused_is_left_out():
    """The rest is not."""
    answer = whole(
        content="", reasoning_content="hm", tool_calls=[{**CALL, "extra_content": SIGNATURE}]
    )
    message = give_back(history(answer), "mine", {"reasoning_content"})[1]
    assert "reasoning_content" not in message
    assert message["tool_calls"][0]["extra_content"] == SIGNATURE
    message = give_back(history(answer), "mine", {"extra_content"})[1]
    assert message["reasoning_content"] == "hm"
    assert "extra_content" not in message["tool_calls"][0]


def test_what_several_targets_made_belongs_to_none():
    """Nor does an answer that somebody else made without us."""
    for receipt in ({**RECEIPT, "breaks": [{}]}, None):
        answer = whole(content="", reasoning_content="hm", tool_calls=[CALL])
        answer.response_metadata["resilience"] = receipt
        messages = history(answer)
        assert give_back(messages, "mine") is messages


def test_a_conversation_that_was_mended_keeps_it():
    """An interrupted agent's: the call lacks its result."""
    answer = whole(content="", reasoning_content="hm", tool_calls=[CALL])
    mended = repair_conversation(to_chat_messages([HumanMessage("hi"), answer, HumanMessage("?")]))
    assert [message["role"] for message in mended] == ["user", "assistant", "tool", "user"]
    assert give_back(mended, "mine")[1]["reasoning_content"] == "hm"

"""Conversations with tools, mended."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)

from langchain_resilient.testing.request_validation import find_error
from langchain_resilient.wire.message_repair import NOT_RUN, repair_conversation
from langchain_resilient.wire.messages import to_chat_messages

MORE = settings(max_examples=200, deadline=None)


def call(id_: str, args: str = "{}", name: str = "add") -> dict[str, Any]:
    return {"type": "function", "id": id_, "function": {"name": name, "arguments": args}}


def calling(*calls: dict[str, Any], content: str | None = None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def result(id_: str, content: Any = "3") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": content}


USER = {"role": "user", "content": "Go on."}


def test_nothing_is_done_to_a_sound_conversation():
    """It is the same object: nobody pays for what he does not need."""
    sound = [USER, calling(call("1"), call("2")), result("2"), result("1"), USER]
    assert repair_conversation(sound) is sound


def test_a_call_without_a_result_gets_one():
    """It says that the call was not run, and comes after the results that there are."""
    repaired = repair_conversation([calling(call("1"), call("2")), result("1"), USER])
    assert repaired[1:] == [result("1"), result("2", NOT_RUN), USER]


def test_a_result_without_its_call_is_the_users_text():
    """Memories that were trimmed begin with one."""
    assert repair_conversation([result("1")]) == [
        {"role": "user", "content": "Result of a tool: 3"}
    ]


def test_pictures_of_an_orphan_stay():
    """Blocks are kept behind the words that introduce them."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,eA=="}}
    (outcome,) = repair_conversation([{**result("1", [picture]), "name": "draw"}])
    assert outcome["content"] == [{"type": "text", "text": "Result of the tool draw:"}, picture]


def test_a_second_result_is_an_orphan():
    """A call has one result."""
    repaired = repair_conversation([calling(call("1")), result("1", "a"), result("1", "b")])
    assert [message["role"] for message in repaired] == ["assistant", "tool", "user"]


def test_results_come_to_their_calls():
    """Even if the user spoke in between."""
    repaired = repair_conversation([calling(call("1")), USER, result("1")])
    assert repaired == [calling(call("1")), result("1"), USER]


@pytest.mark.parametrize("args", ['{"a": ', "[1]", "", "3"])
def test_an_unreadable_call_is_text(args):
    """And so is what was answered to it: chat templates parse the arguments to print them."""
    repaired = repair_conversation(
        [calling(call("1", args), call("2"), content="Hm."), result("1"), result("2")]
    )
    assert repaired[0]["tool_calls"] == [call("2")]
    assert repaired[0]["content"].startswith(
        "Hm.\n(Call of the tool add with unreadable arguments: "
    )
    assert [message["role"] for message in repaired[1:]] == ["tool", "user"]


def test_equal_ids_are_told_apart():
    """Some servers number every call 0, or give no id: results go by their order."""
    repaired = repair_conversation(
        [calling(call("0"), call("0"), call("")), result("0", "a"), result("0", "b")]
    )
    ids = [one["id"] for one in repaired[0]["tool_calls"]]
    assert len(set(ids)) == 3
    assert [(m["tool_call_id"], m["content"]) for m in repaired[1:]] == [
        (ids[0], "a"),
        (ids[1], "b"),
        (ids[2], NOT_RUN),
    ]


def test_ids_of_one_turn_may_come_again_in_another():
    """A result belongs to the latest call of that id that has none."""
    messages = [calling(call("0")), USER, calling(call("0")), result("0", "new")]
    assert repair_conversation(messages) == [
        calling(call("0")),
        result("0", NOT_RUN),
        USER,
        calling(call("0")),
        result("0", "new"),
    ]


def test_made_ids_are_the_same_in_every_turn():
    """A prompt cache holds only what begins alike."""
    begun = [USER, calling(call(""), call(""))]
    assert repair_conversation([*begun, USER])[:4] == repair_conversation([*begun, USER, USER])[:4]


def test_the_conversation_stays_as_it_is():
    """It is shared with everybody who asks."""
    messages = [calling(call("1", "x"), call("2")), USER, result("3")]
    before = copy.deepcopy(messages)
    repair_conversation(messages)
    assert messages == before


# -- whatever agents leave behind -----------------------------------------------------------------

IDS = st.sampled_from(["", "0", "1", "call_1", "toolu_01A", "functions.add:0", "fc_" + "x" * 60])
ARGS = st.sampled_from([{}, {"a": 1}, {"city": "Köln"}])


def _openai(calls: list[dict[str, Any]]) -> AIMessage:
    return AIMessage("Let me see.", tool_calls=calls)


def _responses(calls: list[dict[str, Any]]) -> AIMessage:
    """As `ChatOpenAI(use_responses_api=True)` gives it."""
    results = [
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm"}]},
        {"type": "text", "text": "Let me see.", "annotations": [], "id": "msg_1"},
        *(
            {"type": "function_call", "name": c["name"], "arguments": "{}", "call_id": c["id"]}
            for c in calls
        ),
    ]
    return AIMessage(results, tool_calls=calls, response_metadata={"model_provider": "openai"})


def _anthropic(calls: list[dict[str, Any]]) -> AIMessage:
    """As `ChatAnthropic` with thinking gives it."""
    results = [
        {"type": "thinking", "thinking": "Hm", "signature": "EqQB"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "Let me see."},
        *({"type": "tool_use", "id": c["id"], "name": c["name"], "input": {}} for c in calls),
    ]
    return AIMessage(results, tool_calls=calls, response_metadata={"model_provider": "anthropic"})


def _v1(calls: list[dict[str, Any]]) -> AIMessage:
    blocks: list[Any] = [
        {"type": "reasoning", "reasoning": "Hm", "extras": {"signature": "x"}},
        {"type": "text", "text": "Let me see."},
        {"type": "server_tool_call", "name": "web_search", "args": {}, "id": "s1"},
        {"type": "server_tool_result", "tool_call_id": "s1", "status": "success", "output": "x"},
        *({**c, "type": "tool_call"} for c in calls),
    ]
    return AIMessage(content_blocks=blocks, response_metadata={"output_version": "v1"})


def _broken(calls: list[dict[str, Any]]) -> AIMessage:
    bad = [{"name": c["name"], "args": '{"a"', "id": c["id"], "error": "no JSON"} for c in calls]
    return AIMessage("", invalid_tool_calls=bad)


def _silent(calls: list[dict[str, Any]]) -> AIMessage:
    return AIMessage("", tool_calls=calls)


@st.composite
def turns(draw: st.DrawFn) -> list[BaseMessage]:
    """One turn of an agent: an answer with calls in some provider's form, and their results."""
    calls = [
        {"name": draw(st.sampled_from(["add", "weather"])), "args": draw(ARGS), "id": draw(IDS)}
        for _ in range(draw(st.integers(0, 3)))
    ]
    make = draw(st.sampled_from([_openai, _responses, _anthropic, _v1, _broken, _silent]))
    if draw(st.booleans()):
        results: list[BaseMessage] = [
            ToolMessage(draw(st.sampled_from(["3", "", [{"type": "text", "text": "3"}]])),
                        tool_call_id=c["id"], name=c["name"]) for c in calls
        ]  # fmt: skip
    else:
        blocks = [{"type": "tool_result", "tool_use_id": c["id"], "content": "3"} for c in calls]
        results = [HumanMessage([*blocks, {"type": "text", "text": "And now?"}])]
    return [make(calls), *results]


@st.composite
def histories(draw: st.DrawFn) -> list[BaseMessage]:
    """An agent's history with things missing, and some in the wrong place."""
    messages: list[BaseMessage] = [SystemMessage("You are an agent."), HumanMessage("Hello")]
    for turn in draw(st.lists(turns(), max_size=4)):
        messages += turn
    messages = [message for message in messages if draw(st.integers(0, 4))]
    if draw(st.booleans()):
        messages = draw(st.permutations(messages))
    return messages or [HumanMessage("Hello")]


@given(histories(), st.sampled_from(["openai", "together"]))
@MORE
def test_whatever_an_agent_leaves_behind_can_be_sent(messages, dialect):
    """Both dialects' strict validation takes it."""
    body = {"model": "m", "messages": repair_conversation(to_chat_messages(messages))}
    assert find_error(dialect, body) is None


@given(histories())
@MORE
def test_mending_twice_is_mending_once(messages):
    """What was mended is sound."""
    mended = repair_conversation(to_chat_messages(messages))
    assert repair_conversation(mended) is mended


@given(histories())
@MORE
def test_no_text_is_lost(messages):
    """All results that were there are there, as results or as text."""
    wire = to_chat_messages(messages)
    results = [m for m in wire if m["role"] == "tool"]
    repaired = repair_conversation(wire)
    shown = [m for m in repaired if m["role"] == "tool" and m["content"] != NOT_RUN]
    collected = [
        m for m in repaired if str(m["content"]).startswith(("Result of", "[{'type': 'text', "))
    ]
    assert len(shown) + len([m for m in collected if m["role"] == "user"]) >= len(results)


@given(histories())
@MORE
def test_langchain_models_can_read_it_too(messages):
    """What was mended converts back to LangChain's messages, and then needs no mending."""
    back = to_chat_messages(convert_to_messages(repair_conversation(to_chat_messages(messages))))
    assert repair_conversation(back) is back

"""Histories whose answers a target wants back whole, over sockets: it learns what is taken."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from langchain_resilient.testing import ProviderSimulator, Raw, Reply, Status
from verification.kit.scripted_targets import chain

CALL = {"id": "call_1", "name": "add", "args": {"a": 1}, "type": "tool_call"}


@pytest.fixture
def sim() -> Any:
    with ProviderSimulator() as simulator:
        yield simulator


def turn(maker: str, **extras: Any) -> list[Any]:
    """A turn with a tool, answered by one target."""
    answer = AIMessage(
        "", tool_calls=[CALL], additional_kwargs=extras,
        response_metadata={"resilience": {"winner": maker, "attempts": []}},
    )  # fmt: skip
    return [HumanMessage("hi"), answer, ToolMessage("2", tool_call_id="call_1")]


def thoughts(sim: ProviderSimulator) -> list[Any]:
    return [request.body["messages"][1].get("reasoning_content") for request in sim.requests]


@pytest.mark.parametrize("stream", [False, True])
def test_the_reasoning_goes_to_its_maker_and_not_to_the_fallback(sim, stream):
    """Which answers where the first fails."""
    sim.script("openai:a", then=Status(500))
    llm = chain(sim, "openai:a", "together:b", max_retries=0)
    messages = turn("openai:a", reasoning_content="hm")
    assert list(llm.stream(messages)) if stream else llm.invoke(messages).text
    assert thoughts(sim) == ["hm", None]


def refusal(message: str) -> Raw:
    body = json.dumps({"error": {"message": message, "type": "invalid_request_error"}}).encode()
    head = (
        f"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    return Raw(head.encode() + b"\r\n\r\n" + body, then="keep")


def test_a_target_that_refuses_it_is_asked_without_from_then_on(sim):
    """One refusal, not one a turn."""
    unknown = refusal("Unrecognized request argument supplied: messages[1].reasoning_content")
    sim.script("openai:a", unknown, then=Reply("ok"))
    llm = chain(sim, "openai:a")
    for _ in range(2):
        assert llm.invoke(turn("openai:a", reasoning_content="hm")).text == "ok"
    assert thoughts(sim) == ["hm", None, None]


def test_a_target_that_wants_all_its_reasoning_gets_it_from_then_on(sim):
    """That of answers without tool calls too."""
    missing = refusal(
        "The `reasoning_content` in the thinking mode must be passed back to the API."
    )
    sim.script("openai:a", missing, then=Reply("ok"))
    llm = chain(sim, "openai:a")
    _, answer, _ = turn("openai:a", reasoning_content="hm")
    plain = answer.model_copy(update={"tool_calls": [], "content": "Hi"})
    for _ in range(2):
        assert llm.invoke([HumanMessage("hi"), plain, HumanMessage("more")]).text == "ok"
    assert thoughts(sim) == [None, "hm", "hm"]


def test_a_refusal_for_want_of_what_is_not_there_is_final(sim):
    """Another maker's reasoning is no help: nothing is sent twice in vain."""
    missing = refusal("Missing `reasoning_content` field in the assistant message")
    sim.script("openai:a", then=missing)
    sim.script("together:b", then=Reply("other"))
    llm = chain(sim, "openai:a", "together:b", max_retries=0)
    assert llm.invoke(turn("together:b", reasoning_content="hm")).text == "other"
    assert thoughts(sim) == [None, "hm"]

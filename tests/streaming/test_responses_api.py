"""Streams and schemas by the Responses API: races, breaks across the APIs, refusals, JSON modes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from langchain_core.messages import message_chunk_to_message
from pydantic import BaseModel

from langchain_resilient import AllTargetsFailedError, ResilientChatModel, Target, sum_chunks
from langchain_resilient import testing as t

if TYPE_CHECKING:
    from collections.abc import Iterator

ONE, OTHER, CHAT = "openai:gpt-5.5", "openai:gpt-6-luna", "together:m"


@pytest.fixture
def sim() -> Iterator[t.ProviderSimulator]:
    with t.ProviderSimulator() as simulator:
        yield simulator


def model(sim, *specs, **fields):
    apis = {ONE: "responses", OTHER: "responses"}
    targets = [
        Target(
            spec,
            api=apis.get(spec, "auto"),
            base_url=sim.base_url(spec.partition(":")[0]),
            api_key="k",
        )
        for spec in specs
    ]
    return ResilientChatModel(targets=targets, **{"hedge": None, "share_learning": False, **fields})


async def collect(llm, prompt="hello", **kwargs):
    return [chunk async for chunk in llm.astream(prompt, **kwargs)]


@pytest.mark.parametrize("version", [None, "v1"])
@pytest.mark.parametrize(("first", "second"), [(ONE, OTHER), (ONE, CHAT), (CHAT, ONE)])
async def test_a_broken_stream_goes_on_by_another_api(sim, first, second, version):
    sim.script(first, then=t.Cut(after=6, reply=t.Reply(chunk_gap=0.01)))
    fields = {"output_version": version} if version else {}
    chunks = await collect(model(sim, first, second, **fields))
    assert "".join(chunk.text for chunk in chunks) == t.answer_to("hello")
    message = message_chunk_to_message(sum_chunks(chunks))
    assert message.text == t.answer_to("hello")
    assert message.response_metadata["resilience"]["breaks"][0]["action"] == "continued"
    texts = [block["text"] for block in message.content_blocks if block["type"] == "text"]
    assert "".join(texts) == t.answer_to("hello")


@pytest.mark.parametrize("version", [None, "v1"])
async def test_a_broken_stream_is_replaced_by_another_api(sim, version):
    sim.script(CHAT, then=t.Cut(after=6, reply=t.Reply(chunk_gap=0.01)))
    fields = {"output_version": version} if version else {}
    chunks = await collect(model(sim, CHAT, ONE, **fields), on_break="replace")
    assert message_chunk_to_message(sum_chunks(chunks)).text == t.answer_to("hello")


async def test_the_first_text_wins_whichever_api_it_came_by(sim):
    sim.script(ONE, then=t.Reply(first_text=30))
    answer = await model(sim, ONE, CHAT, hedge=0.05).ainvoke("hello")
    receipt = answer.response_metadata["resilience"]
    assert receipt["winner"] == CHAT
    assert answer.text == t.answer_to("hello")


async def test_the_thoughts_of_a_stream_come_before_its_text(sim):
    sim.script(ONE, then=t.Reply("It is 3.", reasoning="One and two are three.", chunk_gap=0.0))
    for version in (None, "v1"):
        fields = {"output_version": version} if version else {}
        chunks = await collect(model(sim, ONE, **fields))
        blocks = sum_chunks(chunks).content_blocks
        assert [b["type"] for b in blocks] == ["reasoning", "text"]
        assert blocks[0]["reasoning"] == "One and two are three."
        kinds = [b["type"] for chunk in chunks for b in chunk.content_blocks]
        assert kinds.index("text") > kinds.index("reasoning")


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


JOKE = '{"setup": "Why?", "punchline": "Because."}'


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
async def test_schemas(sim, method):
    asked = model(sim, ONE).with_structured_output(Joke, method=method)
    joke = await asked.ainvoke("A joke as JSON with 'setup' and 'punchline'.")
    assert isinstance(joke, Joke)
    assert "input" in sim.requests[-1].body


@pytest.mark.parametrize("lacking", ["json_schema", "tools"])
async def test_a_mode_that_a_server_lacks_is_replaced_by_another(sim, lacking):
    """And the answer reads as if it had not been."""
    method = "function_calling" if lacking == "tools" else "json_schema"
    sim.script(ONE, then=t.Lacks(lacking))
    asked = model(sim, ONE).with_structured_output(Joke, method=method, include_raw=True)
    outcome = await asked.ainvoke("A joke about cats.")
    assert isinstance(outcome["parsed"], Joke)
    assert bool(outcome["raw"].tool_calls) is (lacking == "tools")


async def test_a_refusal_is_no_answer_to_a_schema(sim):
    sim.script(ONE, then=t.Reply(refusal="I cannot help with that."))
    asked = model(sim, ONE).with_structured_output(Joke)
    with pytest.raises(AllTargetsFailedError, match="the model refused") as caught:
        await asked.ainvoke("A joke about cats.")
    assert caught.value.receipt.attempts[0].fault.kind == "content_filter"


async def test_events_of_both_versions(sim):
    for version in ("v1", "v2"):
        llm = model(sim, ONE)
        events = [e async for e in llm.astream_events("hello", version=version)]
        texts = [e["data"]["chunk"].text for e in events if e["event"] == "on_chat_model_stream"]
        assert "".join(texts) == t.answer_to("hello")


async def test_the_blocks_form_is_a_wish_for_this_api(sim):
    """As LangChain's class for OpenAI takes it."""
    llm = ResilientChatModel(
        targets=[Target("openai:gpt-4o", base_url=sim.base_url("openai"), api_key="k")],
        output_version="responses/v1",
    )
    answer = await llm.ainvoke("hello")
    assert [block["type"] for block in answer.content] == ["text"]
    assert answer.id == answer.response_metadata["id"]
    assert "input" in sim.requests[-1].body

"""Real answers of the Responses API, field by field as LangChain's class for OpenAI has them."""

from __future__ import annotations

import copy
import gzip
import json

import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai.chat_models import base as langchain_openai

from langchain_resilient.wire.accumulator import ChunkContent, ResponseAccumulator
from langchain_resilient.wire.messages import to_chat_messages
from langchain_resilient.wire.responses import EventConverter, whole_chunk, without_none
from langchain_resilient.wire.responses_history import input_items
from tests.wire.responses_peer import (
    assert_same,
    converted,
    fold,
    in_blocks,
    summed,
    theirs_summed,
    theirs_whole,
    whole,
)
from verification.recordings import exchanges

FILE = exchanges.FOLDER.parent / "recordings-responses" / "openai-responses.jsonl.gz"

pytestmark = pytest.mark.skipif(not FILE.is_file(), reason=f"no recordings: {FILE} is no file")


def recorded(*, streamed):
    """The whole answers, or the events of the streamed ones, by the exchange's id."""
    if not FILE.is_file():
        return []
    with gzip.open(FILE, "rt", encoding="utf-8") as lines:
        found = [
            (exchange["id"], exchanges.payloads(exchange["response"]["body"]))
            for exchange in map(json.loads, lines)
        ]
    is_stream = [("type" in payloads[0], id_, payloads) for id_, payloads in found]
    return [pytest.param(p, id=id_) for is_, id_, p in is_stream if is_ is streamed]


@pytest.mark.parametrize("payloads", recorded(streamed=False))
def test_whole_answers_are_what_langchains_own_class_makes_of_them(payloads):
    (response,) = payloads
    ours = whole([whole_chunk(response)])
    theirs = theirs_whole(response)
    assert_same(ours, theirs)
    assert in_blocks(ours) == in_blocks(theirs)
    assert ours.text == theirs.text


@pytest.mark.parametrize("payloads", recorded(streamed=True))
@pytest.mark.parametrize("version", [None, "responses/v1", "v1"])
def test_streams_are_what_langchains_own_class_makes_of_them(payloads, version):
    ours, theirs = summed(converted(payloads), version), theirs_summed(payloads, version)
    assert_same(ours, theirs)


@pytest.mark.parametrize("payloads", recorded(streamed=True))
def test_a_stream_read_to_its_end_is_the_whole_answer(payloads):
    """`invoke` streams from the provider, and must give what it gave without."""
    response = fold(converted(payloads))
    assert response.fault() is None
    ours = whole(converted(payloads))
    assert_same(ours, theirs_whole(payloads[-1]["response"]))
    assert ours.text == response.text


@pytest.mark.parametrize("payloads", recorded(streamed=True))
def test_every_event_shows_that_the_model_works(payloads):
    response, converter = ResponseAccumulator(), EventConverter()
    for event in payloads[:-1]:
        seen = response.add(converter.convert(event))
        blank = event["type"] == "response.output_text.delta" and event["delta"].isspace()
        assert blank or seen >= ChunkContent.THINKING, event["type"]
    assert not response.ended
    response.add(converter.convert(payloads[-1]))
    assert response.ended


@pytest.mark.parametrize("payloads", recorded(streamed=False) + recorded(streamed=True))
@pytest.mark.parametrize("version", ["responses/v1", "v1"])
@pytest.mark.parametrize("stored", [True, False])
def test_answers_go_back_as_langchains_own_class_sends_them(payloads, version, stored):
    answer = theirs_whole(payloads[-1].get("response") or payloads[-1])
    if version == "v1":
        answer.content = in_blocks(answer)
        answer.response_metadata["output_version"] = "v1"
    results = [ToolMessage("done", tool_call_id=call["id"]) for call in answer.tool_calls]
    conversation = [HumanMessage("Hello."), answer, *results, HumanMessage("And then?")]
    theirs = langchain_openai._construct_responses_api_input(
        copy.deepcopy(conversation), store=stored
    )
    ours = input_items(to_chat_messages(conversation), lambda _: True, stored=stored)
    expected = [without_none(item) for item in theirs]
    if not stored and any(block["type"] == "reasoning" for block in answer.content):
        # Without the reasoning that led to it a call is refused by its id.
        for item in expected:
            if item["type"] == "function_call":
                del item["id"]
    assert ours == expected

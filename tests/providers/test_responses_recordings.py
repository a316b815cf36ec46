"""Real answers of the Responses API through a whole model, as LangChain's own class has them."""

from __future__ import annotations

import functools
import json
import operator

import pytest
from langchain_core.messages import message_chunk_to_message

from langchain_resilient import ResilientChatModel, Target
from tests.providers.asking import http, listening
from tests.wire.responses_peer import in_blocks, theirs_summed, theirs_whole
from tests.wire.test_responses_recordings import FILE, recorded

pytestmark = pytest.mark.skipif(not FILE.is_file(), reason=f"no recordings: {FILE} is no file")


def served(payloads):
    """The bytes that a server would send."""
    if "type" not in payloads[0]:
        return http(json.dumps(payloads[0]))
    events = [f"event: {p['type']}\ndata: {json.dumps(p)}\n\n" for p in payloads]
    return http("".join(events), kind="text/event-stream")


FIELDS = ("content", "tool_calls", "invalid_tool_calls", "usage_metadata", "id")


def model(url, version):
    fields = {"output_version": version} if version else {}
    target = Target("openai:m", api="responses", base_url=url, api_key="k")
    return ResilientChatModel(targets=[target], hedge=None, share_learning=False, **fields)


def assert_same(ours, theirs):
    for field in FIELDS:
        assert getattr(ours, field) == getattr(theirs, field), field
    known = {k: ours.response_metadata.get(k) for k in theirs.response_metadata}
    assert known == theirs.response_metadata


def as_version(message, version):
    if version == "v1":
        message.content = in_blocks(message)
        message.response_metadata["output_version"] = "v1"
    return message


@pytest.mark.parametrize("payloads", recorded(streamed=False) + recorded(streamed=True))
@pytest.mark.parametrize("version", [None, "responses/v1", "v1"])
async def test_every_exchange_gives_what_langchains_class_gives(payloads, version):
    is_stream = "type" in payloads[0]
    async with listening(served(payloads)) as raw:
        llm = model(raw.url, version)
        ours = await llm.ainvoke("hello")
        whole = payloads[-1]["response"] if is_stream else payloads[0]
        assert_same(ours, as_version(theirs_whole(whole), version))
        if is_stream:
            chunks = [chunk async for chunk in llm.astream("hello")]
            summed = message_chunk_to_message(functools.reduce(operator.add, chunks))
            assert_same(summed, theirs_summed(payloads, version))

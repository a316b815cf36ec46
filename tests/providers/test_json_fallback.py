"""A stream whose JSON was asked for in another way than the caller did."""

from __future__ import annotations

import pytest

from langchain_resilient.providers.json_fallback import ConvertedStream
from langchain_resilient.wire.accumulator import ResponseAccumulator
from langchain_resilient.wire.json_modes import RequestedJSON

REQUESTED = RequestedJSON("tools", ("tools", "prompt"), "output", None, {"type": "object"})


class Stream:
    """Chunks, and what the server said of their end."""

    def __init__(self, *chunks, complete):
        self.chunks = list(chunks)
        self.complete = complete

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self.chunks:
            raise StopAsyncIteration
        return self.chunks.pop(0)

    async def aclose(self):
        self.chunks.clear()

    def rate_limit_status(self):
        return "limits"


def text(piece):
    return {"choices": [{"index": 0, "delta": {"content": piece}}]}


@pytest.mark.parametrize("complete", [True, False])
async def test_an_end_without_a_finish_reason_lets_go_what_is_held_back(complete):
    """If the server said that it is one."""
    stream = ConvertedStream(
        Stream(text('{"a": '), text("1}"), complete=complete), REQUESTED, "prompt"
    )
    response = ResponseAccumulator()
    async for chunk in stream:
        response.add(chunk)
    (call,) = response.choices[0].tools.calls
    assert (call.args, response.ended) == ('{"a": 1}', complete)


async def test_the_rate_limits_stay_known():
    """They stand in the headers, however the answer is converted."""
    assert (
        ConvertedStream(Stream(complete=True), REQUESTED, "prompt").rate_limit_status() == "limits"
    )

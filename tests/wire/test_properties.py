"""What must hold for every stream, sane or not."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import message_chunk_to_message

from langchain_resilient.wire.accumulator import ChunkContent, ResponseAccumulator
from langchain_resilient.wire.chunk_parser import BadChunkError
from langchain_resilient.wire.output import ChunkConverter, to_chat_result
from tests.wire.streams import chunk, hostile, streams

MORE = settings(max_examples=120, deadline=None)


def fold(chunks):
    """All chunks through a draft."""
    response = ResponseAccumulator()
    seen = [response.add(c) for c in chunks]
    return response, seen


def summed(chunks, response):
    """All chunks through a stream, added up as LangChain does."""
    deltas = ChunkConverter("openai")
    pieces = [piece for piece in map(deltas.add, chunks) if piece is not None]
    pieces.append(deltas.last_chunk(response, "asked"))
    return message_chunk_to_message((pieces[0] + pieces[1:]).message)


@given(streams())
@MORE
def test_the_sum_of_a_stream_is_the_whole_message(chunks):
    """Whoever streams and whoever waits get the same message, in every field."""
    response, _ = fold(chunks)
    assert (
        summed(chunks, response)
        == to_chat_result(response, "openai", "asked").generations[0].message
    )


@given(streams())
@MORE
def test_tool_calls_are_put_together_however_they_are_numbered(chunks):
    """No fragment strays into another call."""
    sent = [
        call
        for c in chunks
        for choice in c["choices"]
        for call in choice["delta"].get("tool_calls", [])
    ]
    names = [call["function"]["name"] for call in sent if "name" in call["function"]]
    message = to_chat_result(fold(chunks)[0], "openai", "asked").generations[0].message
    assert message.invalid_tool_calls == []
    assert [call["name"] for call in message.tool_calls] == names
    assert len({call["id"] for call in message.tool_calls}) == len(names)


@given(streams(), st.data())
@MORE
def test_a_stream_cut_before_its_end_is_broken(chunks, data):
    """Without a finish_reason no answer passes for whole."""
    ends = [c for c in chunks if any(choice["finish_reason"] for choice in c["choices"])]
    body = chunks[: chunks.index(ends[0])]
    response, _ = fold(body[: data.draw(st.integers(0, len(body)))])
    assert response.fault().kind == "broken"


@given(streams())
@MORE
def test_nothing_visible_until_something_is(chunks):
    """The first VISIBLE comes with the first that is not white space, and not before."""
    response, seen = fold(chunks)
    choices = response.choices.values()
    present = any(c.text.strip() or c.tools.calls for c in choices)  # a refusal is held back
    assert (ChunkContent.VISIBLE in seen) == bool(present)


@given(st.lists(hostile, min_size=1, max_size=4))
@settings(max_examples=120, deadline=None)
def test_no_chunk_brings_it_down(chunks):
    """Whatever comes, it is folded or refused with `BadChunkError`, and streams agree with it."""
    response, deltas, pieces = ResponseAccumulator(), ChunkConverter("openai"), []
    for c in [chunk("", role="assistant"), *chunks]:
        try:
            response.add(c)
        except BadChunkError:
            return
        pieces.append(deltas.add(c))
    response.fault()
    response.input_tokens()
    response.output_tokens()
    result = to_chat_result(response, "openai", "asked")
    message = result.generations[0].message
    pieces = [p for p in [*pieces, deltas.last_chunk(response, "asked")] if p is not None]
    total = message_chunk_to_message((pieces[0] + pieces[1:]).message)
    if not message.invalid_tool_calls and sane(message.response_metadata):
        assert total.content == message.content
        assert total.tool_calls == message.tool_calls
        assert total.usage_metadata == message.usage_metadata


def sane(value):
    """Whether a value equals itself and has no `index` by which LangChain would merge."""
    text = json.dumps(value)
    return "NaN" not in text and '"index"' not in text

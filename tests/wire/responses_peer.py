"""What LangChain's own class for OpenAI makes of an answer of the Responses API, and what we do."""

from __future__ import annotations

import copy
import functools
import operator

from langchain_core.language_models._utils import _update_message_content_to_blocks
from langchain_core.messages import message_chunk_to_message
from langchain_openai.chat_models import base as langchain_openai
from openai._models import construct_type
from openai.types.responses import Response, ResponseStreamEvent

from langchain_resilient.wire.accumulator import ResponseAccumulator
from langchain_resilient.wire.output import ChunkConverter, to_chat_result
from langchain_resilient.wire.responses import EventConverter

FIELDS = ("content", "tool_calls", "invalid_tool_calls", "additional_kwargs", "id")
OURS = {"finish_reason", "normalized_finish_reason", "token_usage", "logprobs"}
"""What only our metadata has."""


def fold(chunks):
    """All chunks through an accumulator."""
    response = ResponseAccumulator()
    for chunk in chunks:
        response.add(chunk)
    return response


def converted(events):
    """All events of a stream, as chunks."""
    converter = EventConverter()
    return [chunk for chunk in map(converter.convert, events) if chunk is not None]


def summed(chunks, version=None):
    """What LangChain makes of our stream."""
    deltas = ChunkConverter("openai")
    pieces = [piece for piece in map(deltas.add, chunks) if piece is not None]
    pieces.append(deltas.last_chunk(fold(chunks), "asked"))
    return added([piece.message for piece in pieces], version)


def added(messages, version):
    if version == "v1":
        messages = [_update_message_content_to_blocks(m, "v1") for m in messages]
    return message_chunk_to_message(functools.reduce(operator.add, messages))


def as_the_sdk_reads(type_, value):
    """As the SDK's client does, which validates nothing."""
    return construct_type(type_=type_, value=copy.deepcopy(value))


def theirs_summed(events, version=None):
    """What LangChain makes of the stream of its own class."""
    place, items, pieces = (-1, -1, -1), {}, []
    for event in events:
        *place, piece = langchain_openai._convert_responses_chunk_to_generation_chunk(
            as_the_sdk_reads(ResponseStreamEvent, event),
            *place,
            output_version=version,
            item_output_indices=items,
        )
        if piece is not None:
            pieces.append(piece.message)
    return added(pieces, version)


def whole(chunks):
    """Our message of a whole answer."""
    return to_chat_result(fold(chunks), "openai", "asked").generations[0].message


def theirs_whole(response):
    result = langchain_openai._construct_lc_result_from_responses_api(
        as_the_sdk_reads(Response, response)
    )
    return result.generations[0].message


def _plain(value):
    """Without our own words for what is wrong with a call."""
    if not isinstance(value, list):
        return value
    return [{**v, "error": ""} if "error" in v and "args" in v else v for v in value]


def assert_same(ours, theirs):
    for field in FIELDS:
        assert _plain(getattr(ours, field)) == _plain(getattr(theirs, field)), field
    assert ours.usage_metadata == theirs.usage_metadata
    ours_metadata = {k: v for k, v in ours.response_metadata.items() if k not in OURS}
    assert ours_metadata == theirs.response_metadata


def in_blocks(message):
    return _plain(_update_message_content_to_blocks(copy.deepcopy(message), "v1").content)

"""What a target that is a LangChain model says, classified."""

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk

from langchain_resilient import FaultKind
from langchain_resilient.wire.accumulator import ChunkContent, ResponseAccumulator


def draft_of(*messages):
    """A draft of these messages."""
    response = ResponseAccumulator()
    for message in messages:
        response.add({"message_chunk": message})
    return response


CALL = {"name": "add", "args": "", "id": "1", "index": 0}


@pytest.mark.parametrize(
    ("message", "seen"),
    [
        (AIMessageChunk(""), ChunkContent.NOTHING),
        (AIMessageChunk([]), ChunkContent.NOTHING),
        (AIMessageChunk(" "), ChunkContent.NOTHING),
        (AIMessageChunk([{"type": "text", "text": "", "index": 0}]), ChunkContent.NOTHING),
        (AIMessageChunk([{"type": "thinking", "thinking": "hm"}]), ChunkContent.THINKING),
        (AIMessageChunk([{"type": "reasoning", "reasoning": "hm"}]), ChunkContent.THINKING),
        (AIMessageChunk("", additional_kwargs={"reasoning_content": "hm"}), ChunkContent.THINKING),
        (AIMessageChunk("Hi"), ChunkContent.VISIBLE),
        (AIMessage("Hi"), ChunkContent.VISIBLE),
        (AIMessageChunk([{"type": "text", "text": "Hi"}]), ChunkContent.VISIBLE),
        (AIMessageChunk([{"type": "image", "url": "u"}]), ChunkContent.VISIBLE),
        (AIMessageChunk("", tool_call_chunks=[CALL]), ChunkContent.VISIBLE),
        (AIMessageChunk("", additional_kwargs={"refusal": "No"}), ChunkContent.VISIBLE),
    ],
)
def test_what_a_message_brings(message, seen):
    """Text in any form of content, calls and images are visible; thoughts are thoughts."""
    assert draft_of().add({"message_chunk": message}) is seen


def test_what_is_known_of_it():
    """Text, reason and tokens are read from LangChain's fields."""
    usage = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    response = draft_of(
        AIMessageChunk("Hi"),
        AIMessageChunk(" you", usage_metadata=usage, response_metadata={"stop_reason": "end_turn"}),
    )
    assert (response.text, response.finish_reason) == ("Hi you", "end_turn")
    assert (response.input_tokens(), response.output_tokens()) == (3, 2)


def test_cached_tokens_of_it():
    """In LangChain's fields; chunks are summed, and what none of them says is not made up."""
    usage = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    cached = {**usage, "input_token_details": {"cache_read": 2}}
    assert draft_of(AIMessageChunk("Hi", usage_metadata=usage)).cache_tokens() == (None, None)
    response = draft_of(
        AIMessageChunk("Hi", usage_metadata=cached), AIMessageChunk("", usage_metadata=cached)
    )
    assert response.cache_tokens() == (4, None)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (AIMessageChunk("Hi"), None),
        (AIMessageChunk(""), FaultKind.EMPTY),
        (
            AIMessageChunk("Hi", response_metadata={"finish_reason": "content_filter"}),
            FaultKind.CONTENT_FILTER,
        ),
    ],
)
def test_faults(message, kind):
    """A LangChain model raises when it is cut off: a missing reason means nothing."""
    fault = draft_of(message).fault()
    assert (fault and fault.kind) == kind

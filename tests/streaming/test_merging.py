"""The sum of a stream's chunks is the answer, whether one target gave it or several did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from langchain_resilient.testing import InvalidKey, Reply
from tests.streaming.stories import ORDERS, PROMPT, WHOLE, Speaker, added, cut, model, read

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

    from langchain_resilient import ResilientChatModel
    from langchain_resilient.testing import ProviderSimulator

pytestmark = pytest.mark.usefixtures("loop_is_left_empty")

LAST_RESORT = "Sorry, that was all."
BROKEN = ["openai, together", "together, openai", "openai, speaker", "together, blocks",
          "speaker, openai", "blocks, together", "openai, text", "together, text"]  # fmt: skip
"""Who begins, and who finishes."""

WAYS = ["astream", "stream"]


def story(sim: ProviderSimulator, course: str, **fields: Any) -> ResilientChatModel:
    """A model whose streams break at the first target, and are finished by the second."""
    first, second = course.split(", ")
    known: dict[str, Any] = {
        "speaker": Speaker(dies_after=4) if first == "speaker" else Speaker(),
        "blocks": Speaker(dies_after=4, blocks=True) if first == "blocks" else Speaker(blocks=True),
    }
    if first not in known:
        sim.script(f"{first}:one", cut(), then=InvalidKey())
    begins = known.get(first, f"{first}:one")
    if second == "text":
        return model(sim, begins, last_resort=LAST_RESORT, **fields)
    return model(sim, begins, known.get(second, f"{second}:two"), **fields)


def essence(message: AIMessage) -> dict[str, Any]:
    """All that must be the same of two messages that hold the same answer."""
    response_metadata = message.response_metadata
    apart = {"id", "resilience", "token_usage"}
    return {
        "content": message.content,
        "kwargs": message.additional_kwargs,
        "metadata": {k: v for k, v in response_metadata.items() if k not in apart},
        "usage": message.usage_metadata,
        "calls": message.tool_calls,
    }


# -- one target -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "who",
    ["openai:m", "together:m", Speaker(), Speaker(blocks=True)],
    ids=["openai", "together", "speaker", "speaker of blocks"],
)
@pytest.mark.parametrize("way", WAYS)
async def test_the_sum_of_the_chunks_is_the_message_of_invoke(sim, who, way):
    """Content, metadata, usage and reasoning; only the ids of two requests differ."""
    sim.script("*", then=Reply(reasoning="Let me think."))
    llm = model(sim, who, logprobs=True)
    summed = essence(added(await read(llm, way)))
    whole = essence(await llm.ainvoke(PROMPT))
    if isinstance(who, Speaker) and who.blocks:
        summed["content"], whole["content"] = summed["content"][0]["text"], WHOLE
    assert summed == whole
    assert whole["metadata"].get("logprobs") or isinstance(who, Speaker)


@pytest.mark.parametrize("who", ["openai:m", "together:m"])
async def test_output_version_v1_makes_blocks_of_both(sim, who):
    """Typed content blocks, in the stream as in the message."""
    llm = model(sim, who, output_version="v1")
    chunks = await read(llm)
    assert all(isinstance(chunk.content, list) for chunk in chunks)
    summed, whole = added(chunks), cast("Any", await llm.ainvoke(PROMPT))
    (block,) = summed.content
    assert {**block, "index": 0} == {**whole.content[0], "index": 0}
    assert summed.content_blocks[0]["text"] == WHOLE
    assert summed.usage_metadata == whole.usage_metadata


async def test_reasoning_is_streamed_before_the_text(sim):
    """In chunks of its own; with v1 as a block of its own."""
    sim.script("together:m", then=Reply(reasoning="Let me think."))
    plain, blocks = model(sim, "together:m"), model(sim, "together:m", output_version="v1")
    thoughts = [c.additional_kwargs.get("reasoning_content") for c in await read(plain)]
    assert len([t for t in thoughts if t]) > 1
    assert "".join(t or "" for t in thoughts) == "Let me think."
    summed = added(await read(blocks))
    assert [b["type"] for b in summed.content] == ["reasoning", "text"]
    assert summed.content[0]["reasoning"] == "Let me think."


# -- several targets ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "course"), [*(("astream", one) for one in BROKEN), *(("stream", o) for o in BROKEN[:3])]
)
async def test_a_stream_that_two_targets_told_adds_up_to_one_answer(sim, way, course):
    """No word is missing or doubled, and the receipt says where it broke."""
    message = added(await read(story(sim, course), way))
    (broke,) = message.response_metadata["resilience"]["breaks"]
    assert broke["action"] == "continued"
    if course.endswith("text"):
        assert message.text == f"{WHOLE[: broke['characters']]}\n\n{LAST_RESORT}"
    else:
        assert message.text == WHOLE
        assert 0 < broke["characters"] < len(WHOLE)


@pytest.mark.parametrize("course", BROKEN)
async def test_its_chunks_keep_to_langchains_rules(sim, course):
    """One id; usage, names and reasons once; the last chunk says that it is the last."""
    chunks = await read(story(sim, course))
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].id
    assert [c.chunk_position for c in chunks] == [None] * (len(chunks) - 1) + ["last"]
    for key in ("model_name", "finish_reason", "resilience"):
        assert sum(key in chunk.response_metadata for chunk in chunks) == 1
    assert len({chunk.response_metadata["model_provider"] for chunk in chunks}) == 1
    assert sum(chunk.usage_metadata is not None for chunk in chunks) == (
        0 if course.endswith("text") else 1
    )


@pytest.mark.parametrize(
    ("course", "name"),
    [("openai, together", "two"), ("together, speaker", "speaker-1"), ("speaker, openai", "two")],
)
async def test_its_metadata_is_that_of_who_finished(sim, course, name):
    """Its model, its reason; its tokens and those that were given before the break."""
    message = added(await read(story(sim, course)))
    assert message.response_metadata["model_name"] == name
    assert message.response_metadata["finish_reason"] == "stop"
    *_, broken, last = message.response_metadata["resilience"]["attempts"]
    given = message.usage_metadata["output_tokens"]
    # The LangChain model counted nothing before it broke.
    assert last["output_tokens"] < given <= (broken["output_tokens"] or 4) + last["output_tokens"]


@pytest.mark.parametrize(("first", "second"), ORDERS)
async def test_with_output_version_v1_the_parts_are_one_text_block(sim, first, second):
    """As if one target had written it."""
    message = added(await read(story(sim, f"{first}, {second}", output_version="v1")))
    assert [(b["type"], b["text"]) for b in message.content] == [("text", WHOLE)]


@pytest.mark.parametrize("overlap", [0, 20])
@pytest.mark.parametrize(("first", "second"), ORDERS)
async def test_what_comes_with_a_repetition_does_not_let_it_through(sim, first, second, overlap):
    """Log probabilities and thoughts come along with text that is cut out."""
    sim.script(f"{second}:two", then=Reply(overlap=overlap, reasoning="Go on.", chunk_gap=0.001))
    message = added(await read(story(sim, f"{first}, {second}", logprobs=True)))
    assert message.text == WHOLE
    assert message.additional_kwargs["reasoning_content"] == "Go on."


async def test_without_a_repetition_no_log_probability_is_lost(sim):
    """What was held back to be looked at is shown as it came."""
    sim.script("openai:two", then=Reply(chunk_gap=0.001))
    llm = model(sim, "openai:one", "openai:two", logprobs=True)
    sim.script("openai:one", then=cut())
    message = added(await read(llm))
    assert message.response_metadata["resilience"]["breaks"]
    tokens = [token["token"] for token in message.response_metadata["logprobs"]["content"]]
    assert "".join(tokens) == WHOLE

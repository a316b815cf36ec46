"""Chunk by chunk."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk

from langchain_resilient.wire.accumulator import ResponseAccumulator
from langchain_resilient.wire.output import ChunkConverter, text_chunk, to_chat_result
from tests.wire.streams import HEAD, USAGE, call, chunk, tool_chunks


def stream(*chunks):
    """All that is streamed of these chunks, and their draft."""
    response, deltas = ResponseAccumulator(), ChunkConverter("openai")
    results = []
    for c in chunks:
        response.add(c)
        results.append(deltas.add(c))
    return [*results, deltas.last_chunk(response, "asked")], response


def added(pieces):
    """The sum."""
    pieces = [p for p in pieces if p is not None]
    return (pieces[0] + pieces[1:]).message


class TestTextChunk:
    """The shortcut makes what the constructors make."""

    made = text_chunk("Hi", "openai")
    built = ChatGenerationChunk(
        message=AIMessageChunk("Hi", response_metadata={"model_provider": "openai"})
    )

    def test_equal(self):
        """They are equal, in all that pydantic knows about them."""
        assert self.made == self.built
        for made, built in ((self.made, self.built), (self.made.message, self.built.message)):
            assert made.__dict__ == built.__dict__
            assert list(made.__dict__) == list(built.__dict__)
            assert made.model_fields_set == built.model_fields_set
            assert made.model_extra == built.model_extra
            assert made.__pydantic_private__ == built.__pydantic_private__

    def test_dumped_alike(self):
        """They are written alike: as a dict, as JSON, for LangSmith, and by `repr`."""
        assert self.made.model_dump() == self.built.model_dump()
        assert self.made.model_dump_json() == self.built.model_dump_json()
        assert dumps(self.made) == dumps(self.built)
        assert repr(self.made) == repr(self.built)

    def test_copied(self):
        """They survive copying and pickling."""
        assert copy.copy(self.made) == self.built
        assert copy.deepcopy(self.made) == self.built
        assert pickle.loads(pickle.dumps(self.made)) == self.built  # noqa: S301

    def test_used(self):
        """They can be added, changed and read like any other."""
        assert self.made + self.made == self.built + self.built
        assert self.made.message.content_blocks == self.built.message.content_blocks
        changed = text_chunk("Hi", "openai")
        changed.message.id = "run-1"
        changed.message.extra_field = 1
        assert changed.message.model_dump()["extra_field"] == 1
        assert changed.message.model_copy(update={"content": "x"}).id == "run-1"

    def test_shares_nothing(self):
        """What is put on one chunk is not on the next."""
        first, second = text_chunk("a", "openai"), text_chunk("b", "openai")
        first.message.additional_kwargs["x"] = 1
        first.message.response_metadata["x"] = 1
        first.message.tool_calls.append("x")
        first.message.tool_call_chunks.append("x")
        assert second == text_chunk("b", "openai")
        for name, value in first.message.__dict__.items():
            if isinstance(value, (list, dict)):
                assert value is not second.message.__dict__[name]


def test_text():
    """Each piece of text is a chunk with the provider and nothing that would be added up."""
    pieces, _ = stream(chunk("Hi", usage=USAGE), chunk(" you", finish="stop", usage=USAGE))
    assert [p.text for p in pieces] == ["Hi", " you", ""]
    assert pieces[0].message.response_metadata == {"model_provider": "openai"}
    assert pieces[0].message.usage_metadata is None


def test_nothing_to_pass_on():
    """Roles, ends and usage make no chunk of their own."""
    quiet = [
        chunk("", role="assistant"),
        chunk(finish="stop"),
        {**HEAD, "choices": [], "usage": USAGE},
    ]
    pieces, _ = stream(*quiet, chunk("b", index=1))
    assert pieces[:-1] == [None] * 4


def test_the_last_chunk():
    """Usage, metadata and the mark of the end come once, at the end."""
    head = {"system_fingerprint": "fp", "service_tier": "default"}
    pieces, _ = stream(
        chunk("Hi", head=head), chunk(finish="tool_calls"), chunk(finish="stop", usage=USAGE)
    )
    last = pieces[-1].message
    assert last.chunk_position == "last"
    assert last.usage_metadata == {
        "input_tokens": 3,
        "output_tokens": 2,
        "total_tokens": 5,
        "input_token_details": {},
        "output_token_details": {},
    }
    assert last.response_metadata == {
        "model_provider": "openai",
        "model_name": "gpt-4o",
        "finish_reason": "tool_calls",
        "normalized_finish_reason": "tool_call",
        "id": "chatcmpl-1",
        "system_fingerprint": "fp",
        "token_usage": USAGE,
        "service_tier": "default",
    }
    assert pieces[-1].generation_info == {"finish_reason": "tool_calls", "model_name": "gpt-4o"}


def test_pieces_of_tool_calls():
    """Fragments have whole numbers, their id and name once, and come as they came."""
    pieces, _ = stream(
        chunk(tool_calls=[call("", index=0.0, id="1", name="f")]),
        chunk(tool_calls=[call('{"a":1}', index=0.0, id="1", name="f")]),
        chunk(tool_calls=[call('{"a":2}', index=0, id="2", name="g")]),
    )
    results = [c for p in pieces if p for c in p.message.tool_call_chunks]
    assert [(c["index"], c["id"], c["name"], c["args"]) for c in results] == [
        (0, "1", "f", None),
        (0, None, None, '{"a":1}'),
        (1, "2", "g", '{"a":2}'),
    ]
    assert all(type(c["index"]) is int for c in results)
    assert [c["id"] for c in added([p for p in pieces if p]).tool_calls] == ["1", "2"]


@pytest.mark.parametrize("rest", [('{"city": "Rome"}',), ('{"city"', ': "Rome"}')])
def test_empty_arguments_before_the_real_ones_are_none(rest):
    """Some servers begin each call with `{}`; glued to what follows it would stay all there is."""
    pieces, response = stream(
        chunk(tool_calls=[call("{}", index=0, id="1", name="weather")]),
        *(chunk(tool_calls=[call(piece, index=0)]) for piece in rest),
        chunk(finish="tool_calls"),
    )
    whole = to_chat_result(response, "openai", "asked").generations[0].message
    summed = added([p for p in pieces if p])
    assert summed.tool_calls == whole.tool_calls
    assert whole.tool_calls[0]["args"] == {"city": "Rome"}


INVALID = ['{"a":1', '{"a":"b', '{"a":"b\\', '{"a":[1', '{"a":[1,', "{'a':1}", "[1]", "7",
           '{"a" 1}', '{"a":1}]', '{"a":[{"b":"c']  # fmt: skip


@pytest.mark.parametrize("args", INVALID)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_cut_arguments_do_not_add_up_to_a_call(args, size):
    """LangChain completes what is cut, and an agent would run half a call."""
    parts = [args[at : at + size] for at in range(0, len(args), size)]
    fragments = [chunk(tool_calls=[call(part)]) for part in parts]
    pieces, _ = stream(chunk(tool_calls=[call("", id="1", name="f")]), *fragments)
    message = added(pieces)
    assert message.tool_calls == []
    (bad,) = message.invalid_tool_calls
    assert (bad["id"], bad["name"]) == ("1", "f")
    assert bad["args"].startswith(args.rstrip(","))


@given(tool_chunks(), st.integers(0, 20))
def test_whatever_is_cut_streams_and_adds_up_alike(chunks, kept):
    """The valid calls of the sum are those of the whole message."""
    pieces, response = stream(*chunks[:kept])
    summed = added(pieces)
    whole = to_chat_result(response, "openai", "asked").generations[0].message
    assert summed.tool_calls == whole.tool_calls
    assert [c["id"] for c in summed.invalid_tool_calls] == [
        c["id"] for c in whole.invalid_tool_calls
    ]


@pytest.mark.parametrize("args", ["", "{}", '{"a":1}', '{"a":'])
def test_a_call_without_a_name_is_invalid(args):
    """No agent could run it."""
    pieces, response = stream(chunk(tool_calls=[call(args, id="1")]), chunk(finish="stop"))
    whole = to_chat_result(response, "openai", "asked").generations[0].message
    summed = added(pieces)
    for message in (whole, summed):
        assert (message.tool_calls, message.invalid_tool_calls[0]["id"]) == ([], "1")


@pytest.mark.parametrize("args", ["{}", '```json\n{"a":1}\n```', '"{\\"a\\":1}"', '{"a":[1,],}'])
@pytest.mark.parametrize("size", [1, 100])
def test_mended_arguments_stream_and_add_up_alike(args, size):
    """What is held back comes at the end."""
    parts = [call(args[at : at + size]) for at in range(0, len(args), size)]
    chunks = [chunk(tool_calls=[part]) for part in parts]
    pieces, response = stream(chunk(tool_calls=[call(id="1", name="f")]), *chunks)
    whole = to_chat_result(response, "openai", "asked").generations[0].message
    summed = added(pieces)
    assert summed.tool_calls == whole.tool_calls
    assert whole.tool_calls[0]["args"] in ({}, {"a": 1}, {"a": [1]})


def test_calls_without_an_id_get_theirs_at_the_end():
    """Streamed or whole, the made-up id is the same."""
    pieces, response = stream(chunk(tool_calls=[call("{}", name="f")]), chunk(finish="stop"))
    whole = to_chat_result(response, "openai", "asked").generations[0].message
    assert added(pieces).tool_calls == whole.tool_calls
    assert whole.tool_calls[0]["id"].startswith("call_")


def test_thoughts_refusals_and_logprobs_are_streamed():
    """They come as they come, and add up."""
    logprobs = {"content": [{"token": "x"}], "refusal": None}
    pieces, _ = stream(
        chunk(reasoning="h"),
        chunk(reasoning="m"),
        chunk(refusal="N"),
        chunk(refusal="o"),
        chunk("x", logprobs=logprobs),
        chunk("x", logprobs=logprobs),
        chunk("x", logprobs=-0.5),
    )
    total = added(pieces)
    assert total.additional_kwargs == {"reasoning_content": "hm", "refusal": "No"}
    assert total.response_metadata["logprobs"]["content"] == [{"token": "x"}] * 2
    assert total.response_metadata["logprobs"]["token_logprobs"] == [-0.5]
    assert pieces[4].message.response_metadata["logprobs"] == logprobs


def test_what_is_whole_only_at_the_end():
    """Audio, citations and calls of old wait for the last chunk."""
    pieces, _ = stream(
        chunk(audio={"id": "a", "data": "YQ=="}, annotations=[{"type": "url_citation"}]),
        chunk(function_call={"name": "f", "arguments": "{}"}),
    )
    assert pieces[:-1] == [None, None]
    assert pieces[-1].message.additional_kwargs.keys() == {"audio", "annotations", "function_call"}


def test_a_whole_completion():
    """A plain answer to a stream request is one chunk and the last."""
    body = {"content": "Hi", "tool_calls": [call("{}", id="1", name="f")]}
    choice = {"index": 0, "message": body, "finish_reason": "tool_calls"}
    pieces, _ = stream({**HEAD, "choices": [choice], "usage": USAGE})
    assert (pieces[0].text, len(pieces)) == ("Hi", 2)
    assert added(pieces).tool_calls[0]["name"] == "f"


def test_a_choice_that_comes_twice_in_a_chunk():
    """Both pieces are passed on."""
    double = chunk("a")
    double["choices"] = double["choices"] + chunk("b")["choices"]
    pieces, response = stream(double)
    assert pieces[0].text == response.text == "ab"


class TestNative:
    """Streams of LangChain models."""

    def test_chunks_are_passed_on(self):
        """Content, ids and metadata stay as they are; the end is ours to tell."""
        inner = [
            AIMessageChunk([{"type": "text", "text": "Hi", "index": 0}], id="msg_1"),
            AIMessageChunk([], response_metadata={"model_name": "claude"}, chunk_position="last"),
        ]
        pieces, _ = stream(*({"message_chunk": c} for c in inner))
        messages = [p.message for p in pieces]
        assert messages[0].content == inner[0].content
        assert [m.chunk_position for m in messages] == [None, None, "last"]
        assert messages[2].id == "msg_1"
        total = added(pieces)
        assert total.content == inner[0].content
        assert total.response_metadata == {"model_provider": "openai", "model_name": "claude"}

    def test_one_provider(self):
        """Two names of providers in one stream would be joined to one; the first one counts."""
        inner = [
            AIMessageChunk("a", response_metadata={"model_provider": "anthropic"}),
            AIMessageChunk("b"),
            AIMessageChunk("c", response_metadata={"model_provider": "other"}),
        ]
        pieces, _ = stream(*({"message_chunk": c} for c in inner))
        assert added(pieces).response_metadata == {
            "model_provider": "anthropic",
            "model_name": "asked",
        }

    @pytest.mark.parametrize("native_first", [True, False])
    def test_one_target_goes_on_for_another(self, native_first):
        """Where a native and a plain target share a stream, they name one provider."""
        inner = {"message_chunk": AIMessageChunk("a", response_metadata={"model_provider": "x"})}
        deltas, chunks = ChunkConverter("openai"), [inner, chunk("b")]
        pieces = [deltas.add(c) for c in (chunks if native_first else reversed(chunks))]
        response_metadata = added(pieces).response_metadata
        assert response_metadata == {"model_provider": "x" if native_first else "openai"}

    def test_the_inner_receipt_goes(self):
        """A chain inside the chain had its receipt, whose numbers cannot be added to ours."""
        inner = AIMessageChunk("a", response_metadata={"resilience": {"seconds": 1.5}})
        pieces, _ = stream({"message_chunk": inner})
        assert "resilience" not in added(pieces).response_metadata
        assert "resilience" in inner.response_metadata

    def test_a_model_that_does_not_stream(self):
        """Its whole message becomes a chunk with all it had."""
        calls = [{"name": "f", "args": {"a": 1}, "id": "1"}]
        usage = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
        inner = AIMessage("Hi", tool_calls=calls, usage_metadata=usage, id="msg_1")
        pieces, _ = stream({"message_chunk": inner})
        total = added(pieces)
        assert (total.content, total.id) == ("Hi", "msg_1")
        assert total.tool_calls == inner.tool_calls
        assert total.usage_metadata == usage

    def test_the_sum_is_the_result(self):
        """Streamed and whole answers of a native target are the same."""
        inner = [AIMessageChunk("a", id="1"), AIMessageChunk("b", response_metadata={"model": "m"})]
        pieces, response = stream(*({"message_chunk": c} for c in inner))
        whole = to_chat_result(response, "openai", "asked").generations[0].message
        total = added(pieces)
        assert (total.content, total.id, total.response_metadata) == (
            whole.content,
            whole.id,
            whole.response_metadata,
        )


def test_thoughts_beside_the_text_of_a_stream_are_a_block():
    """Also where the server stands behind `openai`: OpenAI itself sends none, LangChain drops them.

    A stream that thinks only after its text has named its maker already.
    """
    thinks_first, _ = stream(chunk(reasoning="hm"), chunk("Hi", finish="stop"))
    assert [b["type"] for b in added(thinks_first).content_blocks] == ["reasoning", "text"]
    thinks_late, _ = stream(chunk("Hi"), chunk(reasoning="hm", finish="stop"))
    assert added(thinks_late).response_metadata["model_provider"] == "openai"

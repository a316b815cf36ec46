"""Whole answers."""

from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk

from langchain_resilient.wire.accumulator import ResponseAccumulator
from langchain_resilient.wire.output import (
    attach_receipt,
    combined_outputs,
    text_chunk,
    to_chat_result,
)
from tests.wire.streams import USAGE, call, chunk

COUNTS = {
    "input_tokens": 3,
    "output_tokens": 2,
    "total_tokens": 5,
    "input_token_details": {},
    "output_token_details": {},
}


def result(*chunks):
    """The result of these chunks."""
    response = ResponseAccumulator()
    for c in chunks:
        response.add(c)
    return to_chat_result(response, "openai", "asked")


def message(*chunks):
    """Its first message."""
    return result(*chunks).generations[0].message


def test_a_plain_answer():
    """Text, usage and metadata are where LangChain has them."""
    head = {"system_fingerprint": "fp", "service_tier": "default", "warnings": [{"message": "w"}]}
    answer = message(chunk("Hi"), chunk(" you", finish="stop", head=head, usage=USAGE))
    assert answer == AIMessage(
        "Hi you",
        response_metadata={
            "model_provider": "openai",
            "model_name": "gpt-4o",
            "finish_reason": "stop",
            "normalized_finish_reason": "stop",
            "id": "chatcmpl-1",
            "system_fingerprint": "fp",
            "service_tier": "default",
            "warnings": [{"message": "w"}],
            "token_usage": USAGE,
        },
        usage_metadata=COUNTS,
    )


def test_what_only_one_of_the_two_providers_tells():
    """OpenAI's moderation of the whole and Together's seed of a choice."""
    last = chunk(finish="stop", head={"moderation": {"flagged": False}})
    last["choices"][0]["seed"] = 2**63
    response_metadata = message(chunk("Hi"), last).response_metadata
    assert response_metadata["moderation"] == {"flagged": False}
    assert response_metadata["seed"] == 2**63


def test_the_first_message_alone_tells_the_usage():
    """Whoever adds up the messages counts it once."""
    first, second = result(
        chunk("a"), chunk("b", index=1), chunk(finish="stop", usage=USAGE)
    ).generations
    assert first.message.response_metadata["token_usage"] == USAGE
    assert "token_usage" not in second.message.response_metadata


def test_output_for_callbacks():
    """Callbacks find usage and model in `llm_output`, the reason in `generation_info`."""
    outcome = result(chunk("Hi", finish="stop", usage=USAGE))
    assert outcome.llm_output == {
        "token_usage": USAGE,
        "model_name": "gpt-4o",
        "model_provider": "openai",
        "id": "chatcmpl-1",
    }
    assert outcome.generations[0].generation_info == {"finish_reason": "stop"}


def test_output_for_callbacks_of_several_prompts():
    """Tokens are added up at every depth; the model and its fingerprint are the first's."""
    details = {"cached_tokens": 1, "audio_tokens": None}
    usage = {"prompt_tokens": 3, "prompt_tokens_details": details, "note": "a"}
    outputs: list[Any] = [
        {"token_usage": usage, "model_name": "a", "system_fingerprint": ""},
        None,  # it was streamed
        {"token_usage": None, "model_name": "b"},
        {"token_usage": {**usage, "completion_tokens": 2}, "system_fingerprint": "fp"},
    ]
    assert combined_outputs(outputs, "asked") == {
        "token_usage": {
            "prompt_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 2},
            "note": "a",
            "completion_tokens": 2,
        },
        "model_name": "a",
        "system_fingerprint": "fp",
    }
    assert combined_outputs([None], "asked") == {"token_usage": {}, "model_name": "asked"}


def test_who_speaks():
    """Some servers say so; what is no name is none."""
    assert message(chunk("Hi", name="ann"), chunk(finish="stop")).name == "ann"
    assert message(chunk("Hi", name=7), chunk(finish="stop")).name is None


def test_the_model_that_was_asked():
    """Where the provider does not say who answered, it is the model that was asked."""
    answer = message({"choices": [{"message": {"content": "Hi"}}]})
    assert answer.response_metadata == {"model_provider": "openai", "model_name": "asked"}


def test_the_message_has_no_id():
    """LangChain gives the id: those of servers are not always unique."""
    assert message(chunk("Hi")).id is None


def test_tool_calls():
    """Calls are parsed, without strictness about line breaks; none means no arguments."""
    calls = [
        call('{"a": "x\ny"}', index=0, id="1", name="f"),
        call("", index=1, id="2", name="g"),
    ]
    answer = message(chunk(tool_calls=calls, finish="tool_calls"))
    assert answer.tool_calls == [
        {"name": "f", "args": {"a": "x\ny"}, "id": "1", "type": "tool_call"},
        {"name": "g", "args": {}, "id": "2", "type": "tool_call"},
    ]


@pytest.mark.parametrize(
    ("args", "error"), [('{"a": 1', "not JSON"), ("[1]", "not a JSON object"), ("1", "object")]
)
def test_invalid_tool_calls(args, error):
    """Arguments that are no JSON object are told as such, not guessed at."""
    answer = message(chunk(tool_calls=[call(args, id="1", name="f")], finish="length"))
    assert answer.tool_calls == []
    (bad,) = answer.invalid_tool_calls
    assert (bad["id"], bad["name"], bad["args"]) == ("1", "f", args)
    assert error in bad["error"]


def test_arguments_that_a_server_forgot_to_encode():
    """An object instead of a string is as good."""
    function = {"name": "f", "arguments": {"a": 1}}
    answer = message(chunk(tool_calls=[{"index": 0, "id": "1", "function": function}]))
    assert answer.tool_calls[0]["args"] == {"a": 1}


def test_an_index_of_minus_one_means_nothing():
    """Calls that are all numbered -1, as by Together, are told apart by what they are."""
    calls = [call("{}", index=-1, name="f"), call("{}", index=-1, name="g")]
    assert len(message(chunk(tool_calls=calls)).tool_calls) == 2


def test_calls_of_a_whole_message_are_never_joined():
    """In a whole message every entry is its own call, whatever its index and id say."""
    calls = [call("{}", index=-1, id="x", name="f"), call("{}", index=-1, id="x", name="f")]
    answer = message({"choices": [{"message": {"tool_calls": calls}}]})
    assert len(answer.tool_calls) == 2


def test_extras():
    """Refusal, reasoning, citations and calls of old are where LangChain looks for them."""
    answer = message(
        chunk(reasoning_content="h"),
        chunk(reasoning_content="m", refusal="N"),
        chunk(refusal="o", annotations=[{"type": "url_citation"}]),
        chunk(function_call={"name": "f", "arguments": "{"}),
        chunk(function_call={"arguments": "}"}, finish="stop"),
    )
    assert answer.additional_kwargs == {
        "refusal": "No",
        "reasoning_content": "hm",
        "annotations": [{"type": "url_citation"}],
        "function_call": {"name": "f", "arguments": "{}"},
    }


@pytest.mark.parametrize("provider", ["together", "openai"])
def test_reasoning_becomes_a_block(provider):
    """LangChain's content blocks show it, also of a compatible server behind `openai`."""
    response = ResponseAccumulator()
    response.add(chunk("Hi", reasoning="hm", finish="stop"))
    answer = to_chat_result(response, provider, "asked").generations[0].message
    assert [block["type"] for block in answer.content_blocks] == ["reasoning", "text"]


def test_reasoning_details_are_joined_by_index():
    """OpenRouter's pieces become the blocks that must be sent back to it."""

    def piece(index, **rest):
        return chunk(reasoning_details=[{"type": "reasoning.text", "index": index, **rest}])

    answer = message(
        piece(0, text="h"), piece(0, text="m"), piece(0, signature="s"), piece(1, text="!")
    )
    assert answer.additional_kwargs["reasoning_details"] == [
        {"type": "reasoning.text", "index": 0, "text": "hm", "signature": "s"},
        {"type": "reasoning.text", "index": 1, "text": "!"},
    ]
    assert answer.additional_kwargs["reasoning_content"] == "hm!"


def test_spoken_answers():
    """Pieces of audio are joined, padded or not, and so is what was said."""
    answer = message(
        chunk(audio={"id": "a", "transcript": "H"}),
        chunk(audio={"id": "a", "data": "YQ=="}),
        chunk(audio={"id": "a", "data": "Yg==", "transcript": "i", "expires_at": 9}),
    )
    assert answer.additional_kwargs["audio"] == {
        "id": "a",
        "transcript": "Hi",
        "data": "YWI=",
        "expires_at": 9,
    }


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (
            [{"content": [{"token": "a"}], "refusal": None}, {"content": [{"token": "b"}]}],
            {"content": [{"token": "a"}, {"token": "b"}], "refusal": None},
        ),
        ([-0.5, -0.25], {"token_logprobs": [-0.5, -0.25]}),
        (
            [
                {"tokens": ["a"], "token_logprobs": [-1.0]},
                {"tokens": ["b"], "token_logprobs": [-2.0]},
            ],
            {"tokens": ["a", "b"], "token_logprobs": [-1.0, -2.0]},
        ),
    ],
)
def test_logprobs(pieces, expected):
    """Log probabilities are joined in each shape that is known."""
    answer = message(*(chunk("x", logprobs=piece) for piece in pieces))
    assert answer.response_metadata["logprobs"] == expected


def test_several_choices():
    """Each choice is a generation; usage stands on the first, since tracers add it up."""
    outcome = result(
        chunk("a", finish="stop"),
        chunk("b", index=1, finish="length"),
        {"choices": [], "usage": USAGE},
    )
    texts = [g.message.content for g in outcome.generations]
    reasons = [g.message.response_metadata["finish_reason"] for g in outcome.generations]
    assert (texts, reasons) == (["a", "b"], ["stop", "length"])
    assert [bool(g.message.usage_metadata) for g in outcome.generations] == [True, False]


def test_stamp():
    """A receipt goes on one message, be it of a result, a message or a chunk."""
    stamped = attach_receipt(result(chunk("a"), chunk("b", index=1)), {"winner": "x"})
    results = [g.message.response_metadata.get("resilience") for g in stamped.generations]
    assert results == [{"winner": "x"}, None]
    assert attach_receipt(AIMessage("a"), {"winner": "x"}).response_metadata["resilience"]
    piece = attach_receipt(text_chunk("a", "openai"), {"winner": "x"})
    assert piece.message.response_metadata["resilience"]


class TestNative:
    """Targets that are LangChain models."""

    def test_chunks_are_added_up(self):
        """The message is what LangChain makes of the model's own chunks."""
        chunks = [
            AIMessageChunk("Hi", id="msg_1", response_metadata={"model_name": "claude"}),
            AIMessageChunk(
                " you", usage_metadata={"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
            ),
            AIMessageChunk(
                "", response_metadata={"stop_reason": "end_turn"}, chunk_position="last"
            ),
        ]
        outcome = result(*({"message_chunk": c} for c in chunks))
        answer = outcome.generations[0].message
        assert type(answer) is AIMessage
        assert (answer.content, answer.id) == ("Hi you", "msg_1")
        assert answer.usage_metadata["total_tokens"] == 5
        assert answer.response_metadata == {
            "model_name": "claude",
            "stop_reason": "end_turn",
            "normalized_finish_reason": "stop",
            "model_provider": "openai",
        }
        assert outcome.llm_output["token_usage"]["completion_tokens"] == 2

    def test_what_its_class_says_of_its_end_stays(self):
        """In LangChain's words, and Anthropic's own `finish_state`."""
        said = {
            "stop_reason": "pause_turn",
            "normalized_finish_reason": "stop",
            "finish_state": "suspended",
        }
        whole = message({"message_chunk": AIMessage("Hi", response_metadata=said)})
        assert said.items() <= whole.response_metadata.items()
        pieces = [AIMessageChunk("Hi"), AIMessageChunk("", response_metadata=said)]
        summed = message(*({"message_chunk": piece} for piece in pieces))
        assert said.items() <= summed.response_metadata.items()

    def test_a_whole_message_is_copied(self):
        """Nothing is changed in the message of the inner model."""
        inner = AIMessage("Hi", response_metadata={"model_provider": "anthropic", "resilience": {}})
        answer = message({"message_chunk": inner})
        assert answer.response_metadata == {"model_provider": "anthropic", "model_name": "asked"}
        assert "resilience" in inner.response_metadata

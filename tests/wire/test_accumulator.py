"""One answer folded chunk by chunk."""

import math

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk

from langchain_resilient import FaultKind
from langchain_resilient.exchange import ChatRequest
from langchain_resilient.wire import finish_reasons
from langchain_resilient.wire.accumulator import ChunkContent, ResponseAccumulator
from langchain_resilient.wire.chunk_parser import BadChunkError
from tests.wire.streams import HEAD, USAGE, call, chunk

NOTHING, THINKING, VISIBLE = ChunkContent.NOTHING, ChunkContent.THINKING, ChunkContent.VISIBLE


def fold(*chunks):
    """A draft of these chunks."""
    response = ResponseAccumulator()
    for c in chunks:
        response.add(c)
    return response


@pytest.mark.parametrize(
    ("piece", "seen"),
    [
        (chunk("", role="assistant", refusal=None), NOTHING),
        (chunk(None, role="assistant"), NOTHING),
        (chunk(tool_calls=[]), NOTHING),
        (chunk(" \n"), NOTHING),
        (chunk(finish="stop"), NOTHING),
        ({**HEAD, "choices": [], "usage": USAGE}, NOTHING),
        ({**HEAD}, NOTHING),
        ({**HEAD, "choices": None}, NOTHING),
        ({**HEAD, "choices": [{"index": 0, "delta": None}]}, NOTHING),
        (chunk(audio={"id": "a"}), NOTHING),
        (chunk(function_call={"name": "", "arguments": ""}), NOTHING),
        (chunk(reasoning_content="hm"), THINKING),
        (chunk("", reasoning="hm"), THINKING),
        (chunk(" ", reasoning="hm"), THINKING),
        (chunk(reasoning_details=[{"type": "reasoning.text", "text": "hm"}]), THINKING),
        (chunk([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]), THINKING),
        (chunk("Hi"), VISIBLE),
        (chunk([{"type": "text", "text": "Hi"}]), VISIBLE),
        (chunk("Hi", role="assistant", token_id=7), VISIBLE),
        (chunk("Hi", reasoning="hm"), VISIBLE),
        (chunk("Hi", index=1), VISIBLE),
        (chunk(refusal="No"), THINKING),
        (chunk(tool_calls=[call("", id="1", name="add")]), VISIBLE),
        (chunk(function_call={"name": "add", "arguments": ""}), VISIBLE),
        (chunk(audio={"transcript": "Hi"}), VISIBLE),
        ({"choices": [{"index": 0, "message": {"content": "Hi"}}]}, VISIBLE),
        ({"choices": [{"index": 0, "text": "Hi"}]}, VISIBLE),
    ],
)
def test_what_the_first_chunk_brings(piece, seen):
    """Only what a user can see is visible, and thoughts are told apart."""
    assert ResponseAccumulator().add(piece) is seen
    # The same after a chunk that lets plain text take the short way.
    response = fold(chunk("", role="assistant"))
    assert response.add(piece) is seen


def test_white_space_after_text_shows_nothing_by_itself():
    """Some models go on with it for ever: it waits for what follows."""
    response = fold(chunk("Hi"))
    assert response.add(chunk(" ")) is NOTHING
    assert response.add(chunk("")) is NOTHING
    assert response.add(chunk(reasoning="hm")) is THINKING


def test_what_is_shown_ends_with_something_visible():
    """Until more comes; the text itself lacks nothing."""
    response = fold(chunk("Hi"), chunk("\n"), chunk(" "))
    assert (response.visible_text, response.text) == ("Hi", "Hi\n ")
    response.add(chunk("you"))
    assert response.visible_text == "Hi\n you"


def test_text_is_joined_with_the_white_space_before_it():
    """Nothing of the text is lost, whenever it came."""
    response = fold(chunk("\n"), chunk("Hi"), chunk(" you"), chunk("!", index=1))
    assert response.text == "\nHi you"
    assert response.choices[1].text == "!"


def test_text_beside_the_delta_is_not_doubled():
    """Together sends each text twice, once beside the delta."""
    twice = chunk("Hi")
    twice["choices"][0]["text"] = "Hi"
    assert fold(twice, twice).text == "HiHi"


@pytest.mark.parametrize(
    "delta", [{"reasoning": "hm"}, {"tool_calls": [call("", id="1", name="f")]}]
)
def test_text_beside_thoughts_and_calls_is_no_answer(delta):
    """What stands beside a delta counts only where the delta says nothing itself."""
    beside = chunk(**delta)
    beside["choices"][0]["text"] = "hm"
    assert fold(beside).text == ""


def test_head():
    """Who answered is known even if the first chunk does not tell, as with Azure."""
    azure = {"id": "", "model": "", "choices": []}
    later = chunk("Hi", finish="stop", head={"system_fingerprint": "fp", "service_tier": "default"})
    response = fold(azure, later, chunk(head={"system_fingerprint": None, "model": "other"}))
    assert (response.id, response.model) == ("chatcmpl-1", "gpt-4o")
    assert (response.system_fingerprint, response.service_tier) == ("fp", "default")


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        (["stop"], "stop"),
        (["eos"], "stop"),
        (["tool_calls", "tool_calls", "stop"], "tool_calls"),
        (["stop", "tool_calls"], "tool_calls"),
        (["length", "stop"], "length"),
        (["", None, 0, "stop"], "stop"),
        ([None, ""], None),
    ],
)
def test_finish_reasons(reasons, expected):
    """Of several reasons the telling one counts, in OpenAI's words."""
    assert fold(*(chunk("x", finish=reason) for reason in reasons)).finish_reason == expected


@pytest.mark.parametrize(
    ("usages", "tokens"),
    [
        ([USAGE], 2),
        ([None, {}, USAGE, None], 2),
        ([{**USAGE, "completion_tokens": 1}, USAGE], 2),
        ([USAGE, {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}], 2),
        ([{**USAGE, "completion_tokens": math.nan}, "many"], None),
    ],
)
def test_usage(usages, tokens):
    """The last count that counts something is the one."""
    response = fold(*(chunk("", usage=usage) for usage in usages))
    assert response.output_tokens() == tokens
    assert response.input_tokens() == 3


def test_usage_beside_text():
    """Counts on a chunk of text are not overlooked."""
    response = fold(chunk("Hi"), chunk(" you", usage=USAGE))
    assert (response.usage, response.text) == (USAGE, "Hi you")


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (None, (None, None)),
        (USAGE, (None, None)),
        ({**USAGE, "prompt_tokens_details": {"cached_tokens": 2}}, (2, None)),
        (
            {**USAGE, "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 3}},
            (0, 3),
        ),
        ({**USAGE, "cached_tokens": 1}, (1, None)),
        ({**USAGE, "prompt_tokens_details": "many"}, (None, None)),
    ],
)
def test_cached_tokens(usage, tokens):
    """What was read from the provider's cache and written to it; None where it did not say."""
    assert fold(chunk("Hi", usage=usage)).cache_tokens() == tokens


def test_tokens_of_a_cut_answer():
    """Without usage the pieces are counted, and nothing is made up about the prompt."""
    response = fold(chunk("", role="assistant"), chunk("Hi"), chunk(" you"), chunk(reasoning="hm"))
    assert response.output_tokens() == 3
    assert response.input_tokens() is None
    assert fold(chunk("")).output_tokens() is None


def test_warnings_and_errors():
    """Together's warnings are kept; an error inside a stream decides, whatever follows it."""
    zeros = {**HEAD, "choices": [], "usage": dict.fromkeys(USAGE, 0)}
    error = {"error": {"message": "The server had an error", "type": "server_error"}}
    response = fold(chunk("Hi", head={"warnings": [{"message": "w"}]}), error, zeros)
    assert response.warnings == [{"message": "w"}]
    assert fold(chunk("Hi"), chunk("!", finish=None, head=error)).fault().kind is FaultKind.SERVER
    assert response.fault().kind is FaultKind.SERVER
    assert "The server had an error" in response.fault().message


@pytest.mark.parametrize(
    ("chunks", "kind"),
    [
        ([chunk("Hi", finish="stop")], None),
        ([chunk("Hi", finish="length")], None),
        ([chunk(refusal="No", finish="stop")], FaultKind.CONTENT_FILTER),
        (
            [chunk(tool_calls=[call("{", id="1", name="add")], finish="tool_calls")],
            FaultKind.INVALID,
        ),
        ([chunk(tool_calls=[call("{}", id="1")], finish="tool_calls")], FaultKind.INVALID),
        ([chunk(tool_calls=[call("[1]", id="1", name="add")], finish="stop")], FaultKind.INVALID),
        ([chunk("Hi", tool_calls=[call("{", id="1", name="add")], finish="tool_calls")], None),
        ([chunk("Hi", refusal="No", finish="stop")], None),
        ([chunk("Hi", finish="stop"), chunk(index=1, role="assistant")], None),
        ([chunk("Hi", finish=1)], None),
        ([chunk({"type": "text", "text": "Hi"}, finish="stop")], None),
        ([chunk("Hi", finish="")], FaultKind.BROKEN),
        ([chunk(tool_calls=[call("{}", id="1", name="add")], finish="stop")], None),
        ([{"choices": [{"message": {"content": "Hi"}, "finish_reason": None}]}], None),
        ([chunk("Hi")], FaultKind.BROKEN),
        ([], FaultKind.BROKEN),
        ([chunk(tool_calls=[call("{", id="1", name="add")])], FaultKind.BROKEN),
        ([chunk("Hi", finish="stop"), chunk("Hi", index=1)], FaultKind.BROKEN),
        ([chunk("", finish="stop")], FaultKind.EMPTY),
        ([chunk(" ", finish="stop")], FaultKind.EMPTY),
        ([chunk(reasoning="hm", finish="stop")], FaultKind.EMPTY),
        ([{"choices": [{"message": {"content": None}}]}], FaultKind.EMPTY),
        ([chunk("Hi", finish="content_filter")], FaultKind.CONTENT_FILTER),
        ([chunk("", finish="content_filter")], FaultKind.CONTENT_FILTER),
    ],
)
def test_faults(chunks, kind):
    """After its end an answer is good, cut, empty or filtered."""
    fault = fold(*chunks).fault()
    assert (fault and fault.kind) == kind


def test_an_empty_answer_tells_why():
    """A limit of tokens that left no room can be told from silence."""
    fault = fold(chunk(reasoning="hm"), chunk(finish="length")).fault()
    assert fault.code == "length"
    assert "reasoning only: max_tokens was used up" in fault.message


def test_calling():
    """An answer that has begun to call a tool cannot be continued."""
    assert not fold(chunk("Hi")).has_tool_calls
    assert fold(chunk("Hi"), chunk(tool_calls=[call("", id="1", name="add")])).has_tool_calls
    pieces = [{"name": "add", "args": "", "id": "1", "index": 0}]
    assert fold({"message_chunk": AIMessageChunk("", tool_call_chunks=pieces)}).has_tool_calls


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "chunk",
        [],
        {"choices": {}},
        {"choices": "x"},
        {"choices": [None]},
        {"choices": [{"delta": "x"}]},
        chunk(5),
        chunk([5]),
        chunk(refusal=True),
        chunk(tool_calls="x"),
        chunk(tool_calls=[None]),
        chunk(tool_calls=[{"function": "x"}]),
        chunk(tool_calls=[{"function": {"name": 5}}]),
        chunk(tool_calls=[{"function": {"arguments": 5}}]),
        chunk(function_call="x"),
        {"message_chunk": "x"},
    ],
)
def test_bad_chunks(bad):
    """What makes no sense is a `BadChunkError`, whichever way it takes, and changes nothing."""
    for response in (ResponseAccumulator(), fold(chunk("Hi"))):
        before = response.text
        with pytest.raises(BadChunkError, match="of type"):
            response.add(bad)
        assert response.text == before


@pytest.mark.parametrize(
    "odd",
    [
        chunk("Hi", index="0"),
        chunk("Hi", index=None),
        chunk("Hi", index=math.nan),
        chunk("Hi", finish=5),
        chunk("Hi", logprobs="x"),
        chunk("Hi", usage="x"),
        chunk("Hi", reasoning=5),
        chunk("Hi", reasoning_details="x"),
        chunk("Hi", annotations="x"),
        chunk("Hi", audio="x"),
        chunk("Hi", head={"id": 5, "model": 5, "service_tier": 5, "warnings": "x"}),
    ],
)
def test_odd_adornments(odd):
    """What only adorns an answer may be malformed: the answer stands."""
    assert fold(odd).text == "Hi"


def test_private_text_stays_out_of_errors():
    """An error tells the type of what was wrong, never its content."""
    with pytest.raises(BadChunkError) as caught:
        ResponseAccumulator().add({"choices": [{"delta": {"content": {"secret": "sk-1"}}}]})
    assert "sk-1" not in str(caught.value)


@pytest.mark.parametrize("reason", [
    "insufficient_system_resource", "error", "abort", "aborted", "network_error", "timeout",
    "cancelled", "canceled", "MALFORMED_FUNCTION_CALL", "unknown", "OTHER", "FinishReason.OTHER",
    "UNEXPECTED_TOOL_CALL", "server-error",
])  # fmt: skip
def test_finish_reasons_that_mean_failure(reason):
    """What came is a part of an answer, however whole it looks."""
    fault = fold(chunk("Hi", finish=reason)).fault()
    assert (fault.kind, reason in fault.message) == (FaultKind.BROKEN, True)


@pytest.mark.parametrize("reason", ["SAFETY", "RECITATION", "sensitive", "blocklist", "refusal",
                                    "PROHIBITED_CONTENT", "content-filter"])  # fmt: skip
def test_finish_reasons_that_mean_a_filter(reason):
    """Google's, Zhipu's and Anthropic's words for it."""
    assert fold(chunk("Hi", finish=reason)).fault().kind is FaultKind.CONTENT_FILTER


@pytest.mark.parametrize("reason", ["max_tokens", "MAX_TOKENS", "model_length", "length"])
def test_finish_reasons_that_mean_a_limit(reason):
    """The answer counts; without text the limit was too low."""
    assert fold(chunk("Hi", finish=reason)).fault() is None
    assert fold(chunk("", finish=reason)).fault().code == "length"


def test_an_unknown_finish_reason_counts_and_is_logged_once(caplog, monkeypatch):
    """Somebody may want to add it to the table."""
    monkeypatch.setattr(finish_reasons, "_logged", set())
    for _ in range(2):
        assert fold(chunk("Hi", finish="bored")).fault() is None
    assert [record.args for record in caplog.records] == [("bored",)]
    for reason in ("stop", "STOP", "end_turn", "tool_use", "COMPLETE", "eos"):
        assert fold(chunk("Hi", finish=reason)).fault() is None
    assert len(caplog.records) == 1


NEEDY = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "required": ["a", "b"]}},
}


@pytest.mark.parametrize(("args", "kind"), [
    ('{"a":1,"b":2}', None), ('{"a":1}', FaultKind.INVALID), ("{}", FaultKind.INVALID),
    ("", FaultKind.INVALID),
])  # fmt: skip
@pytest.mark.parametrize("where", ["defaults", "overrides"])
def test_a_call_needs_its_required_arguments(args, kind, where):
    """Where the tool's schema is known."""
    request = ChatRequest([], **{where: {"tools": [NEEDY]}})
    response = fold(chunk(tool_calls=[call(args, id="1", name="add")], finish="tool_calls"))
    fault = response.fault(request)
    assert (fault and fault.kind) == kind
    assert fault is None or (fault.kept and "lacks" in fault.message and "b" in fault.message)
    assert fold(chunk(tool_calls=[call(args, id="1", name="f")], finish="stop")).fault() is None


def test_one_call_that_can_be_run_is_an_answer():
    """The other is told as invalid."""
    calls = [call("{", id="1", name="f", index=0), call("{}", id="2", name="f", index=1)]
    assert fold(chunk(tool_calls=calls, finish="tool_calls")).fault() is None


def test_a_server_may_end_an_answer_without_a_finish_reason():
    """It said so in another way; what is missing then is missing all the same."""
    response = fold(chunk("Hi"))
    assert response.fault().kind is FaultKind.BROKEN
    response.end()
    assert (response.ended, response.fault(), response.finish_reason) == (True, None, None)
    nothing = fold(chunk(role="assistant"))
    nothing.end()
    assert nothing.fault().kind is FaultKind.EMPTY


def native(*messages):
    return fold(*({"message_chunk": message} for message in messages)).fault()


GOOD_CALL = {"name": "f", "args": {"a": 1}, "id": "1", "type": "tool_call"}
BAD_CALL = {"name": "f", "args": "{", "id": "1", "error": None, "type": "invalid_tool_call"}


@pytest.mark.parametrize(("messages", "kind"), [
    ([AIMessage("", tool_calls=[GOOD_CALL])], None),
    ([AIMessage("", invalid_tool_calls=[BAD_CALL])], FaultKind.INVALID),
    ([AIMessage("Hi", invalid_tool_calls=[BAD_CALL])], None),
    ([AIMessage("", tool_calls=[GOOD_CALL], invalid_tool_calls=[BAD_CALL])], None),
    ([AIMessage("", additional_kwargs={"refusal": "No"})], FaultKind.CONTENT_FILTER),
    ([AIMessage("Hi", additional_kwargs={"refusal": "No"})], None),
    ([AIMessage("")], FaultKind.EMPTY),
    ([AIMessage("Hi", response_metadata={"finish_reason": "SAFETY"})], FaultKind.CONTENT_FILTER),
    ([AIMessage("H", response_metadata={"finish_reason": "MALFORMED_FUNCTION_CALL"})],
     FaultKind.BROKEN),
])  # fmt: skip
def test_weak_answers_of_langchain_models(messages, kind):
    """They are judged as those of any other target."""
    fault = native(*messages)
    assert (fault and fault.kind) == kind


@pytest.mark.parametrize(("pieces", "kind"), [
    (['{"a"', ":1}"], None), (['{"a"', ":1"], FaultKind.INVALID), (["", ""], None),
])  # fmt: skip
def test_streamed_calls_of_langchain_models(pieces, kind):
    """LangChain itself completes what is cut."""
    heads = [{"name": "f", "id": "1"}, {"name": None, "id": None}]
    chunks = [
        AIMessageChunk("", tool_call_chunks=[{**head, "args": args, "index": 0}])
        for head, args in zip(heads, pieces, strict=True)
    ]
    fault = native(*chunks)
    assert (fault and fault.kind) == kind

"""Answers of the Responses API that no recording holds, against LangChain's class and alone."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk

from langchain_resilient import FaultKind
from langchain_resilient.wire.accumulator import ChunkContent, ResponseAccumulator
from langchain_resilient.wire.output import ChunkConverter, text_chunk
from langchain_resilient.wire.responses import EventConverter, chat_usage, whole_chunk
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

USAGE = {
    "input_tokens": 30,
    "input_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 3},
    "output_tokens": 12,
    "output_tokens_details": {"reasoning_tokens": 8},
    "total_tokens": 42,
}

MESSAGE = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "Hello.", "annotations": [], "logprobs": []}],
}
TWO_PARTS = {
    **MESSAGE,
    "content": [
        {"type": "output_text", "text": "Hello.", "annotations": []},
        {"type": "output_text", "text": " Again.", "annotations": []},
    ],
}
REFUSAL = {**MESSAGE, "content": [{"type": "refusal", "refusal": "I cannot."}]}
REASONING = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [
        {"type": "summary_text", "text": "First."},
        {"type": "summary_text", "text": "Second."},
    ],
    "encrypted_content": "gAAAA",
    "status": None,
}
FUNCTION = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_1",
    "name": "add",
    "arguments": '{"a": 1}',
    "status": "completed",
}
BROKEN = {**FUNCTION, "id": "fc_2", "call_id": "call_2", "arguments": '{"a": '}
CUSTOM = {
    "type": "custom_tool_call",
    "id": "ctc_1",
    "call_id": "call_3",
    "name": "run",
    "input": "print(1)",
    "status": "completed",
}
IMAGE = {
    "type": "image_generation_call",
    "id": "ig_1",
    "status": "completed",
    "result": "aGk=",
    "output_format": "png",
}
SEARCH = {
    "type": "tool_search_call",
    "id": "tsc_1",
    "status": "completed",
    "execution": "server",
    "arguments": {"paths": ["crm"]},
    "call_id": None,
}
FOUND = {
    "type": "tool_search_output",
    "id": "tso_1",
    "status": "completed",
    "execution": "server",
    "tools": [],
    "call_id": None,
}
PATCH = {
    "type": "apply_patch_call",
    "id": "apc_1",
    "call_id": "call_4",
    "status": "completed",
    "operation": {"type": "delete_file", "path": "a.txt"},
}
COMPUTER = {
    "type": "computer_call",
    "id": "cu_1",
    "call_id": "call_5",
    "status": "completed",
    "action": {"type": "wait"},
    "pending_safety_checks": [],
}
APPROVAL = {
    "type": "mcp_approval_request",
    "id": "mcpr_1",
    "name": "read",
    "server_label": "docs",
    "arguments": "{}",
}

OUTPUTS = {
    "text": [MESSAGE],
    "two parts": [TWO_PARTS],
    "refusal": [REFUSAL],
    "reasoning": [REASONING, MESSAGE],
    "call": [REASONING, FUNCTION],
    "parallel calls": [REASONING, FUNCTION, {**FUNCTION, "id": "fc_3", "call_id": "call_6"}],
    "broken call": [BROKEN],
    "custom": [REASONING, CUSTOM],
    "image": [IMAGE],
    "tool search": [SEARCH, FOUND, {**FUNCTION, "namespace": "crm"}],
    "patch": [PATCH],
    "computer": [COMPUTER],
    "approval": [APPROVAL],
    "phases": [{**MESSAGE, "phase": "commentary"}, FUNCTION],
}


def response(output, **more):
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1700000000,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": "gpt-6-2026-01-01",
        "output": output,
        "metadata": {},
        "service_tier": "default",
        "parallel_tool_calls": True,
        "tools": [],
        "tool_choice": "auto",
        "usage": USAGE,
        **more,
    }


def events_of(output, **more):
    """The events of an answer, as OpenAI sends them."""
    started = response([], status="in_progress", usage=None)
    yield {"type": "response.created", "response": started}
    yield {"type": "response.in_progress", "response": started}
    for place, item in enumerate(output):
        yield from events_of_item(place, item)
    end = "incomplete" if more.get("status") == "incomplete" else "completed"
    yield {"type": f"response.{end}", "response": response(output, **more)}


def events_of_item(place, item):
    begun = {**item, "status": "in_progress"}
    begun |= {k: [] for k in ("summary",) if k in item}
    begun |= {k: "" for k in ("arguments",) if item["type"] == "function_call"}
    if item["type"] == "message":
        begun["content"] = []
    at = {"output_index": place, "item_id": item["id"]}
    yield {"type": "response.output_item.added", "output_index": place, "item": begun}
    if item["type"] == "message":
        for number, part in enumerate(item["content"]):
            yield from events_of_part({**at, "content_index": number}, part)
    if item["type"] == "function_call":
        kind = "response.function_call_arguments"
        for piece in item["arguments"]:
            yield {"type": f"{kind}.delta", **at, "delta": piece}
        yield {"type": f"{kind}.done", **at, "arguments": item["arguments"]}
    if item["type"] == "custom_tool_call":
        yield {"type": "response.custom_tool_call_input.delta", **at, "delta": item["input"]}
    for number, part in enumerate(item.get("summary") or ()):
        at_part = {**at, "summary_index": number}
        empty = {**part, "text": ""}
        yield {"type": "response.reasoning_summary_part.added", **at_part, "part": empty}
        yield {
            "type": "response.reasoning_summary_text.delta", **at_part, "delta": part["text"]
        }  # fmt: skip
    yield {"type": "response.output_item.done", "output_index": place, "item": item}


def events_of_part(at, part):
    yield {"type": "response.content_part.added", **at, "part": {**part, "text": ""}}
    kind = part["type"]
    name = {"output_text": "text", "refusal": "refusal"}[kind]
    for piece in (part[name][:2], part[name][2:]):
        yield {"type": f"response.{kind}.delta", **at, "delta": piece, "logprobs": []}
    yield {"type": f"response.{kind}.done", **at, name: part[name], "logprobs": []}
    yield {"type": "response.content_part.done", **at, "part": part}


@pytest.mark.parametrize("output", OUTPUTS.values(), ids=OUTPUTS)
@pytest.mark.parametrize("version", [None, "v1"])
def test_streams_are_what_langchains_class_makes_of_them(output, version):
    events = list(events_of(output))
    assert_same(summed(converted(events), version), theirs_summed(events, version))


@pytest.mark.parametrize("output", OUTPUTS.values(), ids=OUTPUTS)
def test_whole_answers_are_too_whether_they_were_streamed_or_not(output):
    theirs = theirs_whole(response(output))
    for chunks in ([whole_chunk(response(output))], converted(events_of(output))):
        ours = whole(chunks)
        assert_same(ours, theirs)
        assert in_blocks(ours) == in_blocks(theirs)
        fault = fold(chunks).fault()
        # A refusal, and a call that cannot be run, are answers for want of a better one.
        assert fault is None or fault.kept


@pytest.mark.parametrize("tier", ["flex", "priority", "default", None])
def test_tokens_of_a_tier_with_its_own_price_are_counted_under_its_name(tier):
    answer = response([MESSAGE], service_tier=tier)
    ours, theirs = whole([whole_chunk(answer)]), theirs_whole(answer)
    assert ours.usage_metadata == theirs.usage_metadata


def test_counts_reach_the_engine_under_the_names_of_chat_completions():
    accumulator = fold(converted(events_of([MESSAGE])))
    assert (accumulator.input_tokens(), accumulator.output_tokens()) == (30, 12)
    assert accumulator.cache_tokens() == (20, 3)
    assert chat_usage(USAGE)["completion_tokens_details"] == {"reasoning_tokens": 8}


@pytest.mark.parametrize(
    ("reason", "expected", "fault"),
    [
        ("max_output_tokens", "length", None),
        ("content_filter", "content_filter", FaultKind.CONTENT_FILTER),
        ("max_tool_calls", "max_tool_calls", None),
        (None, "incomplete", None),
    ],
)
def test_an_incomplete_answer_says_why(reason, expected, fault):
    details = {"reason": reason} if reason else None
    more = {"status": "incomplete", "incomplete_details": details}
    for chunks in (
        [whole_chunk(response([MESSAGE], **more))],
        converted(events_of([MESSAGE], **more)),
    ):
        accumulator = fold(chunks)
        assert accumulator.finish_reason == expected
        found = accumulator.fault()
        assert (found.kind if found else None) is fault


def test_a_call_ends_an_answer_as_in_chat_completions():
    assert fold(converted(events_of([FUNCTION]))).finish_reason == "tool_calls"
    assert fold(converted(events_of([MESSAGE]))).finish_reason == "stop"


def test_thinking_alone_is_no_answer():
    fault = fold(converted(events_of([REASONING]))).fault()
    assert fault is not None
    assert fault.kind is FaultKind.EMPTY


def test_an_answer_that_breaks_off_is_broken():
    events = list(events_of([MESSAGE]))[:-1]
    fault = fold(converted(events)).fault()
    assert fault is not None
    assert fault.kind is FaultKind.BROKEN


def test_events_show_that_the_model_works_and_keepalives_do_not():
    accumulator, converter = ResponseAccumulator(), EventConverter()
    progress = {"type": "response.in_progress", "response": response([])}

    def seen(event):
        chunk = converter.convert(event)
        return None if chunk is None else accumulator.add(chunk)

    assert seen(progress) is ChunkContent.THINKING
    assert seen(progress) is None  # repeated, it only keeps a connection open
    assert seen({"type": "keepalive", "sequence_number": 3}) is None
    assert seen({"type": "response.web_search_call.searching"}) is ChunkContent.THINKING
    blank = {"type": "response.output_text.delta", "delta": " "}
    assert seen(blank) is ChunkContent.NOTHING
    text = {"type": "response.output_text.delta", "delta": "Hi"}
    assert seen(text) is ChunkContent.VISIBLE


def test_a_long_program_is_no_endless_silence():
    accumulator = ResponseAccumulator()
    for _ in range(20_000):
        accumulator.add({"event": "response.code_interpreter_call_code.delta", "choices": []})
    assert accumulator.tokens() == 20_000


def test_text_and_arguments_that_come_without_pieces_are_not_lost():
    """Some servers send the ends of parts and calls alone."""
    events = [e for e in events_of([FUNCTION, MESSAGE]) if not e["type"].endswith(".delta")]
    message = summed(converted(events))
    assert message.text == "Hello."
    assert message.tool_calls[0]["args"] == {"a": 1}
    assert fold(converted(events)).text == "Hello."


def test_an_end_without_the_output_is_made_of_the_items_before_it():
    *events, end = events_of([REASONING, MESSAGE])
    end = {**end, "response": {**end["response"], "output": []}}
    assert whole(converted([*events, end])).content == theirs_whole(
        response([REASONING, MESSAGE])
    ).content  # fmt: skip


def test_thoughts_that_are_shown_themselves_become_reasoning_blocks():
    """gpt-oss behind vLLM: no summary, but the text."""
    item = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Hm."}],
    }
    deltas = {"type": "response.reasoning_text.delta", "item_id": "rs_1", "output_index": 0}
    events = list(events_of([item, MESSAGE]))
    events.insert(3, {**deltas, "delta": "Hm."})
    for message in (whole(converted(events)), summed(converted(events), "v1")):
        thoughts = [b for b in message.content_blocks if b["type"] == "reasoning"]
        assert [t["reasoning"] for t in thoughts] == ["Hm."]


def test_log_probabilities_stand_where_those_of_chat_completions_do():
    tokens = [{"token": "Hello.", "logprob": -0.1, "bytes": [72], "top_logprobs": []}]
    message = {**MESSAGE, "content": [{**MESSAGE["content"][0], "logprobs": tokens}]}
    assert whole([whole_chunk(response([message]))]).response_metadata["logprobs"] == {
        "content": tokens
    }
    delta = {"type": "response.output_text.delta", "delta": "Hello.", "logprobs": tokens}
    events = [*events_of([]), *events_of([MESSAGE])]
    events = [events[0], delta, events[-1]]
    assert summed(converted(events)).response_metadata["logprobs"] == {"content": tokens}


def test_blocks_of_a_second_answer_are_not_joined_with_those_of_the_first():
    deltas = ChunkConverter("openai")
    first = [deltas.add(c) for c in converted(events_of([REASONING, MESSAGE]))[:-1]]
    deltas.start_next_answer()
    second = [deltas.add(c) for c in converted(events_of([REASONING, MESSAGE]))[:-1]]
    pieces = [p.message for p in [*first, *second] if p is not None]
    total = pieces[0] + pieces[1:]
    assert total.text == "Hello.Hello."
    assert [b["type"] for b in total.content] == ["reasoning", "text", "reasoning", "text"]


def test_a_piece_of_text_is_what_validation_would_make_of_it():
    made = text_chunk("Hi", "openai", 3)
    block = {"type": "text", "text": "Hi", "index": 3}
    metadata = {"model_provider": "openai"}
    message = AIMessageChunk(content=[block], response_metadata=metadata)
    expected = ChatGenerationChunk(message=message)
    assert made == expected
    assert made.text == "Hi"
    assert made.message.model_fields_set == message.model_fields_set
    assert made.message.content_blocks == expected.message.content_blocks


def test_a_whole_answer_to_a_stream_is_shown_whole():
    deltas = ChunkConverter("openai")
    piece = deltas.add(whole_chunk(response([REASONING, MESSAGE, FUNCTION])))
    assert piece.message.text == "Hello."
    assert [call["name"] for call in piece.message.tool_calls] == ["add"]

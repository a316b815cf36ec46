"""What real servers sent, through every path, without loss."""

import json
from collections import Counter

import pytest
from langchain_core.messages import convert_to_messages, message_chunk_to_message

from langchain_resilient.wire.answers import to_result
from langchain_resilient.wire.deltas import Deltas
from langchain_resilient.wire.draft import Draft
from langchain_resilient.wire.messages import to_wire
from langchain_resilient.wire.sse import SSEDecoder
from tests.wire import recordings

pytestmark = pytest.mark.skipif(
    not recordings.FOLDER.is_dir(), reason="the folder ../shared/recordings is not here"
)


@pytest.fixture(scope="module")
def answers():
    """Each 200 answer with choices, as `(exchange, chunks)`.

    The 16 others: 12 lists of stored completions, a lone error, an empty body, two with no JSON of
    the kind.
    """
    found = []
    for exchange in recordings.exchanges():
        if exchange["response"]["status"] != 200:
            continue
        try:
            chunks = recordings.payloads(exchange["response"]["body"])
        except ValueError:
            continue
        if any(isinstance(c.get("choices"), list) for c in chunks):
            found.append((exchange, chunks))
    return found


def fold(chunks):
    """All chunks through a draft."""
    draft = Draft()
    for chunk in chunks:
        draft.add(chunk)
    return draft


def summed(chunks, draft):
    """All chunks through a stream, added up as LangChain does."""
    deltas = Deltas("openai")
    pieces = [piece for piece in map(deltas.add, chunks) if piece is not None]
    pieces.append(deltas.last(draft, "asked"))
    total = pieces[0] + pieces[1:]
    return message_chunk_to_message(total.message)


def test_folded_answers_lose_nothing(answers):
    """Text, calls, reasons, usage, logprobs and the rest of every answer arrive in the message."""
    assert len(answers) > 450
    for exchange, chunks in answers:
        expected = recordings.Expected(chunks)
        draft = fold(chunks)
        result = to_result(draft, "openai", "asked")
        check(result.generations[0].message, expected, exchange["id"])
        assert len(result.generations) == len(expected.indexes | {0}), exchange["id"]


def check(message, expected, where):
    """Compare a message with what was read naively."""
    told, extras = message.response_metadata, message.additional_kwargs
    assert message.content == expected.text, where
    assert extras.get("refusal", "") == expected.refusal, where
    assert extras.get("reasoning_content", "") == expected.reasoning, where
    assert extras.get("annotations", []) == expected.annotations, where
    if expected.audio and any(expected.audio.values()):
        assert extras["audio"] == expected.audio, where
    if any(expected.function.values()):
        assert extras["function_call"] == expected.function, where
    check_calls(message, expected, where)
    check_metadata(message, told, expected, where)


def check_calls(message, expected, where):
    """Names, arguments, ids and order of the tool calls."""
    calls = sorted(
        [*message.tool_calls, *message.invalid_tool_calls],
        key=lambda call: [c[0] for c in expected.calls.values()].index(call["id"]),
    )
    assert [c["id"] for c in calls] == [c[0] for c in expected.calls.values()], where
    assert [c["name"] for c in calls] == [c[1] for c in expected.calls.values()], where
    for call, (_, _, args) in zip(calls, expected.calls.values(), strict=True):
        if isinstance(call["args"], dict):
            assert call["args"] == json.loads(args or "{}", strict=False), where
        else:
            assert call["args"] == args, where


def check_metadata(message, told, expected, where):
    """Model, reason, usage and logprobs."""
    models = [m for m in expected.models if m]
    assert told["model_name"] == (models[0] if models else "asked"), where
    reasons = {"stop" if f == "eos" else f for f in expected.finishes}
    assert told.get("finish_reason") in (reasons or {None}), where
    if expected.usage:
        usage = message.usage_metadata
        assert usage["input_tokens"] == expected.usage["prompt_tokens"], where
        assert usage["output_tokens"] == expected.usage["completion_tokens"], where
        assert usage["total_tokens"] == expected.usage["total_tokens"], where
    else:
        assert message.usage_metadata is None, where
    tokens = [t for p in expected.logprobs if isinstance(p, dict) for t in p.get("content") or []]
    assert ((told.get("logprobs") or {}).get("content") or []) == tokens, where
    if any(isinstance(p, float) for p in expected.logprobs):
        assert told["logprobs"] == {"token_logprobs": expected.logprobs}, where


def test_streams_add_up_to_the_same_message(answers):
    """The sum of the chunks is the message that is made of the whole."""
    for exchange, chunks in answers:
        draft = fold(chunks)
        whole = to_result(draft, "openai", "asked").generations[0].message
        total = summed(chunks, draft)
        if whole.invalid_tool_calls:  # LangChain repairs JSON that is cut off
            continue
        assert total == whole, exchange["id"]


def test_faults_are_few_and_known(answers):
    """Of all these answers only those that are really bad are called so."""
    faults = {e["id"]: fold(chunks).fault() for e, chunks in answers}
    found = Counter(fault.kind.value for fault in faults.values() if fault)
    assert found == KNOWN_FAULTS


# In 12 `max_tokens` left no room; one was cut in a tool call; one has an error inside the stream.
KNOWN_FAULTS = {"empty": 12, "broken": 1, "server": 1}


def test_events_are_decoded_as_by_the_naive_splitter():
    """The decoder gives the payloads of every recorded stream, cut into pieces of any size."""
    count = 0
    for exchange in recordings.exchanges():
        body = exchange["response"]["body"]
        if exchange["response"]["status"] != 200 or not body.lstrip().startswith(("data:", ":")):
            continue
        count += 1
        data = body.encode()
        for size in (7, 1000, len(data)):
            decoder = SSEDecoder()
            pieces = [data[at : at + size] for at in range(0, len(data), size)]
            events = [event for piece in pieces for event in decoder.feed(piece)]
            events += decoder.flush()
            assert [json.loads(event) for event in events] == recordings.payloads(body)
    assert count > 200


def test_requests_come_back_from_langchain():
    """Recorded messages survive the way into LangChain's messages and out again."""
    done, refused = 0, []
    for exchange in recordings.exchanges():
        body = recordings.request_of(exchange)
        messages = (body or {}).get("messages") or []
        # LangChain insists on a content; on the wire a call needs none.
        messages = [{**m, "content": m.get("content") or ""} for m in messages]
        try:
            converted = convert_to_messages(messages)
        except ValueError:
            refused.append(exchange["id"])
            continue
        if converted:
            done += 1
            assert [plain(m) for m in to_wire(converted)] == [plain(m) for m in messages]
    assert done > 500
    assert refused == ["openai-e00aaf6fb986"]  # a function message without its name


DROPPED = {"reasoning", "reasoning_content", "reasoning_details", "cache_control", "prefix"}


def plain(message):
    """A message without what is dropped on purpose, or is the same in two spellings."""
    found = {k: v for k, v in message.items() if v not in (None, "", []) and k not in DROPPED}
    content = found.get("content")
    if isinstance(content, list):
        found["content"] = [part_of(part) for part in content]
        if all(part["type"] == "text" for part in content):
            joint = "" if message["role"] == "assistant" else "\n"
            found["content"] = joint.join(part["text"] for part in content)
    found["tool_calls"] = [
        (call["id"], call["function"]["name"], arguments(call["function"].get("arguments")))
        for call in found.get("tool_calls", [])
    ]
    return found


def part_of(part):
    """A content part without cache marks, and a file without the name that every file must have."""
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    if part["type"] == "file":
        return {**part, "file": {k: v for k, v in part["file"].items() if k != "filename"}}
    return part


def arguments(text):
    """The arguments of a call without regard to white space and the order of keys."""
    try:
        return json.loads(text or "{}")
    except ValueError:
        return text

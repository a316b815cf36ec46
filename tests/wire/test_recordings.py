"""What real servers sent, through every path, without loss."""

import json
from collections import Counter

import pytest
from langchain_core.messages import convert_to_messages, message_chunk_to_message

from langchain_resilient.providers.sse_decoder import SSEDecoder
from langchain_resilient.wire.accumulator import ResponseAccumulator
from langchain_resilient.wire.messages import to_chat_messages
from langchain_resilient.wire.output import ChunkConverter, to_chat_result
from verification.recordings import exchanges, losses

pytestmark = pytest.mark.skipif(not exchanges.FOLDER.is_dir(), reason=exchanges.MISSING)


@pytest.fixture(scope="module")
def answers():
    """Each answer with choices, as `(exchange, chunks)`."""
    return [(e, chunks) for e in exchanges.load() for chunks in exchanges.answers(e)]


def test_every_exchange_is_an_answer_or_an_error():
    """And so is seen by a test: here, or as a fault in `tests/providers/test_recordings.py`."""
    left = [
        exchange["id"]
        for exchange in exchanges.load()
        if exchange["response"]["status"] < 300 and not exchanges.answers(exchange)
    ]
    assert set(left) == set(exchanges.NO_ANSWERS)


def fold(chunks):
    """All chunks through a draft."""
    response = ResponseAccumulator()
    for chunk in chunks:
        response.add(chunk)
    return response


def summed(chunks, response):
    """All chunks through a stream, added up as LangChain does."""
    deltas = ChunkConverter("openai")
    pieces = [piece for piece in map(deltas.add, chunks) if piece is not None]
    pieces.append(deltas.last_chunk(response, "asked"))
    total = pieces[0] + pieces[1:]
    return message_chunk_to_message(total.message)


def test_every_field_has_a_place_or_a_reason(answers):
    """Of every choice, usage and delta; what OpenAI's or Together's own API says has a place."""
    seen = {path for _, chunks in answers for chunk in chunks for path in losses.fields(chunk)}
    lost = {path for path in seen if losses.rule_for(path) is None}
    assert lost == set()
    assert {losses.rule_for(path) for path in seen} >= losses.PLACES.keys() - UNSEEN


UNSEEN = {"choices[].delta.annotations", "choices[].delta.audio", "choices[].delta.function_call"}


def test_nothing_of_the_two_providers_is_left_out_as_anothers(answers):
    """At their own addresses they send no field that is left out as another maker's extension."""
    owned = [(e, chunks) for e, chunks in answers if exchanges.own(e, chunks)]
    assert len(owned) > 250
    for exchange, chunks in owned:
        rules = {losses.rule_for(path) for chunk in chunks for path in losses.fields(chunk)}
        assert not rules & losses.FROM_OTHERS, exchange["id"]


def test_folded_answers_lose_nothing(answers):
    """Text, calls, reasons, usage, logprobs and the rest of every choice arrive in a message."""
    assert len(answers) > 450
    for exchange, chunks in answers:
        result = to_chat_result(fold(chunks), "openai", "asked")
        indexes = {c.get("index") or 0 for k in chunks for c in k.get("choices") or []} | {0}
        assert len(result.generations) == len(indexes), exchange["id"]
        for position, index in enumerate(sorted(indexes)):
            expected = exchanges.Expected(chunks, index)
            check(
                result.generations[position].message, expected, exchange["id"], first=not position
            )


def check(message, expected, where, *, first):
    """Compare a message with what was read naively."""
    response_metadata, extras = message.response_metadata, message.additional_kwargs
    assert message.content == expected.text, where
    assert extras.get("refusal", "") == expected.refusal, where
    assert extras.get("reasoning_content", "") == (expected.reasoning or thoughts(expected)), where
    assert extras.get("annotations", []) == expected.annotations, where
    assert said_in(extras.get("reasoning_details", [])) == said_in(expected.details), where
    if expected.audio and any(expected.audio.values()):
        assert extras["audio"] == expected.audio, where
    if any(expected.function.values()):
        assert extras["function_call"] == expected.function, where
    check_calls(message, expected, where)
    check_metadata(message, response_metadata, expected, where)
    check_usage(message, expected.usage if first else None, where)


def thoughts(expected):
    """The text of structured reasoning."""
    return "".join(d.get("text") or d.get("summary") or "" for d in expected.details)


def said_in(details):
    """What structured reasoning says, however it is cut: by kind and place, each text joined."""
    fields = {}
    for number, detail in enumerate(details):
        index = detail.get("index")
        block = detail.get("type"), number if index is None else index
        for name, value in detail.items():
            key = *block, name
            joined = name in {"text", "summary", "data"} and fields.get(key)
            if value is not None:
                fields[key] = fields[key] + value if joined else value
    return fields


def check_usage(message, usage, where):
    """Every count: as LangChain names it where it does, and all of them as they were sent."""
    assert message.response_metadata.get("token_usage") == usage, where
    if usage is None:
        assert message.usage_metadata is None, where
        return
    counted = message.usage_metadata
    assert counted["input_tokens"] == usage["prompt_tokens"], where
    assert counted["output_tokens"] == usage["completion_tokens"], where
    assert counted["total_tokens"] == usage["total_tokens"], where
    for details, ours, name, theirs in DETAILS:
        if (count := (usage.get(details) or {}).get(name)) is not None:
            assert counted[ours][theirs] == count, where


DETAILS = [
    ("prompt_tokens_details", "input_token_details", "cached_tokens", "cache_read"),
    ("prompt_tokens_details", "input_token_details", "cache_write_tokens", "cache_creation"),
    ("prompt_tokens_details", "input_token_details", "audio_tokens", "audio"),
    ("completion_tokens_details", "output_token_details", "reasoning_tokens", "reasoning"),
    ("completion_tokens_details", "output_token_details", "audio_tokens", "audio"),
]


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


def check_metadata(message, details, expected, where):
    """Model, reason, logprobs and what else stands at the head."""
    models = [m for m in expected.models if m]
    assert details["model_name"] == (models[0] if models else "asked"), where
    reasons = {"stop" if f == "eos" else f for f in expected.finishes}
    assert details.get("finish_reason") in (reasons or {None}), where
    assert details.get("id") == (expected.head["id"] or None), where
    for name in ("system_fingerprint", "service_tier", "warnings", "moderation"):
        assert details.get(name) == (expected.head[name] or None), where
    assert details.get("seed") == (expected.seeds[-1] if expected.seeds else None), where
    tokens = [t for p in expected.logprobs if isinstance(p, dict) for t in p.get("content") or []]
    assert ((details.get("logprobs") or {}).get("content") or []) == tokens, where
    if any(isinstance(p, float) for p in expected.logprobs):
        assert details["logprobs"] == {"token_logprobs": expected.logprobs}, where


def test_streams_add_up_to_the_same_message(answers):
    """The sum of the chunks is the message that is made of the whole."""
    for exchange, chunks in answers:
        response = fold(chunks)
        whole = to_chat_result(response, "openai", "asked").generations[0].message
        total = summed(chunks, response)
        assert total.tool_calls == whole.tool_calls, exchange["id"]
        if whole.invalid_tool_calls:  # in the sum they end so that nothing can complete them
            bare = {"invalid_tool_calls": []}
            total, whole = total.model_copy(update=bare), whole.model_copy(update=bare)
        assert total == whole, exchange["id"]


def test_faults_are_few_and_known(answers):
    """Of all these answers only those that are really bad are called so."""
    faults = {e["id"]: fold(chunks).fault() for e, chunks in answers}
    counts = Counter(fault.kind.value for fault in faults.values() if fault)
    assert counts == KNOWN_FAULTS


# In 12 `max_tokens` left no room, in one only for half a tool call; one was cut in a tool call; one
# has an error inside the stream; three are refusals.
KNOWN_FAULTS = {"empty": 12, "invalid": 1, "broken": 1, "server": 1, "content_filter": 3}


def test_events_are_decoded_as_by_the_naive_splitter():
    """The decoder gives the payloads of every recorded stream, cut into pieces of any size."""
    count = 0
    for exchange in exchanges.load():
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
            assert [json.loads(event) for event in events] == exchanges.payloads(body)
    assert count > 200


def test_requests_come_back_from_langchain():
    """Recorded messages survive the way into LangChain's messages and out again."""
    done, refused = 0, []
    for exchange in exchanges.load():
        body = exchanges.request_of(exchange)
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
            assert [plain(m) for m in to_chat_messages(converted)] == [plain(m) for m in messages]
    assert done > 500
    assert refused == ["openai-e00aaf6fb986"]  # a function message without its name


DROPPED = {"reasoning", "reasoning_content", "reasoning_details", "cache_control", "prefix"}


def plain(message):
    """A message without what is dropped on purpose, or is the same in two spellings."""
    fields = {k: v for k, v in message.items() if v not in (None, "", []) and k not in DROPPED}
    content = fields.get("content")
    if isinstance(content, list):
        fields["content"] = [part_of(part) for part in content]
        if all(part["type"] == "text" for part in content):
            joint = "" if message["role"] == "assistant" else "\n"
            fields["content"] = joint.join(part["text"] for part in content)
    fields["tool_calls"] = [
        (call["id"], call["function"]["name"], arguments(call["function"].get("arguments")))
        for call in fields.get("tool_calls", [])
    ]
    return fields


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

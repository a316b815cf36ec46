"""What there may be of one answer: choices, calls, silence, numbers, lines."""

from __future__ import annotations

import pytest

from langchain_resilient.providers import sse
from langchain_resilient.providers.error_details import MAX_TEXT_READ, error_text
from langchain_resilient.providers.errors import AnswerError, classify
from langchain_resilient.providers.rate_limit_headers import retry_after
from langchain_resilient.providers.sse import decode_body
from langchain_resilient.providers.sse_decoder import MAX_LINES, EventTooLongError, SSEDecoder
from langchain_resilient.wire.accumulator import MAX_IDLE_CHUNKS, ResponseAccumulator, token_count
from langchain_resilient.wire.chunk_parser import MAX_CALLS, MAX_CHOICES, BadChunkError
from tests.providers.test_sse import Response, read


def chunk(index=0, **delta):
    return {"choices": [{"index": index, "delta": delta, "finish_reason": None}]}


def test_an_answer_has_so_many_choices_at_most():
    """All at once, or one after the other."""
    with pytest.raises(BadChunkError, match="choices"):
        ResponseAccumulator().add({"choices": [chunk()["choices"][0]] * (MAX_CHOICES + 1)})
    response = ResponseAccumulator()
    for index in range(MAX_CHOICES):
        response.add(chunk(index, content="x"))
    with pytest.raises(BadChunkError, match="choices"):
        response.add(chunk(MAX_CHOICES, content="x"))


def test_an_answer_has_so_many_calls_at_most():
    """All at once, or one after the other."""
    calls = [{"index": n, "function": {"name": "f"}} for n in range(MAX_CALLS + 1)]
    with pytest.raises(BadChunkError, match="tool calls"):
        ResponseAccumulator().add(chunk(tool_calls=calls))
    response = ResponseAccumulator()
    response.add(chunk(tool_calls=calls[:-1]))
    with pytest.raises(BadChunkError, match="tool calls"):
        response.add(chunk(tool_calls=calls[-1:]))


def test_chunks_that_say_nothing_come_to_an_end():
    """Between chunks that say something there may be any number of them."""
    response = ResponseAccumulator()
    for _ in range(MAX_IDLE_CHUNKS - 1):
        response.add(chunk())
    response.add(chunk(content="Hi"))
    for _ in range(MAX_IDLE_CHUNKS):
        response.add(chunk())
    with pytest.raises(BadChunkError, match="said nothing"):
        response.add(chunk())


def test_the_first_choice_must_say_something():
    """It is the message; others do not make up for it."""
    response = ResponseAccumulator()
    ends = [{"index": n, "message": {"content": t}} for n, t in enumerate(["", "Hi"])]
    response.add({"choices": ends})
    assert response.fault().kind == "empty"


@pytest.mark.parametrize("number", [10**400, -(10**400), float("nan"), float("inf"), 1e300])
def test_a_number_that_counts_nothing_is_none(number):
    """It would overflow a price."""
    assert token_count({"prompt_tokens": number}, "prompt_tokens") is None


def test_an_event_has_so_many_lines_at_most():
    """Each takes more memory than it has bytes."""
    with pytest.raises(EventTooLongError, match="lines"):
        SSEDecoder().feed(b"data:\n" * (MAX_LINES + 2) + b"\n")


@pytest.mark.parametrize(("limit", "value"), [("BYTES", 10), ("EVENTS", 1)])
async def test_a_stream_comes_to_an_end(limit, value, monkeypatch):
    """By its bytes, or by its events."""
    monkeypatch.setattr(sse, f"MAX_STREAM_{limit}", value)
    with pytest.raises(AnswerError, match=f"longer than {value} {limit.lower()}"):
        await read(Response(*[b'data: {"choices":[]}\n\n'] * 2))


def test_a_body_of_too_many_objects_is_not_decoded():
    """Each can take a hundred times its bytes."""
    with pytest.raises(AnswerError, match="more than 1000000 objects and lists"):
        decode_body(b'{"choices":[' + b"{}, " * 1_000_001 + b"{}]}")


def test_json_that_is_too_deep_is_told_as_that():
    """With the place."""
    with pytest.raises(AnswerError, match="recursion limit"):
        decode_body(b"[" * 1000)


@pytest.mark.parametrize("value", ["9" * 400, "9" * 5000, "1" * 5000 + "x",
                                   "Wed, 21 Oct 99999999999999999999 07:28:00 GMT"])  # fmt: skip
@pytest.mark.parametrize("name", ["retry-after", "date", "retry-after-ms", "x-ratelimit-reset"])
def test_a_hint_that_is_no_time_is_none(name, value):
    """And takes none to be read."""
    assert retry_after({name: value}) is None


class RefusedError(Exception):
    """Shaped like an SDK's error."""

    status_code = 400

    def __init__(self, body):
        super().__init__("refused")
        self.body = body


def test_digits_that_are_none_are_no_status():
    """`isdigit` takes a superscript for one."""
    error = RefusedError({"code": "4\u00b2\u00b3"})
    error.status_code = None
    assert classify(error).kind == "server"


def test_half_a_character_is_not_told_on():
    """The SDKs' JSON has them; nothing could write the receipt down."""
    fault = classify(RefusedError({"message": "so \ud800", "code": "\ud800"}))
    assert (fault.message, fault.code) == ("so ?", "?")


def test_of_an_endless_page_only_the_beginning_is_read():
    """The expressions that clean it would else take minutes."""
    assert len(error_text(RefusedError("<html>" + "<" * 1_000_000), {})) <= MAX_TEXT_READ

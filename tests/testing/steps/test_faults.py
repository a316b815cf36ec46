"""Answers and connections that go wrong: each for streams and for plain requests."""

from __future__ import annotations

import asyncio
import json

import pytest

from langchain_resilient.testing import (
    CleanEnd,
    Cut,
    Empty,
    Exchange,
    Garbage,
    HtmlInside,
    KeepAlives,
    Malformed,
    NoAnswer,
    NoDone,
    ProviderSimulator,
    Raw,
    Reply,
    Reset,
    SlowHeaders,
    SseError,
    Stall,
    Step,
    Whitespace,
    answer_to,
)
from tests.testing.wire_client import ask, chat

WHOLE = answer_to("Hello")
TWO = "Answer 33cb0479"[: len("Answer 33cb0479")]  # the first two pieces of WHOLE
STREAM = chat(stream=True)
COUNTED = chat(stream=True, stream_options={"include_usage": True})
PATIENCE = 0.1  # seconds after which a connection that is still open counts as such
BOTH = pytest.mark.parametrize("dialect", ["openai", "together"])


def test_two_pieces() -> None:
    """The tests below count pieces of this answer."""
    assert WHOLE.startswith(TWO + " to")


@BOTH
async def test_cut_leaves_the_chunked_body_incomplete(sim: ProviderSimulator, dialect: str) -> None:
    """Two pieces get through, then the connection is closed."""
    sim.script("*", then=Cut(after=2))
    wire = await ask(sim, STREAM, dialect=dialect)
    assert (wire.status, wire.end, wire.text) == (200, "closed", TWO)


async def test_cut_after_nothing_leaves_the_role_chunk(sim: ProviderSimulator) -> None:
    """The client has headers and a role, and no text."""
    sim.script("*", then=Cut())
    wire = await ask(sim, STREAM)
    assert (wire.end, wire.text, len(wire.chunks)) == ("closed", "", 1)


@BOTH
async def test_cut_truncates_a_plain_body(sim: ProviderSimulator, dialect: str) -> None:
    """The content length promises more, and the text breaks off after two pieces."""
    sim.script("*", then=Cut(after=2))
    wire = await ask(sim, dialect=dialect)
    assert wire.end == "closed"
    assert wire.body.decode().endswith(f'"content":"{TWO}')
    assert int(wire.headers["content-length"]) > len(wire.body)


@pytest.mark.parametrize("stream", [False, True])
async def test_reset_before_any_header(sim: ProviderSimulator, stream: bool) -> None:
    """Nothing comes but an RST."""
    sim.script("*", then=Reset())
    wire = await ask(sim, chat(stream=stream))
    assert (wire.end, wire.status) == ("reset", None)


async def test_reset_in_the_middle_of_a_stream(sim: ProviderSimulator) -> None:
    """What was sent may still be read."""
    sim.script("*", then=Reset(after=2))
    wire = await ask(sim, STREAM)
    assert (wire.end, wire.status, wire.text) == ("reset", 200, TWO)


@pytest.mark.parametrize("stream", [False, True])
async def test_stall_keeps_the_connection_open(sim: ProviderSimulator, stream: bool) -> None:
    """Two pieces, then silence."""
    sim.script("*", then=Stall(after=2))
    wire = await ask(sim, chat(stream=stream), patience=PATIENCE)
    assert wire.end == "open"
    assert sim.requests[0].text == TWO


@pytest.mark.parametrize("stream", [False, True])
async def test_stall_for_a_while_goes_on_to_the_end(sim: ProviderSimulator, stream: bool) -> None:
    """The whole answer comes, late."""
    sim.script("*", then=Stall(after=2, seconds=0.05))
    loop = asyncio.get_running_loop()
    start = loop.time()
    wire = await ask(sim, chat(stream=stream))
    assert loop.time() - start >= 0.05
    assert (wire.end, wire.text) == ("complete", WHOLE)


@BOTH
async def test_a_clean_end_has_neither_finish_reason_nor_done(
    sim: ProviderSimulator, dialect: str
) -> None:
    """For HTTP all is well."""
    sim.script("*", then=CleanEnd(after=2))
    wire = await ask(sim, STREAM, dialect=dialect)
    assert (wire.end, wire.text, wire.finish) == ("complete", TWO, [])
    assert "[DONE]" not in wire.events


@BOTH
async def test_a_plain_clean_end_has_a_null_finish_reason(
    sim: ProviderSimulator, dialect: str
) -> None:
    """And the text of the pieces that came."""
    sim.script("*", then=CleanEnd(after=2))
    wire = await ask(sim, dialect=dialect)
    assert (wire.text, wire.json["choices"][0]["finish_reason"]) == (TWO, None)


async def test_no_done(sim: ProviderSimulator) -> None:
    """The finish reason comes, the last line does not."""
    sim.script("*", then=NoDone())
    wire = await ask(sim, STREAM)
    assert (wire.end, wire.text, wire.finish) == ("complete", WHOLE, ["stop"])
    assert "[DONE]" not in wire.events
    assert (await ask(sim)).text == WHOLE


async def test_no_done_and_the_connection_held(sim: ProviderSimulator) -> None:
    """Everything is sent, the usage too, and nothing more comes."""
    sim.script("*", then=NoDone(hold=True))
    wire = await ask(sim, COUNTED, patience=PATIENCE)
    assert (wire.end, wire.text, wire.finish) == ("open", WHOLE, ["stop"])
    assert wire.events[-1]["usage"]["completion_tokens"] > 0


@BOTH
async def test_a_reset_after_the_finish_reason(sim: ProviderSimulator, dialect: str) -> None:
    """The answer is whole, its usage and the last line are lost."""
    sim.script("*", then=NoDone(reset=True))
    wire = await ask(sim, COUNTED, dialect=dialect)
    assert (wire.end, wire.text, wire.finish) == ("reset", WHOLE, ["stop"])
    assert wire.events[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("step", [NoDone(hold=True), NoDone(reset=True)])
async def test_a_plain_answer_has_no_last_line_to_miss(sim: ProviderSimulator, step: Step) -> None:
    """It is given as ever."""
    sim.script("*", then=step)
    wire = await ask(sim)
    assert (wire.end, wire.text) == ("complete", WHOLE)


def test_a_connection_is_held_or_reset() -> None:
    """Not both."""
    with pytest.raises(ValueError, match="cannot be held"):
        NoDone(hold=True, reset=True)


@pytest.mark.parametrize(("resume", "text"), [(False, TWO), (True, WHOLE)])
async def test_one_malformed_line(sim: ProviderSimulator, resume: bool, text: str) -> None:
    """The stream ends there, or goes on as if nothing had been."""
    sim.script("*", then=Malformed(after=2, resume=resume))
    wire = await ask(sim, STREAM)
    broken = [event for event in wire.events if isinstance(event, str) and event != "[DONE]"]
    assert (wire.end, wire.text, len(broken)) == ("complete", text, 1)


@BOTH
async def test_a_malformed_line_in_place_of_a_piece(sim: ProviderSimulator, dialect: str) -> None:
    """A real chunk that breaks off within its text: a client that skips it loses that."""
    sim.script("*", then=Malformed(after=2, resume=True, replaces=True))
    wire = await ask(sim, STREAM, dialect=dialect)
    (broken,) = [event for event in wire.events if isinstance(event, str) and event != "[DONE]"]
    assert broken.endswith('"content":" t')
    assert (wire.end, wire.text) == ("complete", WHOLE.replace(" to", "", 1))
    assert sim.requests[0].text == wire.text


async def test_a_page_in_place_of_a_piece(sim: ProviderSimulator) -> None:
    """The proxy's words instead of the model's."""
    sim.script("*", then=HtmlInside(after=2, resume=True, replaces=True))
    wire = await ask(sim, STREAM)
    assert any(line.startswith("<html>") for line in wire.lines)
    assert wire.text == WHOLE.replace(" to", "", 1)


async def test_a_malformed_line_where_no_piece_is_left(sim: ProviderSimulator) -> None:
    """It is garbage as ever, and the answer is whole."""
    sim.script("*", then=Malformed(after=None, resume=True, replaces=True))
    wire = await ask(sim, STREAM)
    broken = [event for event in wire.events if isinstance(event, str) and event != "[DONE]"]
    assert (wire.text, len(broken)) == (WHOLE, 1)


@pytest.mark.parametrize("step", [Malformed(after=2), HtmlInside(after=2)])
async def test_a_plain_body_that_is_not_json(sim: ProviderSimulator, step: Step) -> None:
    """As long as promised, and garbage from the middle on."""
    sim.script("*", then=step)
    wire = await ask(sim)
    assert wire.end == "complete"
    with pytest.raises(json.JSONDecodeError):
        json.loads(wire.body)


async def test_a_page_inside_a_stream(sim: ProviderSimulator) -> None:
    """A proxy's words between two events."""
    sim.script("*", then=HtmlInside(after=2, resume=True))
    wire = await ask(sim, STREAM)
    assert any(line.startswith("<html>") for line in wire.lines)
    assert wire.text == WHOLE


@BOTH
async def test_an_error_inside_a_stream(sim: ProviderSimulator, dialect: str) -> None:
    """A 200 that fails after two pieces."""
    sim.script("*", then=SseError(after=2))
    wire = await ask(sim, STREAM, dialect=dialect)
    assert (wire.status, wire.end, wire.text) == (200, "complete", TWO)
    assert wire.events[-1]["error"]["type"] == "server_error"


async def test_an_error_inside_a_stream_that_goes_on(sim: ProviderSimulator) -> None:
    """A usage of zeros and `[DONE]` follow, and yet the error decides."""
    sim.script("*", then=SseError(after=2, done=True))
    wire = await ask(sim, STREAM)
    assert wire.events[-1] == "[DONE]"
    assert wire.events[-2]["usage"]["total_tokens"] == 0
    assert "error" in wire.events[-3]


async def test_an_error_event_with_a_name(sim: ProviderSimulator) -> None:
    """`event: error` ends the stream."""
    sim.script("*", then=SseError(after=1, named=True, code="overloaded"))
    wire = await ask(sim, STREAM)
    assert wire.lines[-2] == "event: error"
    assert wire.events[-1]["error"]["code"] == "overloaded"


async def test_an_error_as_a_plain_success(sim: ProviderSimulator) -> None:
    """A 200 whose body is an error."""
    sim.script("*", then=SseError())
    wire = await ask(sim)
    assert (wire.status, wire.error["type"]) == (200, "server_error")


@BOTH
@pytest.mark.parametrize("stream", [False, True])
async def test_an_empty_answer(sim: ProviderSimulator, stream: bool, dialect: str) -> None:
    """It says `stop`, and nothing else."""
    sim.script("*", then=Empty())
    wire = await ask(sim, chat(stream=stream), dialect=dialect)
    finish = wire.finish if stream else [wire.json["choices"][0]["finish_reason"]]
    assert (wire.status, wire.text, finish) == (200, "", ["stop"])


async def test_an_empty_answer_of_null(sim: ProviderSimulator) -> None:
    """Content null, and no tool call to excuse it."""
    sim.script("*", then=Empty(null=True))
    message = (await ask(sim)).json["choices"][0]["message"]
    assert message["content"] is None
    assert "tool_calls" not in message


@pytest.mark.parametrize("stream", [False, True])
async def test_white_space_only(sim: ProviderSimulator, stream: bool) -> None:
    """A whole answer of blanks."""
    sim.script("*", then=Whitespace())
    wire = await ask(sim, chat(stream=stream))
    assert wire.end == "complete"
    assert wire.text
    assert not wire.text.strip()


@pytest.mark.parametrize("stream", [False, True])
async def test_white_space_after_some_words(sim: ProviderSimulator, stream: bool) -> None:
    """Two pieces, then blanks to the end."""
    sim.script("*", then=Whitespace(after=2))
    wire = await ask(sim, chat(stream=stream))
    assert wire.end == "complete"
    assert wire.text.rstrip() == TWO
    assert wire.text != TWO


@BOTH
async def test_white_space_for_ever_after_some_words(sim: ProviderSimulator, dialect: str) -> None:
    """The stream never breaks off, and never says anything more."""
    sim.script("*", then=Whitespace(after=2, forever=True))
    wire = await ask(sim, STREAM, dialect=dialect, patience=PATIENCE)
    assert (wire.end, wire.text.rstrip()) == ("open", TWO)
    assert len(wire.text) > len(TWO) + 3


async def test_white_space_for_ever(sim: ProviderSimulator) -> None:
    """Chunks keep coming, and never say anything."""
    sim.script("*", then=Whitespace(forever=True))
    wire = await ask(sim, STREAM, patience=PATIENCE)
    assert wire.end == "open"
    assert len(wire.chunks) > 3
    assert not wire.text.strip()


async def test_keep_alives_for_ever(sim: ProviderSimulator) -> None:
    """Comments only: bytes come, an answer does not."""
    sim.script("*", then=KeepAlives(0.01))
    wire = await ask(sim, STREAM, patience=PATIENCE)
    assert (wire.end, wire.events) == ("open", [])
    assert set(wire.lines) == {": keep-alive"}
    assert len(wire.lines) > 3


async def test_keep_alives_before_an_answer(sim: ProviderSimulator) -> None:
    """As many as wanted, then the answer."""
    sim.script("*", then=KeepAlives(0.0, count=2, comment=": PROCESSING"))
    wire = await ask(sim, STREAM)
    assert wire.lines[:2] == [": PROCESSING"] * 2
    assert wire.text == WHOLE


@pytest.mark.parametrize("step", [KeepAlives(0.01), Whitespace(forever=True)])
async def test_a_plain_request_is_kept_alive_with_blanks(
    sim: ProviderSimulator, step: Step
) -> None:
    """Blanks before the JSON that never comes; bytes keep flowing all the same."""
    sim.script("*", then=step)
    wire = await ask(sim, patience=PATIENCE)
    assert (wire.end, wire.status, wire.body.strip()) == ("open", 200, b"")
    assert len(wire.body) > 3


async def test_blanks_before_a_plain_answer(sim: ProviderSimulator) -> None:
    """JSON does not mind them."""
    sim.script("*", then=KeepAlives(0.0, count=3))
    wire = await ask(sim)
    assert wire.end == "complete"
    assert wire.body.startswith(b"\n\n\n{")
    assert wire.text == WHOLE


async def test_slow_headers(sim: ProviderSimulator) -> None:
    """The head trickles in, the answer is whole."""
    sim.script("*", then=SlowHeaders(0.05))
    loop = asyncio.get_running_loop()
    start = loop.time()
    wire = await ask(sim)
    assert loop.time() - start >= 0.05
    assert wire.text == WHOLE


@pytest.mark.parametrize("stream", [False, True])
async def test_no_answer_at_all(sim: ProviderSimulator, stream: bool) -> None:
    """The request is taken, and that was it."""
    sim.script("*", NoAnswer(), then=NoAnswer(seconds=0.01))
    wire = await ask(sim, chat(stream=stream), patience=PATIENCE)
    assert (wire.end, wire.status) == ("open", None)
    assert (await ask(sim)).end == "closed"


@pytest.mark.parametrize(
    "shape", ["object", "choices", "list", "null", "broken", "text", "nothing"]
)
async def test_garbage(sim: ProviderSimulator, shape: str) -> None:
    """A 200 that is no chat completion, even where a stream was wanted."""
    sim.script("*", then=Garbage(shape))
    wire = await ask(sim, STREAM)
    assert (wire.status, wire.end) == (200, "complete")
    assert "event-stream" not in wire.headers["content-type"]
    assert wire.chunks == []


@pytest.mark.parametrize(
    ("then", "end"), [("close", "closed"), ("reset", "reset"), ("hang", "open")]
)
async def test_raw_bytes(sim: ProviderSimulator, then: str, end: str) -> None:
    """Anything at all, and any end."""
    sim.script("*", then=Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n", then))
    wire = await ask(sim, patience=PATIENCE)
    assert (wire.status, wire.end) == (200, end)


async def test_raw_bytes_on_a_connection_that_is_kept(sim: ProviderSimulator) -> None:
    """If they are a whole response, the next request comes on the same connection."""
    sim.script("*", then=Raw(b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n", "keep"))
    assert (await ask(sim, patience=PATIENCE)).end == "complete"


async def test_a_fault_at_a_pace(sim: ProviderSimulator) -> None:
    """The answer that goes wrong may be slow at first."""
    sim.script("*", then=Cut(after=2, reply=Reply(rate=50)))
    loop = asyncio.get_running_loop()
    start = loop.time()
    await ask(sim, STREAM)
    assert loop.time() - start >= 1 / 50


async def test_faults_break_tool_calls_too(sim: ProviderSimulator) -> None:
    """Pieces are then those of the arguments."""
    sim.script("*", then=Cut(after=2, reply=Reply(tool_calls=[{"name": "f", "args": {"x": 1}}])))
    wire = await ask(sim, STREAM)
    arguments = [call["function"]["arguments"] for d in wire.deltas for call in d["tool_calls"]]
    assert arguments == ["", "{", '"']
    plain = await ask(sim)
    assert plain.body.decode().endswith('"arguments":"{\\"')


async def test_a_step_of_ones_own(sim: ProviderSimulator) -> None:
    """`play` is all it takes."""

    class Teapot(Step):
        async def play(self, exchange: Exchange) -> None:
            exchange.respond(418, b"I am a teapot", "text/plain")

    sim.script("*", then=Teapot())
    assert (await ask(sim)).body == b"I am a teapot"
    assert sim.requests[0].step == "Teapot"


async def test_a_step_that_fails_closes_the_connection_and_is_reported(
    sim: ProviderSimulator,
) -> None:
    """The client is not left waiting, and the loop's exception handler learns why."""

    class Broken(Step):
        async def play(self, exchange: Exchange) -> None:
            raise LookupError("nothing to say")

    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    sim.script("*", then=Broken())
    assert (await ask(sim)).end == "closed"
    assert [type(context["exception"]) for context in reported] == [LookupError]

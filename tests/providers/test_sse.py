"""The reader of responses: bytes off an SDK's transport become chunks, or a clear error."""

from __future__ import annotations

import asyncio
import gzip
import json
import time

import pytest

from langchain_resilient.providers import create_provider, sse
from langchain_resilient.providers.errors import AnswerError
from langchain_resilient.providers.sse import decode_body, open_answer
from tests.providers.asking import ask, http, replying, request
from tests.providers.asking import sse as streamed

CHUNK = {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}
DATA = f"data: {json.dumps(CHUNK)}"
END = 'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
DONE = "data: [DONE]"


class Response:
    """An open response that brings some pieces, and remembers what became of it."""

    status_code = 200

    def __init__(self, *pieces, kind="text/event-stream", hang=False):
        self.headers = {"content-type": kind}
        self.pieces = list(pieces)
        self.hang = hang
        self.closed = 0

    async def aiter_bytes(self):
        while self.pieces:
            piece = self.pieces.pop(0)
            if isinstance(piece, Exception):
                raise piece
            yield piece
        if self.hang:
            await asyncio.sleep(60)

    async def aclose(self):
        self.closed += 1


def events(*lines):
    return "".join(f"{line}\n\n" for line in lines).encode()


async def read(response, *, stream=True, secrets=()):
    answer = open_answer(response, stream=stream, secrets=secrets)
    try:
        return [chunk async for chunk in answer]
    finally:
        await answer.aclose()


@pytest.mark.parametrize("delta", ["[1]", '["role"]', "1", "null", '"text"'])
async def test_nonsense_in_a_broken_chunk_says_nothing(delta):
    """Found by fuzzing: a list where the text should stand was a defect of ours."""
    broken = 'data: {"choices":[{"delta":' + delta + "}]}}"
    assert await read(Response(events(DATA, broken, END, DONE))) == [CHUNK, json.loads(END[6:])]


async def test_events_become_chunks_in_order():
    """However the network cut them."""
    whole = events(DATA, END, DONE)
    for size in (1, 7, 100, len(whole)):
        pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
        chunks = await read(Response(*pieces))
        assert [chunk["choices"][0]["delta"] for chunk in chunks] == [{"content": "Hi"}, {}]


@pytest.mark.parametrize("noise", [": PROCESSING", "data: ping", "data:", "data: []", "data: null",
                                   "data: 7", 'data: "x"', "id: 7", "retry: 100",
                                   "event: ping\ndata: ping"])  # fmt: skip
async def test_what_carries_nothing_is_skipped(noise):
    """Keep-alives and whatever proxies put in."""
    assert await read(Response(events(noise, DATA, noise, DONE))) == [CHUNK]


@pytest.mark.parametrize("name", ["message", "chunk", "completion"])
async def test_an_event_may_have_a_name(name):
    """Some servers give every one the same."""
    assert await read(Response(events(f"event: {name}\n{DATA}", DONE))) == [CHUNK]


async def test_a_page_inside_a_stream_is_an_error():
    """It may stand in place of a chunk."""
    response = Response(events(DATA, "<html><h1>502 Bad Gateway</h1></html>", END, DONE))
    with pytest.raises(AnswerError, match="a page inside the stream"):
        await read(response)


SPOILT = ['data: {"choices":[{"ind', 'data: {"a": "\x00"}', "data: {]",
          'data: {"choices":[{"index":0,"delta":{"role":"assi',
          'data: {"choices":[{"index":0,"delta":{"content":"']  # fmt: skip


@pytest.mark.parametrize("spoilt", SPOILT)
async def test_a_chunk_that_cannot_be_read_is_skipped_if_the_stream_goes_on(spoilt):
    """It shows nothing of the answer."""
    assert await read(Response(events(DATA, spoilt, END, DONE))) == [CHUNK, json.loads(END[6:])]


async def test_a_stream_of_chunks_that_cannot_be_read_is_an_error():
    """Three may be chance; a fourth is a server that is broken."""
    response = Response(events(DATA, *SPOILT[:4], END, DONE))
    with pytest.raises(AnswerError, match="a chunk is not JSON"):
        await read(response)
    assert response.closed == 1


HOLES = ['{"content":"hel', '{"content":"hello"', '{"tool_calls":[{"index":0', '{"reasoning":"so']


@pytest.mark.parametrize("hole", HOLES)
async def test_a_chunk_that_shows_what_would_be_missing_is_an_error(hole):
    """Without it the answer would have a hole that nobody sees."""
    response = Response(events(DATA, 'data: {"choices":[{"index":0,"delta":' + hole, END, DONE))
    with pytest.raises(AnswerError, match="a chunk is not JSON"):
        await read(response)
    assert response.closed == 1


@pytest.mark.parametrize("before", [(DATA,), ()], ids=["in the middle", "first of all"])
async def test_a_chunk_of_the_same_id_that_breaks_off_early_is_an_error(before):
    """It is one of the stream's own: what it would have said is not known, but missing."""
    response = Response(events(*before, 'data: {"id": "c", "model": "m", "', DATA, END, DONE))
    with pytest.raises(AnswerError, match="a chunk is not JSON"):
        await read(response)
    assert response.closed == 1


async def test_a_broken_chunk_of_another_id_is_skipped():
    """Nobody's text is missing for it."""
    foreign = 'data: {"id": "other", "model": "m", "'
    assert await read(Response(events(foreign, DATA, foreign, DONE))) == [CHUNK]


async def test_what_is_cut_off_at_the_end_is_no_error():
    """If the answer was whole before it, nothing is lost; if not, its `finish_reason` is."""
    assert len(await read(Response(events(DATA, END) + b'data: {"usage":{"prom'))) == 2


async def test_the_last_event_needs_no_empty_line():
    """If it is whole."""
    assert await read(Response(DATA.encode())) == [CHUNK]


ERRORS = [
    'data: {"error":{"message":"sorry"}}',
    'data: {"error":"sorry"}',
    'data: {"choices":[{"index":0,"finish_reason":"error"}],"error":{"message":"sorry"}}',
    'event: error\ndata: {"message":"sorry"}',
    'event: error\ndata: {"error":{"message":"sorry"}}',
    "event: error\ndata: sorry",
    'event: error\ndata: "sorry"',
]


@pytest.mark.parametrize("error", ERRORS)
async def test_an_error_event_is_raised_with_its_body(error):
    """Named or not, with choices (OpenRouter's) or without, JSON or not."""
    answer = open_answer(Response(events(DATA, error, END, DONE)), stream=True)
    assert await anext(answer) == CHUNK
    with pytest.raises(AnswerError) as caught:
        await anext(answer)
    assert "sorry" in json.dumps(caught.value.body)
    assert caught.value.status_code is None


@pytest.mark.parametrize("error", ["null", "{}", '""', "false"])
async def test_an_error_that_says_nothing_is_none(error):
    """Together sends `"error": null` with every answer."""
    chunk = f'{{"choices":[],"error":{error}}}'
    assert len(await read(Response(events(f"data: {chunk}", DONE)))) == 1


async def test_a_broken_connection_is_raised_as_it_is():
    """After the chunks that came."""
    answer = open_answer(Response(events(DATA), ConnectionResetError()), stream=True)
    assert await anext(answer) == CHUNK
    with pytest.raises(ConnectionResetError):
        await anext(answer)


@pytest.mark.parametrize(("stream", "kind", "body"), [
    (True, "text/event-stream", events(DATA, DONE)),
    (True, "text/event-stream;charset=utf-8", events(DATA, DONE)),
    (True, "", events(DATA, DONE)),
    (True, "text/plain", events(DATA, DONE)),
    (True, "application/json", json.dumps(CHUNK).encode()),
    (True, "application/json; charset=utf-8", json.dumps(CHUNK, indent=2).encode()),
    (False, "application/json", json.dumps(CHUNK).encode()),
    (False, "", json.dumps(CHUNK).encode()),
    (False, "text/event-stream", events(DATA, DONE)),
])  # fmt: skip
async def test_the_content_type_says_how_to_read(stream, kind, body):
    """A server may answer plainly where a stream was wanted, and the other way round."""
    assert await read(Response(body, kind=kind), stream=stream) == [CHUNK]


async def test_a_page_instead_of_a_stream_is_an_error():
    """Some proxies answer 200 with one."""
    with pytest.raises(AnswerError, match="not JSON: '<html>"):
        await read(Response(b"<html>Welcome</html>", kind="text/html"))


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"7", b'"x"', b"{", b"\xff\xfe", b"OK"])
def test_a_body_that_is_no_object_is_an_error(body):
    """With the status of the response, for it is no error object."""
    with pytest.raises(AnswerError) as caught:
        decode_body(body)
    assert caught.value.status_code == 200


def test_a_body_may_be_an_error():
    """Azure's content filter answers 200 with one."""
    with pytest.raises(AnswerError) as caught:
        decode_body(b'{"error":{"code":"content_filter"},"choices":[]}')
    assert caught.value.body["error"]["code"] == "content_filter"


def test_numbers_that_need_many_bits_are_read():
    """Together's seeds are above 2 ** 63."""
    assert decode_body(b'{"seed":9876543210987654321}') == {"seed": 9876543210987654321}


async def test_a_body_without_end_is_given_up(monkeypatch):
    """It must not fill the memory."""
    monkeypatch.setattr(sse, "MAX_BODY_BYTES", 1000)
    with pytest.raises(AnswerError, match="longer than 1000 bytes"):
        await read(Response(*[b" " * 300] * 10, kind="application/json"))


@pytest.mark.parametrize("reply", [
    Response(events('data: {"error":{"message":"hush-hush"}}')),
    Response(events('data: {"choices":[{"delta":{"content":"hush-hush')),
    Response(events("event: error\ndata: hush-hush")),
    Response(b"hush-hush", kind="application/json"),
    Response(b'{"error":"hush-hush"}', kind="application/json"),
])  # fmt: skip
async def test_secrets_are_kept_out_of_errors(reply):
    """The body that comes with them included."""
    with pytest.raises(AnswerError) as caught:
        await read(reply, secrets=["hush-hush"])
    assert "hush" not in f"{caught.value} {caught.value.body}"


async def test_a_finished_stream_is_read_to_its_end():
    """The rest of the body must be gone before the connection can serve again."""
    response = Response(events(DATA, DONE), b"", b"trailer")
    await read(response)
    assert (response.pieces, response.closed) == ([], 1)


async def test_a_server_that_does_not_hang_up_is_not_waited_for():
    """The answer is known."""
    response = Response(events(DATA, DONE), hang=True)
    began = time.perf_counter()
    await read(response)
    assert time.perf_counter() - began < 0.5
    assert response.closed == 1


async def test_an_unfinished_stream_is_dropped_at_once():
    """Not read to its end: the provider must stop."""
    response = Response(events(DATA), events(DATA), hang=True)
    answer = open_answer(response, stream=True)
    await anext(answer)
    await answer.aclose()
    assert (len(response.pieces), response.closed) == (1, 1)


async def test_what_goes_wrong_after_the_answer_is_ignored():
    """It was whole."""
    response = Response(events(DATA, DONE), ConnectionResetError())
    assert await read(response) == [CHUNK]
    assert response.closed == 1


async def test_a_plain_answer_is_one_chunk():
    """And then nothing."""
    answer = open_answer(Response(b"{}", kind="application/json"), stream=False)
    assert [await anext(answer), await anext(answer, None)] == [{}, None]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_compressed_answer_is_read(stream):
    """The SDKs ask for it."""
    whole = json.dumps({"choices": [{"index": 0, "message": {"content": "Hi"}}]}).encode()
    data = events(DATA, END, DONE) if stream else whole
    kind = "text/event-stream" if stream else "application/json"
    reply = http(gzip.compress(data), kind=kind, Content_Encoding="gzip")
    async with replying(reply[:150], reply[150:], delay=0.005) as target:
        assert (await ask(create_provider(target), stream=stream)).text == "Hi"


async def test_a_stream_may_come_byte_by_byte():
    """Over a real socket."""
    reply = streamed(DATA, END, DONE)
    async with replying(*(reply[n : n + 1] for n in range(len(reply)))) as target:
        response = await ask(create_provider(target), request())
    assert (response.text, response.fault()) == ("Hi", None)

"""The reader of responses: bytes off an SDK's transport become chunks, or a clear error."""

from __future__ import annotations

import asyncio
import gzip
import json
import time

import pytest

from langchain_resilient.faults import FaultKind
from langchain_resilient.providers import create_provider, sse
from langchain_resilient.providers.errors import AnswerError, classify
from langchain_resilient.providers.responses import ResponsesStream
from langchain_resilient.providers.sse import decode_body, open_answer
from langchain_resilient.wire.accumulator import ResponseAccumulator
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


async def test_events_become_chunks_in_order():
    """However the network cut them."""
    whole = events(DATA, END, DONE)
    for size in (1, 7, 100, len(whole)):
        pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
        chunks = await read(Response(*pieces))
        assert [chunk["choices"][0]["delta"] for chunk in chunks] == [{"content": "Hi"}, {}]


@pytest.mark.parametrize("noise", [": PROCESSING", "data: ping", "data:", "data: []", "data: null",
                                   "data: 7", 'data: "ping"', "id: 7", "retry: 100",
                                   "data: 2026-01-02T03:04:05Z", "data: : keep-alive", "data: --",
                                   "event: ping\ndata: still here", "ping"])  # fmt: skip
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


UNREADABLE = [
    'data: {"choices":[{"ind',
    'data: {"choices":[{"index":0,"delta":{"role":"assi',
    'data: {"choices":[{"index":0,"delta":{"content":"hel',
    'data: {"choices":[{"index":0,"delta":{"content":"hello"',
    'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0',
    'data: {"id": "c", "model": "m", "',
    'data: {"id": "other", "model": "m", "',
    'data: {"choices":[{"delta":{"content":"Hi"}}]}}',
    'data: tent":"hello"}}]}',
    "data: {]",
    "data: Hello world",
    'data: "Hello"',
    "data: \x01\x02{",
]


@pytest.mark.parametrize("before", [(DATA,), ()], ids=["in the middle", "first of all"])
@pytest.mark.parametrize("hole", UNREADABLE)
async def test_what_may_be_text_and_cannot_be_read_is_an_error(hole, before):
    """Whatever it was, without it the answer would have a hole that nobody sees."""
    response = Response(events(*before, hole, END, DONE))
    with pytest.raises(AnswerError, match="is not JSON") as caught:
        await read(response)
    assert classify(caught.value).kind is FaultKind.BROKEN
    assert response.closed == 1


def chunk_of(content):
    return '{"id":"c","choices":[{"index":0,"delta":{"content":' + content + "}}]}"


ODD = [
    (chunk_of('"a\tb"'), "a\tb"),
    (chunk_of('"a\x00b"'), "a\x00b"),
    (chunk_of(r'"C:\d"'), "C:\\d"),
    (chunk_of(r'"it\'s"'), "it's"),
    (chunk_of('"5 mg"')[:-1] + ",}", "5 mg"),
    (chunk_of('"5 mg"') + ",", "5 mg"),
    ("{'choices': [{'index': 0, 'delta': {'content': \"it's\", 'x': None}}]}", "it's"),
    ("{'choices': [{'delta': {'content': 'say \"no\"', 'ok': True}}]}", 'say "no"'),
    (chunk_of('"5 mg"')[:-1] + ',"logprobs":{"a":-inf,"b":nan}}', "5 mg"),
    ("data: " + chunk_of('"5 mg"'), "5 mg"),
    ("data: data: " + chunk_of('"5 mg"'), "5 mg"),
    ("[" + chunk_of('"5 mg"') + "]", "5 mg"),
    ("[" + chunk_of('"5 "') + "," + chunk_of('"mg"') + "]", "5 mg"),
    ("\ufeff" + chunk_of('"5 mg"'), "5 mg"),
    ("\x00" + chunk_of('"5 mg"'), "5 mg"),
    (chunk_of('"5 "') + "\ndata: " + chunk_of('"mg"'), "5 mg"),
    (chunk_of(r'"lone \ud83d half"'), "lone \ufffd half"),
    (chunk_of(r'"low \ude00"'), "low \ufffd"),
]


@pytest.mark.parametrize(("event", "text"), ODD)
async def test_a_chunk_that_is_nearly_json_is_read(event, text):
    """Strict parsers refuse it; its words must not be missing."""
    assert await text_of(f"data: {event}") == f"Dose: {text} per day."


async def text_of(*odd):
    ends = (f"data: {chunk_of(json.dumps(text))}" for text in ("Dose: ", " per day."))
    first, last = ends
    chunks = await read(Response(events(first, *odd, last, END, DONE)))
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)


async def test_a_byte_that_is_no_character_is_replaced():
    """It hides neither the chunk nor the rest of its text."""
    data = events(DATA, "data: " + chunk_of('"5 mX"'), END, DONE).replace(b"X", b"\xff")
    chunks = await read(Response(data))
    assert chunks[1]["choices"][0]["delta"]["content"] == "5 m\ufffd"


async def test_a_bare_json_line_is_a_chunk():
    """Some servers forget `data:` now and then."""
    assert await text_of(chunk_of('"5 mg"')) == "Dose: 5 mg per day."


HALVES = [
    (["\\ud83d", "\\ude00 you"], "😀 you"),
    (["a \\ud83d", "\\ude00"], "a 😀"),
    (["\\ud83d", "no"], "\ufffdno"),
    (["\\ud83d", "", "\\ude00"], "😀"),
    (["\\ud83d", "\\ud83d\\ude00"], "\ufffd😀"),
    (["\\ud83d\\ude00\\ud83d", "\\ude01!"], "😀😁!"),
]


@pytest.mark.parametrize(("pieces", "text"), HALVES)
async def test_a_character_may_be_split_over_two_chunks(pieces, text):
    """As halves of a surrogate pair; a half without its other half is one unknown character."""
    odd = ["data: " + chunk_of(f'"{piece}"') for piece in pieces]
    assert await text_of(*odd) == f"Dose: {text} per day."


@pytest.mark.parametrize("end", [(END, DONE), (DONE,), ()], ids=["whole", "done", "cut"])
async def test_half_a_character_at_the_end_is_not_lost(end):
    """Nor does it hold the end up."""
    chunks = await read(Response(events(DATA, "data: " + chunk_of(r'"!\ud83d"'), *end)))
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(delta.get("content", "") for delta in deltas) == "Hi!\ufffd"


async def test_the_halves_of_different_texts_do_not_meet():
    """Arguments of two calls, and the text, each wait for their own other half."""
    deltas = [
        r'{"content":"t\ud83d","tool_calls":[{"index":0,"function":{"arguments":"a\ud83d"}}]}',
        r'{"tool_calls":[{"index":1,"function":{"arguments":"b\ude00"}}]}',
        r'{"tool_calls":[{"index":0,"function":{"arguments":"\ude01"}}]}',
        r'{"content":"\ude02"}',
    ]
    lines = [f'data: {{"choices":[{{"index":0,"delta":{delta}}}]}}' for delta in deltas]
    response = ResponseAccumulator()
    for chunk in await read(Response(events(*lines, END, DONE))):
        response.add(chunk)
    calls = response.choices[0].tools.calls
    assert (response.text, [call.args for call in calls]) == ("t😂", ["a😁", "b\ufffd"])


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
    'error: {"code":500,"message":"sorry"}',
    "error: sorry",
    'data: {"detail":"sorry"}',
    'data: {"message":"sorry"}',
    'data: {"code":"Throttling","message":"sorry","request_id":"1"}',
    'data: {"object":"error","message":"sorry","type":"server_error","code":null}',
    'data: {"choices":[],"object":"error","message":"sorry"}',
    'data: {"choices":[{"index":0,"delta":{"content":""},"error":{"message":"sorry"}}]}',
    "data: {'error': {'message': 'sorry'}}",
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


KINDS = ["text/event-stream", "text/event-stream;charset=utf-8", "application/json", "text/html",
         "text/plain", "application/x-ndjson", ""]  # fmt: skip
BODIES = [
    events(DATA, DONE),
    b"\xef\xbb\xbf" + events(DATA, DONE),
    b"\n\n" + events(DATA, DONE),
    b": hello\n\n" + events(DATA, DONE),
    b"event: message\n" + events(DATA, DONE),
    json.dumps(CHUNK).encode(),
    json.dumps(CHUNK, indent=2).encode(),
    b"\xef\xbb\xbf" + json.dumps(CHUNK).encode(),
    b"   \n" + json.dumps(CHUNK).encode() + b"\n",
    json.dumps([CHUNK]).encode(),
]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("size", [1, 10_000])
async def test_the_first_bytes_say_how_to_read(stream, kind, body, size):
    """A server may answer plainly where a stream was wanted, and label it as something else."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    assert await read(Response(*pieces, kind=kind), stream=stream) == [CHUNK]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("end", ["", "\n", "\n[DONE]\n", "\ndata: [DONE]"])
async def test_json_objects_on_lines_are_a_stream(stream, kind, end):
    """Some gateways send them without `data:`."""
    body = "\n".join([DATA[6:], "", END[6:]]) + end
    chunks = await read(Response(body.encode(), kind=kind), stream=stream)
    assert chunks == [CHUNK, json.loads(END[6:])]


async def test_lines_of_json_come_as_they_come():
    """Not when all are there."""
    response = Response(DATA[6:].encode() + b"\n", hang=True)
    answer = open_answer(response, stream=True)
    assert await anext(answer) == CHUNK
    await answer.aclose()


async def test_a_page_instead_of_a_stream_is_an_error():
    """Some proxies answer 200 with one."""
    with pytest.raises(AnswerError, match="not JSON, but a page: '<html>"):
        await read(Response(b"<html>Welcome</html>", kind="text/html"))


@pytest.mark.parametrize("body", [b"upstream connect error", b"OK", b"{", b'{"a":'])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_body_that_is_no_answer_is_shown_in_the_error(body, stream):
    """Whatever was asked for."""
    with pytest.raises(AnswerError, match="the answer is not JSON") as caught:
        await read(Response(body), stream=stream)
    assert body.decode() in str(caught.value)


BODY_ERRORS = [
    ({"detail": "Model is overloaded"}, FaultKind.SERVER),
    ({"detail": {"message": "Model is overloaded"}}, FaultKind.SERVER),
    ({"message": "Model is overloaded"}, FaultKind.SERVER),
    ({"error_msg": "Model is overloaded", "error_code": 17}, FaultKind.SERVER),
    ({"code": "Throttling", "message": "Model is overloaded"}, FaultKind.RATE_LIMIT),
    ({"code": "Throttling.RateQuota", "message": "Model is overloaded"}, FaultKind.RATE_LIMIT),
    ({"object": "error", "message": "Model is overloaded", "code": 429}, FaultKind.RATE_LIMIT),
    ({"object": "error", "message": "Model is overloaded", "code": 401}, FaultKind.AUTH),
    ({"choices": [{"error": {"message": "Model is overloaded", "code": 503}}]}, FaultKind.SERVER),
    ([{"error": {"message": "Model is overloaded", "code": 503}}], FaultKind.SERVER),
]


@pytest.mark.parametrize(("body", "kind"), BODY_ERRORS)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("label", ["application/json", "text/event-stream"])
async def test_an_error_inside_a_200_keeps_its_words_and_its_kind(body, kind, stream, label):
    """Under whatever names it came."""
    with pytest.raises(AnswerError) as caught:
        await read(Response(json.dumps(body).encode(), kind=label), stream=stream)
    fault = classify(caught.value)
    assert (fault.kind, fault.message) == (kind, "Model is overloaded")


@pytest.mark.parametrize("chunk", [
    {"usage": {"prompt_tokens": 1}}, {"id": "x", "model": "m"}, {"type": "ping"},
    {"choices": [], "message": "hello"}, {"status": "ok", "code": 0},
    {"message": {"role": "assistant", "content": "x"}},
])  # fmt: skip
async def test_a_chunk_without_choices_is_no_error(chunk):
    """Unless it says so."""
    assert await read(Response(events(DATA, f"data: {json.dumps(chunk)}", DONE))) == [CHUNK, chunk]


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
        await read(Response(*[b" " * 300] * 10, kind="application/json"), stream=False)


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


@pytest.mark.parametrize(("parts", "expected"), [(1, 1), (3, 3)])
async def test_events_that_only_show_life_count_once_for_what_came_together(parts, expected):
    """The Responses API has many: each is worth a look only while it is the newest news."""
    event = b'event: response.web_search_call.searching\ndata: {"type":"response.x","n":1}\n\n'
    pieces = [event * 3] if parts == 1 else [event] * 3
    answer = ResponsesStream(Response(*pieces))
    chunks = [chunk async for chunk in answer]
    assert chunks == [{"event": "response.x", "choices": []}] * expected

"""The guard of responses: codings, and the bodies of errors."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from functools import partial
from types import SimpleNamespace

import aiohttp
import httpx
import httpx_aiohttp
import openai
import pytest
import together

from langchain_resilient import FaultKind as K
from langchain_resilient import Target
from langchain_resilient.providers import create_provider, request_template
from langchain_resilient.providers import http as provider_http
from langchain_resilient.providers.errors import AnswerError, classify
from tests.providers.asking import (
    DIALECTS,
    TRANSPORTS,
    ask,
    fault_of,
    http,
    listening,
    replying,
    request,
)
from tests.providers.asking import sse as streamed

TEXT = b"Hello, world! " * 20_000


class Body(httpx.AsyncByteStream):
    """Brings some pieces, and remembers whether it was closed."""

    def __init__(self, *pieces):
        self.pieces = pieces
        self.closed = False

    async def __aiter__(self):
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, float):
                await asyncio.sleep(piece)
            else:
                yield piece

    async def aclose(self):
        self.closed = True


async def guarded(*pieces, coding="", status=200):
    headers = {"content-encoding": coding} if coding else {}
    response = httpx.Response(status, headers=headers, stream=Body(*pieces))
    await provider_http.bounded_bodies(httpx)(response)
    return response


async def pieces_of(response):
    return [piece async for piece in response.aiter_bytes()]


GZIPPED = gzip.compress(TEXT, mtime=0)  # the same in each of the processes that test
RAW = zlib.compressobj(wbits=-15)


@pytest.mark.parametrize(("coding", "data"), [
    ("gzip", GZIPPED),
    ("x-gzip", GZIPPED),
    ("GZIP, identity", GZIPPED),
    ("deflate", zlib.compress(TEXT)),
    ("deflate", RAW.compress(TEXT) + RAW.flush()),
    ("utf-8", TEXT),
    ("aws-chunked", TEXT),
    ("", TEXT),
])  # fmt: skip
@pytest.mark.parametrize("size", [7, 10**6])
async def test_a_body_is_decoded(coding, data, size):
    """However it is cut; codings that are none are no matter."""
    cut = [data[at : at + size] for at in range(0, len(data), size)]
    assert b"".join(await pieces_of(await guarded(*cut, coding=coding))) == TEXT


async def test_a_bomb_goes_off_in_small_steps():
    """A piece of it may be a thousand times as long as it was."""
    pieces = await pieces_of(await guarded(gzip.compress(bytes(10**7)), coding="gzip"))
    assert max(map(len, pieces)) <= 64 * 1024


@pytest.mark.parametrize("coding", ["gzip, gzip", "br", "zstd", "deflate, br"])
async def test_a_coding_that_nobody_asked_for_is_refused(coding):
    """By name; and the connection is freed."""
    response = await guarded(b"x", coding=coding)
    source = response.stream._source
    with pytest.raises(AnswerError, match="is encoded as") as caught:
        await pieces_of(response)
    assert (classify(caught.value).kind, source.closed) == ("broken", True)


async def test_a_body_that_is_not_encoded_as_it_says_is_refused():
    """And said so."""
    with pytest.raises(AnswerError, match="is not encoded as 'gzip'"):
        await pieces_of(await guarded(b"no gzip", coding="gzip"))


async def test_what_follows_the_end_of_a_body_is_not_read_for_ever():
    """Only so much that an honest connection can serve again."""
    body = gzip.compress(TEXT)
    response = await guarded(body, *[b"x" * 1000] * 10**6, coding="gzip")
    async with asyncio.timeout(1):
        assert b"".join(await pieces_of(response)) == TEXT


async def test_of_an_error_only_the_beginning_is_read():
    """Its status has told what to believe."""
    response = await guarded(*[b"x" * 10_000] * 1000, status=500)
    assert (
        provider_http.MAX_ERROR_BYTES
        <= len(await response.aread())
        < 2 * provider_http.MAX_ERROR_BYTES
    )


@pytest.mark.parametrize("end", [httpx.ReadError("reset"), 60.0])
async def test_an_error_that_breaks_off_is_still_that_error(end, monkeypatch):
    """The connection was reset, or nothing came any more."""
    monkeypatch.setattr(provider_http, "ERROR_SECONDS", 0.01)
    assert await (await guarded(b"so", end, status=429)).aread() == b"so"


@pytest.mark.parametrize("charset", ["utf-16", "nonsense", "idna"])
async def test_a_charset_does_not_hide_the_status(charset):
    """Some decoders raise where they should replace."""
    body = http(b"\xff\xfe no", "503 Busy", f"text/plain; charset={charset}")
    async with replying(body) as target:
        fault = await fault_of(create_provider(target))
    assert (fault.kind, fault.status) == ("server", 503)


async def test_a_cookie_is_not_kept():
    """One that no header may hold would spoil every later request."""
    end = 'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}'
    answer = streamed(end).replace(b"\r\n", b"\r\nSet-Cookie: a=\xc3\xa9\xff\r\n", 1)
    async with listening(answer) as raw:
        from langchain_resilient import Target

        provider = create_provider(
            Target("openai:m", base_url=f"{raw.url}/v1", api_key="sk-0123456789")
        )
        responses = [await ask(provider, request()) for _ in range(2)]
    assert [response.text for response in responses] == ["Hi", "Hi"]
    assert not any("cookie" in head.lower() for head in raw.heads)


async def test_what_is_no_http_has_no_status():
    """The 400 is aiohttp's own; two of them would pass for a bad request."""
    async with replying(b"HTTP/1.1 200 OK\r\nX-Bomb: " + b"x" * 100_000 + b"\r\n\r\n") as target:
        assert (await fault_of(create_provider(target))).kind == "connection"


# -- what servers do with requests ---------------------------------------------------------------

ANSWER = '{"choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}]}'


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_headers_of_sixty_kibibytes_are_read(monkeypatch, dialect, transport):
    """Gateways put whole policies into one."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_TRANSPORT", transport)
    async with replying(http(ANSWER, x_policy="x" * 60_000)) as target:
        made = create_provider(target.model_copy(update={"provider": dialect}))
        assert (await ask(made, stream=False)).text == "Hi"


class Moving:
    """A server that has moved to another address of its own, or elsewhere."""

    def __init__(self, *, status=307, location="/v2{path}", moves=1):
        self.status, self.location, self.moves = status, location, moves
        self.paths = []

    async def serve(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        await reader.readexactly(int(head.lower().partition("content-length:")[2].split()[0]))
        path = head.split()[1]
        self.paths.append(path)
        if path.count("/v2") < self.moves:
            to = {"location": self.location.format(path=path)}
            writer.write(http("{}", status=f"{self.status} Moved", **to))
        else:
            writer.write(http(ANSWER))
        writer.close()


async def moved_fault(server, times=2, dialect="openai"):
    """Ask it some times; what went wrong the last time."""
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    async with listener:
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        server.location = server.location.replace("HERE", url)
        made = create_provider(Target(f"{dialect}:m", base_url=url, api_key="sk-0123456789"))
        for _ in range(times):
            try:
                assert (await ask(made, stream=False)).text == "Hi"
            except openai.APIStatusError as error:
                return classify(error)
            except together.APIStatusError as error:
                return classify(error)
    return None


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("location", ["/v2{path}", "HERE/v2{path}"])
async def test_a_move_within_the_server_is_followed_and_remembered(
    monkeypatch, dialect, transport, status, location
):
    """The second request goes there at once."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_TRANSPORT", transport)
    server = Moving(status=status, location=location)
    assert await moved_fault(server, dialect=dialect) is None
    assert [path.startswith("/v2/") for path in server.paths] == [False, True, True]


@pytest.mark.parametrize(
    ("status", "location"),
    [
        (307, "http://elsewhere.test/v2{path}"),
        (308, "http://127.0.0.1:1/v2{path}"),
        (307, "//elsewhere.test/v2{path}"),
        (307, "https://127.0.0.1/v2{path}"),
        (301, "/v2{path}"),
        (302, "/v2{path}"),
        (303, "/v2{path}"),
        (307, "{path}"),
    ],
)
async def test_no_other_move_is_followed(status, location):
    """Neither to another server nor as a GET; nor is it tried again."""
    server = Moving(status=status, location=location)
    fault = await moved_fault(server)
    assert (fault.kind, fault.status, fault.should_retry) == (K.CONNECTION, status, False)
    assert len(server.paths) == 1


async def test_moves_without_end_are_not_followed_without_end():
    """A circle is a fault like any other."""
    server = Moving(moves=100)
    assert (await moved_fault(server)).status == 307
    assert len(server.paths) == 4


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_kept_connection_that_the_server_closes_on_reuse_is_no_fault(
    monkeypatch, dialect, transport
):
    """The request is sent again at once, on a new one; a new one that is closed is a fault."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_TRANSPORT", transport)
    requests, refuse_all = [], False

    async def serve(reader, writer):
        for number in range(2):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            await reader.readexactly(int(head.partition("content-length:")[2].split()[0]))
            requests.append(number)
            if number or refuse_all:
                break  # it had decided to close before it saw the request
            kept = http(ANSWER).replace(b"Connection: close", b"Connection: keep-alive")
            length = f"Content-Length: {len(ANSWER)}\r\nContent-Type".encode()
            writer.write(kept.replace(b"Content-Type", length, 1))
            await writer.drain()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        made = create_provider(Target(f"{dialect}:m", base_url=url, api_key="sk-0123456789"))
        for _ in range(3):
            assert (await ask(made, stream=False)).text == "Hi"
        assert requests == [0, 1, 0, 1, 0]
        refuse_all = True
        fault = await fault_of(made, stream=False)
        assert fault.kind is K.CONNECTION
        assert requests[5:] == [1, 0]
        # What a server closes after a while it had accepted: another target's turn.
        monkeypatch.setattr(request_template, "STALE_SECONDS", 0.0)
        refuse_all = False
        assert (await ask(made, stream=False)).text == "Hi"
        assert (await fault_of(made, stream=False)).kind is K.CONNECTION
    assert requests[7:] == [0, 1]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (
            "422 Unprocessable",
            '{"detail":[{"loc":["body","stream"],"msg":"Input should be false"}]}',
        ),
        ("500 Error", '{"error":{"message":"Streaming is not supported for this model"}}'),
        ("501 Not Implemented", '{"error":{"message":"stream is not supported"}}'),
        ("400 Bad Request", '{"error":{"message":"No.","param":"stream"}}'),
    ],
)
async def test_a_refusal_to_stream_is_known_under_any_status(status, body):
    """Then the target is asked plainly, once."""
    async with replying(http(body, status=status)) as target:
        assert (await fault_of(create_provider(target))).kind is K.NO_STREAMING


@pytest.mark.parametrize("status", ["500 Error", "501 Not Implemented"])
async def test_a_plain_breakdown_says_nothing_of_streams(status):
    """It is the server's."""
    async with replying(http('{"error":{"message":"boom"}}', status=status)) as target:
        assert (await fault_of(create_provider(target))).kind is K.SERVER


async def test_an_error_that_many_calls_share_keeps_none_of_them():
    """Wherever we closed a connection, aiohttp raises one object: it would hold every reader."""
    shared = aiohttp.ClientConnectionError("Connection closed")

    async def readany() -> bytes:
        raise shared

    def request() -> httpx.Request:
        return httpx.Request("POST", "http://127.0.0.1/v1")

    transport = httpx_aiohttp.AiohttpTransport()
    post = provider_http.DirectPost(
        None, httpx, transport, url="http://127.0.0.1/v1", headers=[], timeout={}
    )
    content = SimpleNamespace(readany=readany)
    answer = SimpleNamespace(content=content, headers={}, status=200)
    for _ in range(3):
        reader = provider_http.PlainResponse(answer, partial(post._as_httpx, request))
        with pytest.raises(httpx.TransportError) as caught:
            await anext(reader)
        assert caught.value.__cause__ is shared
        assert shared.__traceback__ is None

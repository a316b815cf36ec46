"""The guard of responses: codings, and the bodies of errors."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import httpx
import pytest

from langchain_resilient.providers import create_provider
from langchain_resilient.providers import http as provider_http
from langchain_resilient.providers.errors import AnswerError, classify
from tests.providers.asking import ask, fault_of, http, listening, replying, request
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


RAW = zlib.compressobj(wbits=-15)


@pytest.mark.parametrize(("coding", "data"), [
    ("gzip", gzip.compress(TEXT)),
    ("x-gzip", gzip.compress(TEXT)),
    ("GZIP, identity", gzip.compress(TEXT)),
    ("deflate", zlib.compress(TEXT)),
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

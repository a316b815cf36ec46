"""After its first request a `RequestTemplate` builds them itself: the same ones, at less cost."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import httpx2
import openai
import pytest
import together

from langchain_resilient import FaultKind as K
from langchain_resilient.providers.errors import classify
from langchain_resilient.providers.http import http_client
from langchain_resilient.providers.request_template import RequestTemplate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

URL = "http://x.test/v1/chat/completions"
BODY = {"model": "m", "messages": [{"role": "user", "content": "café \U0001f600"}]}
SDKS = [
    pytest.param((openai, httpx2, openai.AsyncOpenAI), id="openai"),
    pytest.param((together, httpx, together.AsyncTogether), id="together"),
]
ERRORS = {
    400: '{"error": {"message": "bad", "code": "c"}}',
    401: '{"error": {"message": "who?"}}',
    403: "forbidden",
    404: "{}",
    409: '{"detail": "twice"}',
    418: "[]",
    422: '{"error": "no"}',
    429: '{"error": {"message": "slow down", "type": "rate"}}',
    500: "<html>oops</html>",
    503: "",
    302: "",
}


class Server:
    """Answers by a script, and keeps what it was sent."""

    def __init__(self, lib: Any) -> None:
        self.lib = lib
        self.requests: list[Any] = []
        self.script: list[Any] = []

    def __call__(self, request: Any) -> Any:
        self.requests.append(request)
        step = self.script.pop(0) if self.script else (200, "{}", {})
        if isinstance(step, Exception):
            raise step
        status, text, headers = step
        return self.lib.Response(status, text=text, headers=headers)


def made(parts: Any, **headers: str) -> tuple[RequestTemplate, Server]:
    """Make a sender whose server is a function."""
    sdk, lib, client = parts
    server = Server(lib)
    http = lib.AsyncClient(transport=lib.MockTransport(server), follow_redirects=False)
    own = client(
        api_key="sk-0123456789",
        base_url="http://x.test/v1",
        max_retries=0,
        http_client=http,
        timeout=httpx.Timeout(None, connect=5.0),
        default_headers={"x-mine": "1", **headers},
    )
    return RequestTemplate(own, http, sdk, lib, URL), server


async def posted(sender: RequestTemplate, body: Any = BODY) -> BaseException | None:
    """What a request raises, and what it leaves open."""
    try:
        response: Any = await sender.post(body)
    except Exception as error:  # noqa: BLE001
        return error
    await response.aclose()
    return None


@pytest.mark.parametrize("parts", SDKS)
async def test_the_second_request_is_like_the_first(parts):
    """URL, headers, limits of time, and the body's value."""
    sender, server = made(parts)
    for _ in range(3):
        assert await posted(sender) is None
    first, *others = server.requests
    for other in others:
        assert other.url == first.url
        own = {"content-length"}
        assert {k: v for k, v in other.headers.items() if k not in own} == {
            k: v for k, v in first.headers.items() if k not in own
        }
        assert other.extensions["timeout"] == first.extensions["timeout"]
        assert json.loads(other.content) == json.loads(first.content) == BODY
        assert other.headers["content-length"] == str(len(other.content))
    await sender.close()


@pytest.mark.parametrize("parts", SDKS)
@pytest.mark.parametrize("status", ERRORS)
async def test_an_error_is_the_one_that_the_sdk_raises(parts, status):
    """Same class, words and body, whether it met the first request or a later one."""
    sender, server = made(parts)
    answer = (status, ERRORS[status], {"retry-after": "7", "location": "http://elsewhere.test"})
    server.script = [answer, (200, "{}", {}), answer]
    by_sdk, none, ours = [await posted(sender) for _ in range(3)]
    assert none is None
    assert type(ours) is type(by_sdk)
    assert isinstance(ours, parts[0].APIStatusError)
    assert str(ours) == str(by_sdk)
    assert ours.body == by_sdk.body
    assert ours.response.headers["retry-after"] == "7"
    assert ours.response.is_closed
    assert len(server.requests) == 3
    await sender.close()


@pytest.mark.parametrize("parts", SDKS)
@pytest.mark.parametrize("name", ["ConnectError", "ReadError", "ConnectTimeout", "ReadTimeout"])
async def test_no_response_is_the_error_that_the_sdk_raises(parts, name):
    """With the transport's own as its cause."""
    sender, server = made(parts)
    failure = getattr(parts[1], name)("it broke")
    server.script = [failure, (200, "{}", {}), failure]
    by_sdk, _, ours = [await posted(sender) for _ in range(3)]
    assert type(ours) is type(by_sdk)
    assert isinstance(ours, parts[0].APIConnectionError)
    assert ours.__cause__ is by_sdk.__cause__ is failure
    await sender.close()


@pytest.mark.parametrize("parts", SDKS)
async def test_an_object_that_is_nothing_in_json_is_the_callers_mistake(parts):
    """Whether it meets the first request or a later one: nothing is sent."""
    sender, server = made(parts)
    body = {"model": "m", "messages": object()}
    errors = [await posted(sender, b) for b in (body, BODY, body)]
    assert [classify(e).kind if e else None for e in errors] == [K.BAD_REQUEST, None, K.BAD_REQUEST]
    assert "object" in str(errors[0])
    assert len(server.requests) == 1
    await sender.close()


@pytest.mark.filterwarnings("ignore:a prompt holds half:UnicodeWarning")
@pytest.mark.parametrize("parts", SDKS)
async def test_half_of_a_surrogate_pair_is_sent_as_its_replacement(parts):
    """By the first request and by later ones."""
    sender, server = made(parts)
    body = {"model": "m", "messages": [{"role": "user", "name": "a\udc00", "content": "x\ud83d y"}]}
    for _ in range(2):
        assert await posted(sender, body) is None
    for sent in server.requests:
        (message,) = json.loads(sent.content)["messages"]
        assert message == {"role": "user", "name": "a\ufffd", "content": "x\ufffd y"}
    assert len(server.requests) == 2
    await sender.close()


@pytest.mark.parametrize("parts", SDKS)
async def test_a_cookie_stays_with_the_request_that_got_it(parts):
    """What a front door sets is not sent with every later request."""
    sender, server = made(parts)
    server.script = [(200, "{}", {"set-cookie": "one=1"})]
    for _ in range(2):
        await posted(sender)
    assert "cookie" not in server.requests[1].headers
    await sender.close()


@pytest.mark.parametrize("parts", SDKS)
async def test_a_key_for_one_request_is_no_pattern(parts):
    """Servers take a second request with the same `Idempotency-Key` for a repetition."""
    sender, server = made(parts, **{"Idempotency-Key": "once"})
    for _ in range(2):
        await posted(sender)
    assert sender._request_args is None
    assert len(server.requests) == 2
    await sender.close()


@pytest.mark.parametrize("parts", SDKS)
async def test_a_cancelled_reading_of_an_error_closes_it(parts):
    """Whoever goes away while an error's page comes leaves no connection behind."""
    sender, server = made(parts)
    await posted(sender)
    reading, closed = asyncio.Event(), asyncio.Event()

    class Slow(parts[1].AsyncByteStream):
        async def __aiter__(self):
            reading.set()
            await asyncio.Event().wait()
            yield b""

        async def aclose(self):
            closed.set()

    async def answer(request):
        return parts[1].Response(500, stream=Slow(), request=request)

    sender.http._transport = parts[1].MockTransport(answer)
    task = asyncio.create_task(sender.post(BODY))
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed.is_set()
    assert server.requests
    await sender.close()


# -- past the HTTP client --------------------------------------------------------------------------


class Wire:
    """A server of its own socket: it answers the first request plainly, and then by a script."""

    def __init__(self, *script: bytes) -> None:
        self.script = [plain(), *script]
        self.heads: list[dict[str, str]] = []
        self.bodies: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while self.script:
            try:
                text = (await reader.readuntil(b"\r\n\r\n")).decode()
            except asyncio.IncompleteReadError:
                break
            lines = [line.partition(": ") for line in text.split("\r\n")[1:-2]]
            self.heads.append({name.lower(): value for name, _, value in lines})
            self.bodies.append(await reader.readexactly(int(self.heads[-1]["content-length"])))
            answer = self.script.pop(0)
            writer.write(answer)
            await writer.drain()
            if not answer:
                break
        writer.close()


def plain(body: bytes = b"{}", status: int = 200, **headers: str) -> bytes:
    """A response that leaves its connection open."""
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@asynccontextmanager
async def sender_to(parts: Any, wire: Wire) -> AsyncIterator[RequestTemplate]:
    """A sender that has posted once already, over an HTTP client of our own."""
    sdk, lib, client = parts
    listener = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    timeout = lib.Timeout(None, connect=5.0)
    http = http_client(sdk, lib, timeout, url=base)
    own = client(
        api_key="sk-0123456789", base_url=base, max_retries=0, http_client=http, timeout=timeout
    )
    sender = RequestTemplate(own, http, sdk, lib, f"{base}/chat/completions")
    async with listener:
        assert await posted(sender) is None
        yield sender
        await sender.close()


async def result_of(sender: RequestTemplate, **headers: str) -> tuple[Any, ...]:
    """What a request gives, or raises, to the last word."""
    try:
        response: Any = await sender.post(BODY, headers)
        try:
            async with aclosing(response.aiter_bytes()) as pieces:
                body = b"".join([piece async for piece in pieces])
        finally:
            await response.aclose()
    except Exception as error:  # noqa: BLE001
        got = getattr(error, "response", None)
        inner, request = type(error.__cause__), getattr(error, "request", None)
        sent = (request.url, request.content) if request is not None else None
        said = (got.status_code, got.text, got.headers.get("x-said")) if got is not None else None
        return type(error), str(error), inner, sent, said
    return response.status_code, body, response.headers["X-Said"]


@pytest.fixture(params=["past it", "by it"])
def way(request, caplog):
    """Whoever wants to read the client's own line of each request gets it: it sends them itself."""
    if request.param == "by it":
        caplog.set_level(logging.INFO, "httpx")
        caplog.set_level(logging.INFO, "httpx2")
    return request.param


GZIP = gzip.compress(b"said", mtime=0)


@pytest.mark.parametrize("parts", SDKS)
async def test_past_the_client_all_is_as_by_it(parts, caplog):
    """Answers, codings, errors, and connections that break: each is the same in both ways."""
    script = (
        plain(b"said", x_said="1"),
        plain(GZIP, x_said="2", content_encoding="gzip"),
        plain(b"said", x_said="3", content_encoding="br"),
        plain(b'{"error": {"message": "slow"}}', 429, x_said="4", retry_after="7"),
        plain(GZIP, 500, x_said="5", content_encoding="gzip"),
        plain(b"", 307, x_said="6", location="/elsewhere"),
        b"HTTP/1.1 200 OK\r\nX-Said: 7\r\nContent-Length: 9\r\n\r\nhalf",
        b"no HTTP at all\r\n\r\n",
    )
    seen = []
    for level in (logging.WARNING, logging.INFO):
        caplog.clear()
        caplog.set_level(level, "httpx")
        caplog.set_level(level, "httpx2")
        results = []
        for answer in script:
            wire = Wire(answer)
            async with sender_to(parts, wire) as sender:
                assert sender._direct is not None
                base = str(sender._url).rpartition("/v1")[0]
                result = await result_of(sender, **{"x-mine": "now"})
                results.append(tuple(str(part).replace(base, "") for part in result))
            assert wire.heads[1] == {**wire.heads[0], "x-mine": "now"}
            assert wire.bodies[1] == wire.bodies[0]
        lines = [r for r in caplog.records if r.getMessage().startswith("HTTP Request")]
        assert bool(lines) is (level == logging.INFO)
        seen.append(results)
    assert seen[0] == seen[1]
    assert [r[1] for r in seen[0][:2]] == ["b'said'", "b'said'"]


@pytest.mark.parametrize("parts", SDKS)
async def test_a_client_that_is_watched_sends_itself(parts, monkeypatch):
    """Programs that trace HTTP calls replace its `send`."""
    real, requests = parts[1].AsyncClient.send, []

    async def watched(self, request, **options):
        requests.append(request)
        return await real(self, request, **options)

    monkeypatch.setattr(parts[1].AsyncClient, "send", watched)
    async with sender_to(parts, Wire(plain())) as sender:
        assert await posted(sender) is None
    assert len(requests) == 2


@pytest.mark.parametrize("parts", SDKS)
async def test_a_header_that_cannot_be_sent_is_the_callers_mistake(parts, way):
    """In both ways, and nothing is sent."""
    wire = Wire(plain())
    async with sender_to(parts, wire) as sender:
        assert (sender._direct.usable, way) in [(True, "past it"), (False, "by it")]
        with pytest.raises(UnicodeEncodeError):
            await sender.post(BODY, {"x-mine": "\ud800"})
    assert len(wire.heads) == 1


@pytest.mark.parametrize("parts", SDKS)
async def test_an_answer_left_in_the_middle_frees_its_connection(parts, way):
    """Nothing of it is left to the next request."""
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"
    async with sender_to(parts, Wire(half)) as sender:
        response = await sender.post(BODY)
        pieces = response.aiter_bytes()
        assert await anext(pieces) == b"half"
        await pieces.aclose()
        await response.aclose()
        session = sender.http._transport.client
        assert not session.connector._acquired
        assert not session.connector._conns

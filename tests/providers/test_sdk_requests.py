"""After its first request a `RequestTemplate` builds them itself: the same ones, at less cost."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import httpx2
import openai
import pytest
import together

from langchain_resilient import FaultKind as K
from langchain_resilient.providers.errors import classify
from langchain_resilient.providers.request_template import RequestTemplate

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

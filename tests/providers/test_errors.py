"""The classifier: every row of the table, from the real exceptions of both SDKs."""

from __future__ import annotations

import asyncio
import json
import socket
from types import SimpleNamespace

import aiohttp
import httpx
import httpx2
import openai
import pytest
import together
from aiohttp.http_exceptions import HttpProcessingError
from langchain_core import exceptions as core

from langchain_resilient import FaultKind as K
from langchain_resilient import Target
from langchain_resilient import testing as t
from langchain_resilient.providers import create_provider
from langchain_resilient.providers.errors import AnswerError, classify
from tests.providers.asking import (
    DIALECTS,
    TRANSPORTS,
    fault_of,
    http,
    ids,
    provider_at,
    raised_from,
    replying,
    sse,
)


def coded(status, code=None, message="No.", **fields):
    return t.Status(status, error_code=code, message=message, **fields)


STATUSES = [
    (t.Status(400), K.BAD_REQUEST),
    (t.Status(401), K.AUTH),
    (t.Status(402), K.QUOTA),
    (t.Status(403), K.AUTH),
    (t.Status(404), K.NOT_FOUND),
    (t.Status(405), K.NOT_FOUND),
    (t.Status(408), K.SERVER),
    (t.Status(409), K.SERVER),
    (t.Status(410), K.NOT_FOUND),
    (t.Status(413), K.TOO_LARGE),
    (t.Status(418), K.BAD_REQUEST),
    (t.Status(422), K.BAD_REQUEST),
    (t.Status(425), K.SERVER),
    (t.Status(429), K.RATE_LIMIT),
    *((t.Status(code), K.SERVER) for code in (
        500, 501, 502, 503, 504, 520, 521, 522, 523, 524, 529)),
]  # fmt: skip
CODES = [
    (t.Quota(), K.QUOTA),
    (coded(429, "credit_balance_exhausted"), K.QUOTA),
    (coded(429, "organization_spend_limit_exceeded"), K.QUOTA),
    (coded(429, "project_spend_limit_exceeded"), K.QUOTA),
    (coded(429, "organization_usage_limit_exceeded"), K.QUOTA),
    (coded(429, "insufficient_quota"), K.QUOTA),
    (t.Status(429, type="insufficient_quota"), K.QUOTA),
    (t.Status(400, message="Your credit balance is too low to access the API."), K.QUOTA),
    (t.RateLimited(), K.RATE_LIMIT),
    (t.RateLimited(of="tokens"), K.RATE_LIMIT),
    (t.SlowDown(), K.RATE_LIMIT),
    (coded(503, "slow_down"), K.RATE_LIMIT),
    (coded(503, type="dynamic_request_limited"), K.RATE_LIMIT),
    (coded(503, type="dynamic_token_limited"), K.RATE_LIMIT),
    # A rate limit despite its name; with 402 it is money.
    (coded(429, type="credit_limit"), K.RATE_LIMIT),
    (coded(402, type="credit_limit"), K.QUOTA),
    (t.Overloaded(), K.SERVER),
    (coded(529, type="overloaded_error"), K.SERVER),
    (t.RequestTooLarge(), K.TOO_LARGE),
    (t.ContextTooLong(), K.CONTEXT_LENGTH),
    (t.ContextTooLong(code=422), K.CONTEXT_LENGTH),
    (coded(400, "context_length_exceeded"), K.CONTEXT_LENGTH),
    (t.Status(400, message="prompt is too long: 200001 tokens > 200000"), K.CONTEXT_LENGTH),
    (t.Status(400, message="Input is too long for requested model."), K.CONTEXT_LENGTH),
    (t.Status(422, message="`inputs` must have less than 4096 tokens."), K.CONTEXT_LENGTH),
    (t.Status(400, message="The input token count (9) exceeds the maximum."), K.CONTEXT_LENGTH),
    (t.ContentFilter(), K.CONTENT_FILTER),
    (coded(400, "content_filter"), K.CONTENT_FILTER),
    (coded(403, message="Your input was flagged by our moderation."), K.CONTENT_FILTER),
    (t.ModelNotFound(), K.NOT_FOUND),
    (coded(400, "model_not_available"), K.NOT_FOUND),
    (coded(400, "dedicated_endpoint_not_running"), K.NOT_FOUND),
    # One model that the key may not use is no reason to give up the account.
    (coded(403, "model_not_found"), K.NOT_FOUND),
    (t.Status(400, message="Model Not Exist"), K.NOT_FOUND),
    (t.Status(400, message="The model `x` does not exist."), K.NOT_FOUND),
    # Nor is one feature a reason to give up the model, which a 404 does for an hour.
    (coded(404, "null", "tools is not supported in this model."), K.BAD_REQUEST),
    (coded(404, "null", "No endpoints found that support tool use."), K.BAD_REQUEST),
    (t.InvalidKey(), K.AUTH),
    (t.Status(400, message="API key not valid. Please pass a valid API key."), K.AUTH),
    (t.NoStreaming(), K.NO_STREAMING),
    (t.Status(400, message="Streaming is not supported for this model."), K.NO_STREAMING),
    (t.Status(400, message="stream_options is not supported."), K.BAD_REQUEST),
    (t.BadRequest(), K.BAD_REQUEST),
]
SHAPES = [
    *((t.Compatible(429, shape), K.RATE_LIMIT) for shape in (
        "flat", "object", "message", "reason", "detail", "string", "code", "upstream", "text")),
    *((t.Compatible(422, shape), K.BAD_REQUEST) for shape in ("flat", "detail", "text")),
    *((t.Compatible(400, shape, "maximum context length is 10"), K.CONTEXT_LENGTH) for shape in (
        "flat", "object", "message", "reason", "detail", "string", "code", "upstream", "text")),
    (t.Compatible(401, "text"), K.AUTH),
    (t.Compatible(503, "text"), K.SERVER),
    (t.Html(502), K.SERVER),
    (t.Html(404), K.CONNECTION),
    (t.Html(200), K.BROKEN),
]  # fmt: skip
BROKEN = [
    *(t.Garbage(shape) for shape in (
        "object", "choices", "list", "null", "broken", "text", "nothing")),
    t.Html(200),
    t.Malformed(after=2),
    t.Malformed(after=2, resume=True, replaces=True),
    t.Raw(b"HTTP/1.1 204 No Content\r\n\r\n"),
]  # fmt: skip
LOST = [
    t.Reset(),
    t.Reset(after=0),
    t.Reset(after=3),
    t.Cut(after=0),
    t.Cut(after=3),
    t.NoAnswer(seconds=0.0),
    t.Raw(b""),
    t.Raw(b"SSH-2.0-OpenSSH_9.6\r\n"),  # the 400 that aiohttp makes of it is no server's
    t.Raw(b"HTTP/1.1 200 OK\r\nContent-Le"),
    t.Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort"),
]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("step", "kind"), STATUSES + CODES + SHAPES, ids=ids)
async def test_an_error_response_is_known_by_status_code_or_words(sim, dialect, step, kind):
    """In the words of either provider, and of servers that are compatible with one."""
    sim.script(f"{dialect}:m", then=step)
    fault = await fault_of(provider_at(sim, f"{dialect}:m"))
    assert fault.kind is kind
    assert fault.message


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("step", BROKEN, ids=ids)
async def test_an_answer_that_is_none_is_broken(sim, step, stream):
    """Garbage or a hole: whole for HTTP, and yet no answer."""
    sim.script("*", then=step)
    assert (await fault_of(provider_at(sim), stream=stream)).kind is K.BROKEN


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("step", LOST, ids=ids)
async def test_a_lost_connection_is_known_on_either_transport(
    sim, monkeypatch, dialect, step, transport
):
    """With aiohttp a reset is told as a timeout; together's SDK lets httpx's own errors through."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_TRANSPORT", transport)
    sim.script(f"{dialect}:m", then=step)
    assert (await fault_of(provider_at(sim, f"{dialect}:m"))).kind is K.CONNECTION


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_refused_connection_is_known_on_either_transport(monkeypatch, dialect, transport):
    """Nobody listens there any more."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_TRANSPORT", transport)
    async with t.ProviderSimulator() as gone:
        provider = provider_at(gone, f"{dialect}:m")
    fault = await fault_of(provider)
    assert fault.kind is K.CONNECTION
    assert "onnect" in fault.message


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_host_that_does_not_exist_is_a_connection_fault(monkeypatch, transport):
    """DNS is part of connecting."""

    def refuse(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("LANGCHAIN_RESILIENT_TRANSPORT", transport)
    target = Target("openai:m", base_url="http://nowhere.invalid/v1", api_key="none")
    assert (await fault_of(create_provider(target))).kind is K.CONNECTION


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_plain_text_where_tls_was_wanted_is_a_connection_fault(monkeypatch, transport):
    """So is every other failure of a handshake."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_TRANSPORT", transport)

    async def serve(_, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        fault = await fault_of(create_provider(Target("openai:m", base_url=url, api_key="none")))
    assert fault.kind is K.CONNECTION


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_a_connection_fault(sim, dialect, status):
    """It is not followed: the server that was meant is not there."""
    sim.script("*", then=t.Status(status, headers={"location": "http://127.0.0.1:9/"}))
    assert (await fault_of(provider_at(sim, f"{dialect}:m"))).kind is K.CONNECTION


IN_STREAM = [
    ({"message": "sorry", "type": "server_error"}, K.SERVER),
    ({"message": "sorry", "type": "model_error", "code": None}, K.SERVER),
    ({"message": "sorry", "code": 502}, K.SERVER),
    ({"message": "too fast", "code": 429}, K.RATE_LIMIT),
    ({"message": "too fast", "code": "429"}, K.RATE_LIMIT),
    ({"message": "too fast", "type": "rate_limit_error"}, K.RATE_LIMIT),
    ({"message": "pay", "code": "insufficient_quota"}, K.QUOTA),
    ({"message": "no", "code": "content_filter"}, K.CONTENT_FILTER),
    ({"message": "no", "code": "context_length_exceeded"}, K.CONTEXT_LENGTH),
    ({"message": "who are you", "type": "authentication_error"}, K.AUTH),
    ({"message": "what", "type": "invalid_request_error"}, K.BAD_REQUEST),
    ("just words", K.SERVER),
]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("error", "kind"), IN_STREAM, ids=ids)
async def test_an_error_object_inside_a_200_is_known_by_its_code(error, kind, stream):
    """As an event of a stream, and as the whole body."""
    body = json.dumps({"error": error})
    chunk = '{"choices":[{"index":0,"delta":{"content":"Once"}}]}'
    reply = sse(f"data: {chunk}", f"data: {body}") if stream else http(body)
    async with replying(reply) as target:
        fault = await fault_of(create_provider(target), stream=stream)
    assert fault.kind is kind


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("step", [t.SseError(after=2), t.SseError(named=True),
                                  t.SseError(after=2, done=True)], ids=ids)  # fmt: skip
async def test_an_error_event_decides_whatever_follows_it(sim, dialect, step):
    """Once a usage chunk and `[DONE]` followed."""
    sim.script("*", then=step)
    fault = await fault_of(provider_at(sim, f"{dialect}:m"))
    assert (fault.kind, fault.code) == (K.SERVER, "server_error")


# -- exceptions that no simulator raises ------------------------------------------------------


class Vendor(Exception):  # noqa: N818
    """An SDK's error like anthropic's: it carries whatever it is given."""

    def __init__(self, message="", **fields):
        super().__init__(message)
        self.__dict__.update(fields)


class Response:
    """As much of one as errors carry."""

    def __init__(self, status_code=None, **headers):
        self.status_code = status_code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def anthropic(status, type_, message="x"):
    body = {"type": "error", "error": {"type": type_, "message": message}}
    return Vendor(message, status_code=status, body=body, response=Response(status))


def amazon(status, code):
    fields = {"Code": code, "Message": "No."}
    return Vendor(response={"Error": fields, "ResponseMetadata": {"HTTPStatusCode": status}})


class Overflow(Vendor, core.ContextOverflowError):
    """As langchain-openai mixes them."""


def unreadable() -> Exception:
    """What aiohttp raises for bytes that are no HTTP: its parser's own 400."""
    error = aiohttp.ClientResponseError(SimpleNamespace(real_url="x"), (), status=400)
    error.__cause__ = HttpProcessingError(code=400, message="Bad status line")
    return error


VENDORS = [
    (anthropic(401, "authentication_error"), K.AUTH),
    (anthropic(403, "permission_error"), K.AUTH),
    (anthropic(404, "not_found_error"), K.NOT_FOUND),
    (anthropic(413, "request_too_large"), K.TOO_LARGE),
    (anthropic(429, "rate_limit_error"), K.RATE_LIMIT),
    (anthropic(500, "api_error"), K.SERVER),
    (anthropic(529, "overloaded_error"), K.SERVER),
    (anthropic(400, "invalid_request_error"), K.BAD_REQUEST),
    (anthropic(400, "invalid_request_error", "prompt is too long: 9 > 8"), K.CONTEXT_LENGTH),
    (anthropic(400, "invalid_request_error", "Your credit balance is too low"), K.QUOTA),
    (Vendor(body={"type": "error", "error": {"type": "overloaded_error"}}), K.SERVER),
    (amazon(400, "ThrottlingException"), K.RATE_LIMIT),
    (amazon(403, "AccessDeniedException"), K.AUTH),
    (amazon(500, "InternalServerException"), K.SERVER),
    # google.api_core and google.genai
    (Vendor("x", code=429), K.RATE_LIMIT),
    (Vendor("x", code=503, status="UNAVAILABLE"), K.SERVER),
    (Vendor(body=[{"error": {"code": 400, "message": "API key not valid."}}]), K.AUTH),
    # mistralai's body is text
    (Vendor(status_code=400, body='{"message": "too many tokens"}'), K.CONTEXT_LENGTH),
    (Vendor(status_code=400, body="{not json"), K.BAD_REQUEST),
    # LangChain's own finding goes before what the words say
    (Overflow("x", status_code=400), K.CONTEXT_LENGTH),
    # httpx, requests, aiohttp
    (Vendor(response=Response(503)), K.SERVER),
    (aiohttp.ClientResponseError(SimpleNamespace(real_url="x"), (), status=429), K.RATE_LIMIT),
    (unreadable(), K.CONNECTION),
]


@pytest.mark.parametrize(("error", "kind"), VENDORS, ids=ids)
def test_other_vendors_errors_are_known_by_their_attributes(error, kind):
    """A LangChain model may raise any of them."""
    assert classify(error).kind is kind


def request_of(module):
    return module.Request("POST", "http://x.test/")


NAMES = [
    (core.ContextOverflowError("x"), K.CONTEXT_LENGTH),
    (core.ModelAuthenticationError("x"), K.AUTH),
    (core.ModelPermissionDeniedError("x"), K.AUTH),
    (core.ModelInvalidRequestError("x"), K.BAD_REQUEST),
    (core.ModelNotFoundError("x"), K.NOT_FOUND),
    (core.ModelRateLimitError("x"), K.RATE_LIMIT),
    (core.ModelAPIError("x"), K.SERVER),
    (core.ModelConnectionError("x"), K.CONNECTION),
    (core.ModelTimeoutError("x"), K.TIMEOUT),
    (openai.APITimeoutError(request_of(httpx2)), K.TIMEOUT),
    (together.APITimeoutError(request_of(httpx)), K.TIMEOUT),
    (openai.APIConnectionError(request=request_of(httpx2)), K.CONNECTION),
    (together.APIConnectionError(request=request_of(httpx)), K.CONNECTION),
    (openai.APIError("An error occurred", request_of(httpx2), body=None), K.SERVER),
    (openai.ContentFilterFinishReasonError(), K.CONTENT_FILTER),
    (httpx.ReadTimeout("x"), K.TIMEOUT),
    (httpx.ConnectTimeout("x"), K.CONNECTION),
    (httpx2.RemoteProtocolError("x"), K.CONNECTION),
    (httpx2.ReadError("x"), K.CONNECTION),
    (httpx2.DecodingError("x"), K.BROKEN),
    (aiohttp.ServerDisconnectedError(), K.CONNECTION),
    (RuntimeError("Connection closed."), K.CONNECTION),
    (RuntimeError("the connection closed. or so"), K.INTERNAL),
    (aiohttp.ClientPayloadError("x"), K.CONNECTION),
    (json.JSONDecodeError("x", "", 0), K.BROKEN),
    (UnicodeDecodeError("utf-8", b"x", 0, 1, "x"), K.BROKEN),
    (UnicodeEncodeError("utf-8", "x", 0, 1, "surrogates not allowed"), K.BAD_REQUEST),
    (TimeoutError(), K.TIMEOUT),
    (ConnectionResetError(), K.CONNECTION),
    (BrokenPipeError(), K.CONNECTION),
    (OSError(101, "Network is unreachable"), K.CONNECTION),
    (EOFError(), K.CONNECTION),
    (asyncio.CancelledError(), K.CONNECTION),
    (RuntimeError("Event loop is closed"), K.CONNECTION),
    (RuntimeError("Session is closed"), K.CONNECTION),
    (RuntimeError("Cannot send a request, as the client has been closed."), K.CONNECTION),
    (NotImplementedError(), K.BAD_REQUEST),
    (AnswerError("garbage", status_code=200), K.BROKEN),
    (AnswerError("garbage", status_code=799), K.BROKEN),
    (AnswerError("garbage"), K.BROKEN),
    (ValueError("x"), K.INTERNAL),
    (TypeError("x"), K.INTERNAL),
    (Exception(), K.INTERNAL),
    # The first that is known, of a wrapper's causes and of a group's members.
    (raised_from(RuntimeError("x"), Vendor(status_code=429)), K.RATE_LIMIT),
    (raised_from(RuntimeError("x"), raised_from(ValueError("y"), TimeoutError())), K.TIMEOUT),
    (ExceptionGroup("x", [ValueError("y"), httpx.ReadError("z")]), K.CONNECTION),
    (ExceptionGroup("x", [ExceptionGroup("y", [Vendor(status_code=503)])]), K.SERVER),
    (ExceptionGroup("x", [ValueError("y")]), K.INTERNAL),
    # A timeout that is none: so aiohttp's transports report a reset.
    (raised_from(openai.APITimeoutError(request_of(httpx2)), aiohttp.ServerDisconnectedError()),
     K.CONNECTION),
    (raised_from(httpx.ReadTimeout("x"), aiohttp.SocketTimeoutError()), K.TIMEOUT),
]  # fmt: skip


@pytest.mark.parametrize(("error", "kind"), NAMES, ids=ids)
def test_an_error_without_a_status_is_known_by_its_family(error, kind):
    """Its own names and those of its causes: nothing heavy is imported to look at it."""
    assert classify(error).kind is kind


def test_what_was_handled_when_an_error_was_raised_afresh_does_not_matter():
    """`raise ... from None` means it."""
    error = ValueError("x")
    error.__context__ = ConnectionResetError()
    assert classify(error).kind is K.CONNECTION
    error.__suppress_context__ = True
    assert classify(error).kind is K.INTERNAL


def test_a_wrapper_is_the_cause_of_its_fault():
    """Tenacity's predicates look at what the provider raised."""
    wrapper = raised_from(RuntimeError("x"), Vendor(status_code=429))
    assert classify(wrapper).cause is wrapper


def test_an_error_that_cannot_even_be_printed_is_internal():
    """`classify` never raises."""

    class Sphinx(Exception):  # noqa: N818
        def __str__(self):
            raise LookupError

    assert classify(Sphinx()).kind is K.INTERNAL
    assert classify(Sphinx()).message == "Sphinx"


# -- what else a fault tells ------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_fault_carries_what_the_server_said(sim, dialect):
    """Status, code, hints, the id for the provider's support, and the exception."""
    sim.script("*", then=t.RateLimited(7, should_retry=False))
    fault = await fault_of(provider_at(sim, f"{dialect}:m"))
    assert (fault.status, fault.retry_after, fault.should_retry) == (429, 7.0, False)
    assert fault.code == ("rate_limit_exceeded" if dialect == "openai" else "credit_limit")
    assert fault.request_id
    assert "limit" in fault.message
    assert isinstance(fault.cause, openai.RateLimitError | together.RateLimitError)


def test_a_hint_may_be_past_where_the_message_is_cut():
    """It is cut for people only."""
    fault = classify(Vendor("x" * 1000 + " Please try again in 20s.", status_code=429))
    assert fault.retry_after == 20.0
    assert len(fault.message) < 310


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_page_is_told_in_words(sim, dialect):
    """Nobody reads tags."""
    sim.script("*", then=t.Html(502))
    message = (await fault_of(provider_at(sim, f"{dialect}:m"))).message
    assert "Bad Gateway" in message
    assert "<" not in message


async def test_a_validation_error_does_not_repeat_the_prompt(sim):
    """FastAPI sends the input back."""
    detail = [{"loc": ["body", "n"], "msg": "Bad", "input": {"prompt": "my secret diary"}}]
    body = json.dumps({"detail": detail})
    sim.script("*", then=t.Status(422, body=body, headers={"content-type": "application/json"}))
    assert (await fault_of(provider_at(sim))).message == "body.n: Bad"


def test_openrouters_upstream_error_is_told():
    """Its own message is always the same."""
    body = {"message": "Provider returned error", "metadata": {"raw": "maximum context length"}}
    fault = classify(Vendor(status_code=400, body={"error": body}))
    assert fault.kind is K.CONTEXT_LENGTH
    assert fault.message == "Provider returned error: maximum context length"


# -- secrets ----------------------------------------------------------------------------------

ECHO = "Incorrect API key provided: {key}. You can find your API key at https://x.test."
KEYS = ["sk-proj-0123456789abcdef", "tgp_v1_0123456789abcdef", "DEADBEEF", "a.b-c/d+e=f0123456789"]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_that_an_error_repeats_is_masked(key):
    """By its prefix, or by the sentence that it stands in."""
    message = classify(Vendor(status_code=401, body={"message": ECHO.format(key=key)})).message
    assert key not in message
    assert "[key]. You can find" in message


@pytest.mark.parametrize("text", ["Authorization: Bearer abcdefgh123", "?api_key=abcdefgh123&x=1",
                                  "{'api-key': 'sk-abcdefgh123'}"])  # fmt: skip
def test_a_key_is_masked_wherever_keys_stand(text):
    """In a header, a query or a dict."""
    assert "abcdefgh123" not in classify(Vendor(text)).message


def test_the_mask_leaves_innocent_words_alone():
    """An error that nobody can read helps nobody."""
    text = "You didn't provide an API key. Use a task-based key, see the risk-free docs."
    assert classify(Vendor(text)).message == text


PAGE = "<!DOCTYPE html><html><title>Attention Required!</title>Access denied to your IP key</html>"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (t.Status(403, body=PAGE, headers={"content-type": "text/html"}), K.CONNECTION),
        (t.Status(401, body=PAGE, headers={"content-type": "text/html"}), K.CONNECTION),
        (t.Status(403, error_code="forbidden", message="Forbidden"), K.CONNECTION),
        (t.Status(403, message="You are not allowed to sample from this model"), K.NOT_FOUND),
        (t.Status(403, message="Your project does not have access to model `m`"), K.NOT_FOUND),
        (t.Status(403, message="The model `m` is not available in your region"), K.NOT_FOUND),
        (t.Status(403, message="Country, region, or territory not supported"), K.AUTH),
        (t.Status(403, message="Your account was deactivated"), K.AUTH),
        (t.Status(403, message="You have insufficient permissions for this operation"), K.AUTH),
        (t.Status(403, message="API key lacks the scope model.request"), K.AUTH),
        (t.Status(401, message="No."), K.AUTH),
    ],
    ids=ids,
)
async def test_only_what_speaks_of_the_key_or_the_account_is_about_all_its_models(
    sim, dialect, step, kind
):
    """A front door's page, or one model that is not allowed, says nothing of the others."""
    sim.script("*", then=step)
    fault = await fault_of(provider_at(sim, f"{dialect}:m"))
    assert fault.kind is kind
    if kind is K.CONNECTION:
        assert fault.should_retry is False


@pytest.mark.parametrize(
    "step",
    [
        t.Raw(http('{"detail":"Not Found"}', status="404 Not Found")),
        t.Raw(http("404 page not found", status="404 Not Found")),
        t.Raw(http('{"error":{"message":"Invalid URL (POST /x)"}}', status="404 Not Found")),
        t.Html(404),
        t.Html(405),
    ],
    ids=ids,
)
async def test_an_address_that_is_not_there_is_named_and_not_the_model(sim, step):
    """Most often its /v1 was forgotten."""
    sim.script("*", then=step)
    base = sim.base_url("openai").removesuffix("/v1")
    made = create_provider(Target("openai:m", base_url=base, api_key="k"))
    fault = await fault_of(made)
    assert (fault.kind, fault.should_retry) == (K.CONNECTION, False)
    assert f"{base}/chat/completions does not exist there" in fault.message
    assert "most base URLs end with /v1" in fault.message


async def test_a_proxy_that_wants_credentials_is_named(sim):
    """It says nothing about the request, which no provider has seen."""
    sim.script("*", then=t.Raw(http("", status="407 Proxy Authentication Required")))
    fault = await fault_of(provider_at(sim))
    assert (fault.kind, fault.should_retry, fault.status) == (K.CONNECTION, False, 407)
    assert "the proxy wants a user and a password" in fault.message


MODELS = '{"object": "list", "data": [{"id": "m", "object": "model"}]}'


@pytest.mark.parametrize(
    ("body", "stream"),
    [("", True), (MODELS, True), (MODELS, False), (f"[{MODELS}]", True), (f"[{MODELS}]", False)],
)
async def test_a_success_that_is_no_completion_leads_to_the_address(body, stream):
    """A server at a wrong one may answer anything."""
    async with replying(http(body)) as target:
        fault = await fault_of(create_provider(target), stream=stream)
    assert fault.kind is K.BROKEN
    assert fault.message == "what came holds no answer: if that lasts, check `base_url`"


async def test_a_model_that_is_not_there_is_the_models_fault(sim):
    """The address is right then."""
    sim.script("*", then=t.ModelNotFound())
    fault = await fault_of(provider_at(sim))
    assert fault.kind is K.NOT_FOUND
    assert "base_url" not in fault.message

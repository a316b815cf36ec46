"""Certificates and proxies of the environment: used where they fit, else one target's own fault."""

from __future__ import annotations

import asyncio
import copy
import ssl
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import httpx
import httpx2
import pytest
from pydantic import ValidationError

from langchain_resilient import FaultKind as K
from langchain_resilient import ResilientChatModel, Target
from langchain_resilient.providers import create_provider
from langchain_resilient.providers.connection import (
    CA_VARIABLES,
    ConnectionSetupError,
    Proxy,
    proxy_for,
    tls_context,
)
from langchain_resilient.providers.errors import classify
from langchain_resilient.testing import ProviderSimulator
from tests.providers.asking import TRANSPORTS, ask, fault_of, http, listening

PLAIN = http('{"choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}]}')

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "OPENAI_PROXY")


@pytest.fixture(autouse=True)
def env(monkeypatch, no_environment):
    """Sets environment variables; those of this machine are hidden."""
    for name in (*PROXIES, *map(str.lower, PROXIES), *CA_VARIABLES):
        monkeypatch.delenv(name, raising=False)

    def set_all(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all


@pytest.fixture(params=TRANSPORTS)
def transport(request, env):
    """Each of the two."""
    env(LANGCHAIN_RESILIENT_TRANSPORT=request.param)
    return request.param


def target_at(url, spec="openai:m", **fields):
    """A target there, with a key."""
    return Target(spec, base_url=url, api_key="sk-0123456789", **fields)


# -- certificates ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CA_VARIABLES)
async def test_certificates_that_cannot_be_read_are_the_targets_fault(env, transport, name):
    """The next is asked, nothing is asked twice, and the words name the variable."""
    env(**{name: "/nowhere/ca.pem"})
    fault = await fault_of(create_provider(target_at("https://localhost:1/v1")))
    assert (fault.kind, fault.should_retry) == (K.CONNECTION, False)
    assert f"{name} names certificates" in fault.message
    assert "/nowhere/ca.pem" in fault.message


async def test_the_next_target_answers_in_its_place(env):
    """Nothing escapes the chain, not from the preparations either."""
    env(SSL_CERT_FILE="/nowhere/ca.pem")
    async with listening(PLAIN) as server:
        llm = ResilientChatModel(
            targets=[target_at("https://localhost:1/v1"), target_at(f"{server.url}/v1")],
            hedge=None,
        )
        answer = await llm.ainvoke("hello")
    assert answer.content == "Hi"
    faults = [a.get("fault") for a in answer.response_metadata["resilience"]["attempts"]]
    assert faults == ["connection", None]


async def test_a_server_without_encryption_needs_no_certificates(env, transport):
    """Nothing of them is read."""
    env(SSL_CERT_FILE="/nowhere/ca.pem")
    async with listening(PLAIN) as server:
        assert (await ask(create_provider(target_at(server.url)), stream=False)).text == "Hi"


@pytest.mark.parametrize("name", CA_VARIABLES)
def test_an_own_authority_is_trusted(env, tmp_path, name):
    """Under each name, the SDKs' and requests'; a directory as well as a file."""
    assert tls_context(httpx2) is tls_context(httpx2)
    place = tmp_path if name == "SSL_CERT_DIR" else tmp_path / "ca.pem"
    if place is not tmp_path:
        place.write_text(_any_certificate())
    env(**{name: str(place)})
    context = tls_context(httpx2)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert len(context.get_ca_certs()) == (0 if place is tmp_path else 1)


def _any_certificate():
    import certifi  # for this alone

    text = Path(certifi.where()).read_text()
    start = text.index("-----BEGIN")
    return text[start : text.index("-----END CERTIFICATE-----") + 25] + "\n"


def raised(*links):
    """An exception with its causes."""
    for error, cause in pairwise(links):
        error.__cause__ = cause
    return links[0]


def test_a_certificate_that_is_not_trusted_is_no_timeout_and_not_tried_again():
    """As aiohttp and httpx tell of it."""

    class APITimeoutError(Exception):
        pass

    class ConnectTimeout(Exception):  # noqa: N818  # httpx calls it so
        pass

    class ClientConnectorError(Exception):
        pass

    class ClientConnectorCertificateError(ClientConnectorError):
        pass

    words = "certificate verify failed: self-signed certificate"
    inner = ssl.SSLCertVerificationError(1, words)
    error = raised(
        APITimeoutError("Request timed out."), ConnectTimeout(words),
        ClientConnectorCertificateError(words), inner,
    )  # fmt: skip
    fault = classify(error)
    assert (fault.kind, fault.should_retry) == (K.CONNECTION, False)
    assert words in fault.message
    assert "timed out" not in fault.message.lower()
    assert "Timeout" not in fault.message


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v1", "http://no-such-host.invalid/v1"])
@pytest.mark.filterwarnings("ignore:a key is sent:UserWarning")
async def test_who_cannot_be_reached_has_not_timed_out(transport, url):
    """A refused connection and an unknown host say what they are, and may pass."""
    fault = await fault_of(create_provider(target_at(url)))
    assert (fault.kind, fault.should_retry) == (K.CONNECTION, None)
    assert fault.message.startswith("Connection error.")
    assert "imeout" not in fault.message
    assert "timed out" not in fault.message


@asynccontextmanager
async def hanging_up():
    """A server that hangs up without a word."""

    async def hang_up(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


async def test_who_hangs_up_has_not_timed_out(transport):
    """Nor is that final."""
    async with hanging_up() as url:
        fault = await fault_of(create_provider(target_at(url)))
    assert (fault.kind, fault.should_retry) == (K.CONNECTION, None)
    assert "imeout" not in fault.message
    assert "timed out" not in fault.message


# -- proxies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "url", "proxy"),
    [
        ({}, "https://a.test", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://a.test", "http://p:1"),
        ({"HTTPS_PROXY": "p:1"}, "https://a.test", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1"}, "http://a.test", None),
        ({"ALL_PROXY": "http://p:1"}, "http://a.test", "http://p:1"),
        ({"ALL_PROXY": "socks://p:1", "HTTPS_PROXY": "http://p:2"}, "https://a.test", "http://p:2"),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "a.test"}, "https://a.test", None),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "*"}, "https://a.test", None),
        ({"ALL_PROXY": "socks://p:1", "NO_PROXY": "localhost"}, "http://localhost:8", None),
        ({"OPENAI_PROXY": "http://p:3", "HTTPS_PROXY": "http://p:2"}, "https://a.test",
         "http://p:3"),
        ({"OPENAI_PROXY": "http://p:3"}, "http://localhost:8", None),
    ],
)  # fmt: skip
def test_the_proxy_is_the_one_for_the_address(env, variables, url, proxy):
    """What is said for other addresses does not matter."""
    env(**variables)
    assert proxy_for(url, "OPENAI_PROXY") == (proxy and Proxy(proxy, socks=False))


@pytest.mark.parametrize("kind", ["socks", "socks4", "ftp"])
@pytest.mark.parametrize("name", ["ALL_PROXY", "HTTPS_PROXY", "OPENAI_PROXY"])
def test_a_kind_of_proxy_that_is_not_known_is_named_and_not_shown(env, name, kind):
    """It may hold a password."""
    env(**{name: f"{kind}://user:hidden@p:1"})
    with pytest.raises(ConnectionSetupError, match=rf"{name} .*\({kind}://\).*socks5h") as caught:
        proxy_for("https://a.test", "OPENAI_PROXY")
    assert "hidden" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:a key is sent:UserWarning")
@pytest.mark.parametrize("kind", ["socks5", "socks5h"])
async def test_a_socks_proxy_says_what_is_missing(env, monkeypatch, transport, kind):
    """At once, not at the deadline; the next target is asked."""
    monkeypatch.setattr("langchain_resilient.providers.connection.find_spec", lambda _: None)
    env(ALL_PROXY=f"{kind}://127.0.0.1:1")
    fault = await fault_of(create_provider(target_at("http://a.test/v1")))
    assert (fault.kind, fault.should_retry) == (K.CONNECTION, False)
    assert "ALL_PROXY" in fault.message
    assert "pip install socksio" in fault.message


@pytest.mark.filterwarnings("ignore:a key is sent:UserWarning")
async def test_a_socks_proxy_is_spoken_to_in_socks(env, transport):
    """By httpx, which alone can; the name is resolved by the proxy."""
    pytest.importorskip("socksio")
    asked = []

    async def proxy(reader, writer):
        await reader.readexactly((await reader.readexactly(2))[1])
        writer.write(b"\x05\x00")
        head = await reader.readexactly(5)
        asked.append(await reader.readexactly(head[4]))
        await reader.readexactly(2)
        writer.write(b"\x05\x00\x00\x01" + bytes(6))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(PLAIN)
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    async with server:
        env(ALL_PROXY=f"socks5h://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        made = create_provider(target_at("http://a.test/v1"))
        assert (await ask(made, stream=False)).text == "Hi"
    assert asked == [b"a.test"]


@pytest.mark.filterwarnings("ignore:a key is sent:UserWarning")
@pytest.mark.parametrize("name", ["HTTP_PROXY", "ALL_PROXY", "OPENAI_PROXY"])
async def test_a_proxy_is_used(env, transport, name):
    """With the whole address in the request's first line."""
    async with listening(PLAIN) as server:
        env(**{name: server.url})
        made = create_provider(target_at("http://a.test/v1"))
        assert (await ask(made, stream=False)).text == "Hi"
    assert server.heads[0].startswith("POST http://a.test/v1/chat/completions ")


# -- an own HTTP client ---------------------------------------------------------------------------

HTTPX = {"openai": httpx2, "together": httpx}


@pytest.fixture
def sim():
    with ProviderSimulator() as simulator:
        yield simulator


def at(sim, provider="openai", **fields):
    """A target in the simulator."""
    return Target(f"{provider}:m", base_url=sim.base_url(provider), api_key="k", **fields)


@pytest.mark.parametrize("provider", HTTPX)
@pytest.mark.parametrize("where", ["target", "model"])
async def test_an_own_client_sends_and_stays_open(sim, provider, where):
    """With its headers, whole answers and streams; closing the model does not close it."""
    async with HTTPX[provider].AsyncClient(headers={"x-mine": "1"}) as client:
        own = {"http_async_client": client}
        here, there = (own, {}) if where == "model" else ({}, own)
        llm = ResilientChatModel(targets=[at(sim, provider, **there)], **here)
        await llm.ainvoke("hi")
        assert [chunk async for chunk in llm.astream("hi")]
        await llm.aclose()
        assert not client.is_closed
        await llm.ainvoke("hi")
        assert all(request.headers.get("x-mine") == "1" for request in sim.requests)
        assert len(sim.requests) == 3


def test_a_function_makes_a_client_for_each_loop_and_it_is_closed(sim):
    """`invoke` has a loop of its own."""
    made = []

    def make():
        made.append(httpx2.AsyncClient(headers={"x-mine": str(len(made))}))
        return made[-1]

    llm = ResilientChatModel(targets=[at(sim, http_async_client=make)])
    llm.invoke("hi")
    llm.invoke("hi")
    asyncio.run(llm.ainvoke("hi"))
    assert [request.headers["x-mine"] for request in sim.requests] == ["0", "0", "1"]
    assert [client.is_closed for client in made] == [False, True]
    llm.close()
    assert all(client.is_closed for client in made)


@pytest.mark.parametrize(
    ("given", "said"),
    [(httpx.AsyncClient, "not httpx.AsyncClient"), (lambda: 7, "not builtins.int")],
    ids=["another httpx", "no client"],
)
async def test_a_client_that_the_sdk_cannot_send_with_is_one_targets_own_fault(sim, given, said):
    """The others answer, and it says of which httpx the client has to be."""
    llm = ResilientChatModel(
        targets=[at(sim, http_async_client=given), at(sim, "together")], hedge=None
    )
    attempts = (await llm.ainvoke("hi")).response_metadata["resilience"]["attempts"]
    assert f"must be an httpx2.AsyncClient here, {said}" in attempts[0]["message"]
    assert attempts[1]["outcome"] == "won"


def test_what_is_no_client_is_refused_at_once():
    """By name."""
    for make in (partial(Target, "openai:m"), partial(ResilientChatModel, targets=["text:hi"])):
        with pytest.raises(ValidationError, match="AsyncClient of httpx or a function"):
            make(http_async_client="http://proxy.test")


def test_copies_share_the_client_and_nothing_shows_it(sim):
    """It cannot be copied; targets of other clients are asked over their own."""
    client = httpx2.AsyncClient()
    llm = ResilientChatModel(targets=[at(sim)], http_async_client=client)
    assert copy.deepcopy(llm).http_async_client is client
    assert "AsyncClient" not in f"{llm!r} {llm._identifying_params} {llm.model_dump()}"
    one, other = (create_provider(at(sim, http_async_client=c)) for c in (client, None))
    assert one._client_key != other._client_key
    asyncio.run(client.aclose())


# -- what the model says for all its targets ------------------------------------------------------


async def test_a_models_query_and_key_of_the_moment_are_for_targets_without_their_own():
    """A function is asked with each request."""
    keys = iter(["one-0123456789", "two-0123456789"])
    async with listening(PLAIN) as server:
        url = {"base_url": server.url}
        llm = ResilientChatModel(
            targets=[Target("openai:m", **url)],
            api_key=lambda: next(keys),
            default_query={"version": "7"},
        )
        await llm.ainvoke("hi")
        await llm.ainvoke("hi")
        own = Target("openai:n", **url, api_key="k-0123456789", default_query={"version": "8"})
        await ResilientChatModel(targets=[own], default_query={"version": "7"}).ainvoke("hi")
    firsts = [head.splitlines()[0].split()[1] for head in server.heads]
    assert [first.partition("?")[2] for first in firsts] == ["version=7", "version=7", "version=8"]
    sent = [head.lower().partition("bearer ")[2].split()[0] for head in server.heads]
    assert sent == ["one-0123456789", "two-0123456789", "k-0123456789"]


def test_a_models_query_changes_its_answers():
    """As LangChain's cache sees it; one function as key is not for two providers either."""
    plain, other = (
        ResilientChatModel(targets=["text:hi"], default_query=q) for q in (None, {"a": "b"})
    )
    assert plain._identifying_params != other._identifying_params
    with pytest.raises(ValueError, match="api_key is one key, but the chain has"):
        ResilientChatModel(targets=["openai:a", "together:b"], api_key=lambda: "k")

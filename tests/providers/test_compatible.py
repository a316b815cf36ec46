"""Azure as users have it; and what it shares with other targets: keys of the moment, queries."""

from __future__ import annotations

import asyncio
import ssl
import subprocess

import pytest

from langchain_resilient import FaultKind as K
from langchain_resilient import ResilientChatModel, Target
from langchain_resilient.providers import create_provider, key_for, keys_for, missing_key
from langchain_resilient.providers.connection import ConnectionSetupError, tls_context
from tests.providers.asking import TRANSPORTS, ask, fault_of, http, listening

PLAIN = http('{"choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}]}')
KEY = "azure-key-0123456789"
ENDPOINT = "https://mine.openai.azure.com"


@pytest.fixture(autouse=True)
def env(monkeypatch, no_environment):
    """Sets environment variables; those of this machine are hidden."""
    for name in ("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT", "OPENAI_API_VERSION"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch.setenv


def url_of(**fields):
    """Where requests go, and with which query."""
    made = create_provider(Target("azure:my gpt", **{"azure_endpoint": ENDPOINT, **fields}))
    return made._url, made.query()


@pytest.mark.parametrize(
    ("fields", "path", "version"),
    [
        ({"api_version": "2024-10-21"}, "/openai/deployments/my%20gpt", "2024-10-21"),
        ({}, "/openai/v1", None),
        ({"azure_endpoint": f"{ENDPOINT}/"}, "/openai/v1", None),
        ({"azure_endpoint": f"{ENDPOINT}/openai/v1/"}, "/openai/v1", None),
        ({"azure_endpoint": f"{ENDPOINT}/openai/v1", "api_version": "2024-10-21"},
         "/openai/v1", None),
        ({"azure_endpoint": f"{ENDPOINT}/openai", "api_version": "v"},
         "/openai/deployments/my%20gpt", "v"),
        ({"azure_endpoint": f"{ENDPOINT}/openai/deployments/other", "api_version": "v"},
         "/openai/deployments/other", "v"),
    ],
)  # fmt: skip
def test_the_address_is_made_of_endpoint_deployment_and_version(fields, path, version):
    """Its own API with a version, else the one that is OpenAI's."""
    expected = {"api-version": version} if version else {}
    assert url_of(**fields) == (f"{ENDPOINT}{path}/chat/completions", expected)


def test_the_environment_says_what_the_target_does_not(env):
    """Under the names of the SDK and LangChain."""
    with pytest.raises(ValueError, match="AZURE_OPENAI_ENDPOINT"):
        create_provider(Target("azure:m", api_key=KEY))
    env("AZURE_OPENAI_ENDPOINT", ENDPOINT)
    env("AZURE_OPENAI_API_KEY", KEY)
    env("OPENAI_API_VERSION", "v")
    target = Target("azure:m")
    assert create_provider(target)._url == f"{ENDPOINT}/openai/deployments/m/chat/completions"
    assert key_for(target) == key_for(Target("azure:m", azure_endpoint=ENDPOINT)) == KEY
    assert key_for(Target("azure:m", azure_endpoint="https://elsewhere.test")) is None


def test_the_two_names_of_an_endpoint_are_one():
    """Whichever it is given under."""
    assert Target("azure:m", azure_endpoint=ENDPOINT).base_url == ENDPOINT
    with pytest.raises(ValueError, match="azure_endpoint and base_url are the same"):
        Target("azure:m", azure_endpoint=ENDPOINT, base_url=ENDPOINT)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_key_is_sent_as_azure_wants_it(env, transport):
    """By the first request and by later ones; and nothing else that could be taken for one."""
    env("LANGCHAIN_RESILIENT_TRANSPORT", transport)
    async with listening(PLAIN) as server:
        made = create_provider(
            Target("azure:m", azure_endpoint=server.url, api_version="v", api_key=KEY)
        )
        for _ in range(2):
            assert (await ask(made, stream=False)).text == "Hi"
    for head in server.heads:
        assert head.startswith("POST /openai/deployments/m/chat/completions?api-version=v ")
        assert f"api-key: {KEY}" in head
        assert "authorization" not in head.lower()


# -- keys of the moment ------------------------------------------------------------------------


def async_key(tokens):
    """A coroutine function that gives a list's items in turn."""

    async def key():
        return tokens.pop(0)

    return key


@pytest.mark.parametrize("make", [lambda tokens: lambda: tokens.pop(0), async_key])
@pytest.mark.parametrize("provider", ["azure", "openai", "together"])
async def test_a_function_gives_the_key_of_each_request(provider, make):
    """As Entra's token providers do; as a bearer."""
    tokens = [f"token-000{number}-of-entra" for number in range(3)]
    async with listening(PLAIN) as server:
        target = Target(f"{provider}:m", base_url=server.url, api_key=make(list(tokens)))
        made = create_provider(target)
        for _ in tokens:
            assert (await ask(made, stream=False)).text == "Hi"
    for head, token in zip(server.heads, tokens, strict=True):
        sent = [line for line in head.lower().split("\r\n") if line.startswith("authorization:")]
        assert sent == [f"authorization: bearer {token}"]
        assert "content-type: application/json" in head.lower()


def raising():
    """A token provider that has none."""
    msg = "sk-secret-token is no good"
    raise RuntimeError(msg)


@pytest.mark.parametrize("function", [raising, lambda: None, lambda: " "])
async def test_a_function_without_a_key_is_the_targets_fault(function):
    """The next target answers."""
    async with listening(PLAIN) as server:
        target = Target("openai:a", base_url=server.url, api_key=function)
        fault = await fault_of(create_provider(target))
        assert (fault.kind, fault.should_retry) == (K.CONNECTION, False)
        assert "the function given as api_key" in fault.message
        other = Target("openai:b", base_url=server.url, api_key="k")
        llm = ResilientChatModel(targets=[target, other], hedge=None)
        assert (await llm.ainvoke("hello")).content == "Hi"


def test_a_function_is_an_account_of_its_own():
    """It is neither called nor shown for that."""
    one, two = (Target("openai:m", api_key=function) for function in (raising, lambda: "x"))
    assert keys_for(one) == keys_for(one) != keys_for(two)
    assert missing_key(one) is None


async def test_a_query_is_sent_with_each_request():
    """For gateways that want one."""
    async with listening(PLAIN) as server:
        made = create_provider(
            Target("openai:m", base_url=server.url, api_key="k", default_query={"team": "a b"})
        )
        for _ in range(2):
            await ask(made, stream=False)
    assert [head.split()[1] for head in server.heads] == ["/chat/completions?team=a+b"] * 2


# -- certificates ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for localhost that is its own authority, and its key."""
    folder = tmp_path_factory.mktemp("certificates")
    files = str(folder / "certificate.pem"), str(folder / "key.pem")
    command = (
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
        "-out", files[0], "-keyout", files[1],
    )  # fmt: skip
    try:
        subprocess.run(command, check=True, capture_output=True)
    except OSError:
        pytest.skip("openssl is not installed")
    return files


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_own_authority_and_an_own_certificate(env, certificate, transport):
    """The server wants to know who asks, and shows what only the target trusts."""
    env("LANGCHAIN_RESILIENT_TRANSPORT", transport)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificate[0])
    context.load_cert_chain(*certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    names = []

    async def serve(reader, writer):
        names.append(writer.get_extra_info("peercert")["subject"])
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        await reader.readexactly(int(head.partition("content-length:")[2].split()[0]))
        writer.write(PLAIN)
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with listener:
        url = f"https://localhost:{listener.sockets[0].getsockname()[1]}"
        own = {"ca_certificates": certificate[0], "client_certificate": certificate}
        made = create_provider(Target("openai:m", base_url=url, api_key="k", **own))
        assert (await ask(made, stream=False)).text == "Hi"
        fault = await fault_of(create_provider(Target("openai:m", base_url=url, api_key="k")))
    assert names == [((("commonName", "localhost"),),)]
    assert (fault.kind, fault.should_retry) == (K.CONNECTION, False)


def test_certificates_that_cannot_be_read_are_named(certificate):
    """The field is, and the file."""
    httpx = pytest.importorskip("httpx")
    with pytest.raises(ConnectionSetupError, match=r"ca_certificates .*/nowhere"):
        tls_context(httpx, ("/nowhere", None))
    with pytest.raises(ConnectionSetupError, match=r"client_certificate .*/nowhere"):
        tls_context(httpx, (certificate[0], "/nowhere"))


def test_an_unknown_provider_is_told_how_to_write_a_compatible_server():
    """And that LangChain's models are targets."""
    with pytest.raises(
        ValueError, match=r"unknown provider 'mine'.*base_url.*LangChain chat model"
    ):
        ResilientChatModel(targets=["mine:m"])

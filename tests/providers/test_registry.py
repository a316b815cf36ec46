"""Providers by name: found, made on demand, brought by users; and whose key goes where."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import httpx2
import openai
import pytest
from pydantic import SecretStr

from langchain_resilient import Target, providers
from langchain_resilient.providers import (
    create_provider,
    key_for,
    known_providers,
    provider_entry,
    register,
)
from langchain_resilient.providers.connection import usual_context
from langchain_resilient.providers.http import http_client, transport_name
from langchain_resilient.providers.servers import BY_NAME
from tests.providers.asking import ask

ROOT = Path(__file__).parents[2]


@pytest.fixture
def registry(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(providers, "_entries", dict(providers._entries))


class Echo:
    """Says what it was told."""

    def __init__(self, target):
        self.target = target

    async def open(self, request, *, stream):
        async def chunks():
            text = request.messages[-1]["content"]
            yield {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]}

        return chunks()


def test_the_built_in_ones_are_known():
    """In the order of the alphabet."""
    assert set(known_providers()) - BY_NAME.keys() == {
        "local",
        "openai",
        "runnable",
        "text",
        "together",
    }
    assert list(known_providers()) == sorted(known_providers())


async def test_a_registered_provider_serves_its_targets(registry):
    """One class and one line make one."""
    assert register("echo")(Echo) is Echo
    assert "echo" in known_providers()
    assert (await ask(create_provider(Target("echo:parrot")))).text == "hello"


def test_a_registered_provider_may_need_a_key(registry, monkeypatch):
    """From the variable that it names."""
    register("echo", api_key_env="ECHO_KEY", base_url_env="ECHO_URL")(Echo)
    monkeypatch.setenv("ECHO_KEY", "sk-echo")
    assert key_for(Target("echo:parrot")) == "sk-echo"
    assert provider_entry("echo").base_url_env == ("ECHO_URL",)


def test_a_name_may_be_taken_over(registry):
    """To wrap a built-in one."""
    register("openai")(Echo)
    assert isinstance(create_provider(Target("openai:m")), Echo)


@pytest.mark.parametrize("name", ["Echo", "", "my echo", "1st", "echo:", "écho"])
def test_a_name_that_no_target_could_use_is_refused(registry, name):
    """At once, not when nothing is found."""
    with pytest.raises(ValueError, match="no provider's name"):
        register(name)


def test_an_unknown_provider_is_an_error_that_lists_the_known():
    """A typing error is the likely cause."""
    with pytest.raises(ValueError, match=r"'opnai' .*mean 'openai'.*; known are .*openai"):
        create_provider(Target("opnai:m"))


async def test_a_fixed_text_answers_everything():
    """The simplest last resort."""
    response = await ask(create_provider(Target(provider="text", model="Sorry.", name="text")))
    assert (response.text, response.fault()) == ("Sorry.", None)


@pytest.mark.parametrize(("fields", "env", "expected"), [
    ({}, None, None),
    ({}, "", None),
    ({}, "sk-env", "sk-env"),
    ({}, "sk-env\n", "sk-env"),
    ({"api_key": "sk-own"}, "sk-env", "sk-own"),
    ({"api_key": SecretStr("sk-own")}, None, "sk-own"),
    ({"api_key": " sk-own\r\n"}, None, "sk-own"),
    ({"api_key": ""}, "sk-env", None),
    ({"base_url": "http://x.test"}, "sk-env", None),
    ({"base_url": "http://x.test", "api_key": "sk-own"}, "sk-env", "sk-own"),
])  # fmt: skip
def test_the_key_is_the_targets_own_or_the_environments(monkeypatch, fields, env, expected):
    """The environment's goes to the provider itself only."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if env is not None:
        monkeypatch.setenv("OPENAI_API_KEY", env)
    assert key_for(Target("openai:m", **fields)) == expected


def test_a_provider_that_needs_no_key_has_none(monkeypatch):
    """Not even by chance."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-env")
    assert key_for(Target("local")) is None


def test_to_make_a_provider_imports_no_sdk():
    """They cost a second: the first request pays, and only for the one it needs."""
    code = (
        "import sys; from langchain_resilient.providers import create_provider; "
        "from langchain_resilient.options import Target; "
        "[create_provider(Target(spec)) for spec in ('openai:m', 'together:m')]; "
        "print({'openai', 'together', 'httpx', 'httpx2', 'aiohttp'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=60)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("value", [None, "", "aiohttp", "httpx"])
def test_the_transport_is_aiohttp_unless_another_is_wanted(monkeypatch, value):
    """It halves the cost of a call. A variable that is empty is one that is not set."""
    monkeypatch.delenv("LANGCHAIN_RESILIENT_TRANSPORT", raising=False)
    if value is not None:
        monkeypatch.setenv("LANGCHAIN_RESILIENT_TRANSPORT", value)
    assert transport_name() == (value or "aiohttp")


def test_an_unknown_transport_is_an_error(monkeypatch):
    """Not silently the default."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_TRANSPORT", "curl")
    with pytest.raises(ValueError, match='must be "aiohttp" or "httpx", not \'curl\''):
        transport_name()


@pytest.fixture
async def client():
    """Makes the HTTP clients of a test, and closes them."""
    made = []

    def make():
        made.append(http_client(openai, httpx2, httpx2.Timeout(1), url="https://x.test/v1"))
        return made[-1]

    yield make
    for one in made:
        await one.aclose()


async def test_clients_share_their_tls_settings(client):
    """To read all root certificates for each would block the loop for 30 ms and more."""
    assert client()._transport.ssl_context is client()._transport.ssl_context


@pytest.mark.parametrize("spec", ["openai:m", "together:m"])
def test_what_is_slow_can_be_done_beforehand(spec):
    """In a thread: the import, and the root certificates."""
    made = create_provider(Target(spec, api_key="sk-0123456789"))
    made.prepare()
    before = usual_context.cache_info().misses
    asyncio.run(made._create_template().close())
    assert usual_context.cache_info().misses == before


async def test_an_idle_connection_waits_for_the_next_call(client):
    """A server that hangs up sooner is seen to do so."""
    assert client()._transport.limits.keepalive_expiry == 60.0

"""Servers that speak OpenAI's API, by name: their addresses, their keys, their words."""

from __future__ import annotations

import pytest

from langchain_resilient import DroppedParameterWarning, ResilientChatModel, Target
from langchain_resilient.prices import FREE, price_of
from langchain_resilient.providers import (
    address_of,
    create_provider,
    key_for,
    key_variable,
    known_providers,
    missing_key,
    provider_entry,
)
from langchain_resilient.providers.servers import BY_NAME, SERVERS
from langchain_resilient.testing import ProviderSimulator, Status
from tests.providers.asking import ask, request

HOSTED = [server for server in SERVERS if server.needs_key]
LOCAL = [server for server in SERVERS if not server.needs_key]


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch):
    """Hide what this machine may have set."""
    for server in SERVERS:
        for name in (*server.keys, *server.base_url_env, server.endpoint_env):
            if name:
                monkeypatch.delenv(name, raising=False)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_CUSTOM_HEADERS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def served(monkeypatch):
    """Put a simulator in a server's place; returns its target."""
    async with ProviderSimulator() as simulator:

        def place(server, **fields):
            monkeypatch.setenv(server.base_url_env[0], simulator.base_url("openai"))
            monkeypatch.setenv(server.keys[0], f"key-of-{server.name}")
            return simulator, Target(f"{server.name}:m", **fields)

        yield place


def test_there_is_a_row_for_each_that_people_ask_for():
    """By the names that they use."""
    wanted = {"azure", "groq", "openrouter", "deepseek", "mistral", "fireworks", "xai", "cerebras",
              "google", "nvidia", "ollama", "vllm", "lmstudio", "llamacpp"}  # fmt: skip
    assert wanted <= BY_NAME.keys() <= set(known_providers())


@pytest.mark.parametrize("server", SERVERS, ids=lambda s: s.name)
async def test_a_name_and_a_key_are_enough(served, server):
    """Streamed and plain; the key goes there, and what OpenAI's variables hold does not."""
    sim, target = served(server)
    for stream in (True, False):
        answer = await ask(create_provider(target), request("Say exactly: yes"), stream=stream)
        assert answer.text == "yes"
    assert {record.model for record in sim.requests} == {"m"}
    assert len({record.key for record in sim.requests}) == 1
    assert sim.requests[0].key


@pytest.mark.parametrize("server", SERVERS, ids=lambda s: s.name)
def test_its_own_address_has_its_own_key(monkeypatch, server):
    """Without any address in the environment."""
    monkeypatch.setenv(server.keys[0], "k")
    if server.endpoint_env:
        monkeypatch.setenv(server.endpoint_env, "https://mine.openai.azure.com/")
    target = Target(server.example)
    address = address_of(target)
    assert address.url == (server.base_url or "https://mine.openai.azure.com/openai/v1")
    assert key_for(target) == "k"
    assert missing_key(target) is None
    assert create_provider(target)._url == f"{address.url}/chat/completions"


@pytest.mark.parametrize("server", HOSTED, ids=lambda s: s.name)
def test_a_key_is_missed_and_never_goes_elsewhere(monkeypatch, server):
    """It is named; another server's address does not get it."""
    assert missing_key(Target(server.example)) == server.keys[0]
    monkeypatch.setenv(server.keys[0], "k")
    assert key_for(Target(server.example, base_url="https://other.example/v1")) is None


@pytest.mark.parametrize("server", LOCAL, ids=lambda s: s.name)
def test_a_server_of_ones_own_needs_no_key_and_costs_nothing(server):
    """It may have one."""
    target = Target(server.example)
    assert (key_for(target), missing_key(target), key_variable(target)) == (None, None, None)
    assert price_of(server.name, "m") == FREE


def test_a_second_name_of_a_key_counts(monkeypatch):
    """Google's has two."""
    monkeypatch.setenv("GOOGLE_API_KEY", "k")
    assert key_for(Target("google:m")) == "k"
    monkeypatch.setenv("GEMINI_API_KEY", "first")
    assert key_for(Target("google:m")) == "first"


def test_an_account_without_an_address_is_an_error_that_says_what_to_set():
    """Each Azure resource has its own."""
    with pytest.raises(ValueError, match="AZURE_OPENAI_ENDPOINT or AZURE_OPENAI_BASE_URL"):
        create_provider(Target("azure:m", api_key="k"))


@pytest.mark.parametrize(
    "endpoint",
    ["https://a.openai.azure.com", "https://a.openai.azure.com/openai/v1/"],
)
def test_azures_endpoint_may_have_its_path_or_not(monkeypatch, endpoint):
    """People copy either."""
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", endpoint)
    assert address_of(Target("azure:m")).url == "https://a.openai.azure.com/openai/v1"


@pytest.mark.parametrize(
    ("name", "asked", "sent"),
    [
        ("mistral", {"seed": 3, "max_completion_tokens": 9}, {"random_seed": 3, "max_tokens": 9}),
        ("azure", {"max_tokens": 9}, {"max_completion_tokens": 9}),
        ("groq", {"max_tokens": 9}, {"max_tokens": 9}),
        ("openrouter", {"top_k": 9, "min_p": 0.1}, {"top_k": 9, "min_p": 0.1}),
        ("vllm", {"repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
    ],
)
def test_parameters_have_the_servers_names(monkeypatch, name, asked, sent):
    """And those that it knows are kept."""
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://a.openai.azure.com")
    provider = create_provider(Target(f"{name}:m", api_key="k"))
    body = provider.adapt_body({**asked, "messages": []}, stream=False)
    assert body == {**sent, "messages": [], "model": "m"}


@pytest.mark.parametrize("server", [s for s in HOSTED if s.refuses], ids=lambda s: s.name)
async def test_what_a_server_refuses_is_left_out_with_a_warning(served, server):
    """Never silently."""
    sim, target = served(server)
    provider = create_provider(target)
    with pytest.warns(DroppedParameterWarning, match="does not take 'top_k'"):
        await ask(provider, request(top_k=3))
    assert "top_k" not in sim.requests[-1].body


@pytest.mark.parametrize("server", SERVERS, ids=lambda s: s.name)
async def test_streams_bring_their_usage(served, server):
    """Asked for where the server wants to be asked."""
    sim, target = served(server)
    await ask(create_provider(target))
    assert ("stream_options" in sim.requests[-1].body) is not server.quiet_usage


@pytest.mark.parametrize("server", SERVERS, ids=lambda s: s.name)
def test_the_responses_api_is_where_the_row_says(monkeypatch, server):
    """An API that a target lacks is a clear error, when the model is made."""
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://a.openai.azure.com")
    target = Target(server.example, api="responses", api_key="k")
    if server.responses:
        create_provider(target)
    else:
        with pytest.raises(ValueError, match="has no Responses API"):
            create_provider(target)


async def test_other_makers_models_go_by_no_rules_of_openais(served):
    """A name like one of OpenAI's is not taken for it; Azure's are OpenAI's."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    for name, wanted in (("openrouter", False), ("azure", True)):
        _, target = served(BY_NAME[name])
        provider = create_provider(target.model_copy(update={"model": "gpt-6-luna"}))
        assert provider._prefers_responses({"messages": [], "tools": tools}) is wanted


async def test_openais_own_headers_stay_at_home(served, monkeypatch):
    """They may hold a key, and name an organization."""
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-secret: canary")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-canary")
    sim, target = served(BY_NAME["groq"])
    await ask(create_provider(target))
    assert "canary" not in str(sim.requests[-1].headers)


async def test_the_chain_goes_on_from_one_to_the_next(served):
    """As any two targets."""
    sim, target = served(BY_NAME["groq"])
    sim.script("openai:m", Status(500))
    second = target.model_copy(update={"model": "n", "name": "groq:n"})
    llm = ResilientChatModel(targets=[target, second])
    answer = await llm.ainvoke("Say exactly: hello")
    assert answer.text == "hello"
    assert answer.response_metadata["model_provider"] == "groq"
    assert answer.content_blocks == [{"type": "text", "text": "hello"}]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("grok:m", "did you mean 'groq'"),
        ("nobody:m", 'Target\\("openai:model", base_url='),
        ("nobody:m", "azure, cerebras, cohere"),
    ],
)
def test_an_unknown_name_says_which_there_are_and_how_to_add_one(spec, words):
    """Nobody has to look it up."""
    with pytest.raises(ValueError, match=words):
        ResilientChatModel(targets=[spec])


@pytest.mark.parametrize("server", HOSTED, ids=lambda s: s.name)
def test_an_address_is_encrypted_and_its_host_its_own(server):
    """A key for it goes nowhere else."""
    entry = provider_entry(server.name)
    assert server.base_url.startswith("https://") or not server.base_url
    assert entry.public_hosts
    assert all(host in server.base_url for host in entry.public_hosts if server.base_url)

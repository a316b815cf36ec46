"""Where requests go, and with whose key: what a target says, then what the environment says."""

from __future__ import annotations

import pytest

from langchain_resilient import Target
from langchain_resilient.providers import (
    address_of,
    create_provider,
    key_for,
    key_variable,
    missing_key,
    organization_of,
)
from tests.providers.asking import ask, http, listening

pytestmark = pytest.mark.usefixtures("no_environment")

PLAIN = http('{"choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}]}')

GATEWAY = "https://gateway.example/v1"


@pytest.fixture
def env(monkeypatch):
    """Sets environment variables by keyword."""

    def set_all(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all


@pytest.mark.parametrize(
    ("spec", "variables", "counts"),
    [
        ("openai:m", {}, None),
        ("openai:m", {"OPENAI_BASE_URL": GATEWAY}, "OPENAI_BASE_URL"),
        ("openai:m", {"OPENAI_API_BASE": GATEWAY}, "OPENAI_API_BASE"),
        ("openai:m", {"OPENAI_BASE_URL": "https://b.example", "OPENAI_API_BASE": GATEWAY},
         "OPENAI_API_BASE"),
        ("openai:m", {"OPENAI_API_BASE": "", "OPENAI_BASE_URL": GATEWAY}, "OPENAI_BASE_URL"),
        ("openai:m", {"TOGETHER_API_BASE": GATEWAY}, None),
        ("together:m", {"TOGETHER_BASE_URL": GATEWAY}, "TOGETHER_BASE_URL"),
        ("together:m", {"TOGETHER_API_BASE": GATEWAY, "TOGETHER_BASE_URL": "https://b.example"},
         "TOGETHER_API_BASE"),
    ],
)  # fmt: skip
def test_every_name_counts_in_langchains_order(env, spec, variables, counts):
    """LangChain's own before the SDK's; an empty one is none."""
    env(**variables)
    address = address_of(Target(spec))
    assert (address.variable, address.url) == (counts, GATEWAY if counts else None)


@pytest.mark.parametrize(
    ("variables", "url", "variable", "key"),
    [
        ({"LANGSMITH_GATEWAY": "true", "LANGSMITH_API_KEY": "ls"},
         "https://gateway.smith.langchain.com/openai/v1", "LANGSMITH_GATEWAY", "ls"),
        ({"LANGSMITH_GATEWAY": "https://own.example/", "LANGSMITH_GATEWAY_API_KEY": "gw"},
         "https://own.example/openai/v1", "LANGSMITH_GATEWAY", "gw"),
        ({"LANGSMITH_GATEWAY": "1", "OPENAI_BASE_URL": GATEWAY},
         "https://gateway.smith.langchain.com/openai/v1", "LANGSMITH_GATEWAY", "sk"),
        ({"LANGSMITH_GATEWAY": "true", "OPENAI_API_BASE": GATEWAY, "LANGSMITH_API_KEY": "ls"},
         GATEWAY, "OPENAI_API_BASE", "sk"),
        ({"LANGSMITH_GATEWAY": "false", "OPENAI_BASE_URL": GATEWAY, "LANGSMITH_API_KEY": "ls"},
         GATEWAY, "OPENAI_BASE_URL", "sk"),
        ({"LANGSMITH_GATEWAY": "no"}, None, None, "sk"),
    ],
)  # fmt: skip
def test_langsmiths_gateway_stands_between_the_two_names(env, variables, url, variable, key):
    """As in ChatOpenAI; its key goes nowhere else."""
    env(OPENAI_API_KEY="sk", **variables)
    target = Target("openai:m")
    assert address_of(target)[:2] == (url, variable)
    assert key_for(target) == key


@pytest.mark.parametrize("name", ["OPENAI_API_BASE", "OPENAI_BASE_URL", "LANGSMITH_GATEWAY"])
def test_an_address_that_cannot_be_used_is_named_and_not_shown(env, name):
    """It may hold a key."""
    env(**{name: "https://user:hidden@gateway.example"})
    with pytest.raises(ValueError, match=name) as caught:
        create_provider(Target("openai:m"))
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "name"), [("openai:m", "OPENAI_API_BASE"), ("together:m", "TOGETHER_API_BASE")]
)
async def test_the_prompt_goes_to_the_gateway_with_the_environments_key(env, spec, name):
    """The company's own, and nowhere else."""
    async with listening(PLAIN) as server:
        env(**{name: f"{server.url}/v1/", name.replace("BASE", "KEY"): "sk-from-env"})
        await ask(create_provider(Target(spec)))
    (head,) = server.heads
    assert head.startswith("POST /v1/chat/completions ")
    assert "Bearer sk-from-env" in head


@pytest.mark.parametrize(
    ("variables", "organization"),
    [
        ({"OPENAI_ORGANIZATION": "org-old"}, "org-old"),
        ({"OPENAI_ORGANIZATION": "org-old", "OPENAI_ORG_ID": "org-new"}, "org-new"),
    ],
)
async def test_the_environments_organization_is_sent(env, variables, organization):
    """Under either name; the SDK's own goes before."""
    async with listening(PLAIN) as server:
        env(OPENAI_API_BASE=server.url, OPENAI_API_KEY="sk", **variables)
        await ask(create_provider(Target("openai:m")))
    assert f"openai-organization: {organization}" in server.heads[0].lower()


def test_the_environments_organization_goes_to_no_other_server(env):
    """It is between the user and the provider."""
    env(OPENAI_ORGANIZATION="org", TOGETHER_PROJECT_ID="project")
    for spec in ("openai:m", "together:m"):
        assert organization_of(Target(spec, base_url="http://localhost:1")) is None
        assert organization_of(Target(spec, base_url="http://localhost:1", organization="x")) == "x"


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://api.openai.com/v1", True),
        ("https://eu.api.openai.com/v1", True),
        ("http://api.openai.com/v1", False),
        ("https://api.openai.com.example/v1", False),
        ("https://notapi.openai.com/v1", False),
        (GATEWAY, False),
    ],
)
def test_the_providers_own_address_gets_the_providers_key(env, url, public):
    """However it was written; but only there, and only encrypted."""
    env(OPENAI_API_KEY="sk")
    target = Target("openai:m", base_url=url)
    assert address_of(target).public is public
    assert (key_for(target) == "sk") is public
    body = create_provider(target).adapt_body({"max_tokens": 1}, stream=False)
    assert ("max_completion_tokens" in body) is public


def test_the_variable_to_set_is_named(env):
    """The gateway's, where that counts and is there; else the provider's."""
    target = Target("openai:m")
    assert key_variable(target) == missing_key(target) == "OPENAI_API_KEY"
    env(LANGSMITH_GATEWAY="true", LANGSMITH_API_KEY="ls")
    assert (key_variable(target), missing_key(target)) == ("LANGSMITH_API_KEY", None)
    assert missing_key(Target("openai:m", base_url=GATEWAY)) is None
    assert key_variable(Target("text:hello")) is None

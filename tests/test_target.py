"""Targets and chains: what may be written, and what is said about what may not."""

from __future__ import annotations

import pytest
from langchain_core.language_models import FakeListChatModel
from pydantic import ValidationError

from langchain_resilient import ResilientChatModel, Target
from langchain_resilient.options import as_chain, as_target


@pytest.mark.parametrize(
    ("spec", "provider", "model"),
    [
        ("openai:gpt-4", "openai", "gpt-4"),
        ("together:meta-llama/Llama-3.3-70B-Instruct-Turbo", "together",
         "meta-llama/Llama-3.3-70B-Instruct-Turbo"),
        ("openai:ft:gpt-4o:org::id", "openai", "ft:gpt-4o:org::id"),
        ("local", "local", ""),
    ],
)  # fmt: skip
def test_a_spec_is_taken_apart_at_the_first_colon(spec, provider, model):
    """Model ids may hold colons and slashes."""
    target = Target(spec)
    assert (target.provider, target.model, target.name) == (provider, model, spec)


@pytest.mark.parametrize("bad", ["gpt-4", "", ":", "openai:", "OpenAI:gpt-4", 7, None, object()])
def test_what_is_no_target_is_told_what_one_looks_like(bad):
    """The error shows the syntax."""
    with pytest.raises((ValueError, ValidationError), match=r"provider"):
        as_target(bad)


def test_a_langchain_model_is_a_target():
    """It is named after its class and model."""
    target = as_target(FakeListChatModel(responses=["x"]))
    assert (target.provider, target.name) == ("runnable", "FakeListChatModel:FakeListChatModel")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"context_window": 0}, "context_window"),
        ({"base_url": "localhost:8000"}, "base_url"),
        ({"temprature": 1}, "temprature"),
    ],
)
def test_a_field_out_of_range_is_named(fields, named):
    """Also a misspelt one."""
    with pytest.raises(ValidationError) as caught:
        Target("openai:gpt-4", **fields)
    assert caught.value.errors()[0]["loc"] == (named,)


@pytest.mark.parametrize("price", [(-1, 2), (1,), (1, float("nan")), 3])
def test_a_price_is_two_amounts(price):
    """Dollars per million tokens in and out, not negative."""
    with pytest.raises(ValidationError, match="price"):
        Target("openai:gpt-4", price=price)


def test_a_target_is_frozen():
    """It is shared between calls and threads."""
    with pytest.raises(ValidationError):
        Target("openai:gpt-4").model = "other"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("openai:gpt-4", r"targets=\[.openai:gpt-4.\]"),
        ([], "empty"),
        (7, "list"),
        (["openai:gpt-4", "openai:gpt-4"], "duplicate"),
        (["nobody:m"], "unknown provider 'nobody'; known are"),
    ],
)  # fmt: skip
def test_a_wrong_chain_is_told_what_is_accepted(value, said):
    """A bare string, nothing, a number, a duplicate, an unknown provider."""
    with pytest.raises(ValidationError, match=said) as caught:
        ResilientChatModel(targets=value)
    assert caught.value.errors()[0]["loc"] == ("targets",)


def test_two_targets_that_differ_in_settings_get_different_names():
    """Receipts must tell them apart."""
    chain = as_chain(["openai:gpt-4", Target("openai:gpt-4", temperature=0.1)])
    assert [t.name for t in chain] == ["openai:gpt-4", "openai:gpt-4#2"]


def test_a_key_is_shown_nowhere():
    """Not in repr, str, or a dump."""
    target = Target("openai:gpt-4", api_key="sk-canary", default_headers={"x": "sk-canary"})
    for text in (repr(target), str(target), repr(target.model_dump()["api_key"])):
        assert "canary" not in text

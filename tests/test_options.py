"""What may be written for targets and models, and what is said about what may not."""

from __future__ import annotations

import pytest
from langchain_core.language_models import FakeListChatModel
from pydantic import ValidationError

from langchain_resilient import (
    Health,
    Hedge,
    ResilientChatModel,
    Retry,
    Shared,
    SpendCap,
    Target,
    TimeLimits,
)
from langchain_resilient.configuration import deadline_of
from langchain_resilient.options import as_chain, as_target
from langchain_resilient.service.config import ServiceConfig


def model(**fields):
    return ResilientChatModel(**{"targets": ["text:x"], **fields})


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
    ("value", "wording"),
    [
        ("openai:gpt-4", r"targets=\[.openai:gpt-4.\]"),
        ([], "empty"),
        (7, "list"),
        (["openai:gpt-4", "openai:gpt-4"], "duplicate"),
        (["nobody:m"], "unknown provider 'nobody'; known are"),
    ],
)  # fmt: skip
def test_a_wrong_chain_is_told_what_is_accepted(value, wording):
    """A bare string, nothing, a number, a duplicate, an unknown provider."""
    with pytest.raises(ValidationError, match=wording) as caught:
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


@pytest.mark.parametrize(("timeout"), [0, -1, float("nan")])
def test_a_deadline_must_be_positive(timeout):
    """Zero is no deadline; None is none."""
    with pytest.raises(ValidationError, match="timeout"):
        ResilientChatModel(targets=["text:x"], timeout=timeout)


@pytest.mark.parametrize(
    ("make", "place", "words"),
    [
        (lambda: Hedge(dealy=1), "dealy", "did you mean delay?"),
        (lambda: TimeLimits(frist_text=1), "frist_text", "did you mean first_text?"),
        (lambda: Health(trip_afer=1), "trip_afer", "did you mean trip_after?"),
        (lambda: Retry(waiting=1), "waiting", "did you mean wait?"),
        (lambda: SpendCap(dolars=1), "dolars", "did you mean dollars?"),
        (lambda: SpendCap(1, zzz=1), "zzz", "there are dollars, name, per"),
        (lambda: Shared("redis://x", namspace="a"), "namspace", "did you mean namespace?"),
        (lambda: ServiceConfig(prot=1), "prot", "did you mean port?"),
        (lambda: model(hedge={"delya": 1}), "hedge.delya", "did you mean delay?"),
        (lambda: model(time_limits={"first_txt": 1}), "time_limits.first_txt",
         "did you mean first_text?"),
        (lambda: model(targets=[{"provider": "text", "model": "x", "wieght": 1}]),
         "targets.wieght", "did you mean weight?"),
    ],
    ids=["Hedge", "TimeLimits", "Health", "Retry", "SpendCap", "none", "Shared", "ServiceConfig",
         "hedge", "time_limits", "targets"],
)  # fmt: skip
def test_a_misspelt_field_is_told_its_nearest_name_at_every_depth(make, place, words):
    """In policies, in what is written as dicts (TOML), in the service's table."""
    with pytest.raises(ValidationError) as caught:
        make()
    (error,) = caught.value.errors()
    assert (".".join(map(str, error["loc"])), words in error["msg"]) == (place, True)


@pytest.mark.parametrize("name", ["", "  "])
def test_a_name_of_a_target_is_not_empty(name):
    """It stands in receipts and statistics."""
    with pytest.raises(ValidationError, match="name must not be empty"):
        Target("openai:m", name=name)


def test_copies_with_changes_are_validated():
    """As if they had been given to the constructor, in a model, a target and a policy."""
    llm = model(targets=[Target("openai:m", api_key="k", price=(1, 1))])
    assert llm.model_copy(update={"spend_cap": 5.0}).spend_cap == SpendCap(5)
    assert llm.model_copy(update={"hedge": 1.0}).hedge == Hedge(delay=1)
    assert llm.model_copy(update={"targets": ["text:x"]}).invoke("a").text == "x"
    assert Target("text:x").model_copy(update={"spend_cap": 2}).spend_cap == SpendCap(2)
    for made in (llm, Hedge(), Target("text:x")):
        with pytest.raises(ValidationError, match="zzz"):
            made.model_copy(update={"zzz": 1})


@pytest.mark.parametrize(
    ("model", "reasons"),
    [
        ("o3", True), ("o4-mini", True), ("gpt-5", True), ("gpt-5-mini-2025-08-07", True),
        ("deepseek-ai/DeepSeek-R1", True), ("deepseek-reasoner", True), ("gpt-oss-120b", True),
        ("Qwen/Qwen3-235B-A22B-Thinking-2507", True), ("gpt-4o", False), ("gpt-4.1-mini", False),
        ("grok-4-fast-non-reasoning", False), ("meta-llama/Llama-3.3-70B-Instruct-Turbo", False),
    ],
)  # fmt: skip
def test_a_model_that_reasons_is_known_by_its_name(model, reasons):
    """As the providers document them; `thinks` overrides it."""
    assert Target(f"openai:{model}", api_key="k").reasons() is reasons
    assert Target(f"openai:{model}", api_key="k", thinks=not reasons).reasons() is not reasons


@pytest.mark.parametrize(("effort", "reasons"), [("high", True), ("none", False)])
def test_an_effort_says_whether_it_reasons(effort, reasons):
    """Before the name does."""
    target = Target("openai:gpt-5", api_key="k", model_kwargs={"reasoning_effort": effort})
    assert target.reasons() is reasons


def test_a_chain_that_reasons_has_a_longer_deadline():
    """If nobody said how long."""
    thinker, plain = Target("openai:o3", api_key="k"), Target("openai:gpt-4o", api_key="k")
    assert deadline_of(ResilientChatModel(targets=[plain])) == 120
    assert deadline_of(ResilientChatModel(targets=[plain, thinker])) == 600
    assert deadline_of(ResilientChatModel(targets=[thinker], timeout=30)) == 30


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("model", 'targets=["openai:'),
        ("model_name", 'targets=["openai:'),
        ("provider", 'targets=["openai:'),
        ("base_url", 'Target("openai:...", base_url=...)'),
        ("openai_api_base", "write base_url=..."),
        ("default_headers", 'Target("openai:...", default_headers=...)'),
        ("request_timeout", "write timeout=..."),
        ("openai_api_key", "write api_key=..."),
        ("fallbacks", "targets=[first, second, ...]"),
        ("num_retries", "write max_retries=..."),
        ("use_responses_api", 'api="responses"'),
        ("azure_endpoint", "azure_endpoint=...)"),
        ("azure_deployment", 'Target("azure:DEPLOYMENT"'),
        ("http_client", "client_certificate="),
        ("max_concurrency", 'config={"max_concurrency"'),
        ("reasoning", "write reasoning_effort=..."),
        ("timout", "did you mean timeout?"),
    ],
)
def test_a_field_of_other_libraries_is_told_what_to_write(name, written):
    """Where a model of ours says the same thing."""
    with pytest.raises(ValidationError) as caught:
        ResilientChatModel(**{name: "x"})
    (error,) = caught.value.errors()
    assert error["loc"] == (name,)
    assert written in error["msg"]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("model_name", 'Target("openai:gpt-6.1-sol")'),
        ("timeout", "time_limits=TimeLimits("),
        ("request_timeout", "time_limits=TimeLimits("),
        ("openai_api_base", "write base_url=..."),
        ("max_retries", "ResilientChatModel(max_retries=...)"),
        ("rate_limiter", "requests_per_minute=..."),
    ],
)
def test_so_is_a_field_of_a_target(name, written):
    """Where a target of ours says the same thing."""
    with pytest.raises(ValidationError) as caught:
        Target("openai:m", **{name: "x"})
    assert written in caught.value.errors()[0]["msg"]


def test_a_models_name_by_position_is_told_what_to_write():
    """As other libraries take it."""
    with pytest.raises(TypeError, match=r'targets=\["openai:'):
        ResilientChatModel("openai:gpt-6.1-sol")

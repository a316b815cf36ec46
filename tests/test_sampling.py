"""What is set on a model, a target or a call, under any name that users have for it."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from langchain_resilient import ResilientChatModel, Target
from langchain_resilient import testing as t
from langchain_resilient.exchange import ChatRequest
from langchain_resilient.providers import create_provider
from langchain_resilient.sampling import Sampling, sampling_params
from langchain_resilient.testing import ProviderSimulator
from tests.providers.asking import ask, http, listening

PLAIN = http('{"choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}]}')
SECRET = "x-token-0123456789"

FIELDS = {
    "verbosity": "low",
    "service_tier": "flex",
    "store": True,
    "user": "u-1",
    "safety_identifier": "s-1",
    "prompt_cache_key": "p-1",
    "prediction": {"type": "content", "content": "x"},
}


async def sent_by(model_or_target, **kwargs):
    """The body and the head of one plain request to a server of one's own."""
    async with listening(PLAIN) as server:
        llm = ResilientChatModel(
            targets=[Target("openai:m", base_url=server.url, api_key="k", **model_or_target)],
            hedge=None,
        )
        await llm.ainvoke("hello", **kwargs)
    return server.bodies[0], server.heads[0].lower()


@pytest.mark.parametrize(("name", "value"), FIELDS.items())
async def test_common_parameters_are_fields_of_models_targets_and_calls(name, value):
    """Each reaches the request."""
    assert sampling_params(ResilientChatModel(targets=["text:hi"], **{name: value})) == {
        name: value
    }
    body, _ = await sent_by({name: value})
    assert body[name] == value
    body, _ = await sent_by({}, **{name: value})
    assert body[name] == value


@pytest.mark.parametrize(
    ("other", "value", "name", "meant"),
    [
        ("max_completion_tokens", 7, "max_tokens", 7),
        ("stop_sequences", "END", "stop", ["END"]),
        ("stop_sequences", ["a", "b"], "stop", ["a", "b"]),
    ],
)
async def test_another_name_for_a_field_is_taken(other, value, name, meant):
    """So that the limit counts wherever `max_tokens` does."""
    assert sampling_params(Sampling(**{other: value})) == {name: meant}
    body, _ = await sent_by({}, **{other: value})
    assert body[name] == meant
    with pytest.raises(ValidationError, match=f"{other} and {name} are the same"):
        Sampling(**{other: value, name: meant})


def test_the_bias_may_be_given_by_number():
    """As the APIs' own examples do; JSON has texts."""
    assert sampling_params(Sampling(logit_bias={50256: -100})) == {"logit_bias": {"50256": -100.0}}


async def test_metadata_of_a_target_is_sent():
    """The model's own is LangChain's: it describes the run."""
    body, _ = await sent_by({"metadata": {"team": "blue"}})
    assert body["metadata"] == {"team": "blue"}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("temperatur", r"did you mean temperature\? Else .* model_kwargs=\{'temperatur': \.\.\.\}"),
        ("max_token", r"did you mean max_tokens\? Else .* model_kwargs"),
        ("zzz", r"model_kwargs=\{'zzz': \.\.\.\}"),
    ],
)
@pytest.mark.parametrize("make", [lambda **f: Target("openai:m", **f), Sampling])
def test_an_unknown_name_is_told_what_to_write(make, name, hint):
    """The nearest that is known, else where parameters of the API go."""
    with pytest.raises(ValidationError, match=hint) as caught:
        make(**{name: "sk-secret-value"})
    assert caught.value.errors()[0]["loc"] == (name,)
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["base_url", "organization", "default_headers", "weight"])
def test_a_field_of_a_target_is_sent_there(name):
    """The model has several targets."""
    with pytest.raises(ValidationError, match=rf'Target\("openai:\.\.\.", {name}=\.\.\.\)'):
        ResilientChatModel(targets=["text:hi"], **{name: "x"})


# -- the body and the head of the request ------------------------------------------------------


@pytest.mark.parametrize("where", ["target", "model_kwargs", "call", "call's model_kwargs"])
async def test_extras_go_into_the_body_and_the_head(where):
    """And not literally into the JSON."""
    extras = {
        "extra_body": {"guided_json": {"a": 1}, "temperature": 0.5},
        "extra_headers": {"X-Token": SECRET},
    }
    body, head = await {
        "target": lambda: sent_by(extras),
        "model_kwargs": lambda: sent_by({"model_kwargs": {**extras, "other": 1}}),
        "call": lambda: sent_by({}, **extras),
        "call's model_kwargs": lambda: sent_by({}, model_kwargs=extras),
    }[where]()
    assert (body["guided_json"], body["temperature"]) == ({"a": 1}, 0.5)
    assert not body.keys() & extras.keys()
    assert f"x-token: {SECRET}" in head
    assert SECRET not in json.dumps(body)


async def test_a_header_of_one_request_is_not_kept_for_the_next():
    """Nor are those that the template has lost by it."""
    async with listening(PLAIN) as server:
        provider = create_provider(Target("openai:m", base_url=server.url, api_key="k-0123"))
        messages = [{"role": "user", "content": "hello"}]
        for overrides in ({}, {"extra_headers": {"X-Token": SECRET}}, {}):
            await ask(provider, ChatRequest(messages, overrides=overrides), stream=False)
    assert [SECRET in head for head in server.heads] == [False, True, False]
    assert all("Bearer k-0123" in head for head in server.heads)


async def test_extra_headers_are_secrets():
    """In no repr, no cache key, no error."""
    model = ResilientChatModel(targets=["text:hi"], extra_headers={"X-Token": SECRET})
    target = Target("openai:m", api_key="k", extra_headers={"X-Token": SECRET})
    shown = f"{model!r} {target!r} {model._identifying_params} {target.identity()}"
    assert SECRET not in shown
    async with ProviderSimulator() as sim:
        echo = {"error": {"message": f"bad token {SECRET}"}}
        sim.script("*", t.Status(400, body=json.dumps(echo)))
        place = {"base_url": sim.base_url("openai"), "api_key": "k"}
        provider = create_provider(Target("openai:m", **place))
        request = ChatRequest(
            [{"role": "user", "content": "hello"}], overrides={"extra_headers": {"X-T": SECRET}}
        )
        with pytest.raises(Exception, match="bad token") as caught:
            await ask(provider, request)
    assert SECRET not in f"{caught.value!r} {caught.value}"


async def test_a_field_of_the_body_that_is_refused_is_learned(recwarn):
    """As other parameters are; the simulator refuses what OpenAI does not know."""
    async with ProviderSimulator() as sim:
        target = Target("openai:m", base_url=sim.base_url("openai"), extra_body={"guided_json": {}})
        assert (await ask(create_provider(target))).text
    assert ["guided_json" in r.body for r in sim.requests] == [True, False]
    assert "guided_json" in str(recwarn.list[-1].message)


@pytest.mark.parametrize("stream", [True, False])
async def test_the_count_of_tokens_may_be_left_out(stream):
    """A plain request says nothing of it either way, which OpenAI would refuse."""
    async with ProviderSimulator() as sim:
        target = Target("openai:m", base_url=sim.base_url("openai"), stream_usage=False)
        await ask(create_provider(target), stream=stream)
    expected = {"include_usage": False} if stream else None
    assert sim.requests[0].body.get("stream_options") == expected

"""What "ChatOpenAI, field by field" says is so, by the installed `langchain-openai`."""

from __future__ import annotations

import contextlib
import warnings

import pytest
from langchain_core.language_models import BaseChatModel

from docs import chat_openai
from langchain_resilient import ResilientChatModel, Target, TimeLimits
from langchain_resilient.testing import ProviderSimulator

langchain_openai = pytest.importorskip("langchain_openai", reason="pip install --group test")
ChatOpenAI = langchain_openai.ChatOpenAI

NAMES = {"Target": lambda _, **fields: fields, "TimeLimits": TimeLimits}
VALUES = {
    "temperature": 0.2, "top_p": 0.5, "max_tokens": 70, "stop": ["END"], "seed": 3, "n": 2,
    "logprobs": True, "top_logprobs": 2, "logit_bias": {"5": 1}, "presence_penalty": 0.1,
    "frequency_penalty": 0.1, "reasoning_effort": "low", "verbosity": "low",
    "service_tier": "flex", "store": True, "extra_body": {"mine": 1},
    "model_kwargs": {"user": "me"}, "max_retries": 0, "output_version": "responses/v1",
    "streaming": True, "stream_usage": True, "default_headers": {"x-team": "search"},
    "default_query": {"tenant": "1"},
}  # fmt: skip


@pytest.fixture(scope="module")
def sim():
    with ProviderSimulator() as sim:
        yield sim


def first_request(sim, model):
    """What is sent first; whether it is liked does not matter."""
    sim.reset()
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.invoke("Hi")
    return sim.requests[0]


def theirs(sim, **fields):
    usual = {"model": "gpt-6-luna", "base_url": sim.base_url("openai"), "api_key": "test"}
    return ChatOpenAI(**{**usual, "max_retries": 0, **fields})


def ours(sim, target=(), **fields):
    usual = {"base_url": sim.base_url("openai"), "api_key": "test"}
    targets = [Target("openai:gpt-6-luna", **{**usual, **dict(target)})]
    return ResilientChatModel(
        **{"targets": targets, "timeout": 5, "max_retries": 0, "share_learning": False, **fields}
    )


def assert_alike(theirs, ours):
    """All that is asked for there is asked for here; what differs, `docs/differences.md` tells."""
    there, here = dict(theirs.body), dict(ours.body)
    for only_how in ("stream", "stream_options"):
        there.pop(only_how, None)
    if "max_completion_tokens" in there:  # to another address than OpenAI's own
        there["max_tokens"] = there.pop("max_completion_tokens")
    if "include" in there:
        assert set(there.pop("include")) <= set(here["include"])
    assert there == {name: value for name, value in here.items() if name in there}
    assert theirs.key == ours.key
    for header in ("openai-organization", "x-team"):
        assert theirs.headers.get(header) == ours.headers.get(header)


def arguments(text):
    """What a cell says, as the arguments of a target and those of the model."""
    if text.startswith("Target("):
        return {"target": eval(text, dict(NAMES))}  # noqa: S307  # our own page
    return eval(f"dict({text})", dict(NAMES))  # noqa: S307


def names_of(field):
    info = ChatOpenAI.model_fields[field]
    return {field, info.alias} - {None}


def test_every_field_is_named_once():
    """By any of its names; and nothing is named that is no field."""
    renamed = [row.field for row in chat_openai.RENAMED]
    named = [*chat_openai.SAME, *chat_openai.LANGCHAINS, *renamed, *chat_openai.ABSENT,
             *chat_openai.INTERNAL]  # fmt: skip
    assert len(named) == len(set(named))
    fields = {field: names_of(field) for field in ChatOpenAI.model_fields}
    assert [f for f, names in fields.items() if not names & set(named)] == []
    assert set(named) - set().union(*fields.values()) == set()


def test_the_fields_of_every_chat_model_are_langchains():
    """Where they are not, they would have to be explained."""
    assert {*chat_openai.LANGCHAINS, "output_version"} == set(BaseChatModel.model_fields)
    assert set(chat_openai.LANGCHAINS) <= set(ResilientChatModel.model_fields)


def test_what_is_not_here_is_not_here():
    """On neither the model nor a target."""
    known = {*ResilientChatModel.model_fields, *Target.model_fields}
    assert known & set(chat_openai.ABSENT) == set()


@pytest.mark.parametrize("name", [n for n in chat_openai.SAME if n != "http_async_client"])
def test_a_field_of_the_same_name_sends_the_same(sim, name):
    """Wherever the table says that it may be set; a client of one's own has tests of its own."""
    there = first_request(sim, theirs(sim, **{name: VALUES[name]}))
    if name in ResilientChatModel.model_fields:
        assert_alike(there, first_request(sim, ours(sim, **{name: VALUES[name]})))
    if name in Target.model_fields:
        assert_alike(there, first_request(sim, ours(sim, target={name: VALUES[name]})))


@pytest.mark.parametrize("row", chat_openai.RENAMED, ids=lambda row: row.field)
def test_what_is_written_in_another_way_sends_the_same(sim, row):
    """Both cells of the row, as code."""
    there, here = arguments(row.there), arguments(row.here)
    if row.field == "base_url":  # the example leads nowhere
        there = {"base_url": sim.base_url("openai")}
        here = {"target": there}
    if row.field == "model":
        where = {"base_url": sim.base_url("openai"), "api_key": "test"}
        here = {"targets": [Target(*here["targets"], **where)]}
    assert there.keys() == {row.field}
    assert_alike(first_request(sim, theirs(sim, **there)), first_request(sim, ours(sim, **here)))


def test_a_query_is_sent(sim):
    """The record of requests does not show it: the URLs do."""
    there = theirs(sim, default_query={"tenant": "1"}).root_client.default_query
    assert dict(there) == ours(sim, {"default_query": {"tenant": "1"}}).targets[0].default_query

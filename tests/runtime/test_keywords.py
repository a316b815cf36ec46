"""Keywords of a call: misspelt ones are refused by name, those of servers are passed on."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import openai
import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from openai.resources.responses import AsyncResponses
from pydantic import ValidationError

from langchain_resilient import ResilientChatModel, Target
from langchain_resilient.runtime.keywords import (
    _KNOWN,
    BATCH_KEYWORDS,
    CALL_KEYWORDS,
    nearest_name,
    refuse_misspelt,
)
from langchain_resilient.testing import ProviderSimulator
from verification.kit.scripted_targets import target

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as running:
        yield running


@pytest.fixture
def llm(sim: ProviderSimulator) -> ResilientChatModel:
    return ResilientChatModel(targets=[target(sim, "openai:one")], hedge=None)


MISSPELT = [
    ("temprature", "temperature"),
    ("temperatur", "temperature"),
    ("max_token", "max_tokens"),
    ("maxtokens", "max_tokens"),
    ("timout", "timeout"),
    ("hegde", "hedge"),
    ("jornal", "journal"),
    ("journals", "journal"),
    ("progess", "progress"),
    ("tailhedge", "tail_hedge"),
    ("top_P", "top_p"),
    ("response_fromat", "response_format"),
    ("tool_choise", "tool_choice"),
    ("reasoning_efort", "reasoning_effort"),
]


@pytest.mark.parametrize(("name", "meant"), MISSPELT)
async def test_a_misspelt_keyword_is_refused_by_name(llm, sim, name, meant):
    """In every way to call a model; nothing is sent."""
    words = rf"{name!r}: did you mean {meant!r}"
    with pytest.raises(TypeError, match=words):
        llm.invoke("hello", **{name: 1})
    with pytest.raises(TypeError, match=words):
        [chunk async for chunk in llm.astream("hello", **{name: 1})]
    with pytest.raises(TypeError, match=words):
        await llm.abatch(["hello"], return_exceptions=True, **{name: 1})
    with pytest.raises(TypeError, match=words):
        llm.bind(**{name: 1}).batch(["hello"])
    assert sim.count() == 0


@pytest.mark.parametrize("name", sorted(BATCH_KEYWORDS - {"return_exceptions"}))
def test_a_keyword_of_a_batch_is_refused_elsewhere(llm, sim, name):
    """It would be ignored."""
    with pytest.raises(TypeError, match=rf"{name}= belongs to a batch"):
        llm.invoke("hello", **{name: None})
    with pytest.raises(TypeError, match=rf"{name}= belongs to a batch"):
        list(llm.bind(**{name: None}).stream("hello"))
    assert sim.count() == 0


@pytest.mark.parametrize(
    "name",
    ["top_k", "top_a", "min_p", "chat_template_kwargs", "my_server_switch", "seed", "n", "cfg",
     "guided_json", "models", "prompt_cache_options", "repeat_penalty", "think", "reasoning",
     "max_output_tokens", "user", "mirostat_tau"],
)  # fmt: skip
def test_what_servers_call_their_own_is_passed_on(name):
    """Known names, and unknown ones that are like none."""
    refuse_misspelt([name])


@pytest.mark.parametrize("api", [openai.resources.chat.AsyncCompletions, AsyncResponses])
def test_every_parameter_of_the_installed_sdk_is_known(api):
    """Its next version may have one that is nearly another."""
    refuse_misspelt(inspect.signature(api.create).parameters.keys() - {"self"} - BATCH_KEYWORDS)


def test_names_that_nobody_knows_are_not_kept():
    """A client of a service may give any."""
    for number in range(3000):
        nearest_name(f"q{number}")
    nearest_name("temperature" * 100_000)
    assert nearest_name.cache_info().currsize <= 1024


@pytest.mark.parametrize("name", sorted(_KNOWN - BATCH_KEYWORDS))
def test_no_known_name_is_a_misspelling_of_another(name):
    """`top_k` is not `top_p`."""
    refuse_misspelt([name])


@pytest.mark.parametrize(
    ("keyword", "value", "words"),
    [
        ("stop", 5, "text, or a list of texts"),
        ("stop", [1, "a"], "text, or a list of texts"),
        ("stop", {"a": 1}, "text, or a list of texts"),
        ("stop", b"x", "text, or a list of texts"),
        ("stop", "", "not empty"),
        ("temperature", "hot", "number"),
        ("temperature", True, "number"),
        ("max_tokens", "many", "integer"),
        ("top_p", 7, "less than or equal"),
        ("seed", 1.5, "integer"),
        ("n", "a", "integer"),
        ("n", True, "number"),
        ("logit_bias", 3, "dictionary"),
        ("reasoning_effort", 5, "string"),
        ("user", 5, "string"),
        ("extra_body", 5, "dictionary"),
        ("extra_headers", 5, "dictionary"),
        ("model_kwargs", 5, "dictionary"),
    ],
)
async def test_a_parameter_of_a_wrong_type_is_refused_before_anybody_is_asked(
    llm, sim, keyword, value, words
):
    """By its name, wherever it is given: to a call, bound, on the model, on a target."""
    given = {keyword: value}
    expected = rf"(?s)validation error.*{keyword}.*{words}"
    with pytest.raises(ValidationError, match=expected):
        llm.invoke("hello", **given)
    with pytest.raises(ValidationError, match=expected):
        [chunk async for chunk in llm.bind(**given).astream("hello")]
    with pytest.raises(ValidationError, match=expected):
        await llm.abatch(["hello"], **given)
    with pytest.raises(ValidationError, match=expected):
        ResilientChatModel(targets=["text:hi"], **given)
    with pytest.raises(ValidationError, match=expected):
        Target("openai:m", **given)
    assert sim.count() == 0


@pytest.mark.parametrize(
    ("keyword", "value", "words"),
    [
        ("timeout", "x", "timeout.*number"),
        ("timeout", True, "timeout.*number, not True"),
        ("hedge", True, r"hedge.*a delay in seconds, or None"),
        ("hedge", {"dealy": 1}, "hedge.*did you mean delay"),
        ("affinity", 5, "affinity.*string"),
        ("on_break", "x", "on_break.*'continue', 'replace' or 'raise'"),
        ("priority", "x", "priority.*'interactive' or 'batch'"),
        ("tools", 5, "tools must be a list, not 5"),
        ("functions", 5, "functions must be a list, not 5"),
        ("tool_choice", 5, "tool_choice=5 is not possible"),
        ("response_format", 5, "response_format=5 is none"),
        ("model", 5, "model=5 is no target, and no list of targets"),
        ("model", [], r"model=\[\] is no target"),
        ("model", "zzz", r"'zzz' is no target of this chain \(openai:one\) and not of the form"),
        ("model", "opnai:zzz", r"'opnai:zzz' is no target.*did you mean 'openai'\?"),
    ],
)
def test_a_keyword_of_a_wrong_value_is_refused_by_its_name(llm, sim, keyword, value, words):
    """What is for one call alone."""
    with pytest.raises(ValueError, match=f"(?s){words}"):
        llm.invoke("hello", **{keyword: value})
    assert sim.count() == 0


@pytest.mark.parametrize(
    ("bind", "name", "meant"),
    [
        (lambda llm, **k: llm.with_structured_output({"title": "A"}, **k), "repare", "repair"),
        (lambda llm, **k: llm.with_structured_output({"title": "A"}, **k), "methd", "method"),
        (lambda llm, **k: llm.with_structured_output({"title": "A"}, **k), "includeraw",
         "include_raw"),
        (lambda llm, **k: llm.bind_tools([], **k), "tool_choise", "tool_choice"),
        (lambda llm, **k: llm.bind_tools([], **k), "stric", "strict"),
    ],
    ids=["repair", "method", "include_raw", "tool_choice", "strict"],
)  # fmt: skip
def test_a_misspelt_keyword_of_what_binds_is_refused_at_once(llm, bind, name, meant):
    """Not at the first call, which may be far away."""
    with pytest.raises(TypeError, match=rf"{name!r}: did you mean {meant!r}"):
        bind(llm, **{name: True})


def test_the_calls_own_keywords_are_known():
    """All that `CallOptions` takes out."""
    assert {"timeout", "hedge", "model", "on_break", "affinity", "priority"} <= CALL_KEYWORDS


# -- chains -----------------------------------------------------------------------------------


@pytest.fixture
def prompt() -> Any:
    return ChatPromptTemplate.from_template("Say {word}.")


@pytest.mark.parametrize("bound", [False, True])
async def test_a_chains_batch_refuses_what_would_be_lost(llm, sim, prompt, tmp_path, bound):
    """LangChain gives it to the prompt, which ignores it."""
    chain = prompt | (llm.bind(temperature=0) if bound else llm) | StrOutputParser()
    words = r"prompt \| llm.bind\(journal=...\)"
    with pytest.raises(TypeError, match=words):
        chain.batch([{"word": "a"}], journal=tmp_path / "run.db")
    with pytest.raises(TypeError, match=words):
        await chain.abatch([{"word": "a"}], journal=tmp_path / "run.db")
    assert sim.count() == 0


async def test_bound_to_the_model_it_works_in_a_chain(llm, sim, prompt, tmp_path):
    """As the message says."""
    chain = prompt | llm.bind(journal=tmp_path / "run.db") | StrOutputParser()
    words = [{"word": word} for word in "abc"]
    first = chain.batch(words)
    assert await chain.abatch(words) == first
    assert sim.count() == 3


def test_where_the_model_is_the_first_step_it_works(llm, sim, tmp_path):
    """There LangChain passes it on."""
    chain = llm | StrOutputParser()
    for _ in range(2):
        chain.batch(["a", "b"], journal=tmp_path / "run.db")
    assert sim.count() == 2
    chain.batch(["a", "b"])
    assert sim.count() == 4

"""Keywords of a call: misspelt ones are refused by name, those of servers are passed on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from langchain_resilient import ResilientChatModel
from langchain_resilient.runtime.keywords import (
    _KNOWN,
    BATCH_KEYWORDS,
    CALL_KEYWORDS,
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
     "guided_json", "think", "reasoning", "max_output_tokens", "user", "mirostat_tau"],
)  # fmt: skip
def test_what_servers_call_their_own_is_passed_on(name):
    """Known names, and unknown ones that are like none."""
    refuse_misspelt([name])


@pytest.mark.parametrize("name", sorted(_KNOWN - BATCH_KEYWORDS))
def test_no_known_name_is_a_misspelling_of_another(name):
    """`top_k` is not `top_p`."""
    refuse_misspelt([name])


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

"""A model travels without its clients, and works where it arrives."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

import cloudpickle
import pytest
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from langchain_resilient import Hedge, ResilientChatModel
from langchain_resilient.testing import ProviderSimulator, Status, answer_to
from verification.kit.scripted_targets import CANARY, chain, target

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT = 60


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as simulator:
        yield simulator


@pytest.fixture
def llm(sim):
    """A model that has been used, synchronously and not: it has clients, a runtime, statistics."""
    llm_chain = chain(sim, "openai:m", "openai:n", hedge=Hedge(budget=0.1), temperature=0.3)
    llm_chain.invoke("warm")
    asyncio.run(llm_chain.ainvoke("warm"))
    return llm_chain


def asked(llm, prompt="hi"):
    """In the other process: what the model answers, and whether it began there afresh."""
    fresh = llm._runtime is None
    text = llm.invoke(prompt).content
    streamed = "".join(chunk.text for chunk in llm.stream(prompt))
    return fresh, text, streamed


def pickled(llm):
    return pickle.loads(pickle.dumps(llm))  # noqa: S301


def cloud_pickled(llm):
    return cloudpickle.loads(cloudpickle.dumps(llm))


COPIES = {
    "pickle": pickled,
    "cloudpickle": cloud_pickled,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "model_copy": lambda llm: llm.model_copy(),
    "deep model_copy": lambda llm: llm.model_copy(deep=True),
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_answers_and_so_does_the_original(sim, llm, how):
    """With a runtime of its own."""
    arrived = COPIES[how](llm)
    assert asked(arrived) == (True, answer_to("hi"), answer_to("hi"))
    assert arrived._runtime is not llm._runtime
    assert llm.invoke("hi").content == answer_to("hi")


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_is_set_up_alike(llm, how):
    """All fields, keys included."""
    arrived = COPIES[how](llm)
    assert arrived.model_dump() == llm.model_dump()
    assert arrived.targets[0].api_key.get_secret_value() == CANARY


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_counts_for_itself(llm, how):
    """Its statistics begin at nothing, and change nobody else's."""
    arrived = COPIES[how](llm)
    arrived.invoke("hi")
    assert (arrived.stats().calls, llm.stats().calls) == (1, 2)


def test_model_copy_with_an_update_uses_it(sim, llm):
    """The runtime of before is not carried along."""
    changed = llm.model_copy(update={"max_tokens": 2})
    assert changed.invoke("hi").response_metadata["finish_reason"] == "length"


def test_a_pickle_is_small(llm):
    """A configuration, in a few kilobytes."""
    assert len(pickle.dumps(llm)) < 20_000


def test_no_key_is_in_the_repr_of_what_arrived(llm):
    """It stays a `SecretStr`."""
    assert CANARY not in repr(pickled(llm))


def test_a_chain_with_a_model_travels(sim, llm):
    """Prompt, model with tools bound, parser."""
    whole = ChatPromptTemplate.from_template("{x}") | llm.bind(temperature=0.1) | StrOutputParser()
    assert pickled(whole).invoke({"x": "hi"}) == answer_to("hi")


def test_what_else_is_on_a_model_travels(sim):
    """LangChain models as targets, and the last resort."""
    sim.script("openai:m", then=Status(500))
    targets = [target(sim, "openai:m"), FakeListChatModel(responses=["fake"])]
    assert pickled(ResilientChatModel(targets=targets)).invoke("hi").content == "fake"
    resort = ResilientChatModel(targets=targets[:1], last_resort="sorry", max_retries=0)
    assert pickled(resort).invoke("hi").content == "sorry"


METHODS = [
    "spawn",
    pytest.param("fork", marks=pytest.mark.skipif(not hasattr(os, "fork"), reason="cannot fork")),
]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", METHODS)
def test_it_works_in_a_process_pool(sim, llm, method):
    """The worker gets it with each task."""
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        futures = [pool.submit(asked, llm, prompt) for prompt in ("a", "b")]
        results = [future.result(TIMEOUT) for future in futures]
    assert results == [(True, answer_to(p), answer_to(p)) for p in ("a", "b")]


def test_it_works_in_joblib(sim, llm):
    """In loky's processes."""
    try:
        result = Parallel(n_jobs=2, timeout=TIMEOUT)(delayed(asked)(llm, p) for p in ("a", "b"))
    finally:
        get_reusable_executor().shutdown(wait=True)
    assert result == [(True, answer_to(p), answer_to(p)) for p in ("a", "b")]


def test_it_works_in_joblibs_threads(sim, llm):
    """All at the same model, which is not sent anywhere."""
    result = Parallel(n_jobs=4, backend="threading")(delayed(asked)(llm, p) for p in "abcdefgh")
    assert [text for _, text, _ in result] == [answer_to(p) for p in "abcdefgh"]


WORKER = """
import sys, cloudpickle
task = cloudpickle.loads(sys.stdin.buffer.read())
sys.stdout.buffer.write(cloudpickle.dumps(task()))
"""


def test_a_closure_over_a_model_works_as_ray_sends_it(sim, llm):
    """By cloudpickle, to a fresh interpreter that knows nothing of this module."""
    suffix = "!"

    def task():
        return llm.invoke("hi").content + suffix

    done = subprocess.run(
        [sys.executable, "-c", WORKER],
        input=cloudpickle.dumps(task),
        capture_output=True,
        check=True,
        timeout=TIMEOUT,
    )
    assert cloudpickle.loads(done.stdout) == answer_to("hi") + "!"


def test_an_actor_that_holds_a_model_is_sent_whole(sim, llm):
    """As Ray does with an object's state."""

    class Actor:
        def __init__(self, llm):
            self.llm = llm

        async def ask(self, prompt):
            return (await self.llm.ainvoke(prompt)).content

    arrived = cloud_pickled(Actor(llm))
    assert asyncio.run(arrived.ask("hi")) == answer_to("hi")

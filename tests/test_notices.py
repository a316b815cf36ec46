"""Warnings point at the line that made the call, in every way to call, and are told once."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import subprocess
import sys
import warnings
from contextlib import aclosing

import pytest
from langchain_core.prompts import ChatPromptTemplate

from langchain_resilient import (
    AllTargetsFailedError,
    DroppedParameterWarning,
    ResilientChatModel,
    RetirementWarning,
    SkippedTargetWarning,
    Target,
    UnreachableWarning,
    notices,
)
from langchain_resilient.testing import ProviderSimulator
from tests.faults.test_dead_primary import refused


@pytest.fixture
def llm():
    with ProviderSimulator() as sim:
        where = {"base_url": sim.base_url("openai"), "api_key": "test"}
        yield ResilientChatModel(targets=[Target("openai:m", **where, top_k=3)])


def by_invoke(llm):
    llm.invoke("Hi")  # here


def by_stream(llm):
    for _ in llm.stream("Hi"):  # here
        pass


def by_batch(llm):
    llm.batch(["Hi", "Ho"])  # here


def in_a_chain(llm):
    (ChatPromptTemplate.from_template("{q}") | llm).invoke({"q": "Hi"})  # here


def by_ainvoke(llm):
    async def run():
        await llm.ainvoke("Hi")  # here

    asyncio.run(run())


def by_astream(llm):
    async def run():
        async with aclosing(llm.astream("Hi")) as stream:
            async for _ in stream:  # here
                pass

    asyncio.run(run())


def by_abatch(llm):
    async def run():
        await llm.abatch(["Hi", "Ho"])  # here

    asyncio.run(run())


WAYS = (by_invoke, by_stream, by_batch, in_a_chain, by_ainvoke, by_astream, by_abatch)


def line_of(way):
    lines, first = inspect.getsourcelines(way)
    return first + next(n for n, line in enumerate(lines) if line.endswith("# here\n"))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_warning_of_a_call_points_at_the_call(way, llm):
    """Once, though the model is asked again."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        way(llm)
        way(llm)
    (warning,) = [w for w in seen if w.category is DroppedParameterWarning]
    assert (warning.filename, warning.lineno) == (__file__, line_of(way))


@pytest.mark.parametrize(
    ("targets", "category"),
    [(["openai:m", "text:hi"], SkippedTargetWarning), (["openai:gpt-5"], RetirementWarning)],
    ids=["key", "model"],
)
def test_a_warning_of_a_model_points_at_what_made_or_asked_it(targets, category, monkeypatch):
    """A key that is missing, a model that will be shut down."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    key = None if category is SkippedTargetWarning else "test"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        model = ResilientChatModel(targets=targets, api_key=key)
        model.stats()
    (warning,) = [w for w in seen if w.category is category]
    assert warning.filename == __file__


def test_nobody_at_any_address_is_said_once_and_long_before_the_deadline():
    """With the URL; the deadline here is a minute."""
    url = refused()
    llm = ResilientChatModel(targets=[Target("openai:m", base_url=url, api_key="test")], timeout=60)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UnreachableWarning)
        with pytest.raises(UnreachableWarning, match=re.escape(f"nobody answers at {url}: check")):
            llm.invoke("Hi")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(2):
            with pytest.raises(AllTargetsFailedError):
                llm.invoke("Hi", timeout=0.1)
    assert [w for w in seen if w.category is UnreachableWarning] == []


def test_where_another_target_answers_there_is_no_such_warning():
    """A fallback is no news for everybody: the log has it."""
    dead = Target("openai:m", base_url=refused(), api_key="test")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UnreachableWarning)
        for _ in range(3):
            assert ResilientChatModel(targets=[dead, "text:hi"]).invoke("Hi").text == "hi"


def test_the_filter_of_a_module_holds():
    """`error::...:my_module` and the like see the user's module, not ours."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning, module="tests.test_notices")
        with pytest.raises(UserWarning, match="as an error"):
            notices.warn("as an error", UserWarning)


def test_without_logging_set_up_it_is_printed_once():
    """Python prints log lines of WARNING too where nobody has set logging up."""
    code = "from langchain_resilient import notices; notices.warn('only once', UserWarning)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("only once") == 1 + done.stderr.count("notices.warn(")


def test_it_is_logged_where_somebody_listens(caplog):
    """With the same words."""
    with caplog.at_level(logging.WARNING), pytest.warns(UserWarning, match="for the log"):
        notices.warn("for the log", UserWarning)
    assert caplog.messages == ["for the log"]

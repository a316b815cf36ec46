"""Warnings point at the line that made the call, in every way to call, and are told once."""

from __future__ import annotations

import asyncio
import inspect
import logging
import subprocess
import sys
import threading
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
from langchain_resilient.testing import ModelNotFound, ProviderSimulator
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
    told = threading.Event()

    def show(message, *_):
        if str(message).startswith(f"nobody answers at {url}: check"):
            told.set()

    async def run():
        call = asyncio.ensure_future(llm.ainvoke("Hi"))
        assert await asyncio.to_thread(told.wait, 10)
        assert not call.done()
        call.cancel()

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        asyncio.run(run())
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(2):
            with pytest.raises(AllTargetsFailedError):
                llm.invoke("Hi", timeout=0.1)
    assert [w for w in seen if w.category is UnreachableWarning] == []


def test_where_another_target_answers_there_is_no_such_warning():
    """A fallback is no news for everybody: the log has it."""
    dead = Target("openai:m", base_url=refused(), api_key="test")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(3):
            assert ResilientChatModel(targets=[dead, "text:hi"]).invoke("Hi").text == "hi"
    assert [w for w in seen if w.category is UnreachableWarning] == []


def test_the_filter_of_a_module_holds():
    """`error::...:my_module` and the like see the user's module, not ours."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning, module="tests.test_notices")
        with pytest.raises(UserWarning, match="as an error"), notices.may_raise():
            notices.warn("as an error", UserWarning)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_as_an_error_a_warning_changes_no_call(way, llm, caplog):
    """`python -W error`: the log tells it; no target is blamed, and none is asked twice."""
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error", DroppedParameterWarning)
        way(llm)
    assert "openai:m does not take 'top_k': left out for this target" in caplog.messages
    (target,) = llm.stats().targets
    assert (dict(target.faults), target.wins) == ({}, target.requests)


def test_as_an_error_a_warning_ends_no_call_whose_model_is_gone(caplog):
    """It is told where the engine hears of the fault: nothing catches it there."""
    with ProviderSimulator() as sim, warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error", SkippedTargetWarning)
        sim.script("openai:gone", then=ModelNotFound())
        gone = Target("openai:gone", base_url=sim.base_url("openai"), api_key="test")
        assert ResilientChatModel(targets=[gone, "text:hi"]).invoke("Hi").text == "hi"
    assert any(m.startswith("openai:gone is skipped: its model") for m in caplog.messages)


def test_as_an_error_a_warning_of_a_model_that_is_made_is_raised(monkeypatch):
    """As any other warning there: nobody waits for an answer yet."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SkippedTargetWarning)
        with pytest.raises(SkippedTargetWarning, match="OPENAI_API_KEY is not set"):
            ResilientChatModel(targets=["openai:of-no-key", "text:hi"])


def test_as_an_error_a_warning_at_exit_is_a_line(tmp_path):
    """`remember=` writes its file then: Python called it an exception that is ignored."""
    place = tmp_path / "place"
    place.mkdir()
    code = f"""
import pathlib, warnings
from langchain_resilient import MemoryFileWarning, ResilientChatModel
warnings.simplefilter("error", MemoryFileWarning)
place = pathlib.Path({str(place)!r})
ResilientChatModel(targets=["text:hi"], remember=place / "learned.json").invoke("hi")
for file in place.iterdir():
    file.unlink()
place.rmdir()
place.touch()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Exception ignored" not in done.stderr
    assert str(place) in done.stderr


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

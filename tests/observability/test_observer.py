"""Observers hear of every call, and can break none."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
import re
import threading
from contextlib import aclosing

import pytest
from pydantic import ValidationError

from langchain_resilient import AllTargetsFailedError, Observer, ResilientChatModel
from langchain_resilient.batch.journal_keys import request_key
from langchain_resilient.testing import Cut, ProviderSimulator, Reply, Status
from tests.observability.watching import PROMPT, SLOW, WAYS, Receipts, ask
from verification.kit.scripted_targets import CANARY, chain


@pytest.fixture
def sim():
    with ProviderSimulator() as simulator:
        yield simulator


@pytest.mark.parametrize("way", WAYS)
def test_a_call_is_heard_of_once(sim, way):
    """With its own receipt, whichever way it was made."""
    receipts = Receipts()
    ask(chain(sim, "openai:m", observers=[receipts]), way)
    ((receipt, call),) = receipts.heard
    assert (receipt.winner, call.end, call.streamed) == ("openai:m", "answered", "stream" in way)


def test_the_receipt_is_that_of_the_answer(sim):
    """Word for word."""
    receipts = Receipts()
    sim.script("openai:m", Status(500))
    answer = chain(sim, "openai:m", "together:n", observers=[receipts]).invoke("hi")
    assert receipts.heard[0][0].as_dict() == answer.response_metadata["resilience"]


@pytest.mark.parametrize("way", WAYS)
def test_a_failed_call_is_heard_of(sim, way):
    """Its receipt is that of the error."""
    receipts = Receipts()
    sim.script("openai:m", then=Status(500))
    llm = chain(sim, "openai:m", observers=[receipts], max_retries=0)
    with pytest.raises(AllTargetsFailedError) as caught:
        ask(llm, way)
    ((receipt, call),) = receipts.heard
    assert receipt == caught.value.receipt
    assert call.end == "exhausted"


async def test_the_log_line_of_a_stream_that_is_left_does_not_say_that_it_was_answered(sim, caplog):
    """It was answering, until its reader went away."""
    sim.script("openai:m", Reply("one two three four five six", rate=5), then=Reply("one"))
    llm = chain(sim, "openai:m")
    with caplog.at_level(logging.DEBUG, "langchain_resilient.calls"):
        async with aclosing(llm.astream("hi")) as stream:
            await anext(stream)
        assert (await llm.ainvoke("hi")).text
    left, whole = (r.message for r in caplog.records if r.name == "langchain_resilient.calls")
    assert re.match(r"cancelled: openai:m was answering, for \d\.\d\d s \(1 attempt: ", left)
    assert re.match(r"answered: openai:m answered in \d\.\d\d s \(1 attempt: ", whole)


def test_a_cancelled_call_is_heard_of(sim):
    """When its caller goes away."""
    receipts = Receipts()
    sim.script("openai:m", then=SLOW)
    llm = chain(sim, "openai:m", observers=[receipts])

    async def go():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(llm.ainvoke("hi"), 0.3)

    asyncio.run(go())
    assert [call.end for _, call in receipts.heard] == ["cancelled"]


def test_a_broken_stream_is_heard_of_with_its_break(sim):
    """And counted in the statistics."""
    receipts = Receipts()
    sim.script("openai:m", Cut(3))
    llm = chain(sim, "openai:m", "together:n", observers=[receipts])
    list(llm.stream("hi"))
    assert [one.action for one in receipts.heard[0][0].breaks] == ["continued"]
    stats = llm.stats()
    assert (dict(stats.breaks), stats["openai:m"].breaks) == ({"continued": 1}, 1)


def test_it_hears_what_the_provider_said_of_the_answer(sim):
    """Beside what was asked for."""
    receipts = Receipts()
    chain(sim, "openai:m", observers=[receipts], temperature=0.5).invoke("hi", max_tokens=7)
    call = receipts.heard[0][1]
    assert call.response_id
    assert (call.response_model, call.finish_reason) == ("m", "length")
    assert (call.params["temperature"], call.params["max_tokens"]) == (0.5, 7)
    assert call.targets["openai:m"].provider == "openai"


def test_no_key_is_in_what_it_hears(sim):
    """However it is printed."""
    receipts = Receipts()
    chain(sim, "openai:m", observers=[receipts]).invoke("hi")
    assert CANARY not in repr(receipts.heard)


@pytest.mark.parametrize("way", WAYS)
def test_an_observer_that_fails_is_logged(sim, way, caplog):
    """The others hear of the call, and it is answered."""

    class Fails:
        def on_receipt(self, receipt, *, call):
            raise RuntimeError("no space left")

    receipts = Receipts()
    assert ask(chain(sim, "openai:m", observers=[Fails(), receipts]), way)
    assert len(receipts.heard) == 1
    assert "Fails.on_receipt failed" in caplog.text


def test_what_cannot_listen_is_refused():
    """When the model is made."""
    with pytest.raises(ValidationError, match="observers"):
        ResilientChatModel(targets=["openai:m"], api_key="k", observers=[object()])
    assert isinstance(Receipts(), Observer)


def test_observers_change_no_key(sim):
    """Neither that of LangChain's cache nor a journal's."""
    with_, without = chain(sim, "openai:m", observers=[Receipts()]), chain(sim, "openai:m")
    assert with_._get_llm_string() == without._get_llm_string()
    assert request_key(with_, []) == request_key(without, [])


def test_observers_are_not_dumped(sim):
    """They are objects of this process."""
    llm = chain(sim, "openai:m", observers=[Receipts()])
    assert "observers" not in llm.model_dump()
    assert "Receipts" not in repr(llm)


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda llm: llm.model_copy(deep=True)])
def test_copies_share_the_observers(sim, how):
    """Also one that holds a lock, which nothing can copy."""
    receipts = Receipts()
    receipts.lock = threading.Lock()
    how(chain(sim, "openai:m", observers=[receipts])).invoke("hi")
    assert len(receipts.heard) == 1


def test_an_observer_that_can_be_pickled_travels(sim):
    """It hears of the calls there."""
    llm = pickle.loads(pickle.dumps(chain(sim, "openai:m", observers=[Receipts()])))  # noqa: S301
    llm.invoke("hi")
    assert len(llm.observers[0].heard) == 1


def test_an_observer_that_cannot_be_pickled_stays_behind(sim, caplog):
    """The log says so, and the model travels."""
    receipts = Receipts()
    receipts.lock = threading.Lock()
    llm = pickle.loads(pickle.dumps(chain(sim, "openai:m", observers=[receipts])))  # noqa: S301
    assert llm.observers == ()
    assert "observer Receipts stays behind" in caplog.text


# -- the log ----------------------------------------------------------------------------------


def lines(caplog):
    return [one for one in caplog.records if one.name == "langchain_resilient.calls"]


def test_a_smooth_call_is_a_line_for_debugging(sim, caplog):
    """With its figures as fields."""
    caplog.set_level("DEBUG", "langchain_resilient.calls")
    chain(sim, "openai:m").invoke("hi")
    (line,) = lines(caplog)
    assert (line.levelname, line.resilience_end) == ("DEBUG", "answered")
    assert (line.resilience_target, line.resilience_attempts) == ("openai:m", 1)
    assert 0 < line.resilience_first_text <= line.resilience_seconds


def test_a_call_with_a_fallback_is_information(sim, caplog):
    """It names the faults by kind."""
    caplog.set_level("INFO", "langchain_resilient.calls")
    sim.script("openai:m", Status(500))
    chain(sim, "openai:m", "together:n").invoke("hi")
    (line,) = lines(caplog)
    assert (line.levelname, line.resilience_kinds) == ("INFO", ["primary", "fallback"])
    assert line.resilience_faults == ["server"]


def test_the_last_resort_is_a_warning(sim, caplog):
    """It must not pass unnoticed."""
    sim.script("openai:m", then=Status(500))
    chain(sim, "openai:m", last_resort="sorry", max_retries=0).invoke("hi")
    (line,) = lines(caplog)
    assert line.levelname == "WARNING"
    assert "answered by the last resort" in line.getMessage()


def test_the_log_holds_no_prompt_no_answer_and_no_key(sim, caplog):
    """Whatever happens, on all levels, and all fields are JSON."""
    caplog.set_level("DEBUG", "langchain_resilient.calls")
    sim.script("openai:m", Status(400, message=f"{CANARY}: {PROMPT}"))
    llm = chain(sim, "openai:m", "together:n")
    llm.invoke(PROMPT)
    (line,) = lines(caplog)
    fields = {k: v for k, v in vars(line).items() if k.startswith("resilience_")}
    value = line.getMessage() + json.dumps(fields)
    assert len(fields) == 9
    assert not [word for word in (CANARY, PROMPT, "Answer") if word in value]


def test_a_level_that_is_off_formats_nothing(sim, caplog, monkeypatch):
    """Not one field is worked out."""

    def never(*_):
        raise AssertionError

    caplog.set_level("WARNING", "langchain_resilient.calls")
    monkeypatch.setattr("langchain_resilient.observability.observer._fields", never)
    monkeypatch.setattr("langchain_resilient.receipt.Receipt.__str__", never)
    assert chain(sim, "openai:m").invoke("hi").content

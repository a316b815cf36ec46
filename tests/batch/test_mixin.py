"""The batch methods of the model: LangChain's contract, and what is ours beside it."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import random
import signal
import threading
import uuid
from contextlib import aclosing
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda

from langchain_resilient import AllTargetsFailedError, ResilientChatModel, Target
from langchain_resilient.batch.mixin import AMAP_CONCURRENCY, BATCH_CONCURRENCY
from tests.batch.echo_model import EchoModel, answers, prompts
from verification.kit.virtual_time import virtual_time


class Runs(AsyncCallbackHandler):
    """Records the runs that it is notified of."""

    run_inline = True

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.ended: list[Any] = []

    async def on_chat_model_start(self, serialized, messages, **info):
        self.started.append({"prompt": messages[0][-1].content, **info})

    async def on_llm_end(self, response, *, run_id, **_):
        self.ended.append((run_id, response.generations[0][0].text))


def _texts(results: list[Any]) -> list[str]:
    return [message.text for message in results]


# -- the right answer to the right prompt ---------------------------------------------------------


@virtual_time
async def test_answers_stand_in_the_order_of_the_prompts():
    """Whatever the order in which they came."""
    echo = EchoModel(seconds=lambda _: random.uniform(0, 3))
    assert _texts(await echo.model().abatch(prompts(300))) == answers(300)


@virtual_time
async def test_retries_never_mix_up_answers():
    """Each first try fails, some items for good: the others keep their own (langchain#35475)."""
    tried: set[str] = set()

    def fails(prompt: str) -> bool:
        first = prompt not in tried
        tried.add(prompt)
        return first or prompt.endswith("7")

    second = EchoModel(fails=lambda prompt: prompt.endswith("7"))
    echo = EchoModel(seconds=lambda _: random.uniform(0, 1), fails=fails)
    llm = ResilientChatModel(
        targets=[echo.target("a"), second.target("b")], hedge=None, max_retries=0
    )
    results = await llm.abatch(prompts(100), return_exceptions=True)
    for i, result in enumerate(results):
        if i % 10 == 7:
            assert isinstance(result, AllTargetsFailedError)
        else:
            assert result.text == f"re: q{i}"


def test_a_synchronous_batch_needs_no_thread_an_item():
    """All of it runs on the one background loop."""
    echo, counts = EchoModel(seconds=lambda _: 0.05), []
    llm = echo.model()
    llm.batch(prompts(1))  # the first one of a process has threads that import
    before = threading.active_count()
    for _, _ in llm.batch_as_completed(prompts(100)):
        counts.append(threading.active_count())
    assert max(counts) <= before + 1
    assert echo.max_running > 20


async def test_a_synchronous_batch_works_inside_a_running_loop():
    """As in a notebook."""
    assert _texts(EchoModel().model().batch(prompts(10))) == answers(10)


def test_an_empty_batch_is_empty():
    """And sends nothing."""
    assert EchoModel().model().batch([]) == []


# -- configs ------------------------------------------------------------------------------------


@virtual_time
async def test_each_prompt_has_its_own_config():
    """Tags, metadata, names, callbacks and run ids reach the run that they are for."""
    handlers, ids = [Runs() for _ in range(20)], [uuid.uuid4() for _ in range(20)]
    configs: Any = [
        {
            "callbacks": [handlers[i]],
            "tags": [f"t{i}"],
            "metadata": {"n": i},
            "run_name": f"run {i}",
            "run_id": ids[i],
        }
        for i in range(20)
    ]
    await EchoModel().model().abatch(prompts(20), configs)
    for i, handler in enumerate(handlers):
        (run,) = handler.started
        assert (run["prompt"], run["tags"], run["name"]) == (f"q{i}", [f"t{i}"], f"run {i}")
        assert run["metadata"]["n"] == i
        assert handler.ended == [(ids[i], f"re: q{i}")]


@virtual_time
async def test_one_run_id_is_for_the_first_prompt_alone():
    """As LangChain has it, with its warning."""
    runs, run_id = Runs(), uuid.uuid4()
    with pytest.warns(RuntimeWarning, match="run_id"):
        await EchoModel().model().abatch(prompts(5), {"callbacks": [runs], "run_id": run_id})
    assert [run["run_id"] == run_id for run in runs.started] == [True] + 4 * [False]


@virtual_time
async def test_a_list_of_configs_of_another_length_is_refused():
    """Before anything is sent."""
    echo = EchoModel()
    with pytest.raises(ValueError, match="2 configs for 3 inputs"):
        await echo.model().abatch(prompts(3), [{}, {}])
    assert not echo.asked


@virtual_time
@pytest.mark.parametrize("config", [{"max_concurrency": 3}, [{"max_concurrency": 3}] + [{}] * 29])
async def test_max_concurrency_is_the_first_configs(config):
    """As LangChain reads it."""
    echo = EchoModel()
    await echo.model().abatch(prompts(30), config)
    assert echo.max_running == 3


@virtual_time
async def test_a_batch_is_bounded_by_default():
    """LangChain would start all at a time."""
    echo = EchoModel(seconds=lambda _: 1.0)
    await echo.model().abatch(prompts(BATCH_CONCURRENCY + 100))
    assert echo.max_running == BATCH_CONCURRENCY


@virtual_time
@pytest.mark.parametrize("bad", [0, -1])
async def test_a_bound_below_one_is_refused(bad):
    """Where LangChain would wait for ever."""
    llm = EchoModel().model()
    with pytest.raises(ValueError, match="max_concurrency must be at least 1"):
        await llm.abatch(prompts(3), {"max_concurrency": bad})


@virtual_time
async def test_a_targets_own_bound_holds_under_a_batch():
    """`Target.max_concurrency` is counted over all calls of the process."""
    echo = EchoModel(seconds=lambda _: 1.0)
    llm = ResilientChatModel(targets=[echo.target("narrow", max_concurrency=4)], hedge=None)
    assert _texts(await llm.abatch(prompts(40), {"max_concurrency": 20})) == answers(40)
    assert echo.max_running == 4


# -- inside LangChain ---------------------------------------------------------------------------


@virtual_time
async def test_a_chain_batches():
    """The prompts, the configs and `return_exceptions` come from the chain."""
    echo = EchoModel(fails=lambda prompt: prompt == "q3")
    chain = ChatPromptTemplate.from_template("q{n}") | echo.model() | StrOutputParser()
    results = await chain.abatch(
        [{"n": n} for n in range(10)], {"max_concurrency": 2}, return_exceptions=True
    )
    assert isinstance(results.pop(3), AllTargetsFailedError)
    assert results == [text for text in answers(10) if text != "re: q3"]
    assert echo.max_running == 2


def test_a_chain_batches_synchronously():
    """Through the model's `batch`."""
    chain = ChatPromptTemplate.from_template("q{n}") | EchoModel().model() | StrOutputParser()
    assert chain.batch([{"n": n} for n in range(10)]) == answers(10)


@virtual_time
async def test_what_is_bound_reaches_the_batch():
    """Its own options too: that is how they are given inside a chain."""
    seen: list[Any] = []
    llm = EchoModel().model()
    bound = llm.bind(temperature=0, progress=seen.append).with_config(tags=["x"])
    assert _texts(await bound.abatch(prompts(5))) == answers(5)
    assert seen[-1].done == 5


@virtual_time
async def test_structured_output_batches():
    """A chain of a binding and a parser."""

    async def answer(messages: Any) -> str:
        # What follows is the schema: a target without tools is told it in words.
        return f'{{"n": {messages[-1].content.split()[0]}}}'

    llm = ResilientChatModel(targets=[RunnableLambda(answer)], hedge=None)
    schema = {"title": "N", "type": "object", "properties": {"n": {"type": "integer"}}}
    results = await llm.with_structured_output(schema).abatch([str(n) for n in range(8)])
    assert results == [{"n": n} for n in range(8)]


@virtual_time
async def test_a_mapped_model_batches():
    """`llm.map()` calls `abatch` of the model."""
    assert _texts(await EchoModel().model().map().ainvoke(prompts(5))) == answers(5)


@virtual_time
async def test_cached_answers_are_not_sent():
    """Caching is LangChain's, prompt by prompt; the report tells."""
    echo = EchoModel()
    llm = echo.model(cache=InMemoryCache())
    await llm.abatch(prompts(5))
    assert _texts(await llm.abatch(prompts(8))) == answers(8)
    assert len(echo.asked) == 8
    report = llm.batch_report()
    assert (report.done, report.cached, report.targets[0].requests) == (8, 5, 3)


# -- as completed, and maps ---------------------------------------------------------------------


@virtual_time
async def test_answers_come_as_they_are_completed():
    """With the places of their prompts."""
    echo = EchoModel(seconds=lambda prompt: 10.0 - int(prompt[1:]))
    results = echo.model().abatch_as_completed(prompts(5))
    assert [(i, m.text) async for i, m in results] == [(i, f"re: q{i}") for i in (4, 3, 2, 1, 0)]


@virtual_time
async def test_a_map_reads_an_endless_async_source_as_it_goes():
    """And closes it when the consumer has had enough."""
    closed = []

    async def source() -> Any:
        n = 0
        try:
            while True:
                yield f"q{n}"
                n += 1
        finally:
            closed.append(n)

    echo = EchoModel()
    async with aclosing(echo.model().amap(source())) as results:
        first = [await anext(results) for _ in range(200)]
    assert all(message.text == f"re: q{index}" for index, message in first)
    assert echo.max_running == AMAP_CONCURRENCY
    assert closed[0] <= 200 + 2 * AMAP_CONCURRENCY


def test_a_synchronous_map_reads_as_it_goes():
    """Closing it leaves nothing running, at once."""
    echo = EchoModel()
    read = []

    def source() -> Any:
        for n in range(10**6):
            read.append(n)
            yield f"q{n}"

    results = echo.model().batch_as_completed(source(), {"max_concurrency": 4})
    position, answer = next(results)
    assert answer.text == f"re: q{position}"
    results.close()
    assert not echo.running
    assert len(read) < 50


# -- errors and interruption --------------------------------------------------------------------


@virtual_time
async def test_the_first_error_cancels_the_other_calls():
    """LangChain would let them run on, and bill."""
    echo = EchoModel(seconds=lambda prompt: int(prompt[1:]), fails=lambda prompt: prompt == "q2")
    llm = echo.model()
    with pytest.raises(AllTargetsFailedError):
        await llm.abatch(prompts(50), {"max_concurrency": 10})
    assert not echo.running
    assert len(echo.asked) == 12
    report = llm.batch_report()
    assert (report.done, report.failed, report.complete, report.total) == (2, 1, False, 50)


@virtual_time
async def test_a_cancelled_batch_leaves_nothing_running():
    """And its report tells how far it came."""
    echo, reports = EchoModel(seconds=lambda prompt: int(prompt[1:])), []
    task = asyncio.create_task(echo.model().abatch(prompts(50), report=reports.append))
    await asyncio.sleep(9.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not echo.running
    assert [(report.done, report.complete) for report in reports] == [(10, False)]


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_leaves_nothing_running():
    """When `batch` raises, everything has ended; what was done is in the report."""

    def seconds(prompt: str) -> float:
        if prompt != "q5":
            return 0.0
        os.kill(os.getpid(), signal.SIGINT)
        return 60.0

    echo = EchoModel(seconds=seconds)
    llm = echo.model()
    with pytest.raises(KeyboardInterrupt):
        llm.batch(prompts(20), {"max_concurrency": 1})
    assert not echo.running
    assert llm.batch_report().done == 5


@virtual_time
async def test_no_prompt_at_all_is_that_items_error():
    """What is no prompt fails alone."""
    results: list[Any] = await EchoModel().model().abatch(["q0", 7, "q2"], return_exceptions=True)
    assert isinstance(results[1], ValueError)
    assert [results[0].text, results[2].text] == ["re: q0", "re: q2"]


# -- the tail -----------------------------------------------------------------------------------


def _hangs_once(prompt: str, seen: set[str]) -> float:
    if prompt != "q99" or prompt in seen:
        return 1.0
    seen.add(prompt)
    return 100.0


@virtual_time
async def test_a_straggler_is_asked_again_as_a_run_of_its_own():
    """With a tag and another run id, so that traces tell the two apart."""
    seen: set[str] = set()
    runs = Runs()
    llm = EchoModel(seconds=lambda prompt: _hangs_once(prompt, seen)).model()
    results = await llm.abatch(prompts(100), {"callbacks": [runs], "max_concurrency": 10})
    assert _texts(results) == answers(100)
    first, second = [run for run in runs.started if run["prompt"] == "q99"]
    assert (first["tags"], second["tags"]) == ([], ["tail_hedge"])
    assert first["run_id"] != second["run_id"]
    assert llm.batch_report().tail_hedges == 1


@virtual_time
async def test_the_tail_can_be_left_alone():
    """With `tail_hedge=False` each prompt is asked once."""
    seen: set[str] = set()
    echo = EchoModel(seconds=lambda prompt: _hangs_once(prompt, seen))
    await echo.model().abatch(prompts(100), {"max_concurrency": 10}, tail_hedge=False)
    assert len(echo.asked) == 100


# -- the model is still a model -----------------------------------------------------------------


@virtual_time
async def test_batches_of_one_model_do_not_meet():
    """Two at a time, each with its own report."""
    llm, reports = EchoModel().model(), []
    first, second = await asyncio.gather(
        llm.abatch(prompts(30), report=reports.append),
        llm.abatch(prompts(20), report=reports.append),
    )
    assert (_texts(first), _texts(second)) == (answers(30), answers(20))
    assert sorted(report.done for report in reports) == [20, 30]


def _pickled(llm: ResilientChatModel) -> Any:
    return pickle.loads(pickle.dumps(llm))  # noqa: S301  # our own


def test_copies_and_pickles_leave_the_report_behind():
    """They have run no batch yet."""
    llm = ResilientChatModel(targets=["text:hello"])
    llm.batch(["x"])
    for other in (copy.copy(llm), copy.deepcopy(llm), _pickled(llm)):
        with pytest.raises(LookupError, match="no batch yet"):
            other.batch_report()
    assert llm.batch_report().done == 1


@virtual_time
async def test_prices_reach_the_report():
    """Of the chain's targets, by their own prices."""
    echo = EchoModel()
    llm = ResilientChatModel(targets=[echo.target(price=(1000, 2000))], hedge=None)
    await llm.abatch(prompts(10))
    report = llm.batch_report()
    assert (report.input_tokens, report.output_tokens) == (30, 20)
    assert report.spent == pytest.approx(30 * 0.001 + 20 * 0.002)


def test_a_model_without_a_batch_has_no_report():
    """And says so."""
    with pytest.raises(LookupError):
        ResilientChatModel(targets=[Target("text:x")]).batch_report()

"""A batch: order, bounds, errors, cancellation, stragglers, journal. In virtual time."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from itertools import count
from typing import Any

import async_solipsism
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

from langchain_resilient import ResilientChatModel, Target
from langchain_resilient.batch.runner import (
    MIN_STRAGGLER_SAMPLES,
    MIN_STRAGGLER_SECONDS,
    STRAGGLER_FACTOR,
    as_journal,
)
from langchain_resilient.runtime.call import PRIORITY
from tests.batch.echo_model import EchoModel, MemoryJournal, answers, prompts
from tests.batch.scripted_worker import ItemError, Items, ScriptedWorker, collect, runner
from verification.kit.virtual_time import virtual_time


@virtual_time
async def test_each_input_gets_its_own_answer():
    """Whatever the order in which they are completed."""
    work = ScriptedWorker(seconds=lambda item, _: 10 - item)
    collected = await collect(range(10), work, workers=10)
    assert collected == [(i, i * 10) for i in reversed(range(10))]


@virtual_time
async def test_there_is_no_wave():
    """One slow item holds nobody up: its worker alone is busy with it."""
    work = ScriptedWorker(seconds=lambda item, _: 100.0 if item == 0 else 1.0)
    await collect(range(100), work, workers=2, tail_hedge=False)
    assert asyncio.get_running_loop().time() == 100.0


@virtual_time
async def test_the_number_of_workers_is_kept():
    """No more at a time, and no fewer while there is work."""
    work = ScriptedWorker()
    await collect(range(100), work, workers=7, tail_hedge=False)
    assert work.max_running == 7
    assert asyncio.get_running_loop().time() == 15.0


@virtual_time
async def test_no_more_workers_are_hired_than_there_are_items():
    """A bound of a thousand costs nothing for three prompts."""
    batch = runner(range(3), ScriptedWorker(), workers=1000)
    async with aclosing(batch.results()) as results:
        await anext(results)
        assert len(asyncio.all_tasks()) <= 5


@virtual_time
async def test_an_endless_source_is_read_as_it_is_consumed():
    """At most two items a worker ahead of a consumer that has stopped."""
    items = Items(count())
    async with aclosing(runner(items.open(), ScriptedWorker(), workers=5).results()) as results:
        assert await anext(results)
        await asyncio.sleep(1000)
        assert items.read <= 1 + 2 * 5
    assert items.closed


@virtual_time
async def test_an_async_source_is_asked_for_one_item_at_a_time():
    """A generator raises if it is asked while it is busy."""
    items = Items(range(20), gap=0.5)
    collected = await collect(items.open(), ScriptedWorker(seconds=lambda *_: 9.0), workers=5)
    assert sorted(collected) == [(i, i * 10) for i in range(20)]
    assert items.closed


@virtual_time
async def test_the_first_error_cancels_the_others():
    """And is raised when nothing is left running; what was done before it is reported."""
    work = ScriptedWorker(seconds=lambda item, _: item, fails=lambda item, _: item == 3)
    items = Items(range(1, 100))
    collected: list[Any] = []

    async def gather() -> None:
        async with aclosing(runner(items.open(), work, workers=5).results()) as results:
            async for result in results:
                collected.append(result)  # noqa: PERF401  # kept when it raises

    with pytest.raises(ItemError):
        await gather()
    assert collected == [(0, 10), (1, 20)]
    assert not work.running
    assert items.closed
    assert {item for item, _ in work.cancelled} == {4, 5, 6, 7}


@virtual_time
async def test_errors_are_returned_in_their_places():
    """And nobody is cancelled for them."""
    work = ScriptedWorker(fails=lambda item, _: item % 3 == 0)
    collected = dict(await collect(range(10), work, return_exceptions=True))
    assert {i for i, result in collected.items() if isinstance(result, ItemError)} == {0, 3, 6, 9}
    assert collected[4] == 40
    assert not work.cancelled


@virtual_time
@pytest.mark.parametrize("gap", [None, 0.1])
async def test_an_error_of_the_source_is_raised(gap):
    """Even where exceptions are returned: it is no item's."""

    def broken() -> Any:
        yield 1
        msg = "no more"
        raise OSError(msg)

    with pytest.raises(OSError, match="no more"):
        await collect(Items(broken(), gap).open(), ScriptedWorker(), return_exceptions=True)


@virtual_time
async def test_an_error_of_the_keeper_ends_the_batch():
    """A full disk is no item's error: the batch must not go on and lose its answers."""

    class Full(ScriptedWorker):
        async def record(self, index: int, result: Any) -> None:
            raise OSError(28, "disk full")

    work = Full()
    with pytest.raises(OSError, match="disk full"):
        await collect(range(100), work, workers=3, return_exceptions=True)
    assert len(work.asked) == 3


@virtual_time
async def test_a_cancelled_error_out_of_nowhere_is_passed_on():
    """An item that cancels itself must not vanish from the results."""

    class Odd(ScriptedWorker):
        async def ask(self, index: int, item: Any, *, hedge: bool) -> Any:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await collect(range(3), Odd(), return_exceptions=True)


@virtual_time
async def test_a_worker_killed_by_somebody_else_is_noticed():
    """Its item would be missing."""
    task = asyncio.create_task(collect(range(3), ScriptedWorker()))
    await asyncio.sleep(0.5)
    (asyncio.all_tasks() - {task, asyncio.current_task()}).pop().cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@virtual_time
async def test_what_is_known_is_not_asked():
    """Nor kept again."""
    work = ScriptedWorker(known={1: "old", 3: "old"})
    collected = dict(await collect(range(5), work))
    assert collected == {0: 0, 1: "old", 2: 20, 3: "old", 4: 40}
    assert {item for item, _, _ in work.asked} == set(work.recorded) == {0, 2, 4}


@virtual_time
async def test_an_answer_that_is_being_kept_is_kept_to_the_end():
    """It is paid for: a cancel waits until it is recorded."""
    work = ScriptedWorker(record_seconds=5.0)
    task = asyncio.create_task(collect(range(3), work))
    await asyncio.sleep(2)
    task.cancel()
    await asyncio.wait({task})
    assert work.recorded == {0: 0, 1: 10, 2: 20}


@virtual_time
async def test_a_second_cancel_leaves_nothing_running_either():
    """Somebody presses Ctrl-C twice."""
    work = ScriptedWorker(record_seconds=5.0)
    task = asyncio.create_task(collect(range(3), work))
    await asyncio.sleep(2)
    task.cancel()
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}


def _cancelled_after(steps: int, items: Items, work: ScriptedWorker) -> None:
    """Cancel a batch after so many steps of the loop; then nothing may be left."""

    async def run() -> None:
        task = asyncio.create_task(collect(items.open(), work, workers=3, return_exceptions=True))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as loop:
        loop.run(run())


@pytest.mark.parametrize("gap", [None, 0.0])
def test_a_cancel_at_any_step_leaves_nothing_running(gap):
    """Every await of the runner is met: work without waits makes each step of the loop count."""
    for steps in range(80):
        items, work = Items(range(12), gap), ScriptedWorker(seconds=lambda *_: 0.0)
        _cancelled_after(steps, items, work)
        assert not work.running
        assert items.closed or not items.read


@virtual_time
@pytest.mark.parametrize("taken", range(12))
async def test_closing_early_leaves_nothing_running(taken):
    """Whatever was taken before."""
    items, work = Items(range(10), gap=0.25), ScriptedWorker()
    async with aclosing(runner(items.open(), work).results()) as results:
        for _ in range(min(taken, 10)):
            await anext(results)
    assert not work.running
    assert items.closed or not taken
    assert asyncio.all_tasks() == {asyncio.current_task()}


_SECONDS = st.lists(st.integers(0, 30), max_size=60)


@settings(max_examples=50, deadline=None)
@given(
    seconds=_SECONDS,
    bad=st.sets(st.integers(0, 59), max_size=10),
    known=st.sets(st.integers(0, 59), max_size=10),
    workers=st.integers(1, 12),
    gap=st.sampled_from([None, 0.0, 2.0]),
    pause=st.sampled_from([0.0, 3.0]),
)
def test_every_input_gets_exactly_its_own_answer(*, seconds, bad, known, workers, gap, pause):
    """For all durations, failures, restored answers, sources and consumers (langchain#35475)."""
    work = ScriptedWorker(
        seconds=lambda item, _: float(seconds[item]),
        fails=lambda item, _: item in bad,
        known={i: i * 10 for i in known},
    )
    items = Items(range(len(seconds)), gap)

    @virtual_time
    async def run() -> None:
        collected = {}
        batch = runner(items.open(), work, workers, return_exceptions=True)
        async with aclosing(batch.results()) as results:
            async for index, result in results:
                assert index not in collected
                collected[index] = result
                assert items.read <= len(collected) + 2 * workers
                await asyncio.sleep(pause)
        assert len(collected) == len(seconds)
        for i, result in collected.items():
            assert isinstance(result, ItemError) if i in bad - known else result == i * 10

    run()
    assert work.max_running <= workers
    assert set(work.recorded) == set(range(len(seconds))) - known


# -- the tail: stragglers are asked a second time, late, once, and by free workers only -----------


LAST = MIN_STRAGGLER_SAMPLES + 9


def _straggling(first: float = 1000.0, second: float = 1.0, **script: Any) -> ScriptedWorker:
    """All take a second but the last, which takes as long as is said."""
    return ScriptedWorker(
        seconds=lambda item, again: (second if again else first) if item == LAST else 1.0, **script
    )


def _again(work: ScriptedWorker) -> list[Any]:
    return [(item, at) for item, again, at in work.asked if again]


@virtual_time
async def test_a_straggler_is_asked_again_and_the_first_answer_wins():
    """After 3 times the median; the other call is cancelled."""
    work = _straggling()
    results = dict(await collect(range(LAST + 1), work, workers=10))
    assert results[LAST] == LAST * 10
    ((item, at),) = _again(work)
    began = next(at for item, again, at in work.asked if item == LAST and not again)
    assert item == LAST
    assert abs(at - began - STRAGGLER_FACTOR) < 0.1  # the median is known within one per cent
    assert work.cancelled == [(LAST, False)]
    assert asyncio.get_running_loop().time() < 8


@virtual_time
async def test_the_first_call_may_win_too():
    """Then the second is cancelled."""
    work = _straggling(first=5.0, second=100.0)
    results = dict(await collect(range(LAST + 1), work, workers=10))
    assert results[LAST] == LAST * 10
    assert work.cancelled == [(LAST, True)]


@virtual_time
async def test_an_item_is_asked_again_once_at_most():
    """Even if the second call hangs as well, or fails."""
    work = _straggling(second=900.0, fails=lambda _, again: again)
    results = dict(await collect(range(LAST + 1), work, workers=10))
    assert results[LAST] == LAST * 10
    assert len(_again(work)) == 1


@virtual_time
async def test_a_failure_of_the_first_call_waits_for_the_second():
    """An answer goes before an error."""
    work = _straggling(first=5.0, second=9.0, fails=lambda item, again: item == LAST and not again)
    results = dict(await collect(range(LAST + 1), work, workers=10))
    assert results[LAST] == LAST * 10


@virtual_time
async def test_an_item_fails_when_both_calls_have():
    """Once."""
    work = _straggling(first=5.0, second=9.0, fails=lambda item, _: item == LAST)
    results = await collect(range(LAST + 1), work, workers=10, return_exceptions=True)
    assert [i for i, result in results if isinstance(result, ItemError)] == [LAST]


@virtual_time
async def test_nothing_is_asked_again_while_there_is_other_work():
    """A slow item in the middle is nobody's tail until the source is empty."""
    work = ScriptedWorker(seconds=lambda item, _: 50.0 if item == 30 else 1.0)
    await collect(range(200), work, workers=10)
    (asked,) = _again(work)
    assert asked[0] == 30
    assert asked[1] >= max(at for item, _, at in work.asked if item == 199)


@virtual_time
async def test_a_small_batch_has_no_tail():
    """Too few results tell nothing of what is late."""
    work = ScriptedWorker(seconds=lambda item, _: 100.0 if item == 0 else 1.0)
    await collect(range(MIN_STRAGGLER_SAMPLES), work, workers=10)
    assert not _again(work)


@virtual_time
async def test_it_can_be_turned_off():
    """With `tail_hedge=False`."""
    work = _straggling()
    await collect(range(LAST + 1), work, workers=10, tail_hedge=False)
    assert not _again(work)


@virtual_time
async def test_even_durations_cause_no_second_calls():
    """Nobody is late where all take the same time."""
    work = ScriptedWorker()
    await collect(range(500), work, workers=64)
    assert not _again(work)
    assert not work.cancelled


@virtual_time
async def test_nothing_is_late_within_a_second():
    """However fast the others are: a second call would cost more than it saves."""
    work = ScriptedWorker(
        seconds=lambda item, _: MIN_STRAGGLER_SECONDS - 0.1 if item == LAST else 0.01
    )
    await collect(range(LAST + 1), work, workers=10)
    assert not _again(work)


# -- with a journal -------------------------------------------------------------------------------


@virtual_time
async def test_what_was_recorded_is_not_sent_again():
    """The same call sends only what is missing, and counts what was restored."""
    echo, journal = EchoModel(fails=lambda prompt: prompt == "q3" and not again), MemoryJournal()
    again = False
    llm = echo.model()
    first = await llm.abatch(prompts(10), journal=journal, return_exceptions=True)
    assert isinstance(first[3], Exception)
    again = True
    second = await llm.abatch(prompts(10), journal=journal)
    assert [message.text for message in second] == answers(10)
    assert echo.asked[10:] == ["q3"]
    report = llm.batch_report()
    assert (report.done, report.restored, report.targets[0].requests) == (10, 9, 1)


@virtual_time
async def test_another_prompt_or_parameter_is_sent():
    """The key covers everything that changes the answer."""
    echo, journal = EchoModel(), MemoryJournal()
    llm = echo.model()
    await llm.abatch(["q0", "q1"], journal=journal)
    await llm.abatch(["q0", "other"], journal=journal)
    await llm.abatch(["q0", "q1"], journal=journal, temperature=0)
    await llm.abatch(["q0", "q1"], journal=journal, stop=["x"])
    assert echo.asked == ["q0", "q1", "other", "q0", "q1", "q0", "q1"]


@virtual_time
async def test_an_answer_is_recorded_before_it_is_reported():
    """Whoever has seen it can rely on it."""
    journal = MemoryJournal()
    async for index, message in EchoModel().model().amap(prompts(20), journal=journal):
        assert message in [answer for (i, _), answer in journal.answers.items() if i == index]


@virtual_time
async def test_a_full_disk_ends_the_batch():
    """Even where exceptions are returned: answers that are not kept must not be bought."""
    echo, journal = EchoModel(), MemoryJournal(full=True)
    with pytest.raises(OSError, match="disk full"):
        await echo.model().abatch(
            prompts(100), {"max_concurrency": 4}, journal=journal, return_exceptions=True
        )
    assert len(echo.asked) == 4
    assert journal.events == ["open", "close"]


@virtual_time
@pytest.mark.parametrize("end", ["done", "error", "cancel"])
async def test_the_journal_is_closed_however_the_batch_ends(end):
    """Once."""
    journal = MemoryJournal()
    echo = EchoModel(seconds=lambda _: 1.0, fails=lambda _: end == "error")
    task = asyncio.create_task(echo.model().abatch(prompts(3), journal=journal))
    await asyncio.sleep(0.5)
    if end == "cancel":
        task.cancel()
    await asyncio.wait({task})
    assert journal.events == ["open", "close"]


def test_a_synchronous_batch_keeps_a_journal_too(tmp_path):
    """In a file, by its path; a second run sends nothing."""
    echo = EchoModel()
    llm = echo.model()
    for _ in range(2):
        messages: Any = llm.batch(prompts(20), journal=tmp_path / "run.db")
        assert [message.text for message in messages] == answers(20)
    assert len(echo.asked) == 20
    assert llm.batch_report().restored == 20


def test_no_journal_is_none():
    """And a journal is itself."""
    journal = MemoryJournal()
    assert as_journal(None) is None
    assert as_journal(journal) is journal


# -- priority -------------------------------------------------------------------------------------


def spying() -> tuple[ResilientChatModel, list[str]]:
    """A model whose target tells in whose name it is asked."""
    seen: list[str] = []

    async def answer(_: object) -> AIMessage:
        seen.append(PRIORITY.get())
        return AIMessage("yes")

    target = Target(RunnableLambda(answer), name="spy")
    return ResilientChatModel(targets=[target], hedge=None, share_learning=False), seen


def test_the_calls_of_a_batch_are_of_the_second_row():
    """Each of them."""
    llm, seen = spying()
    llm.batch(["one", "two"])
    assert seen == ["batch", "batch"]


def test_a_call_after_a_batch_is_of_the_first_row_again():
    """The priority is of the workers' contexts alone."""
    llm, seen = spying()
    llm.batch(["one"])
    llm.invoke("two")
    assert seen == ["batch", "interactive"]


async def test_so_is_a_call_beside_a_batch():
    """In the very task that reads the batch."""
    llm, seen = spying()
    async for _ in llm.amap(["one"]):
        await llm.ainvoke("two")
    assert seen == ["batch", "interactive"]


@pytest.mark.parametrize("journal", ["run.db", "run"], ids=["file", "folder"])
async def test_a_prompt_that_no_file_can_hold_is_kept_with_the_others(tmp_path, journal):
    """Scraped texts are cut in the middle of a character; an export shows U+FFFD for it."""
    (tmp_path / "run").mkdir()
    asked = ["one", "cut \ud83d", "three"]
    first, second = EchoModel(), EchoModel()
    messages = await first.model().abatch(asked, journal=tmp_path / journal)
    assert [message.text for message in messages] == [f"re: {each}" for each in asked]
    again = await second.model().abatch(asked, journal=tmp_path / journal)
    assert [message.text for message in again] == [message.text for message in messages]
    assert (len(first.asked), second.asked) == (3, [])


async def test_what_is_no_prompt_is_its_own_failure_beside_a_journal(tmp_path):
    """LangChain says so with another kind of exception for each."""
    asked: list[Any] = ["ok", [123], {"no": "prompt"}]
    llm = EchoModel().model()
    results = await llm.abatch(asked, journal=tmp_path / "run.db", return_exceptions=True)
    assert results[0].text == "re: ok"
    assert all(isinstance(each, Exception) for each in results[1:])

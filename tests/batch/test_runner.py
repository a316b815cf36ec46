"""The runner: order, bounds, errors, cancellation at every step. In virtual time."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from itertools import count
from typing import Any

import async_solipsism
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.batch.works import ItemError, Items, ScriptedWorker, collect, runner
from verification.kit.virtual_time import virtual_time


@virtual_time
async def test_each_input_gets_its_own_answer():
    """Whatever the order in which they are completed."""
    work = ScriptedWorker(seconds=lambda item, _: 10 - item)
    found = await collect(range(10), work, workers=10)
    assert found == [(i, i * 10) for i in reversed(range(10))]


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
    found = runner(range(3), ScriptedWorker(), workers=1000)
    async with aclosing(found.results()) as results:
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
    found = await collect(items.open(), ScriptedWorker(seconds=lambda *_: 9.0), workers=5)
    assert sorted(found) == [(i, i * 10) for i in range(20)]
    assert items.closed


@virtual_time
async def test_the_first_error_cancels_the_others():
    """And is raised when nothing is left running; what was done before it is reported."""
    work = ScriptedWorker(seconds=lambda item, _: item, fails=lambda item, _: item == 3)
    items = Items(range(1, 100))
    found: list[Any] = []

    async def gather() -> None:
        async with aclosing(runner(items.open(), work, workers=5).results()) as results:
            async for one in results:
                found.append(one)  # noqa: PERF401  # kept when it raises

    with pytest.raises(ItemError):
        await gather()
    assert found == [(0, 10), (1, 20)]
    assert not work.running
    assert items.closed
    assert {item for item, _ in work.cancelled} == {4, 5, 6, 7}


@virtual_time
async def test_errors_are_returned_in_their_places():
    """And nobody is cancelled for them."""
    work = ScriptedWorker(fails=lambda item, _: item % 3 == 0)
    found = dict(await collect(range(10), work, return_exceptions=True))
    assert {i for i, result in found.items() if isinstance(result, ItemError)} == {0, 3, 6, 9}
    assert found[4] == 40
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
    found = dict(await collect(range(5), work))
    assert found == {0: 0, 1: "old", 2: 20, 3: "old", 4: 40}
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
        found = {}
        batch = runner(items.open(), work, workers, return_exceptions=True)
        async with aclosing(batch.results()) as results:
            async for index, result in results:
                assert index not in found
                found[index] = result
                assert items.read <= len(found) + 2 * workers
                await asyncio.sleep(pause)
        assert len(found) == len(seconds)
        for i, result in found.items():
            assert isinstance(result, ItemError) if i in bad - known else result == i * 10

    run()
    assert work.max_running <= workers
    assert set(work.recorded) == set(range(len(seconds))) - known

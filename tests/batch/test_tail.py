"""Stragglers are asked a second time, late, once, and by free workers only. In virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_resilient.batch.runner import (
    MIN_STRAGGLER_SAMPLES,
    MIN_STRAGGLER_SECONDS,
    STRAGGLER_FACTOR,
)
from tests.batch.works import ItemError, ScriptedWorker, collect
from verification.kit.virtual_time import virtual_time

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
    found = dict(await collect(range(LAST + 1), work, workers=10))
    assert found[LAST] == LAST * 10
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
    found = dict(await collect(range(LAST + 1), work, workers=10))
    assert found[LAST] == LAST * 10
    assert work.cancelled == [(LAST, True)]


@virtual_time
async def test_an_item_is_asked_again_once_at_most():
    """Even if the second call hangs as well, or fails."""
    work = _straggling(second=900.0, fails=lambda _, again: again)
    found = dict(await collect(range(LAST + 1), work, workers=10))
    assert found[LAST] == LAST * 10
    assert len(_again(work)) == 1


@virtual_time
async def test_a_failure_of_the_first_call_waits_for_the_second():
    """An answer goes before an error."""
    work = _straggling(first=5.0, second=9.0, fails=lambda item, again: item == LAST and not again)
    found = dict(await collect(range(LAST + 1), work, workers=10))
    assert found[LAST] == LAST * 10


@virtual_time
async def test_an_item_fails_when_both_calls_have():
    """Once."""
    work = _straggling(first=5.0, second=9.0, fails=lambda item, _: item == LAST)
    found = await collect(range(LAST + 1), work, workers=10, return_exceptions=True)
    assert [i for i, result in found if isinstance(result, ItemError)] == [LAST]


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

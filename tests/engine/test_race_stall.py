"""Our own process stands still for an hour: suspended, stopped, or blocked by other work."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from langchain_resilient import TimeLimits
from langchain_resilient.engine.interfaces import CallEnd
from langchain_resilient.engine.target_speed import ENOUGH_SAMPLES
from verification.kit.scripted_engine import Hang, Say, World, shown, world
from verification.kit.virtual_time import virtual_time

HOUR = 3600.0


def now() -> float:
    return asyncio.get_running_loop().time()


def stand_still(seconds: float = HOUR, after: float = 0.5) -> None:
    """Let the clock jump in one step, while the loop runs nothing."""
    loop: Any = asyncio.get_running_loop()
    loop.call_later(after, lambda: loop._selector.clock.advance(seconds))


async def ask(w: World) -> tuple[CallEnd | None, Any]:
    race = w.race()
    response = await race.answer()
    return race.end, response and response.text


@virtual_time
async def test_an_answer_that_came_meanwhile_is_not_lost_to_the_deadline():
    """It lies in the socket when we wake up: it is read before the deadline is looked at."""
    w = world(Say("in time", after=1.0), deadline=10.0)
    stand_still()
    assert await ask(w) == (CallEnd.ANSWERED, "in time ")


@virtual_time
async def test_a_deadline_that_passed_meanwhile_ends_a_request_without_an_answer():
    """It was promised to whoever waits, and is kept at once."""
    w = world(Hang(), deadline=10.0)
    stand_still()
    assert (await ask(w))[0] is CallEnd.DEADLINE
    assert now() == pytest.approx(HOUR + 0.5, abs=0.1)


@virtual_time
async def test_nothing_is_hedged_for_our_own_silence():
    """Its target gets as long as one that is asked now."""
    w = world(Say(after=HOUR + 1.0), Say("never"), deadline=None)
    stand_still()
    assert (await ask(w))[0] is CallEnd.ANSWERED
    assert w.sends() == 1


@virtual_time
async def test_one_that_goes_on_hanging_is_hedged_afterwards():
    """Two seconds after we woke up, as two seconds after a send."""
    w = world(Hang(), Say("rescued"), deadline=None)
    stand_still()
    assert await ask(w) == (CallEnd.ANSWERED, "rescued ")
    assert w.targets["p1:m"].sent == [pytest.approx(HOUR + 0.5 + 2.0)]


@virtual_time
async def test_no_target_is_blamed_for_our_own_silence():
    """However many requests were under way: none counts as late."""
    w = world(Say(after=HOUR + 0.6), deadline=None, hedge=None)
    stand_still()
    await asyncio.gather(*(ask(w) for _ in range(50)))
    assert w.states["p0:m"].circuit_breaker.trips == 0


@virtual_time
async def test_no_limit_for_the_first_text_is_held_against_a_target():
    """It is counted anew."""
    w = world(
        Say(after=HOUR + 1.0), deadline=None, hedge=None, time_limits=TimeLimits(first_text=5.0)
    )
    stand_still()
    assert (await ask(w))[0] is CallEnd.ANSWERED
    assert w.sends() == 1


@virtual_time
async def test_no_gap_in_a_stream_is_held_against_a_target():
    """A stream that was under way goes on."""
    w = world(Say("a b c", gap=0.4), deadline=None, time_limits=TimeLimits(chunk_gap=5.0))
    stand_still()
    words = [chunk["word"] async for chunk in shown(w.stream()) if "word" in chunk]
    assert (words, w.sends()) == (["a ", "b ", "c "], 1)


@virtual_time
async def test_nobody_is_taken_to_be_slow_for_it():
    """What is learned is that it took longer than since we woke up, not that it took an hour."""
    w = world(Say(after=0.6), deadline=None, hedge=None)
    state = w.states["p0:m"]
    for _ in range(ENOUGH_SAMPLES):
        state.record_first_text(0.5, 0.0, plain=False, late=False)
    stand_still()
    await asyncio.gather(*(ask(w) for _ in range(50)))
    learned = state.speed.percentile(0.95, now() + 60.0, plain=False)
    assert learned is not None
    assert learned < 1.0


@virtual_time
async def test_a_loop_that_always_stands_still_does_not_hide_a_hang():
    """After the third time lateness counts again."""
    w = world(Hang(), Say("rescued"), deadline=None)
    for after in range(1, 100, 3):
        stand_still(2.0, after=after)
    assert await ask(w) == (CallEnd.ANSWERED, "rescued ")
    assert now() < 30.0

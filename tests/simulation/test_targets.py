"""Scripted targets do what their script says, when it says so."""

from __future__ import annotations

import asyncio
from math import inf

import pytest

from langchain_resilient import FaultKind
from langchain_resilient.exchange import ChatRequest
from langchain_resilient.simulation.clock import run_virtual
from langchain_resilient.simulation.faults import (
    CutStream,
    Fail,
    Hang,
    Phase,
    Schedule,
    Slow,
    StallStream,
)
from langchain_resilient.simulation.latency import Recorded
from langchain_resilient.simulation.targets import Script, ScriptedError, ScriptedSource
from langchain_resilient.simulation.trace import Trace

STEADY = Recorded([0.5])


def script(effect=None, **fields) -> Script:
    """A target that takes half a second, and from 10 s until 20 s has something wrong with it."""
    phases = (Phase(10.0, 20.0, effect),) if effect is not None else ()
    return Script("p:m", STEADY, phases, **fields)


async def ask(source: ScriptedSource, number: int = 0) -> list:
    """Read one whole answer."""
    stream = await source.open(ChatRequest([{"role": "user", "content": number}]), stream=True)
    try:
        return [chunk async for chunk in stream]
    finally:
        await stream.aclose()


def asked(one: Script, at: float = 12.0, patience: float = 30.0):
    """Ask at a time; returns (chunks or the error, seconds, source, trace)."""

    async def main():
        trace = Trace(keep=True)
        source = ScriptedSource(one, 0, 1, trace)
        await asyncio.sleep(at)
        began = asyncio.get_running_loop().time()
        try:
            result = await asyncio.wait_for(ask(source), patience)
        except (ScriptedError, TimeoutError) as error:
            result = error
        seconds = round(asyncio.get_running_loop().time() - began, 6)
        return result, seconds, source, trace

    return run_virtual(main())


def test_a_healthy_target_answers_after_its_latency():
    """Text, then the end, both at once."""
    result, seconds, source, _ = asked(script())
    assert (result, seconds, source.live) == ([{"text": "answer"}, {"finish": True}], 0.5, 0)


def test_a_tail_comes_between_the_text_and_the_end():
    """The whole answer takes longer than its first text."""
    assert asked(script(tail=2.0))[1] == 2.5


def test_a_slow_target_takes_so_many_times_as_long():
    """Six times half a second."""
    assert asked(script(Slow(6)))[1] == 3.0


def test_a_hanging_target_never_answers():
    """Whoever gives up has closed its stream."""
    result, seconds, source, _ = asked(script(Hang()))
    assert isinstance(result, TimeoutError)
    assert (seconds, source.live) == (30.0, 0)


def test_a_request_that_was_sent_before_the_fault_is_answered():
    """The moment of sending decides."""
    assert asked(script(Hang()), at=9.9)[1] == 0.5


def test_a_request_that_was_sent_into_the_fault_stays_lost_when_it_ends():
    """Its connection is gone."""
    assert isinstance(asked(script(Hang()), at=19.9)[0], TimeoutError)


def test_the_end_of_a_phase_is_no_part_of_it():
    """From its start until just before its end."""
    assert asked(script(Hang()), at=20.0)[1] == 0.5


def test_a_failing_target_refuses_with_its_fault_and_hint():
    """After its delay, and it remembers what it asked for."""
    result, seconds, source, _ = asked(script(Fail(FaultKind.RATE_LIMIT, 0.2, retry_after=7.0)))
    assert (result.fault.kind, result.fault.retry_after) == (FaultKind.RATE_LIMIT, 7.0)
    assert (seconds, source.live) == (0.2, 0)
    assert source.pushbacks == [(12.2, 19.2)]


def test_a_refusal_that_nobody_waits_for_is_closed_and_asks_for_nothing():
    """The caller went away before it came."""
    _, _, source, trace = asked(script(Fail(after=5.0, retry_after=7.0)), patience=1.0)
    assert (source.live, source.pushbacks) == (0, [])
    assert [e.what for e in trace.events] == ["send", "close"]


def test_a_cut_stream_breaks_after_its_text():
    """In time, but not to the end."""
    result, seconds, _, trace = asked(script(CutStream()))
    assert (result.fault.kind, seconds) == (FaultKind.BROKEN, 0.5)
    assert [e.what for e in trace.events] == ["send", "text", "close"]


def test_a_stalled_stream_goes_silent_after_its_text():
    """No end comes."""
    result, _, _, trace = asked(script(StallStream()))
    assert isinstance(result, TimeoutError)
    assert [e.what for e in trace.events] == ["send", "text", "close"]


def test_a_second_request_of_the_same_number_draws_another_latency():
    """A retry is not bound to be as slow."""

    async def main():
        source = ScriptedSource(
            Script("p:m", Recorded([n / 100 for n in range(100)])), 0, 1, Trace()
        )
        times = []
        for _ in range(3):
            began = asyncio.get_running_loop().time()
            await ask(source, number=5)
            times.append(asyncio.get_running_loop().time() - began)
        return times

    assert len(set(run_virtual(main()))) == 3


@pytest.mark.parametrize(
    ("effect", "seconds", "answered"),
    [(None, 0.5, True), (Slow(3), 1.5, True), (Fail(after=0.2), 0.2, False),
     (CutStream(), 0.5, False), (Hang(), inf, False), (StallStream(), inf, False)],
)  # fmt: skip
def test_a_fate_is_what_then_happens(effect, seconds, answered):
    """What oracles and baselines are told of a request is what the engine would see."""
    one = script(effect)
    result, took, _, _ = asked(one)
    assert one.fate(0.3, 12.0) == (seconds, answered)
    assert isinstance(result, list) == answered
    assert took == min(seconds, 30.0)


def test_phases_that_overlap_are_refused():
    """Two at a time would leave open which holds."""
    with pytest.raises(ValueError, match="overlap"):
        Schedule((Phase(0, 10, Hang()), Phase(5, 15, Hang())))


def test_the_changes_of_a_schedule_are_its_edges_within_the_time():
    """After `since`, and up to `until`."""
    schedule = Schedule((Phase(1, 2, Hang()), Phase(4, 8, Hang()), Phase(20, 30, Hang())))
    assert list(schedule.changes(1, 20)) == [2, 4, 8, 20]

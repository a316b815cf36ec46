"""A run: the real engine over scripted targets, the same again from the same seed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from langchain_resilient.simulation import clock, targets
from langchain_resilient.simulation.engine import Engine, Rules
from langchain_resilient.simulation.faults import Fail, Hang, Phase
from langchain_resilient.simulation.latency import Recorded
from langchain_resilient.simulation.run import Scenario, run
from langchain_resilient.simulation.targets import Script
from langchain_resilient.simulation.trace import Trace

TARGETS = tuple(Script(f"p{i}:m") for i in range(3))
FEW = Scenario(TARGETS, requests=300)


def test_every_request_is_answered_and_nothing_is_left():
    """By three healthy targets."""
    done = run(FEW, 1)
    assert {call.end for call in done.calls} == {"answered"}
    assert [call.number for call in done.calls] == list(range(300))
    assert done.leaks == {"tasks": 0, "streams": 0, "waiters": 0}
    assert done.complaints == []


def test_the_sends_of_the_targets_are_those_of_the_receipts():
    """Nothing is sent behind a receipt's back."""
    phases = (Phase(2.0, 10.0, Fail()),)
    done = run(replace(FEW, targets=(Script("p0:m", phases=phases), *TARGETS[1:])), 1)
    assert sum(done.sends.values()) == sum(len(call.attempts) for call in done.calls) > 300


def test_requests_arrive_at_the_rate():
    """A Poisson process: 2,000 at 50 a second take 40 s, within four standard errors."""
    done = run(Scenario(TARGETS, rate=50.0, requests=2_000), 1)
    assert done.calls[-1].arrived == pytest.approx(40.0, abs=4 * 2000**0.5 / 50)


def test_a_latency_of_the_samples_is_the_latency_of_the_call():
    """A target of one second, alone: what the engine adds is nothing."""
    one = Scenario((Script("p:m", Recorded([1.0])),), Rules(hedge=None), requests=50)
    assert {round(call.latency, 6) for call in run(one, 1).calls} == {1.0}


def test_an_unanswered_call_has_no_latency():
    """It ended at its deadline, without an answer."""
    hung = (Script("p:m", phases=(Phase(0.0, 1e9, Hang()),)),)
    done = run(Scenario(hung, Rules(deadline=5.0), requests=3), 1)
    assert [(c.end, round(c.seconds, 3), c.latency) for c in done.calls] == [
        ("deadline", 5.0, float("inf"))
    ] * 3


def test_a_caller_that_goes_away_ends_its_call():
    """After the seconds that the scenario says."""
    done = run(replace(FEW, cancels={7: 0.01}), 1)
    assert (done.calls[7].end, round(done.calls[7].seconds, 3)) == ("cancelled", 0.01)


def test_another_seed_is_another_run():
    """Other arrivals, other latencies."""
    assert run(FEW, 1).trace.digest != run(FEW, 2).trace.digest


def test_keeping_the_events_does_not_change_the_hash():
    """A replay that prints is a replay."""
    assert run(FEW, 1, keep=True).trace.digest == run(FEW, 1).trace.digest


def test_a_seed_replays_in_any_process():
    """The same hash, whatever the order of sets and dicts of strings is there."""
    command = [sys.executable, "-m", "verification.simulation", "replay", "--row",
               "outage-flapping", "--small", "--requests", "2500", "--seed", "5",
               "--to", "0"]  # fmt: skip
    items = {
        subprocess.run(
            command,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.splitlines()[-1]
        for seed in ("0", "4242")
    }
    assert len(items) == 1
    assert items.pop().startswith("trace ")


def test_a_trace_hash_tells_the_smallest_difference():
    """One nanosecond later, another request, another event, another target."""
    events = [(1.0, 1, "send", "a"), (1.000000001, 1, "send", "a"), (1.0, 2, "send", "a"),
              (1.0, 1, "text", "a"), (1.0, 1, "send", "b")]  # fmt: skip
    digests = set()
    for event in events:
        trace = Trace()
        trace.add(*event)
        digests.add(trace.digest)
    assert len(digests) == len(events)


def test_a_stream_that_is_left_open_is_a_leak(monkeypatch):
    """An engine that does not close what it opened is found out."""
    close = targets._Stream.aclose

    async def forgetful(self) -> None:
        if self._number != 3:
            await close(self)

    monkeypatch.setattr(targets._Stream, "aclose", forgetful)
    assert run(FEW, 1).leaks["streams"] >= 1


def test_a_task_that_is_left_running_is_a_leak(monkeypatch):
    """Even if it only sleeps."""
    race, kept = Engine.race, []

    def leaking(self: Engine, number: int, profile):
        if number == 3:
            kept.append(asyncio.ensure_future(asyncio.sleep(1e4)))
        return race(self, number, profile)

    monkeypatch.setattr(Engine, "race", leaking)
    assert run(FEW, 1).leaks["tasks"] == 1


def test_an_exception_of_the_engine_is_not_swallowed(monkeypatch):
    """It is what the loop complains of."""
    race = Engine.race

    def failing(self: Engine, number: int, profile):
        if number == 3:
            raise RuntimeError("planned")
        return race(self, number, profile)

    monkeypatch.setattr(Engine, "race", failing)
    assert any("planned" in text for text in run(FEW, 1).complaints)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    """And how to install it."""
    monkeypatch.setitem(sys.modules, "async_solipsism", None)
    with pytest.raises(clock.MissingSimulateExtraError, match=r"langchain-resilient\[simulate\]"):
        run(FEW, 1)

"""Up to the deadline something is tried; and nobody waits for it who is offline."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from langchain_resilient import FaultKind, Retry
from langchain_resilient.engine.interfaces import Route
from langchain_resilient.engine.target_state import Account, TargetState
from langchain_resilient.simulation.clock import run_virtual
from verification.kit.scripted_engine import Fail, Say, Scripted, World, world


class Outage:
    """Refuses everything until a time, then answers."""

    def __init__(self, until: float, kind: FaultKind = FaultKind.SERVER) -> None:
        self.down, self.up, self.until = (
            Scripted([Fail(kind, after=0.01)]),
            Scripted([Say()]),
            until,
        )

    async def open(self, request, *, stream):
        now = asyncio.get_running_loop().time()
        return await (self.down if now < self.until else self.up).open(request, stream=stream)


def offline(w: World, after: float) -> World:
    """All connections fail after some seconds; a last resort is there."""
    for name in w.targets:
        w.targets[name] = Scripted([Fail(FaultKind.CONNECTION, after=after)])
    state = TargetState("local:m", "local", accounts=[Account()])
    w.last_resort = Route(state, Scripted([Say("at least this")]))
    return w


async def seconds(w: World) -> float:
    """How long a call takes that the last resort answers."""
    race = w.race()
    began = asyncio.get_running_loop().time()
    assert (await race.answer()).text.split() == ["at", "least", "this"]
    assert race.receipt().last_resort
    return asyncio.get_running_loop().time() - began


@pytest.mark.parametrize("end", [7.0, 8.0])
@pytest.mark.parametrize("count", [1, 2])
def test_an_outage_that_ends_two_seconds_before_the_deadline_is_outlived(end, count):
    """Whatever chance says of the backoff: twenty of twenty."""

    async def run(seed: int) -> bool:
        w = world(*[Say()] * count, deadline=10.0)
        w.dependencies.rng = Random(seed)
        start = asyncio.get_running_loop().time()
        for name in w.targets:
            w.targets[name] = Outage(start + end)
        return await w.race().answer() is not None

    assert [run_virtual(run(seed)) for seed in range(20)] == [True] * 20


def test_a_short_deadline_is_used():
    """Half a second is not given up after some milliseconds."""

    async def run() -> float:
        w = world(Fail(after=0.004), deadline=0.6)
        began = asyncio.get_running_loop().time()
        assert await w.race().answer() is None
        return asyncio.get_running_loop().time() - began

    assert run_virtual(run()) > 0.5


def test_a_wait_that_the_user_chose_is_not_shortened():
    """A backoff of his that is longer than the deadline ends the call."""

    async def run() -> int:
        w = world(Fail(after=0.01), deadline=5.0, retry=Retry(wait=lambda _: 60.0))
        await w.race().answer()
        return w.sends()

    assert run_virtual(run()) == 1


@pytest.mark.parametrize("deadline", [None, 30.0, 120.0])
def test_who_is_offline_gets_the_last_resort_soon(deadline):
    """After a second round; and at once when it is known already."""

    async def run() -> list[float]:
        w = offline(world(Say(), Say(), deadline=deadline, reserve=10.0), after=0.002)
        return [await seconds(w) for _ in range(2)]

    first, second = run_virtual(run())
    assert first < 3.0
    assert second < 0.5


def test_connections_that_fail_slowly_are_not_waited_for_for_ever():
    """Five seconds, or as many as the plan says."""

    async def run() -> float:
        w = offline(world(Say(), deadline=60.0, reserve=10.0, last_resort_after=3.0), after=2.5)
        return await seconds(w)

    assert run_virtual(run()) < 4.0


def test_a_target_that_answers_again_is_no_longer_out_of_reach():
    """One answer is enough."""

    async def run() -> TargetState:
        w = offline(world(Say(), deadline=60.0, reserve=10.0), after=0.002)
        await seconds(w)
        w.targets["p0:m"] = Scripted([Say()])
        race = w.race()
        await race.answer()
        assert not race.receipt().last_resort
        return w.states["p0:m"]

    assert run_virtual(run()).unreachable == 0

"""A caller that goes away at any step of the loop leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

import pytest

from langchain_resilient import Fault, FaultKind, Health, Hedge, Retry, TimeLimits
from langchain_resilient.engine import race
from langchain_resilient.engine.circuit_breaker import PROBE_SECONDS
from langchain_resilient.engine.interfaces import Plan, Route
from langchain_resilient.engine.target_state import TargetState
from tests.engine.stepping import Act, SteppedLoop, Upstream, read, run_stepped
from verification.kit.scripted_engine import Continues, World, world

SLOW = Act(after=9.0)
QUICK = Act()
FAILS = Act(words=0, fault=FaultKind.SERVER)
BREAKS = Act(words=1, fault=FaultKind.BROKEN)
LIMITED = Act(words=0, fault=FaultKind.RATE_LIMIT)
HANGS = Act(hangs=True)
STALLS = Act(words=5, gap=4.0)


@pytest.fixture(autouse=True)
def _little_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a slow reader of few chunks makes its provider wait."""
    monkeypatch.setattr(race, "MAX_READ_AHEAD", 2)


async def approve(_attempt: object, _change_request: object) -> Fault | None:
    """A validator that takes its time."""
    await asyncio.sleep(0.2)
    return None


async def told(_: object) -> None:
    """A hook before a retry that takes its time."""
    await asyncio.sleep(0.2)


@dataclass
class Scene:
    """A chain, a policy, and how many callers there are."""

    chain: list[list[Act]]
    callers: int = 1
    streaming: bool = False
    pause: float = 0.0
    limit: int | None = None
    tripped: bool = False
    last_resort: bool = False
    policy: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


BROKE = {
    "hedge": Hedge(delay=1.0, budget=0.0),
    "health": Health(rescue=0.0),
    "retry": Retry(budget=0.0),
}
TRUSTING = {"hedge": Hedge(cold=0.5, budget=0.0), "health": Health(rescue_burst=6)}
SHORT = {"time_limits": TimeLimits(first_text=2.0, chunk_gap=2.0, answer=20.0), "deadline": 30.0}

SCENES = {
    "one answer": Scene([[QUICK]]),
    "one stream": Scene([[QUICK]], streaming=True),
    "a slow reader": Scene([[Act(words=6, gap=0.0)]], streaming=True, pause=0.5),
    "a hedge wins": Scene([[SLOW], [QUICK]]),
    "a hedge wins a stream": Scene([[SLOW], [QUICK]], streaming=True),
    "a fallback": Scene([[FAILS], [BREAKS], [QUICK]]),
    "retries": Scene([[FAILS, BREAKS, QUICK]], options={"on_retry": told}),
    "a judged stream": Scene([[QUICK]], streaming=True, options={"validate": approve}),
    "a broken stream": Scene([[BREAKS], [QUICK]], streaming=True),
    "suspects": Scene([[HANGS], [SLOW], [HANGS]], policy={**SHORT, "hedge": None}),
    "a stall": Scene([[STALLS], [QUICK]], policy=SHORT),
    "the deadline": Scene([[HANGS], [HANGS]], policy={"deadline": 6.0}),
    "no room": Scene([[QUICK]], callers=3, limit=1),
    "no token": Scene([[SLOW], [SLOW]], callers=3, policy=BROKE),
    "rescues": Scene([[HANGS], [QUICK]], callers=6, policy=TRUSTING),
    "a probe": Scene([[QUICK], [QUICK]], tripped=True),
    "a probe that hangs": Scene([[HANGS], [QUICK]], tripped=True),
    "a last resort": Scene([[LIMITED]], last_resort=True, policy={"deadline": 9.0, "reserve": 4.0}),
}


@dataclass
class Stage:
    """A scene that is played: the world, its targets, and the callers."""

    scene: Scene
    world: World
    targets: list[Upstream]
    states: list[TargetState]
    callers: list[asyncio.Task[None]] = field(default_factory=list)

    @classmethod
    def of(cls, scene: Scene) -> Stage:
        built = world(*([] for _ in scene.chain), **scene.policy)
        targets = [Upstream(acts) for acts in scene.chain]
        built.targets = dict(zip(built.states, targets, strict=True))  # type: ignore[arg-type]
        states = list(built.states.values())
        for state in states:
            state.concurrency.limit = scene.limit or 9
        if scene.last_resort:
            states.append(TargetState("text", "text", max_concurrency=9))
            targets.append(Upstream([QUICK]))
            built.last_resort = Route(states[-1], targets[-1])
        return cls(scene, built, targets, states)

    async def begin(self) -> None:
        if self.scene.tripped:
            trip(self.states[0], self.world.plan)
            await asyncio.sleep(PROBE_SECONDS)
        for _ in range(self.scene.callers):
            mine = (
                self.world.stream(Continues(), **self.scene.options)
                if self.scene.streaming
                else self.world.race(**self.scene.options)
            )
            caller = read(mine, streaming=self.scene.streaming, pause=self.scene.pause)
            self.callers.append(asyncio.get_running_loop().create_task(caller))

    async def end(self) -> None:
        """Wait for the callers, then for what they left to the reaper."""
        for caller in self.callers:
            with contextlib.suppress(asyncio.CancelledError):
                await caller
        if self.scene.tripped:
            await asyncio.sleep(60.0)  # `drain` would send a probe away
        await self.world.reaper.drain(30.0)

    def left(self, loop: SteppedLoop) -> dict[str, object]:
        """What is left behind, by name."""
        budgets = self.world.plan.budgets
        fields: dict[str, object] = {
            "tasks": asyncio.all_tasks() - {asyncio.current_task()},
            "timers": loop.timers(),
            "complaints": loop.complaints,
            "places": sum(state.concurrency.used for state in self.states),
            "queues": sum(len(state.concurrency._waiters) for state in self.states),
            "waiting": [key for state in self.states for key in state.waiting],
            "tickets": budgets.hedge.waiting + budgets.rescue.waiting + budgets.retry.waiting,
            "streams": [t for t in self.targets if sorted(t.closes) != _once(t.opened)],
        }
        return {name: what for name, what in fields.items() if what}


def trip(state: TargetState, plan: Plan) -> None:
    """Make it sick."""
    assert plan.health is not None
    for _ in range(plan.health.trip_after):
        state.circuit_breaker.record_slow(0.0, plan.health.trip_after)


def _once(streams: int) -> list[str]:
    """What is noted if each of so many streams was closed once, to the end."""
    return sorted(f"{what} {n + 1}" for n in range(streams) for what in ("begun", "done"))


def play(scene: Scene, *cancels: int, who: int = 0) -> int:
    """Play a scene to its end, with the caller cancelled before some steps.

    Returns:
        How many steps it took.
    """
    steps = 0

    async def main(loop: SteppedLoop) -> None:
        nonlocal steps
        stage = Stage.of(scene)
        await stage.begin()
        begun = loop.steps
        for step in cancels:
            loop.acts[begun + step].append(stage.callers[who].cancel)
        await stage.end()
        steps = loop.steps - begun
        assert stage.left(loop) == {}, f"cancelled before {cancels} of {steps}"

    run_stepped(main)
    return steps


@pytest.mark.parametrize("name", SCENES)
def test_one_cancel_at_any_step_leaves_nothing(name):
    """Every stream is closed once, every place, token and timer is given back."""
    scene = SCENES[name]
    for step in range(1, play(scene) + 1):
        play(scene, step)


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("later", [0, 1, 2])
def test_a_second_cancel_changes_nothing(name, later):
    """At once or a little later, as `asyncio.timeout` around a task group may bring it."""
    scene = SCENES[name]
    for step in range(1, play(scene) + 1):
        play(scene, step, step + later)


@pytest.mark.parametrize("name", [name for name, scene in SCENES.items() if scene.callers > 1])
def test_the_last_of_several_callers_goes_as_quietly(name):
    """Others are waiting before it."""
    scene = SCENES[name]
    for step in range(1, play(scene) + 1):
        play(scene, step, who=scene.callers - 1)

"""Runs a scenario through the real engine, in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any

from langchain_resilient.simulation.clock import run_virtual
from langchain_resilient.simulation.engine import Engine, Rules
from langchain_resilient.simulation.sizes import ALIKE, RecordedSizes, SizedRequest, Sizes
from langchain_resilient.simulation.targets import Script, ScriptedSource
from langchain_resilient.simulation.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from langchain_resilient.receipt import AttemptRecord

SETTLING_SECONDS = 60.0
"""After the last answer: whatever is still there then has leaked. Probes, for whom nobody waits,
may take until their own limit."""


@dataclass(frozen=True)
class Scenario:
    """What a run is made of, beside its seed.

    Attributes:
        targets: The chain.
        rules: The policy.
        rate: Requests per second; they arrive at random (a Poisson process).
        requests: How many.
        cancels: Callers that go away: request number to seconds after its arrival.
        sizes: Of the requests; None if they are all alike.
        workers: How many callers there are, each of whom asks again once it was answered; None for
            requests that arrive at random, at `rate`.
    """

    targets: tuple[Script, ...]
    rules: Rules = field(default_factory=Rules)
    rate: float = 20.0
    requests: int = 50_000
    cancels: Mapping[int, float] = field(default_factory=dict)
    sizes: Sizes | RecordedSizes | None = None
    workers: int | None = None


@dataclass(slots=True)
class Call:
    """One request, as it went.

    Attributes:
        number: From 0, in order of arrival.
        arrived: Virtual seconds since the run began.
        seconds: From its arrival to its end, whatever the end was.
        end: `answered`, `cancelled`, or another of the engine's ends.
        attempts: What was sent for it.
        size: How large it was.
        worker: Whose request it was.
    """

    number: int
    arrived: float
    seconds: float
    end: str
    attempts: tuple[AttemptRecord, ...]
    size: SizedRequest = ALIKE
    worker: int = 0

    @property
    def latency(self) -> float:
        """Seconds to its answer; infinity if there was none."""
        return self.seconds if self.end == "answered" else inf


@dataclass(slots=True)
class Run:
    """A run that is over.

    Attributes:
        scenario: What was run.
        seed: Of all its randomness.
        calls: In order of arrival.
        sends: By target, as the targets counted them.
        pushbacks: By target, each time it asked to be left alone: (when it said so, until when).
        leaks: What was left behind: unfinished tasks, open streams, places held in a budget.
        complaints: What the event loop reported, such as an exception that nobody retrieved.
        trace: All events.
    """

    scenario: Scenario
    seed: int
    calls: list[Call]
    sends: dict[str, int]
    pushbacks: dict[str, list[tuple[float, float]]]
    leaks: dict[str, int]
    complaints: list[str]
    trace: Trace


def run(scenario: Scenario, seed: int, *, keep: bool = False) -> Run:
    """Run a scenario.

    Args:
        scenario: What to run.
        seed: The same seed gives the same run, event by event, in any process.
        keep: Whether to keep the events, not only their hash.

    Raises:
        MissingSimulateExtraError: If the library for virtual time is not installed.
    """
    return run_virtual(_Runner(scenario, seed, Trace(keep=keep)).run())


class _Runner:
    def __init__(self, scenario: Scenario, seed: int, trace: Trace) -> None:
        self._scenario = scenario
        self._seed = seed
        self._trace = trace
        self._arrivals = Random(seed)
        self._calls: list[Call] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._complaints: list[str] = []
        self._requests: dict[int, SizedRequest] = {}

    async def run(self) -> Run:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._complain)
        scenario, seed = self._scenario, self._seed
        sources = [
            ScriptedSource(script, position, seed, self._trace)
            for position, script in enumerate(scenario.targets)
        ]
        for source in sources:
            source.requests = self._requests
        engine = Engine(scenario.rules, sources, seed)
        await self._arrive(engine)
        while self._tasks:
            await asyncio.wait(self._tasks)
        await engine.close()
        await asyncio.sleep(SETTLING_SECONDS)
        return Run(
            scenario,
            seed,
            sorted(self._calls, key=lambda call: call.number),
            {source.script.name: source.sends for source in sources},
            {source.script.name: source.pushbacks for source in sources},
            {
                "tasks": len(asyncio.all_tasks()) - 1,
                "streams": sum(source.live for source in sources),
                "waiters": engine.waiters(),
            },
            self._complaints,
            self._trace,
        )

    async def _arrive(self, engine: Engine) -> None:
        """Let the callers come, one by one."""
        if self._scenario.workers is not None:
            numbers = iter(range(self._scenario.requests))
            workers = range(self._scenario.workers)
            await asyncio.gather(*[self._work(engine, worker, numbers) for worker in workers])
            return
        loop, at = asyncio.get_running_loop(), 0.0
        for number in range(self._scenario.requests):
            # The clock ticks in microseconds: arrivals between two ticks would be out of order.
            at = round(at + self._arrivals.expovariate(self._scenario.rate), 6)
            await asyncio.sleep(at - loop.time())
            task = loop.create_task(self._serve(engine, number))
            self._tasks.add(task)
            task.add_done_callback(self._served)
            if number in self._scenario.cancels:
                loop.call_later(self._scenario.cancels[number], task.cancel)

    async def _work(self, engine: Engine, worker: int, numbers: Iterator[int]) -> None:
        for number in numbers:
            await self._serve(engine, number, worker)

    async def _serve(self, engine: Engine, number: int, worker: int = 0) -> None:
        time, trace = asyncio.get_running_loop().time, self._trace
        arrived = time()
        trace.add(arrived, number, "ask")
        size = ALIKE
        if self._scenario.sizes is not None:
            size = self._scenario.sizes.request(self._seed, number, arrived)
            self._requests[number] = size
        race, end = engine.race(number, size.profile), "cancelled"
        try:
            await race.answer()
            end = race.end.value if race.end is not None else "none"
        except asyncio.CancelledError:
            pass
        now = time()
        trace.add(now, number, end)
        attempts = race.receipt().attempts
        self._calls.append(Call(number, arrived, now - arrived, end, attempts, size, worker))

    def _served(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        task.result()

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:  # noqa: ARG002
        self._complaints.append(f"{context['message']}: {context.get('exception')!r}")

"""One user, and a few: what it costs them when the first target begins to hang.

Each worker asks again as soon as it was answered, so that no other request pays for a hedge or
shows that the target hangs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from langchain_resilient import Hedge
from langchain_resilient.simulation.engine import Rules
from langchain_resilient.simulation.faults import Hang, Phase
from langchain_resilient.simulation.latency import HeavyTail
from langchain_resilient.simulation.run import Scenario, run
from langchain_resilient.simulation.targets import Script
from verification.kit.report import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_resilient.simulation.run import Call

WARM_UP = 300.0
"""Seconds for which all is well before the hang begins, in warm cases."""

MAX_LOST = 8.0
MAX_CALL = 5.0
CALLS = 40
"""Calls of each worker that are looked at, from the first that meets the hang."""


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        workers: How many callers.
        fallback: Median seconds of the second target's first text.
        fixed: The hedge's delay in seconds; None for the default policy.
        warm: Whether the target was well for some minutes before.
    """

    workers: int
    fallback: float
    fixed: float | None
    warm: bool

    def __str__(self) -> str:
        """Name it."""
        hedge = "learned" if self.fixed is None else f"{self.fixed:g}"
        state = "warm" if self.warm else "cold"
        return f"{self.workers} worker(s), fallback {self.fallback:g} s, hedge {hedge}, {state}"


CASES = [Case(*case) for case in product((1, 2, 4), (0.3, 1.0), (None, 0.5), (False, True))]


@dataclass(frozen=True)
class Cost:
    """What a hang cost.

    Attributes:
        lost: Seconds that the worker with the most of them waited for the first target in vain.
        calls: Calls of his until the first target was left out.
        longest: The longest call, in seconds, without the time that its answer took by itself.
        answered: Whether every call was.
    """

    lost: float
    calls: int
    longest: float
    answered: bool

    @property
    def holds(self) -> bool:
        """Whether it is within the bounds."""
        return self.answered and self.lost <= MAX_LOST and self.longest <= MAX_CALL


def play(case: Case, seed: int) -> Cost:
    """Run one case."""
    start = WARM_UP if case.warm else 0.0
    body = HeavyTail(hangs=0.0)
    targets = (
        Script("p1:m", body, phases=(Phase(start, 1e9, Hang()),)),
        Script("p2:m", HeavyTail(median=case.fallback, sigma=0.3, tail=0.0, hangs=0.0)),
    )
    rules = Rules(hedge=Hedge() if case.fixed is None else Hedge(delay=case.fixed))
    # A worker makes up to three calls a second while all is well.
    requests = case.workers * (CALLS + int(3 * start))
    done = run(Scenario(targets, rules, requests=requests, workers=case.workers), seed)
    costs = [_cost(calls) for calls in _by_worker(done.calls, start, case.workers)]
    return Cost(
        max(cost.lost for cost in costs),
        max(cost.calls for cost in costs),
        max(cost.longest for cost in costs),
        all(cost.answered for cost in costs),
    )


def _by_worker(calls: list[Call], start: float, workers: int) -> Iterator[list[Call]]:
    for worker in range(workers):
        own = [c for c in calls if c.worker == worker and c.arrived >= start]
        yield own[:CALLS]


def _cost(calls: list[Call]) -> Cost:
    lost, count, longest = 0.0, 0, 0.0
    for number, call in enumerate(calls, 1):
        winner = next((a for a in call.attempts if a.outcome == "won"), None)
        waited = call.seconds if winner is None else winner.started
        lost += waited
        longest = max(longest, waited)
        if call.attempts[0].target == "p1:m":
            count = number
    return Cost(lost, count, longest, all(c.end == "answered" for c in calls))


_TABLE = Table(
    ("case", "<52"), ("seeds", ">6"), ("lost s", ">8.1f"), ("bound", ">6g"), ("calls", ">6"),
    ("longest", ">8.1f"), ("bound", ">6g"), ("", ">6"),
)  # fmt: skip


def table(seeds: int) -> Iterator[tuple[str, bool]]:
    """The lines of the table, each with whether its bounds hold; the worst of the seeds."""
    yield _TABLE.header(), True
    for case in CASES:
        costs = [play(case, seed) for seed in range(seeds)]
        holds = all(cost.holds for cost in costs)
        yield (
            _TABLE.line(
                str(case), seeds, max(c.lost for c in costs), MAX_LOST,
                max(c.calls for c in costs), max(c.longest for c in costs), MAX_CALL,
                "ok" if holds else "FAIL",
            ),
            holds,
        )  # fmt: skip

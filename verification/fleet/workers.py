"""Many workers of one limit, in virtual time: the real script in a real Redis, driven alone.

Each worker is a `LeasedRateLimiter` with a queue that never ends. No time passes but what the
script is told, so a minute of 1,000 workers takes seconds, and a run is the same each time.
"""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import langchain_resilient.fleet
from langchain_resilient.engine.rate_limiter import QueuedRequest
from langchain_resilient.fleet.limits import LeasedRateLimiter

if TYPE_CHECKING:
    from collections.abc import Sequence

SCRIPT = (Path(langchain_resilient.fleet.__file__).parent / "lease.lua").read_text()
START = 1e6
"""The virtual time at which runs begin."""


class Batch:
    """The size of a request of a batch."""

    batch = True

    def __init__(self, tokens: int = 0) -> None:
        self.max_tokens = tokens

    def prompt_tokens(self) -> int:
        """Nothing to speak of."""
        return 1


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        seconds: How long it was, in virtual time.
        sends: When which worker sent, in order.
        operations: How often the script ran.
        script_seconds: Seconds that this took, with the round trips.
    """

    seconds: float
    sends: list[tuple[float, int]] = field(default_factory=list)
    operations: int = 0
    script_seconds: float = 0.0

    def rate(self, after: float = 0.0, before: float | None = None) -> float:
        """Requests a second between two times."""
        until = self.seconds if before is None else before
        return sum(after <= at < until for at, _ in self.sends) / (until - after)

    def by_worker(self, after: float = 0.0) -> list[int]:
        """How many each worker sent after some time, fewest first; without those that sent none."""
        counts: dict[int, int] = {}
        for at, worker in self.sends:
            counts[worker] = counts.get(worker, 0) + (at >= after)
        return sorted(counts.values())

    def most_within(self, seconds: float) -> int:
        """The most that were sent within so long a time."""
        most = first = 0
        for last, (at, _) in enumerate(self.sends):
            while self.sends[first][0] <= at - seconds:
                first += 1
            most = max(most, last - first + 1)
        return most


def run(
    client: Any,
    workers: int,
    per_second: float,
    seconds: float,
    *,
    queue: int = 4,
    starts: Sequence[float] | None = None,
) -> Outcome:
    """Let workers send as fast as they may under a limit of so many requests a second.

    Args:
        client: Of redis-py.
        workers: How many.
        per_second: The limit, which all of them are told.
        seconds: How long, in virtual time.
        queue: How many requests each has waiting.
        starts: When each begins; by default all within a second.
    """
    client.flushall()
    script = client.script_load(SCRIPT)
    clock = [START]
    outcome = Outcome(seconds)
    begin = starts or [i / workers for i in range(workers)]
    limiters = []
    for _ in range(workers):
        limiter = LeasedRateLimiter("x", lambda: None, clock=lambda: clock[0])
        limiter.configure(per_second * 60)
        limiters.append(limiter)
    requests: list[list[QueuedRequest]] = [[] for _ in range(workers)]
    events = [(START + at, i) for i, at in enumerate(begin)]
    heapq.heapify(events)
    while events:
        now, i = heapq.heappop(events)
        if now > START + seconds:
            break
        clock[0] = now
        limiter, waiting = limiters[i], requests[i]
        while len(waiting) < queue:
            waiting.append(QueuedRequest(Batch(), now, lambda: None))
            limiter.join(waiting[-1], now)
        if limiter.due_at() <= now:
            arguments = [f"m.{i}", now, *limiter.request(now)[1:]]
            began = time.perf_counter()
            reply = client.evalsha(script, 3, *limiter.keys("v"), *arguments)
            outcome.script_seconds += time.perf_counter() - began
            outcome.operations += 1
            limiter.granted([float(value) for value in reply], now)
        while waiting and limiter.turn_at(waiting[0]) <= now:
            request = waiting.pop(0)
            limiter.reserve(request, now)
            limiter.leave(request)
            outcome.sends.append((now - START, i))
            waiting.append(QueuedRequest(Batch(), now, lambda: None))
            limiter.join(waiting[-1], now)
        at = min(limiter.due_at(), limiter.turn_at(waiting[0]))
        heapq.heappush(events, (max(at, now + 1e-4), i))
    return outcome

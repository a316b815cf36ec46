"""Batches of several processes beside a provider with a bucket of one second, in virtual time.

The real script in a real Redis, and the class that a process uses; the provider is a pair of token
buckets. How busy this machine is changes nothing, so what is lost here is lost by the leases.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count
from math import inf
from random import Random
from typing import Any, Literal

from langchain_resilient.engine.rate_limiter import QueuedRequest, Reservation
from langchain_resilient.exchange import RateLimitLevel, RateLimitStatus
from langchain_resilient.fleet.limits import LeasedRateLimiter
from verification.fleet.ends import Ends
from verification.fleet.workers import SCRIPT, START, Batch

CONCURRENCY = 64
ROUND_TRIP = 0.003
ANSWER_SECONDS, ANSWER_SPREAD = -0.916, 0.2
"""Of the logarithm: 0.4 s in the middle."""
MEAN_BETWEEN_STALLS = 2.0


class Bucket:
    """A second's worth of a limit.

    Attributes:
        limit: Per minute; 0 for none.
        level: What is left.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.level = limit / 60
        self._at = START

    def advance(self, now: float) -> None:
        """Let time go by."""
        rate = self.limit / 60
        self.level = min(rate, self.level + (now - self._at) * rate)
        self._at = now

    def shown(self) -> RateLimitLevel | None:
        """As a header says it."""
        return RateLimitLevel(self.limit, int(self.level), self.limit / 60) if self.limit else None


class Provider:
    """Lets requests in while both of its buckets have enough."""

    def __init__(self, requests_per_minute: float, tokens_per_minute: float) -> None:
        self._requests, self._tokens = Bucket(requests_per_minute), Bucket(tokens_per_minute)

    def admit(self, tokens: float, now: float) -> tuple[bool, RateLimitStatus]:
        """Whether it lets a request in, and what its headers say."""
        pairs = ((self._requests, 1.0), (self._tokens, tokens))
        for bucket, _ in pairs:
            bucket.advance(now)
        admitted = all(not b.limit or b.level >= cost - 1e-9 for b, cost in pairs)
        for bucket, cost in pairs if admitted else ():
            bucket.level -= cost
        return admitted, RateLimitStatus(self._requests.shown(), self._tokens.shown())


class Process:
    """One process's batch: its limiter, and what is still to be asked.

    Attributes:
        limiter: The real one.
        prompts: How many are not in the queue yet.
        queue: Requests that wait for their turn, in order.
        asking: Whether a lease is under way.
        live: Requests that are queued or sent.
        began: When it started.
        end: When its last answer came.
        stalled_until: Until when it does nothing.
        stall_at: When it stalls next.
    """

    def __init__(self, limiter: LeasedRateLimiter, prompts: int, tokens: int) -> None:
        self.limiter, self.prompts = limiter, prompts
        self.queue: list[QueuedRequest] = []
        self.asking = False
        self.live = 0
        self.began = START
        self.end = 0.0
        self.stalled_until, self.stall_at = -inf, START + 1.0
        self._tokens = tokens

    def join(self, now: float) -> None:
        """Queue one more request."""
        request = QueuedRequest(Batch(self._tokens), now, lambda: None)
        self.limiter.join(request, now)
        self.queue.append(request)

    def fill(self, now: float) -> None:
        """Queue as many as may be under way."""
        while self.prompts and self.live < CONCURRENCY:
            self.prompts -= 1
            self.live += 1
            self.join(now)


@dataclass
class BatchOutcome(Ends):
    """What came of it.

    Attributes:
        ideal: Seconds that the limit alone makes it take.
        ends: Seconds that each process took.
        sends: Requests.
        refused: 429s among them.
        operations: How often the script ran.
    """

    ideal: float
    ends: list[float] = field(default_factory=list)
    sends: int = 0
    refused: int = 0
    operations: int = 0

    @property
    def times_ideal(self) -> float:
        """How much longer than the ideal the slowest took."""
        return max(self.ends) / self.ideal


def run_batches(
    client: Any,
    sizes: tuple[int, ...],
    dialect: Literal["openai", "together"],
    *,
    requests_per_minute: float = 0.0,
    tokens_per_minute: float = 0.0,
    tokens: int = 50,
    stall: float = 0.0,
    head_start: float = 0.0,
) -> BatchOutcome:
    """Ask as many prompts as `sizes` says in each process.

    Args:
        client: Of redis-py.
        sizes: Prompts of each process.
        dialect: `openai` states its limits in headers; of `together` the user states them.
        requests_per_minute: The limit; 0 for none.
        tokens_per_minute: Likewise.
        tokens: That each request costs, where they are limited.
        stall: The longest time for which a process does nothing, every two seconds or so.
        head_start: Seconds after which all but the first process start.
    """
    run = _Run(client, sizes, dialect, requests_per_minute, tokens_per_minute, tokens, stall)
    return run.run(head_start)


class _Run:
    def __init__(  # noqa: PLR0917
        self,
        client: Any,
        sizes: tuple[int, ...],
        dialect: str,
        requests: float,
        tokens: float,
        cost: int,
        stall: float,
    ) -> None:
        client.flushall()
        self._client, self._script = client, client.script_load(SCRIPT)
        self._cost, self._stall = (cost if tokens else 0), stall
        self._rng = Random(1)
        self._now = START
        self._provider = Provider(requests, tokens)
        self._speaks = dialect == "openai"
        self._number = count()
        self._events: list[tuple[float, int, str, int, tuple[Any, ...]]] = []
        self._processes = []
        for size in sizes:
            limiter = LeasedRateLimiter("x", lambda: None, clock=lambda: self._now)
            if not self._speaks:
                limiter.configure(requests or None, tokens or None)
            self._processes.append(Process(limiter, size, self._cost))
        total = sum(sizes)
        ideals = [(total * 60 / requests - 1) if requests else 0.0]
        ideals.append((total * cost * 60 / tokens - 1) if tokens else 0.0)
        self._outcome = BatchOutcome(max(ideals))

    def run(self, head_start: float) -> BatchOutcome:
        for i, process in enumerate(self._processes):
            process.began = START + (head_start if i else 0.0)
            self._at(process.began + 0.001 * i, "start", i)
        while self._events:
            at, _, what, i, more = heapq.heappop(self._events)
            process = self._processes[i]
            if (until := self._stalled_until(process, at)) > at:
                self._at(until, what, i, *more)
                continue
            self._now = at
            getattr(self, f"_{what}")(i, process, *more)
        self._outcome.ends = [process.end - process.began for process in self._processes]
        return self._outcome

    def _at(self, at: float, what: str, i: int, *more: Any) -> None:
        heapq.heappush(self._events, (at, next(self._number), what, i, more))

    def _stalled_until(self, process: Process, at: float) -> float:
        while self._stall and at >= process.stall_at:
            process.stalled_until = process.stall_at + self._rng.uniform(0, self._stall)
            gap = self._rng.expovariate(1 / MEAN_BETWEEN_STALLS)
            process.stall_at = process.stalled_until + gap
        return process.stalled_until

    def _start(self, i: int, process: Process) -> None:
        process.fill(self._now)
        self._look(i, process)

    def _look(self, i: int, process: Process, *, again: bool = True) -> None:
        now, limiter = self._now, process.limiter
        if not process.asking and limiter.due_at() <= now:
            arguments = [f"m.{i}", now + ROUND_TRIP / 2, *limiter.request(now)[1:]]
            reply = self._client.evalsha(self._script, 3, *limiter.keys("v"), *arguments)
            self._outcome.operations += 1
            process.asking = True
            self._at(now + ROUND_TRIP, "reply", i, [float(value) for value in reply])
        while process.queue and limiter.turn_at(process.queue[0]) <= now:
            self._send(i, process)
        if again and process.live:
            due = inf if process.asking else limiter.due_at()
            turn = limiter.turn_at(process.queue[0]) if process.queue else inf
            self._at(min(max(min(due, turn), now + 1e-3), now + 0.05), "look", i)

    def _send(self, i: int, process: Process) -> None:
        now, request = self._now, process.queue.pop(0)
        reservation = process.limiter.reserve(request, now)
        process.limiter.leave(request)
        admitted, status = self._provider.admit(self._cost, now)
        self._outcome.sends += 1
        if admitted:
            seconds = self._rng.lognormvariate(ANSWER_SECONDS, ANSWER_SPREAD)
            said = status if self._speaks else None
            self._at(now + seconds, "answer", i, reservation, said)
        else:
            self._outcome.refused += 1
            self._at(now + 0.01, "refusal", i, reservation)

    def _reply(self, i: int, process: Process, reply: list[float]) -> None:
        process.asking = False
        process.limiter.granted(reply, self._now)
        self._look(i, process, again=False)

    def _answer(
        self, i: int, process: Process, reservation: Reservation, status: RateLimitStatus | None
    ) -> None:
        if process.limiter.wants_status(self._now):
            process.limiter.observe(status, reservation, self._now)
        process.live -= 1
        process.end = self._now
        process.fill(self._now)
        self._look(i, process, again=False)

    def _refusal(self, i: int, process: Process, reservation: Reservation) -> None:
        reservation.cancel(self._now)
        process.limiter.record_refusal(self._now, self._now + 1.0)
        process.join(self._now)

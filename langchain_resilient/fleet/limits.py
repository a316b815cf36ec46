"""A rate limiter whose turns are leased from the fleet's server: one process's side of a limit.

It does no I/O. The link of the process (`fleet.link`) asks it what to send (`request`), and tells
it what came back (`granted`), or that nothing did (`lost`). Turns are leased some at a time, each
with a time of its own; a request takes the next one. Interactive calls do not wait for a lease
while there is credit: they go at once and are reported after that.

While the server is away, turns are granted here, at this process's share of the limit.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from math import inf
from random import random
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_resilient.engine.rate_limiter import (
    UNKNOWN_RATE,
    QueuedRequest,
    RateLimiter,
    Reservation,
)
from langchain_resilient.fleet.health import MIN_PAUSE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_resilient.engine.learned_limit import Refusal
    from langchain_resilient.exchange import RateLimitLevel, RateLimitStatus
    from langchain_resilient.fleet.health import FleetHealth

_MINUTE = 60.0

LEAD_SECONDS = 0.25
"""Seconds before the last leased turn at which the next ones are asked for."""

LATE_SECONDS = 0.5
"""Seconds after its time at which a turn that nobody took is given back.

A process that was held up must not send at once what it missed: a bucket of one second is full
then."""

REPORT_SECONDS = 0.5
"""Seconds between two reports of what was learned, while turns need none."""

WAIT_SECONDS = 1.0
"""Seconds for which a report waits for the next lease, to go with it."""

LOOK_SECONDS = 0.2
"""Seconds between readings of the headers."""

STALE_SECONDS = 1.0
"""Seconds after which the credit for interactive calls is what one call may take."""

SHARE_ALONE = 0.9
"""Share of its part of the limit at which a process goes on while the server is away."""

_MAX_RETRY = 2.0


class _Turn(NamedTuple):
    """One leased turn: its time, what had been sent before it, and the tokens that it has."""

    at: float
    requests: float
    tokens_sent: float
    tokens: float


class _Sample(NamedTuple):
    """What an answer's headers said: as of `at`, when so much had been sent."""

    at: float
    requests: float
    tokens_sent: float
    left_requests: float
    left_tokens: float


class _Report:
    """What a process did since it last told the server: added up until that confirms it."""

    __slots__ = ("over_requests", "over_tokens", "pause_until", "refused", "unused_requests",
                 "unused_tokens")  # fmt: skip

    def __init__(self) -> None:
        self.unused_requests = self.unused_tokens = 0.0
        self.over_requests = self.over_tokens = 0.0
        self.refused = 0
        self.pause_until = -inf

    def __bool__(self) -> bool:
        return bool(
            self.unused_requests
            or self.unused_tokens
            or self.over_requests
            or self.over_tokens
            or self.refused
        )


class LeasedRateLimiter(RateLimiter):
    """Paces one key and model for all processes of a fleet; see `RateLimiter`.

    Args:
        name: The limit's name on the server: a hash, which tells nothing of the key.
        wake: Makes the link ask soon; cheap, and from any thread.
        label: What people call it: `openai:gpt-6.1-sol`.
        processes: How many processes share the limit, while the server has never said.
        clock: The engine's clock.

    Attributes:
        name: As above.
        members: How many processes use the limit, as far as known.
        health: Who tells others how long a provider wants to be left alone.
        alone: Whether the server is away, and turns are granted here.
        operations: How often the server was asked for it.
        sends: How many requests to the provider were reserved.
    """

    __slots__ = (
        "_allowance",
        "_allowance_at",
        "_allowed_tokens",
        "_answered",
        "_asked",
        "_asked_want",
        "_capacities",
        "_clock",
        "_gap",
        "_had_limits",
        "_limits",
        "_marks",
        "_next_ask",
        "_report",
        "_report_at",
        "_reported",
        "_sample",
        "_seq",
        "_told",
        "_turns",
        "_wake",
        "alone",
        "health",
        "label",
        "members",
        "name",
        "operations",
        "sends",
    )  # fmt: skip

    script = "lease"

    def __init__(
        self,
        name: str,
        wake: Callable[[], None],
        *,
        label: str = "",
        processes: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.name, self.label = name, label
        self.members = float(processes)
        self.health: FleetHealth | None = None
        self.alone = False
        self.operations = self.sends = 0
        self._clock = clock
        self._wake = wake
        self._turns: deque[_Turn] = deque()
        self._gap = 1.0 / UNKNOWN_RATE
        self._marks = (0.0, 0.0)
        self._told = [0.0, 0.0]  # the user's limits per second: requests, tokens
        self._limits = [0.0, 0.0]  # those in force
        self._capacities = [0.0, 0.0]
        self._had_limits = False  # the server knew them: if it knows them no more, it lost them
        self._answered = False
        self._allowance = self._allowed_tokens = 0.0
        self._allowance_at = -inf
        self._asked = False
        self._asked_want = 0
        self._next_ask = -inf
        self._report_at = -inf
        self._seq = int(time.time() * 1000)
        self._report = _Report()
        self._reported: _Report | None = None  # sent, and not confirmed yet
        self._sample: _Sample | None = None

    # -- as the engine sees it --------------------------------------------------------------------

    def configure(
        self, requests_per_minute: float | None = None, tokens_per_minute: float | None = None
    ) -> None:
        """Apply a user's limits, of all processes together; see `RateLimiter.configure`."""
        super().configure(requests_per_minute, tokens_per_minute)
        with self._lock:
            for i, limit in enumerate((requests_per_minute, tokens_per_minute)):
                if limit is not None:
                    told = limit / _MINUTE
                    self._told[i] = min(self._told[i] or told, told)
                    self._limits[i] = min(self._limits[i] or told, told)
            self.active = any(self._limits)

    def describe(self) -> str:
        """Its limits in words; see `RateLimiter.describe`."""
        limits = [
            f"{round(_MINUTE * limit):,} {what}"
            for limit, what in zip(self._limits, ("requests", "tokens"), strict=True)
            if limit
        ]
        return " and ".join(limits) + (" a minute in all processes" if limits else "")

    def turn_at(self, request: QueuedRequest) -> float:
        """When its turn comes: exact where one is leased, else an estimate."""
        if not self.active and not (self.fresh and request.batch):
            return -inf
        with self._lock:
            now = self._clock()
            self._give_back_late(now)
            if not request.batch and self._has_credit(request, now):
                return -inf
            ahead = bisect_left(self._queue, request.position)
            turns = self._turns
            if ahead < len(turns):
                return turns[ahead].at
            start = max(turns[-1].at if turns else now, now + LEAD_SECONDS, self._next_ask)
            wake = now >= self._next_ask and not turns  # turns may have been given back just now
            at = start + (ahead - len(turns)) * self._gap
        if wake:
            self._wake()
        return at

    def _has_credit(self, request: QueuedRequest, now: float) -> bool:
        """Whether an interactive request may go without a lease."""
        if self._turns and self._turns[0].at <= now:
            return True
        if now > self._allowance_at + STALE_SECONDS:
            # Nothing was asked for lately, since nothing was sent: one may go.
            return self._allowance >= 1.0
        if self._limits[1] and request.tokens(self._answer) > self._allowed_tokens:
            return False
        return self._allowance >= 1.0

    def reserve(self, request: QueuedRequest, now: float) -> Reservation:
        """Take a leased turn, or go without one and report that."""
        with self._lock:
            cost = request.tokens(self._answer) if self._limits[1] else 0.0
            self._cost += 0.05 * (cost - self._cost)
            reservation = Reservation(self, request, cost, now)
            reservation.requests, reservation.tokens_sent = self._marks
            self.sends += 1
            turns = self._turns
            if turns and (request.batch or turns[0].at <= now):
                turn = turns.popleft()
                reservation.requests, reservation.tokens_sent = turn.requests, turn.tokens_sent
                self._report.over_tokens += cost - turn.tokens if self._limits[1] else 0.0
                wake = len(self._queue) > len(turns) and turn.at >= self._next_ask
            elif self.active or self.fresh:
                self._report.over_requests += 1.0
                self._report.over_tokens += cost
                self._allowance -= 1.0
                self._allowed_tokens -= cost
                stale = now > self._allowance_at + STALE_SECONDS
                if stale:
                    self._allowance = min(self._allowance, 0.0)
                wake = stale or self._allowance < 1.0
            else:
                wake = False
        if wake:
            self._wake()
        return reservation

    def join(self, request: QueuedRequest, now: float) -> None:
        """Enter the queue, and have a turn leased."""
        super().join(request, now)
        if len(self._queue) > len(self._turns) and now >= self._next_ask:
            self._wake()

    def observe(
        self, status: RateLimitStatus | None, reservation: Reservation | None, now: float
    ) -> None:
        """Learn from an answer's headers; the server is told with the next report."""
        with self._lock:
            self.refusing_since = inf
            first, self.fresh, self._answered = self.fresh, False, True
            levels = (None, None) if status is None else status
            if reservation is not None and any(levels):
                self._learn(levels, reservation)
            self._look_at = now + LOOK_SECONDS
            self.active = any(self._limits)
            woken = [p[3] for p in self._queue[: 1 if self.active else None]] if first else []
        if first:
            self._wake()
        for request in woken:
            request.wake()

    def _learn(self, levels: Sequence[RateLimitLevel | None], reservation: Reservation) -> None:
        left = [-1.0, -1.0]
        for i, level in enumerate(levels):
            if level is None:
                continue
            rate = level.limit / _MINUTE
            if self._told[i] and self._told[i] < rate:
                continue  # the user's own limit is the lower one
            # Beside others the bucket never fills up: the least capacity that is seen is truest.
            same = abs(rate - self._limits[i]) < 1e-6 and self._capacities[i]  # noqa: PLR2004
            self._capacities[i] = min(level.capacity, self._capacities[i] if same else inf)
            self._limits[i] = rate
            left[i] = level.remaining
        sample = self._sample
        if sample is None or reservation.at >= sample.at:
            self._sample = _Sample(
                reservation.at, reservation.requests, reservation.tokens_sent, *left
            )

    def may_try(self, request: QueuedRequest, now: float) -> bool:  # noqa: ARG002  # as above
        """Whether a request may be sent ahead of its turn: only the server counts what all send."""
        return not (self.requests.stated or self.tokens.stated)

    def record_refusal(
        self,
        now: float,
        until: float,
        refusal: Refusal | None = None,  # noqa: ARG002  # the base class's
    ) -> None:
        """Have the whole fleet slow down after a refusal (429)."""
        if self.health is not None and until - now > MIN_PAUSE_SECONDS:
            self.health.tell("limited", self.name, until - now)
        with self._lock:
            self._look_at = now
            self.refusing_since = min(self.refusing_since, max(now, until))
            if not self.active:
                return
            self._report.refused += 1
            self._report.pause_until = max(self._report.pause_until, until)
            self._report_at = now
        self._wake()

    def settle(self, tokens: float, now: float) -> None:  # noqa: ARG002  # the base class's
        """Return tokens that were not used; a negative amount was used beyond the reservation."""
        with self._lock:
            self._report.unused_tokens += tokens

    def cancel(self, tokens: float, now: float) -> None:  # noqa: ARG002  # the base class's
        """Return a refused request and its tokens."""
        with self._lock:
            if self.active:
                self._report.unused_requests += 1.0
                self._report.unused_tokens += tokens

    # -- as the link sees it ----------------------------------------------------------------------

    def due_at(self) -> float:
        """When the server is to be asked next; `inf` while there is nothing to ask."""
        with self._lock:
            if not self._asked:
                return -inf
            turns, at = self._turns, inf
            if len(self._queue) > len(turns) and (self.active or self.fresh):
                at = max(self._next_ask, turns[-1].at - LEAD_SECONDS if turns else -inf)
            if self._report or self._reported or self._sample:
                # What can wait goes with the next lease, if one is asked for soon.
                waits = at < inf and not self._report.refused
                at = min(at, self._report_at + (WAIT_SECONDS if waits else 0.0))
            return at

    def keys(self, prefix: str) -> list[str]:
        """Its keys on the server, in one slot of a cluster."""
        base = f"{prefix}:limit:{{{self.name}}}"
        return [base, f"{base}:members", f"{base}:virtual"]

    def forked(self) -> None:
        """Give up turns and queue, which are the parent process's, and its report."""
        self._lock = Lock()
        self._queue, self._turns = [], deque()
        self._report, self._reported, self._sample = _Report(), None, None
        self._allowance, self._asked = 0.0, False

    def request(self, now: float) -> list[Any]:
        """What to send to the server: the arguments of the script after the process's name."""
        with self._lock:
            self._give_back_late(now)
            # Those granted here are known to nobody, and go when the server grants others.
            turns = () if self.alone else self._turns
            want = 0
            if self.active or self.fresh:
                soon = not turns or turns[-1].at - now <= LEAD_SECONDS
                want = max(0, len(self._queue) - len(turns)) if soon else 0
            if self._reported is None:
                self._seq += 1
                self._reported, self._report = self._report, _Report()
            report, sample = self._reported, self._sample
            self._sample = None
            self._asked, self._asked_want = True, want
            cost = self._queue[0][3].tokens(self._answer) if self._queue else self._cost
            seen = sample or _Sample(now, 0.0, 0.0, -1.0, -1.0)
            return [
                0.0, self._seq, want, cost, *self._told,
                self.members if self._had_limits else 0.0,
                report.unused_requests, report.unused_tokens,
                report.over_requests, report.over_tokens,
                report.refused, max(0.0, report.pause_until - now) if report.refused else 0.0,
                float(self._answered),
                -1.0 if sample is None else max(0.0, now - sample.at),
                seen.requests, seen.left_requests, self._limits[0], self._capacities[0],
                seen.tokens_sent, seen.left_tokens, self._limits[1], self._capacities[1],
                self.label,
            ]  # fmt: skip

    def _give_back_late(self, now: float) -> None:
        turns = self._turns
        while turns and turns[0].at < now - LATE_SECONDS:
            turn = turns.popleft()
            self._report.unused_requests += 1.0
            self._report.unused_tokens += turn.tokens

    def granted(self, reply: Sequence[Any], now: float, member: str = "") -> None:  # noqa: ARG002
        """Take what the server granted."""
        (count, first, interval, retry, mark, mark_tokens, rate, rate_tokens, members,
         allowance, allowed_tokens, heard, paused, _) = map(float, reply)  # fmt: skip
        with self._lock:
            self.operations += 1
            if self.alone:  # beside leased turns those granted here would be too many
                self._turns.clear()
            self.alone = False
            self._reported = None
            self._report_at = now + REPORT_SECONDS
            self.members = members
            self._limits = [rate or self._limits[0], rate_tokens or self._limits[1]]
            self._had_limits = bool(rate or rate_tokens)
            self.active = any(self._limits)
            if heard:
                self.fresh = False
            self._allowance, self._allowed_tokens = allowance, allowed_tokens
            if paused > 0:
                self._allowance = 0.0
            self._allowance_at = now
            self._gap = interval
            self._marks = (mark, mark_tokens)
            tokens = self._queue[0][3].tokens(self._answer) if self._queue else self._cost
            tokens = tokens if rate_tokens else 0.0
            self._lease(int(count), now + first, interval, tokens)
            if self._asked_want and not count:
                self._next_ask = now + min(_MAX_RETRY, retry) * (1 + 0.1 * random())
            elif count:
                self._next_ask = max(now + 0.02, self._turns[-1].at - LEAD_SECONDS)
            else:
                self._next_ask = -inf
            woken = self._woken()
        for request in woken:
            request.wake()

    def _lease(self, count: int, at: float, interval: float, tokens: float) -> None:
        sent, sent_tokens = self._marks
        for i in range(count):
            turn = _Turn(at + i * interval, sent + i, sent_tokens + i * tokens, tokens)
            self._turns.append(turn)

    def _woken(self) -> list[QueuedRequest]:
        """Who is to look again: the first, which wakes the next; all, where nothing is limited."""
        if not self.active and not self.fresh:
            return [position[3] for position in self._queue]
        return [self._queue[0][3]] if self._queue and self._turns else []

    def lost(self, now: float) -> None:
        """Grant turns here, at this process's share: the server is away."""
        with self._lock:
            self.alone = True
            self._asked = True
            self._give_back_late(now)
            share = SHARE_ALONE / self.members
            rate, rate_tokens = self._limits
            cost = max(1.0, self._cost)
            speeds = [rate * share] if rate else []
            if rate_tokens:
                speeds.append(rate_tokens * share / cost)
            speed = min(speeds, default=UNKNOWN_RATE * share)
            if now > self._allowance_at + STALE_SECONDS:
                self._allowance = max(1.0, speed / 2)
                self._allowed_tokens = max(cost, rate_tokens * share / 2)
                self._allowance_at = now
            turns = self._turns
            want = len(self._queue) - len(turns)
            soon = not turns or turns[-1].at - now <= LEAD_SECONDS
            if want > 0 and soon and (self.active or self.fresh):
                last = turns[-1].at if turns else self._next_ask + LEAD_SECONDS - 1 / speed
                at = max(now, last + 1 / speed)
                count = min(want, max(1, round(speed)))
                self._gap = 1 / speed
                self._lease(count, at, self._gap, self._cost if rate_tokens else 0.0)
                self._next_ask = turns[-1].at - LEAD_SECONDS
            self._report_at = now + REPORT_SECONDS
            woken = self._woken()
        for request in woken:
            request.wake()

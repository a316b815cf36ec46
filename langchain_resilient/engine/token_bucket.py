"""How fast one limited quantity, requests or tokens, may be spent.

Two buckets are kept. Ours spreads what is sent evenly, because servers enforce by the second what
they state by the minute. The other is an estimate of the provider's own bucket: it says whether
there are savings to spend, and whether somebody else spends from the same limit.

Both are token buckets, that is, the generic cell rate algorithm in its continuous form (GCRA,
ITU-T I.371): a level that rises at a rate up to a burst, falls by what is sent, and may go below
zero, so that a request larger than the burst is sent when the bucket is full and owes the rest.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langchain_resilient.exchange import RateLimitLevel


_MINUTE = 60.0

BURST_SECONDS = 0.25
"""Seconds of the rate that may be sent at once.

Long enough to hide the event loop's jitter, short enough for limits counted by the second."""

HEADROOM_SECONDS = 2.0
"""Seconds of the rate that stay in the provider's bucket (at most half of its capacity).

They absorb errors of the estimate, and let an interactive call go at once beside a batch."""

_SURPLUS_SECONDS = 1.0
"""Time constant, in seconds, with which savings are spent: two thirds of them in this time.

A burst, but not in one instant: what the first answers report comes in time to stop it."""

_MIN_RATE = 0.05
"""Share of the rate below which sending is never slowed: else nothing would be learned again."""

_FOLLOW_SECONDS = 0.25
"""Seconds in which the estimate moves all the way to what the provider reports.

Gradually, because answers overtake each other: one report may miss what is still on its way."""

_MEMORY_SECONDS = 10.0
"""Seconds over which the speed is averaged at which the provider's bucket fills up."""

_PER_SECOND_CAPACITY = 1.5
"""Seconds of the rate; a provider whose bucket holds no more enforces its limit by the second.

Then its own bucket is pace enough: a second one before it would only add its burst to the wait."""

_MARGIN = 0.05
"""Share of such a bucket, or of a second's rate, that is never spent."""

_ROUNDING = 1e-6
"""Seconds; a wait below this is a rounding error and must not cost another timer."""


class TokenBucket:
    """Paces one quantity. Not safe to share between threads: its `RateLimiter` holds the lock.

    Attributes:
        rate: The limit, per second; 0 while none is known.
        capacity: The most that the provider lets in at once, as far as known.
        provider_level: The estimated level of the provider's bucket.
        sent: The total ever sent.
    """

    __slots__ = (
        "_answered",
        "_assumed_per_second",
        "_at",
        "_configured",
        "_factor",
        "_level",
        "_limit_is_configured",
        "_observed",
        "_pace",
        "_sends",
        "_sent_in_minute",
        "_share",
        "_shown",
        "_strict",
        "capacity",
        "provider_level",
        "rate",
        "sent",
    )  # fmt: skip

    def __init__(self) -> None:
        self.rate = 0.0
        self.capacity = inf
        self.provider_level = inf
        self.sent = 0.0
        self._configured = inf
        self._sends: deque[tuple[float, float]] = deque()
        self._sent_in_minute = 0.0
        self._strict = False
        self._shown = False
        self._limit_is_configured = False
        self._answered = False
        self._assumed_per_second = False
        self._level = 0.0
        self._share = 1.0
        self._factor = 1.0
        self._pace = 0.0
        self._at = 0.0
        self._observed = (-inf, 0.0, 0.0)

    # -- limits -----------------------------------------------------------------------------------

    def configure(self, limit: float, *, strict: bool = False) -> None:
        """Apply a user's limit per minute; the lowest of several counts.

        It is kept in every minute, the first one too: no savings are assumed, and what may be sent
        at once is taken off the rate.

        Args:
            limit: Per minute.
            strict: Keep it in every single minute too when the provider shows more room. Of tokens,
                whose number is only estimated, that would cost an eighth of the limit.
        """
        self._strict = self._strict or strict
        self._configured = min(self._configured, limit)
        self._limit_is_configured = True
        at_once = max(1.0, self._configured / _MINUTE * BURST_SECONDS)
        self._set(self._configured - (at_once - 1.0), at_once)

    def _set(self, limit: float, capacity: float) -> None:
        first = not self.rate
        self.rate = limit / _MINUTE
        self.capacity = max(1.0, self.rate if self._assumed_per_second else capacity)
        if first:
            self._level = self.burst
        self.provider_level = min(self.provider_level, self.capacity + self._margin)
        self._pace = self._target_pace(1.0)

    @property
    def stated(self) -> bool:
        """Whether the user has stated a limit, rather than the provider alone."""
        return self._configured < inf

    @property
    def burst(self) -> float:
        """The most that may be sent at once."""
        return max(1.0, self.rate * BURST_SECONDS)

    @property
    def headroom(self) -> float:
        """The level at which the provider's bucket is kept."""
        return min(self.capacity / 2, self.rate * HEADROOM_SECONDS)

    def follow(self, rate: float) -> None:
        """Take a limit that was learned from refusals.

        Args:
            rate: Per second.
        """
        self.capacity = max(1.0, rate if self._assumed_per_second else rate * _MINUTE)
        self.rate = rate
        self._pace = self._target_pace(1.0)

    def set_level(self, level: float) -> None:
        """Set what the provider's bucket holds, as far as a refusal has shown it."""
        self.provider_level = min(level, self.capacity)
        self._level = min(self._level, self.burst)

    def forget(self) -> None:
        """Forget a learned limit: there is none."""
        self.rate = 0.0
        self.capacity = self.provider_level = inf

    # -- spending ---------------------------------------------------------------------------------

    def advance(self, now: float, factor: float) -> None:
        """Bring both buckets up to the present.

        Args:
            now: The engine's clock.
            factor: Share of the rate that is left after refusals, from 0 to 1.
        """
        rate, seconds = self.rate, now - self._at
        if not rate or seconds < 0:
            return
        if seconds:
            level = self._level + seconds * self._pace
            self._level = min(self.burst, level)
            level = self.provider_level + seconds * self._refill
            if level > (full := self.capacity + self._margin):
                level = full
            self.provider_level = level
            self._at = now
        self._factor = factor
        self._pace = self._target_pace(factor)

    @property
    def _margin(self) -> float:
        """What is never spent of the provider's bucket, since the estimate may be wrong.

        Refusals are evidence that it is: the margin grows as they cut the rate.
        """
        return (_MARGIN + 1 - self._factor) * min(self.capacity, self.rate)

    @property
    def _refill(self) -> float:
        """What comes into the provider's bucket per second and is ours to spend."""
        reported = self._observed[0] > -inf
        return self.rate * (self._share if reported else self._factor)

    def _target_pace(self, factor: float) -> float:
        """The rate at which to send: our share, corrected towards the headroom.

        A proportional controller: what the provider's bucket holds above its headroom is spent
        over some seconds rather than at once. What is missing there is not saved by going slower:
        where a bucket holds no more than one request, it is empty after each.
        """
        steady = factor * self._share * self.rate
        if self._answered:
            steady += max(0.0, self.provider_level - self.headroom) / _SURPLUS_SECONDS
        return max(steady, _MIN_RATE * self.rate)

    def ready_at(self, cost: float, *, urgent: bool) -> float:
        """The earliest time at which `cost` may be sent.

        Args:
            cost: Requests or tokens. More than a burst waits for a whole burst and owes the rest.
            urgent: It may be sent ahead of the pace while the provider's bucket holds enough.
        """
        at = self._minute_at(cost) if self._strict else -inf
        if not self.rate or (urgent and self.provider_level >= cost + self.headroom):
            return at
        wait = 0.0
        if self._answered:
            wait = (min(cost, self.capacity) + self._margin - self.provider_level) / self._refill
        if not (self._answered and self.per_second):
            wait = max(wait, (min(cost, self.burst) - self._level) / self._pace)
        return max(at, self._at + wait if wait > _ROUNDING else self._at)

    def has_room(self, cost: float) -> bool:
        """Whether the limit has room for so much, though perhaps not in this instant.

        By what the provider's bucket holds, as far as it has said; else by what was not yet sent of
        the user's own limit within a minute, which comes evenly.
        """
        if not self.rate:
            return True
        if not self.within_stated(cost):
            return False
        if self._limit_is_configured:
            return True
        return self.provider_level >= cost + self.headroom

    def within_stated(self, cost: float) -> bool:
        """Whether the user's own limit has room for so much in the last minute; no limit has."""
        return not self.stated or self._sent_lately() + cost <= self._configured

    def _sent_lately(self) -> float:
        """What was sent within the last minute."""
        sends = self._sends
        while sends and sends[0][0] <= self._at - _MINUTE:
            self._sent_in_minute -= sends.popleft()[1]
        return self._sent_in_minute

    def _minute_at(self, cost: float) -> float:
        """When the user's own limit has room for this: not too much was sent within a minute then.

        However much the provider's bucket holds: the user's limit is kept in every minute.
        """
        excess = self._sent_lately() + min(cost, self._configured) - self._configured
        at = -inf
        for sent_at, amount in self._sends:
            if excess <= _ROUNDING:
                break
            excess -= amount
            at = sent_at + _MINUTE
        return at

    def seconds_for(self, cost: float) -> float:
        """How many seconds `cost` takes to come in."""
        return cost / max(self._refill, self._pace) if self.rate else 0.0

    def take(self, cost: float, *, urgent: bool) -> None:
        """Spend `cost`; what exceeds the level is owed."""
        self.sent += cost
        if self.stated:
            self._sends.append((self._at, cost))
            self._sent_in_minute += cost
        if self.rate:
            # Interactive calls may go ahead of the pace. Were all of that owed, a burst of them
            # would hold up every batch call after it.
            floor = min(self._level, -self.burst) if urgent else -inf
            self._level = max(floor, self._level - cost)
            self.provider_level -= cost
            self._pace = self._target_pace(self._factor)

    def give_back(self, amount: float) -> None:
        """Return what was reserved in excess; a negative amount spends more."""
        if self.rate:
            self._level = min(self.burst, self._level + amount)
            self.provider_level = min(self.capacity, self.provider_level + amount)

    def cancel(self, amount: float) -> None:
        """Return what was refused: the provider did not count it."""
        self.sent -= amount
        self.give_back(amount)

    # -- what the provider says -------------------------------------------------------------------

    def record_answer(self) -> None:
        """Note that an answer came: from now on assumed savings may be spent, too."""
        self._answered = True

    def observe(
        self, report: RateLimitLevel, sent_before: float, sent_at: float, now: float
    ) -> None:
        """Correct the estimate by what the provider reports.

        Args:
            report: As of when the request was admitted.
            sent_before: What `sent` was then.
            sent_at: When that was.
            now: The engine's clock, to which this was advanced.
        """
        if report.limit <= self._configured:
            if self._limit_is_configured:
                self.provider_level = inf  # what was assumed, until it said what it holds
            if self._limit_is_configured or abs(report.limit / _MINUTE - self.rate) > _ROUNDING:
                self._set(report.limit, report.capacity)
            self._limit_is_configured = False
        elif report.remaining >= self.provider_level:
            self._room_is_shown(report)
            return  # the user's own limit is the lower one, and there is room for it
        # Beside other clients the bucket never fills up, so the reported capacity (from the time to
        # a full bucket) is too large: the smallest one reported is nearest to the truth.
        self.capacity = max(
            min(self.capacity, report.capacity), min(report.remaining, report.limit)
        )
        if self._assumed_per_second:
            self.capacity = max(1.0, min(self.capacity, self.rate))
        if sent_at < self._observed[0]:
            return  # the answer of a later request has reported already
        # What was sent since, and came in since, is not in the report.
        reported = report.remaining - (self.sent - sent_before) + (now - sent_at) * self._refill
        reported = min(reported, self.capacity)
        if self._observed[0] == -inf or self._limit_is_configured or not report.remaining:
            self.provider_level = min(self.provider_level, reported)
        else:
            self._measure_share(report.remaining, sent_before, sent_at - self._observed[0])
            follow = min(1.0, (sent_at - self._observed[0]) / _FOLLOW_SECONDS)
            self.provider_level += follow * (reported - self.provider_level)
        self._observed = (sent_at, report.remaining, sent_before)
        self._answered = True

    def _room_is_shown(self, report: RateLimitLevel) -> None:
        """Let what the user's own limit has left go at once, where the provider has room for it.

        Only of what is kept in every minute anyway.
        """
        if self._strict and not self._shown:
            self._shown = True
            self._set(self._configured, min(self._configured, report.capacity))
            self.provider_level = min(self.capacity, self._configured - self._sent_lately())

    def _measure_share(self, remaining: float, sent_before: float, seconds: float) -> None:
        """Measure our share of the limit: how fast the bucket fills between two reports.

        Whatever we did not send went to other clients. An empty bucket (which may have refused
        others) and one that may have been full (which loses what comes in) show nothing.
        """
        _, before, sent_before_it = self._observed
        if before and before + seconds * self.rate < self.capacity:
            share = (remaining - before + sent_before - sent_before_it) / self.rate
            weight = max(0.0, 1 - seconds / _MEMORY_SECONDS)
            self._share = weight * self._share + share / _MEMORY_SECONDS
            self._share = min(1.0, max(_MIN_RATE, self._share))
        elif seconds > _MEMORY_SECONDS:
            self._share = 1.0  # the others may be gone

    @property
    def below_half(self) -> bool:
        """Whether the provider's bucket is low enough to be worth watching."""
        return bool(self.rate) and self.provider_level < self.capacity / 2

    @property
    def per_second(self) -> bool:
        """Whether the provider enforces its limit over about a second."""
        return self.capacity <= _PER_SECOND_CAPACITY * self.rate

    @property
    def nearly_empty(self) -> bool:
        """Whether a refusal was to be expected."""
        return bool(self.rate) and self.provider_level < self.rate + 1

    def empty(self) -> None:
        """A refusal showed that nothing is left in the provider's bucket."""
        self.provider_level = min(self.provider_level, 0.0)

    def assume_per_second(self) -> None:
        """A refusal although a lot was left: the limit is enforced by the second, not the minute.

        OpenAI: "rate limits can be quantized, meaning they are enforced over shorter periods"
        (https://platform.openai.com/docs/guides/rate-limits).
        """
        self._assumed_per_second = True
        if self.rate:
            self.capacity = max(1.0, min(self.capacity, self.rate))
            self.empty()

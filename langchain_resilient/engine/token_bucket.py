"""One of the two things that are limited, requests or tokens: how fast it may be spent.

A bucket of ours spreads what is sent evenly; an estimate of the provider's own bucket says whether
there is more to be had, or whether others are taking of it too.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langchain_resilient.exchange import RateLimitLevel


_MINUTE = 60.0


BURST_SECONDS = 0.25
"""So much of the rate may be sent at once."""


HEADROOM_SECONDS = 2.0
"""So much of the rate, or half of what there can be, is left in the provider's bucket."""


ASSUMED_CAPACITY_SECONDS = 10.0
"""So much of the rate may have been saved up where the provider does not say."""


_SURPLUS_SECONDS = 5.0
"""In so many seconds two thirds of what was saved up are spent."""


_DEBT_SECONDS = 2.0
"""In so many seconds two thirds of what is owed to the provider's bucket are paid."""


_MIN_RATE = 0.05
"""Of the rate: it never stands still."""


_FOLLOW_SECONDS = 0.25
"""Our reckoning follows what the provider says within so many seconds."""


_MEMORY_SECONDS = 10.0
"""How fast the provider's bucket fills up is measured over about so long."""


_PER_SECOND_CAPACITY = 1.5
"""A provider whose bucket holds no more than so much of the rate paces by itself."""


_MARGIN = 0.05
"""Of such a bucket is left in it."""


_ROUNDING = 1e-6
"""Rounding must not cost another round."""


class TokenBucket:
    """Paces one thing. Not locked: its `Pacer` is.

    Attributes:
        rate: What the limit lets in a second; 0 while none is known.
        capacity: How much the provider lets in at once, as far as known.
        provider_level: What its bucket is reckoned to hold.
        sent: How much was ever sent.
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
        "_share",
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
        self._limit_is_configured = False
        self._answered = False
        self._assumed_per_second = False
        self._level = 0.0
        self._share = 1.0
        self._factor = 1.0
        self._pace = 0.0
        self._at = 0.0
        self._observed = (-inf, 0.0, 0.0)

    # -- limits ---------------------------------------------------------------------------------

    def configure(self, limit: float) -> None:
        """Take a limit a minute from the user; the lowest of several counts."""
        self._configured = min(self._configured, limit)
        self._limit_is_configured = True
        self._set(self._configured, self._configured / _MINUTE * ASSUMED_CAPACITY_SECONDS)

    def _set(self, limit: float, capacity: float) -> None:
        first = not self.rate
        self.rate = limit / _MINUTE
        self.capacity = max(1.0, self.rate if self._assumed_per_second else capacity)
        if first:
            self._level = self.burst
        self.provider_level = min(self.provider_level, self.capacity + self._margin)
        self._pace = self._wanted(1.0)

    @property
    def burst(self) -> float:
        """What may be sent at once."""
        return max(1.0, self.rate * BURST_SECONDS)

    @property
    def headroom(self) -> float:
        """What is left in the provider's bucket."""
        return min(self.capacity / 2, self.rate * HEADROOM_SECONDS)

    # -- spending -------------------------------------------------------------------------------

    def advance(self, now: float, factor: float) -> None:
        """Let time pass.

        Args:
            now: The engine's clock.
            factor: Of the rate, as refusals have taught.
        """
        seconds = now - self._at
        if not self.rate or seconds < 0:
            return
        self._level = min(self.burst, self._level + seconds * self._pace)
        self.provider_level = min(
            self.capacity + self._margin, self.provider_level + seconds * self._refill
        )
        self._at = now
        self._factor = factor
        self._pace = self._wanted(factor)

    @property
    def _margin(self) -> float:
        """What is left in the provider's bucket, for our reckoning may be wrong."""
        return (_MARGIN + 1 - self._factor) * min(self.capacity, self.rate)

    @property
    def _refill(self) -> float:
        """What comes into the provider's bucket in a second, for us."""
        told = self._observed[0] > -inf
        return self.rate * (self._share if told else self._factor)

    def _wanted(self, factor: float) -> float:
        """The rate, and what brings the provider's bucket to where it should stand."""
        steady = factor * self._share * self.rate
        if self._answered:
            surplus = self.provider_level - self.headroom
            steady += surplus / (_SURPLUS_SECONDS if surplus > 0 else _DEBT_SECONDS)
        return max(steady, _MIN_RATE * self.rate)

    def ready_at(self, cost: float, *, urgent: bool) -> float:
        """When so much may be sent: at the latest reckoning, or later.

        Args:
            cost: More than a burst waits for a burst, and is owed.
            urgent: It goes at once while the provider's bucket holds enough.
        """
        if not self.rate or (urgent and self.provider_level >= cost + self.headroom):
            return -inf
        wait = 0.0
        if self._answered:
            wait = (min(cost, self.capacity) + self._margin - self.provider_level) / self._refill
        if not (self._answered and self.per_second):
            wait = max(wait, (min(cost, self.burst) - self._level) / self._pace)
        return self._at + wait if wait > _ROUNDING else self._at

    def seconds_for(self, cost: float) -> float:
        """How long so much takes to come."""
        return cost / max(self._refill, self._pace) if self.rate else 0.0

    def take(self, cost: float, *, urgent: bool) -> None:
        """Spend; what goes beyond the pace is owed."""
        self.sent += cost
        if self.rate:
            # One who jumped the pace does not hold up all that come after.
            floor = min(self._level, -self.burst) if urgent else -inf
            self._level = max(floor, self._level - cost)
            self.provider_level -= cost
            self._pace = self._wanted(self._factor)

    def give_back(self, amount: float) -> None:
        """Take back what was reserved too much, or spend what was reserved too little."""
        if self.rate:
            self._level = min(self.burst, self._level + amount)
            self.provider_level = min(self.capacity, self.provider_level + amount)

    def cancel(self, amount: float) -> None:
        """Forget what was refused: the provider did not count it."""
        self.sent -= amount
        self.give_back(amount)

    # -- what the provider says -----------------------------------------------------------------

    def record_answer(self) -> None:
        """There was an answer: what the user said of the limit may be used to the full."""
        self._answered = True

    def observe(self, told: RateLimitLevel, mark: float, sent_at: float, now: float) -> None:
        """Take in what the provider says.

        Args:
            told: As of when the request was let in.
            mark: What `sent` was then.
            sent_at: When that was.
            now: The engine's clock, to which this was advanced.
        """
        if told.limit <= self._configured:
            if self._limit_is_configured or abs(told.limit / _MINUTE - self.rate) > _ROUNDING:
                self._set(told.limit, told.capacity)
            self._limit_is_configured = False
        # Beside others it fills up more slowly than it says: the least that it said is nearest.
        self.capacity = max(min(self.capacity, told.capacity), min(told.remaining, told.limit))
        if self._assumed_per_second:
            self.capacity = max(1.0, min(self.capacity, self.rate))
        if sent_at < self._observed[0]:
            return  # a later request has told already
        reported = told.remaining - (self.sent - mark) + (now - sent_at) * self._refill
        reported = min(reported, self.capacity)
        if self._observed[0] == -inf or self._limit_is_configured or not told.remaining:
            self.provider_level = min(self.provider_level, reported)
        else:
            self._measure(told.remaining, mark, sent_at - self._observed[0])
            follow = min(1.0, (sent_at - self._observed[0]) / _FOLLOW_SECONDS)
            self.provider_level += follow * (reported - self.provider_level)
        self._observed = (sent_at, told.remaining, mark)
        self._answered = True

    def _measure(self, remaining: float, mark: float, seconds: float) -> None:
        """Measure what share of the limit is ours: how fast it fills up between two answers.

        Nothing is learned from a bucket that was empty or may have been full.
        """
        _, before, mark_before = self._observed
        if before and before + seconds * self.rate < self.capacity:
            share = (remaining - before + mark - mark_before) / self.rate
            weight = max(0.0, 1 - seconds / _MEMORY_SECONDS)
            self._share = weight * self._share + share / _MEMORY_SECONDS
            self._share = min(1.0, max(_MIN_RATE, self._share))
        elif seconds > _MEMORY_SECONDS:
            self._share = 1.0  # who knows whether the others are still there

    @property
    def below_half(self) -> bool:
        """Whether what the provider's bucket holds is worth watching."""
        return bool(self.rate) and self.provider_level < self.capacity / 2

    @property
    def per_second(self) -> bool:
        """Whether the provider lets in no more than about a second's worth at once."""
        return self.capacity <= _PER_SECOND_CAPACITY * self.rate

    @property
    def nearly_empty(self) -> bool:
        """Whether a refusal is no wonder."""
        return bool(self.rate) and self.provider_level < self.rate + 1

    def empty(self) -> None:
        """It was refused: there is nothing left in the provider's bucket."""
        self.provider_level = min(self.provider_level, 0.0)

    def assume_per_second(self) -> None:
        """It was refused although a lot was left: it is counted by the second, not by the minute.

        OpenAI: "rate limits can be quantized, meaning they are enforced over shorter periods".
        """
        self._assumed_per_second = True
        if self.rate:
            self.capacity = max(1.0, min(self.capacity, self.rate))
            self.empty()

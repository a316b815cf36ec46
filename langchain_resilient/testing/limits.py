"""Rate limits as the providers keep them: buckets that fill up steadily, and true headers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from langchain_resilient.testing.brain import longest_answer, prompt_tokens
from langchain_resilient.testing.dialects.base import Meter, go_duration

if TYPE_CHECKING:
    from langchain_resilient.testing.dialects.base import Call

_MINUTE = 60.0

Window = Literal["minute", "second"]
Per = Literal["model", "key"]
Meters = tuple[Meter | None, Meter | None]
"""What requests and tokens stand at, where they are limited."""


class Denied(NamedTuple):
    """Why a request is over a limit.

    Attributes:
        kind: The problem's kind in the dialect's table.
        details: What the message speaks of.
        wait: Seconds until it would be let in, or None if it never will be.
    """

    kind: str
    details: dict[str, object]
    wait: float | None


@dataclass(slots=True)
class Bucket:
    """Fills up steadily, and is emptied by what is let in.

    Attributes:
        limit: How much flows in in a minute.
        capacity: How much it holds.
        level: How much is in it, at `at`.
        at: Seconds of the loop's clock.
    """

    limit: float
    capacity: float
    level: float
    at: float

    def fill(self, now: float, rate: float) -> None:
        """Let in what came since the last time, at `rate` a second."""
        self.level = min(self.capacity, self.level + (now - self.at) * rate)
        self.at = now

    def wait(self, amount: float, rate: float) -> float:
        """Return the seconds until an amount is in it; it need not hold more than its capacity."""
        short = min(amount, self.capacity) - self.level
        # A hair's breadth of rounding must not cost another round.
        return short / rate if short > 1e-9 else 0.0  # noqa: PLR2004 - tokens are whole numbers

    def meter(self, rate: float) -> Meter:
        """Return what the headers say."""
        reset = (self.capacity - self.level) / rate
        return Meter(round(self.limit), max(0, math.floor(self.level + 1e-9)), reset)


@dataclass
class Limit:
    """One rule: how many requests and tokens a minute some targets take.

    Attributes:
        pattern: Which targets.
        requests_per_minute: None does not count them.
        tokens_per_minute: None does not count them. A request costs the larger of its prompt and
            its `max_tokens`, at admission.
        window: `"minute"` lets a minute's worth come at once, `"second"` a second's worth.
        per: `"model"` has one bucket for each model, `"key"` one for each API key.
        others: The share of the limit that other users of it take unseen, from 0 to 1.
    """

    pattern: str
    requests_per_minute: float | None
    tokens_per_minute: float | None
    window: Window = "minute"
    per: Per = "model"
    others: float = 0.0
    _buckets: dict[str, tuple[Bucket | None, Bucket | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                msg = f"{name} must be more than 0, not {value}"
                raise ValueError(msg)
        if not 0 <= self.others < 1:
            msg = f"others is a share from 0 to less than 1, not {self.others}"
            raise ValueError(msg)

    def admit(self, call: Call, key: str, now: float) -> tuple[Denied | None, Meters]:
        """Let a request in, or say why not.

        Args:
            call: The request.
            key: A digest of its API key.
            now: Seconds of the loop's clock.

        Returns:
            The reason if it is over the limit, and what requests and tokens stand at.
        """
        buckets = self._filled(call.target if self.per == "model" else key, now)
        cost = max(prompt_tokens(call.body), longest_answer(call.body) or 0)
        amounts = (1, cost)
        denied = self._too_large(cost)
        if denied is None:
            denied = self._denied(buckets, amounts)
        if denied is None:
            for bucket, amount in zip(buckets, amounts, strict=True):
                if bucket is not None:
                    bucket.level -= amount
        requests, tokens = (b.meter(self._rate(b)) if b is not None else None for b in buckets)
        return denied, (requests, tokens)

    def _too_large(self, cost: int) -> Denied | None:
        limit = self.tokens_per_minute
        if limit is None or cost <= limit:
            return None
        return Denied("request_too_large", {"limit": round(limit), "requested": cost}, None)

    def _denied(
        self, buckets: tuple[Bucket | None, Bucket | None], amounts: tuple[int, int]
    ) -> Denied | None:
        for kind, bucket, amount in zip(("429", "429_tokens"), buckets, amounts, strict=True):
            wait = bucket.wait(amount, self._rate(bucket)) if bucket is not None else 0
            if bucket is not None and wait > 0:
                used = round(bucket.limit - max(0, bucket.level))
                details = {"limit": round(bucket.limit), "used": used, "requested": amount}
                return Denied(kind, {**details, "wait": go_duration(wait)}, wait)
        return None

    def _rate(self, bucket: Bucket) -> float:
        return bucket.limit / _MINUTE * (1 - self.others)

    def _filled(self, name: str, now: float) -> tuple[Bucket | None, Bucket | None]:
        if name not in self._buckets:
            self._buckets[name] = (
                self._new(self.requests_per_minute, now),
                self._new(self.tokens_per_minute, now),
            )
        for bucket in self._buckets[name]:
            if bucket is not None:
                bucket.fill(now, self._rate(bucket))
        return self._buckets[name]

    def _new(self, limit: float | None, now: float) -> Bucket | None:
        if limit is None:
            return None
        capacity = limit if self.window == "minute" else max(1.0, limit / _MINUTE)
        return Bucket(limit, capacity, capacity, now)

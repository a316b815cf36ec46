"""Admission: what a provider refuses before it does anything, rate limits included.

A request is refused in this order, without taking a step of the script: an API key that is not
known (401), a body that is not JSON or names no model (400), a retired model (404), an invalid
request (400), one over the context window (400), one over a rate limit (429).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from langchain_resilient.testing.answer_generator import max_answer_tokens, prompt_tokens
from langchain_resilient.testing.dialects.base import IncomingRequest, RateLimitState, go_duration
from langchain_resilient.testing.error_bodies import ErrorBody
from langchain_resilient.testing.target_patterns import matches, most_specific

_MINUTE = 60.0

Window = Literal["minute", "second"]
Per = Literal["model", "key"]

RefusedWith = tuple[ErrorBody, dict[str, str]]
"""An error, and the headers that go with it."""

RateLimitStates = tuple[RateLimitState | None, RateLimitState | None]
"""The state of the limits on requests and on tokens; None where there is none."""

UNLIMITED: RateLimitStates = (None, None)


@dataclass
class AdmissionRules:
    """What requests are refused for. Mappings are replaced, never changed.

    Attributes:
        keys: The API keys that are let in; None lets in any, and requests without one.
        retired: Patterns of models that are gone.
        windows: Context windows in tokens, by pattern.
        limits: Rate limits, by pattern.
        listed: Targets whose models are listed although nobody asked for them, and the days on
            which they are shut down.
    """

    keys: set[str] | None = None
    retired: tuple[str, ...] = ()
    windows: Mapping[str, int] = field(default_factory=dict)
    limits: Mapping[str, RateLimit] = field(default_factory=dict)
    listed: Mapping[str, str | None] = field(default_factory=dict)


def check_admission(
    rules: AdmissionRules, request: IncomingRequest, token: str, key: str, now: float
) -> tuple[RefusedWith | None, RateLimitStates]:
    """Admit a request, or return what it is refused with.

    Args:
        rules: What is refused.
        request: The request.
        token: Its API key.
        key: A digest of its API key.
        now: Seconds of the loop's clock.

    Returns:
        The refusal, if any, and the state of the rate limits.
    """
    error = next(_errors(rules, request, token), None)
    if error is not None:
        return (error, {}), UNLIMITED
    pattern = most_specific(rules.limits, request.target) if rules.limits else None
    if pattern is None:
        return None, UNLIMITED
    limit = rules.limits[pattern]
    exceeded, states = limit.admit(request, key, now)
    if not limit.headers:
        states = UNLIMITED
    if exceeded is None:
        return None, states
    dialect = request.dialect
    if not limit.headers:
        error = dialect.error(exceeded.kind, request, exceeded.details)
        return (replace(error, message="Too many requests"), {}), states
    hints = dict(dialect.ok_headers(*states))
    hints.pop("retry-after", None)  # Together has one on successes, which says nothing here
    if exceeded.wait is not None:
        hints |= dialect.wait_headers(exceeded.wait)
    return (dialect.error(exceeded.kind, request, exceeded.details), hints), states


def _errors(rules: AdmissionRules, request: IncomingRequest, token: str) -> Iterator[ErrorBody]:
    dialect = request.dialect
    if rules.keys is not None and token not in rules.keys:
        kind = "401" if token else "401_missing"
        yield dialect.error(kind, request, {"key": "sk-****"})
    if not request.body:
        yield dialect.error("400", request)
    if not request.model:
        message = "you must provide a model parameter"
        yield replace(dialect.error("400", request), message=message)
    if any(matches(pattern, request.target) for pattern in rules.retired):
        yield dialect.error("404", request)
    if request.error is not None:
        yield request.error
    pattern = most_specific(rules.windows, request.target) if rules.windows else None
    if pattern is not None:
        window = rules.windows[pattern]
        tokens, wanted = prompt_tokens(request.body), max_answer_tokens(request.body) or 0
        if tokens + wanted > window:
            details = {"limit": window, "tokens": tokens, "wanted": wanted}
            yield dialect.error("context_too_long", request, details)


class LimitExceeded(NamedTuple):
    """Says why a request is over a limit.

    Attributes:
        kind: The kind of error in the dialect's table.
        details: What the message is filled in with.
        wait: Seconds until it would be let in, or None if it never will be.
    """

    kind: str
    details: dict[str, object]
    wait: float | None


@dataclass(slots=True)
class Bucket:
    """Fills up steadily; requests that are admitted take from it.

    Attributes:
        limit: How much flows in per minute.
        capacity: How much it holds.
        level: How much it holds at `at`.
        at: Seconds of the loop's clock.
    """

    limit: float
    capacity: float
    level: float
    at: float

    def fill(self, now: float, rate: float) -> None:
        """Add what has flowed in since the last time, at `rate` per second."""
        self.level = min(self.capacity, self.level + (now - self.at) * rate)
        self.at = now

    def wait(self, amount: float, rate: float) -> float:
        """Return the seconds until it holds an amount, or until it is full."""
        short = min(amount, self.capacity) - self.level
        # A rounding error must not make a client come back once more.
        return short / rate if short > 1e-9 else 0.0  # noqa: PLR2004 - tokens are whole numbers

    def state(self, rate: float) -> RateLimitState:
        """Return what the headers say of it."""
        reset = (self.capacity - self.level) / rate
        return RateLimitState(round(self.limit), max(0, math.floor(self.level + 1e-9)), reset)


@dataclass
class RateLimit:
    """How many requests and tokens per minute some targets admit.

    Attributes:
        requests_per_minute: None sets no limit.
        tokens_per_minute: None sets no limit. A request costs the larger of its prompt and
            its `max_tokens`, at admission.
        window: `"minute"` admits a minute's worth at once, `"second"` a second's worth.
        per: `"model"` has one bucket for each model, `"key"` one for each API key.
        others: The share of the limit that others use up unseen, from 0 to less than 1.
        headers: Whether headers tell of it.
    """

    requests_per_minute: float | None
    tokens_per_minute: float | None
    window: Window = "minute"
    per: Per = "model"
    others: float = 0.0
    headers: bool = True
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

    def admit(
        self, request: IncomingRequest, key: str, now: float
    ) -> tuple[LimitExceeded | None, RateLimitStates]:
        """Admit a request, or say why not.

        Args:
            request: The request.
            key: A digest of its API key.
            now: Seconds of the loop's clock.

        Returns:
            The reason if it is over the limit, and the state of the limits.
        """
        buckets = self._filled(request.target if self.per == "model" else key, now)
        cost = max(prompt_tokens(request.body), max_answer_tokens(request.body) or 0)
        amounts = (1, cost)
        exceeded = self._too_large(cost)
        if exceeded is None:
            exceeded = self._exceeded(buckets, amounts)
        if exceeded is None:
            for bucket, amount in zip(buckets, amounts, strict=True):
                if bucket is not None:
                    bucket.level -= amount
        requests, tokens = (b.state(self._rate(b)) if b is not None else None for b in buckets)
        return exceeded, (requests, tokens)

    def _too_large(self, cost: int) -> LimitExceeded | None:
        limit = self.tokens_per_minute
        if limit is None or cost <= limit:
            return None
        return LimitExceeded("request_too_large", {"limit": round(limit), "requested": cost}, None)

    def _exceeded(
        self, buckets: tuple[Bucket | None, Bucket | None], amounts: tuple[int, int]
    ) -> LimitExceeded | None:
        for kind, bucket, amount in zip(("429", "429_tokens"), buckets, amounts, strict=True):
            wait = bucket.wait(amount, self._rate(bucket)) if bucket is not None else 0
            if bucket is not None and wait > 0:
                used = round(bucket.limit - max(0, bucket.level))
                details = {"limit": round(bucket.limit), "used": used, "requested": amount}
                return LimitExceeded(kind, {**details, "wait": go_duration(wait)}, wait)
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

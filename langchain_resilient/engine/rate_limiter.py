"""When a request's turn comes at one key and model: a paced dual bucket of requests and tokens.

Nothing is paced while no limit is known. Limits come from the user, or from what the provider says
with its first answers. What is sent is spread evenly, since servers count by the second what they
state by the minute; what a provider's bucket has saved up is spent within seconds, not at once.
After a refusal (429) the rate is cut, and comes back bit by bit (AIMD: Chiu & Jain, 1989). Others
who spend of the same limit are seen in what the provider says is left.

Who waits stands in line: interactive calls before batch calls, the oldest first. The first in line
knows when its turn is; whoever leaves the line tells the next.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from itertools import count
from math import inf
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from langchain_resilient.engine.token_bucket import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_resilient.exchange import RateLimitStatus


_number = count()


QueuePosition = tuple[bool, float, int, "QueuedRequest"]


class QueuedRequest:
    """What one request wants of the pacers.

    Args:
        size: Its size and its priority; None for an interactive call of no known size.
        since: When it began: the oldest is served first.
        wake: Called when there is something to look at; from any thread.

    Attributes:
        batch: Whether nobody sits and waits for it.
        place: What lines are sorted by.
    """

    __slots__ = ("_prompt", "_size", "batch", "position", "wake")

    def __init__(self, size: RequestSize | None, since: float, wake: Callable[[], None]) -> None:
        self.batch = size is not None and size.batch
        self.wake = wake
        self.position: QueuePosition = (self.batch, since, next(_number), self)
        self._size = size
        self._prompt: int | None = None

    def tokens(self, answer: float) -> float:
        """Guess what it costs.

        OpenAI counts the larger of the prompt and `max_tokens`, when a request is let in
        (https://platform.openai.com/docs/guides/rate-limits).

        Args:
            answer: How long an answer is on average, where the request does not limit it.
        """
        if self._size is None:
            return answer
        if self._prompt is None:
            self._prompt = self._size.prompt_tokens()
        most = self._size.max_tokens
        return float(max(self._prompt, most)) if most else self._prompt + answer

    @property
    def answer_bounded(self) -> bool:
        """Whether it says how long its answer may be: then that is what the provider counts."""
        return self._size is not None and self._size.max_tokens > 0


DECREASE = 0.85
"""A refusal leaves so much of the rate."""


DECREASE_SECONDS = 1.0
"""Refusals so close together are one: they were sent before the first was known."""


RECOVERY = 0.02
"""Of the rate, that comes back in a second."""


_MIN_FACTOR = 0.05


UNKNOWN_RATE = 4
"""So many batch calls a second are sent before the first answer has told the limits."""


ANSWER_TOKENS = 256.0
"""How long an answer is taken to be before any was seen."""


_AVERAGE_WEIGHT = 0.05
"""Of a new sample in the averages."""


_LOOK_SECONDS = 1.0
"""So often it is looked at what the provider says, while there is plenty."""


_MIN_GAIN = 0.01
"""Seconds; the first in line is told of a turn that comes earlier by more."""


class Reservation:
    """What was reserved for one attempt, to be settled once when it ends."""

    __slots__ = ("_answer_bounded", "_rate_limiter", "at", "requests", "tokens", "tokens_sent")

    def __init__(
        self, rate_limiter: RateLimiter, request: QueuedRequest, tokens: float, now: float
    ) -> None:
        self._rate_limiter = rate_limiter
        self._answer_bounded = request.answer_bounded
        self.at = now
        self.tokens = tokens
        self.requests = rate_limiter.requests.sent
        self.tokens_sent = rate_limiter.tokens.sent

    def cancel(self, now: float) -> None:
        """Return all of it: the provider refused the request (429) and counted nothing."""
        self._rate_limiter.cancel(self.tokens, now)

    def settle(self, input_tokens: int | None, output_tokens: int | None, now: float) -> None:
        """Correct the estimate by what a whole answer cost.

        Args:
            input_tokens: Of the prompt; None where the provider did not say.
            output_tokens: Of the answer; None likewise.
            now: The engine's clock.
        """
        if input_tokens is None or output_tokens is None:
            return
        self._rate_limiter.record_answer_length(output_tokens)
        if not self._answer_bounded:
            self._rate_limiter.settle(self.tokens - input_tokens - output_tokens, now)


class RateLimiter:
    """The pace of one key and model, shared by all threads, loops and models of the process.

    Attributes:
        requests: How many may be sent.
        tokens: The same of their tokens.
        active: Whether a limit is known.
        fresh: Whether no answer came yet.

    Example:
        ```python
        pacer = Pacer()
        pacer.configure(requests_per_minute=600)
        if pacer.turn_at(request) <= now:
            attempt.grant = pacer.take(request, now)
        ```
    """

    __slots__ = (
        "_answer",
        "_cost",
        "_cut_at",
        "_factor",
        "_factor_at",
        "_lock",
        "_look_at",
        "_paused_until",
        "_queue",
        "_unknown_rate_at",
        "active",
        "fresh",
        "requests",
        "tokens",
    )  # fmt: skip

    def __init__(self) -> None:
        self.requests = TokenBucket()
        self.tokens = TokenBucket()
        self.active = False
        self.fresh = True
        self._lock = Lock()
        self._queue: list[QueuePosition] = []
        self._factor = 1.0
        self._factor_at = 0.0
        self._cut_at = -inf
        self._paused_until = -inf
        self._unknown_rate_at = -inf
        self._look_at = -inf
        self._answer = ANSWER_TOKENS
        self._cost = 1.0

    def configure(
        self, requests_per_minute: float | None = None, tokens_per_minute: float | None = None
    ) -> None:
        """Take limits from the user. Of several, and of what the provider says, the lowest counts.

        Args:
            requests_per_minute: None leaves it to the provider to say.
            tokens_per_minute: The same.
        """
        with self._lock:
            if requests_per_minute is not None:
                self.requests.configure(requests_per_minute)
            if tokens_per_minute is not None:
                self.tokens.configure(tokens_per_minute)
            self.active = bool(self.requests.rate or self.tokens.rate)

    # -- turns ----------------------------------------------------------------------------------

    def turn_at(self, request: QueuedRequest) -> float:
        """When its turn is: exactly if it is the first in line, else as far as one can tell.

        One whose turn is over due because those before it do not use theirs may go before them.
        """
        if not self.active and not (self.fresh and request.batch):
            return -inf
        with self._lock:
            ahead = bisect_left(self._queue, request.position)
            if not ahead:
                return self._ready(request)
            first = max(self._ready(self._queue[0][3]), self._factor_at)
            return first + ahead * self._interval()

    def _ready(self, request: QueuedRequest) -> float:
        if self.fresh and request.batch and self._unknown_rate_at > self._paused_until:
            first = self._unknown_rate_at
        else:
            first = self._paused_until
        urgent = not request.batch
        at = max(first, self.requests.ready_at(1.0, urgent=urgent))
        if self.tokens.rate:
            cost = request.tokens(self._answer)
            at = max(at, self.tokens.ready_at(cost, urgent=urgent))
        return at

    def _interval(self) -> float:
        """How long a turn takes."""
        seconds = max(self.requests.seconds_for(1.0), self.tokens.seconds_for(self._cost))
        return max(seconds, 1 / UNKNOWN_RATE) if self.fresh else seconds

    def reserve(self, request: QueuedRequest, now: float) -> Reservation:
        """Send it, whoever else waits: reserve a request and its tokens."""
        urgent = not request.batch
        with self._lock:
            self._advance(now)
            cost = request.tokens(self._answer) if self.tokens.rate else 0.0
            self._cost += _AVERAGE_WEIGHT * (cost - self._cost)
            self.requests.take(1.0, urgent=urgent)
            self.tokens.take(cost, urgent=urgent)
            if self.fresh:
                # So many at once, then so many a second (GCRA).
                step = 1 / UNKNOWN_RATE
                self._unknown_rate_at = (
                    max(self._unknown_rate_at, now - (UNKNOWN_RATE - 1) * step) + step
                )
            return Reservation(self, request, cost, now)

    def _advance(self, now: float) -> None:
        factor = self._factor + max(0.0, now - self._factor_at) * RECOVERY
        self._factor, self._factor_at = min(1.0, factor), now
        self.requests.advance(now, self._factor)
        self.tokens.advance(now, self._factor)

    # -- the line -------------------------------------------------------------------------------

    def join(self, request: QueuedRequest, now: float) -> None:
        """Stand in line."""
        with self._lock:
            self._advance(now)
            insort(self._queue, request.position)

    def leave(self, request: QueuedRequest) -> None:
        """Stand in line no more. The next is told if it is the first now."""
        with self._lock:
            place = bisect_left(self._queue, request.position)
            del self._queue[place]
            first = self._queue[0][3] if self._queue and not place else None
        if first is not None:
            first.wake()

    # -- learning -------------------------------------------------------------------------------

    def wants_status(self, now: float) -> bool:
        """Whether it is worth reading what the provider says: at every answer when it is tight."""
        return now >= self._look_at

    def observe(
        self, quota: RateLimitStatus | None, reservation: Reservation | None, now: float
    ) -> None:
        """Take in an answer's headers.

        Args:
            quota: What they say; None if they say nothing.
            reservation: Of the answer's request.
            now: The engine's clock.
        """
        with self._lock:
            before = self._first_turn()
            self._advance(now)
            if quota is not None and reservation is not None:
                if quota.requests is not None:
                    self.requests.observe(quota.requests, reservation.requests, reservation.at, now)
                if quota.tokens is not None:
                    self.tokens.observe(quota.tokens, reservation.tokens_sent, reservation.at, now)
            self.fresh = False
            self.requests.record_answer()
            self.tokens.record_answer()
            self.active = bool(self.requests.rate or self.tokens.rate)
            tight = self._queue or self.requests.below_half or self.tokens.below_half
            self._look_at = now if tight else now + _LOOK_SECONDS
            told = (
                self._first_if_sooner(before)
                if self.active
                else [place[3] for place in self._queue]
            )
        for request in told:
            request.wake()

    def record_refusal(self, now: float, until: float) -> None:
        """Take in a 429.

        Args:
            now: The engine's clock.
            until: When the provider wants to be asked again.
        """
        with self._lock:
            self._advance(now)
            self._look_at = now
            self._paused_until = max(self._paused_until, until)
            if now < self._cut_at + DECREASE_SECONDS:
                return
            self._cut_at = now
            self._factor = max(_MIN_FACTOR, self._factor * DECREASE)
            low = [flow for flow in (self.requests, self.tokens) if flow.nearly_empty]
            for flow in low:
                if not flow.per_second:
                    flow.empty()
            if not low:
                self.requests.assume_per_second()
                self.tokens.assume_per_second()
            self._advance(now)

    def settle(self, tokens: float, now: float) -> None:
        """Take back what was not used; a negative amount was used beyond what was reserved."""
        with self._lock:
            before = self._first_turn()
            self._advance(now)
            self.tokens.give_back(tokens)
            told = self._first_if_sooner(before)
        for request in told:
            request.wake()

    def cancel(self, tokens: float, now: float) -> None:
        """Return a refused request and its tokens."""
        with self._lock:
            self._advance(now)
            self.requests.cancel(1.0)
            self.tokens.cancel(tokens)

    def record_answer_length(self, tokens: float) -> None:
        """Average the length of answers, in tokens."""
        self._answer += _AVERAGE_WEIGHT * (tokens - self._answer)

    def _first_turn(self) -> float:
        return self._ready(self._queue[0][3]) if self._queue else -inf

    def _first_if_sooner(self, before: float) -> list[QueuedRequest]:
        """Find who must be told that its turn comes sooner than it thinks."""
        return (
            [self._queue[0][3]] if self._queue and self._first_turn() < before - _MIN_GAIN else []
        )


class RequestSize(Protocol):
    """How much one call asks for, and how soon; `CallOptions` of the room `runtime` is one.

    Attributes:
        batch: Whether nobody sits and waits for it.
        max_tokens: The longest answer it asks for; 0 where it does not say.
    """

    batch: bool
    max_tokens: int

    def prompt_tokens(self) -> int:
        """About how many tokens its prompt has."""
        ...

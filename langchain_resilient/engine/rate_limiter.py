"""When a request may be sent with one key to one model: paced by requests and by tokens.

Nothing is paced while no limit is known. Limits come from the user, or from the headers of the
provider's first answers. What is sent is spread evenly, since servers enforce by the second what
they state by the minute; what a provider's bucket has saved up is spent within seconds, not at
once. After a refusal (429) the rate is cut, and recovers steadily (additive increase,
multiplicative decrease: Chiu & Jain, "Analysis of the Increase and Decrease Algorithms for
Congestion Avoidance", 1989). Other clients of the same limit show in what the headers say is left.

Requests that must wait form a queue: interactive calls before batch calls, the oldest first. The
first one knows when its turn comes; a request that leaves the queue wakes the next.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from itertools import count
from math import inf
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from langchain_resilient.engine.learned_limit import LearnedLimit
from langchain_resilient.engine.token_bucket import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_resilient.engine.learned_limit import Refusal
    from langchain_resilient.exchange import RateLimitStatus


_number = count()
QueuePosition = tuple[bool, float, int, "QueuedRequest"]


class QueuedRequest:
    """One request as rate limiters see it: its size, and its position in their queues.

    Args:
        size: Its size and its priority; None for an interactive call of no known size.
        since: When it began: the oldest is served first.
        wake: Called from any thread when its turn may have changed.

    Attributes:
        batch: Whether no user is waiting for it.
        since: As given.
    """

    __slots__ = ("_answer", "_number", "_prompt", "_size", "batch", "since", "wake")

    def __init__(self, size: RequestSize | None, since: float, wake: Callable[[], None]) -> None:
        self._answer = 0 if size is None else size.max_tokens
        self.batch = size is not None and size.batch
        self.wake = wake
        self.since = since
        self._number = next(_number)
        self._size = size
        self._prompt: int | None = None

    @property
    def position(self) -> QueuePosition:
        """What queues are sorted by. Made when asked for: kept, it would be a circle."""
        return self.batch, self.since, self._number, self

    def at(self, target: str) -> QueuedRequest:
        """The same request at a target, which may have a limit of its own on answers."""
        size = self._size
        limit = 0 if size is None else size.max_tokens_at(target)
        if limit == self._answer:
            return self
        other = QueuedRequest(size, self.since, self.wake)
        other._answer = limit  # its own class
        return other

    def tokens(self, answer: float) -> float:
        """Estimate what it costs, in tokens.

        When it admits a request, OpenAI counts the larger of the prompt and `max_tokens`
        (https://platform.openai.com/docs/guides/rate-limits).

        Args:
            answer: How long an answer is on average, where the request does not limit it.
        """
        if self._size is None:
            return answer
        if self._prompt is None:
            self._prompt = self._size.prompt_tokens()
        limit = self._answer
        return float(max(self._prompt, limit)) if limit else self._prompt + answer

    @property
    def answer_bounded(self) -> bool:
        """Whether it sets `max_tokens`: then that, and not the answer's length, is what counts."""
        return self._answer > 0


DECREASE = 0.85
"""Factor by which a refusal reduces the rate.

Gentler than TCP's 0.5: the limit is known, and a refusal mostly means that others use it too."""

DECREASE_SECONDS = 1.0
"""Seconds in which further refusals do not count: they were sent before the first was known."""

RECOVERY = 0.02
"""Share of the rate that comes back per second."""

_MIN_FACTOR = 0.05

UNKNOWN_RATE = 4
"""Batch calls per second before the first answer has shown the limits."""

_OPENING_SECONDS = 0.1
"""Seconds in which that doubles once an answer has come that tells no limit.

About the time in which a refusal comes back: so a crowd meets a limit that nobody told with few of
its requests, and has no more than a second to wait where there is none."""

_OPEN_RATE = 256.0
"""Batch calls per second from which on they are not held back any more."""

ANSWER_TOKENS = 256.0
"""The assumed length of an answer, in tokens, before any was seen."""

_AVERAGE_WEIGHT = 0.05
"""Weight of a new sample in the moving averages."""

_LOOK_SECONDS = 1.0
"""Seconds between readings of the headers while there is plenty: each costs time per call."""

_PATIENCE = 0.25
"""Seconds that a call waits for its turn at a target, rather than to go to the next one."""

BATCH_PATIENCE = 2.0
"""The same in a batch, where nobody waits for the single answer: whole seconds are what is hinted,
and what a limit by the second has no room for now, it has in a moment."""

_MIN_GAIN = 0.01
"""Seconds; the first in the queue is woken for a turn that is earlier by more."""


class Reservation:
    """What was reserved for one attempt; cancelled or settled once, when the attempt ends.

    Attributes:
        at: When it was made.
        tokens: The estimated cost; 0 while no limit of tokens is known.
        requests: How many requests had been sent by then, this one included.
        tokens_sent: How many tokens.
    """

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
    """Paces one key and model for all threads, event loops and chat models of the process.

    Attributes:
        requests: The limit of requests.
        tokens: The limit of tokens.
        active: Whether a limit is known.
        fresh: Whether no answer has come yet.
        refusing_since: When what it refused first should have been let in, by its own hint, if it
            has let nobody in after that; else `inf`.

    Example:
        ```python
        rate_limiter = RateLimiter()
        rate_limiter.configure(requests_per_minute=600)
        if rate_limiter.turn_at(request) <= now:
            attempt.reservation = rate_limiter.reserve(request, now)
        ```
    """

    __slots__ = (
        "__weakref__",
        "_answer",
        "_cost",
        "_decreased_at",
        "_factor",
        "_factor_at",
        "_learned",
        "_lock",
        "_look_at",
        "_opened_at",
        "_paused_until",
        "_queue",
        "_unknown_rate_at",
        "active",
        "fresh",
        "refusing_since",
        "requests",
        "tokens",
    )  # fmt: skip

    def __init__(self) -> None:
        self.refusing_since = inf
        self.requests = TokenBucket()
        self.tokens = TokenBucket()
        self.active = False
        self.fresh = True
        self._learned: LearnedLimit | None = None
        self._lock = Lock()
        self._queue: list[QueuePosition] = []
        self._factor = 1.0
        self._factor_at = 0.0
        self._decreased_at = -inf
        self._paused_until = -inf
        self._unknown_rate_at = -inf
        self._look_at = -inf
        self._opened_at = inf
        self._answer = ANSWER_TOKENS
        self._cost = 1.0

    def configure(
        self, requests_per_minute: float | None = None, tokens_per_minute: float | None = None
    ) -> None:
        """Apply a user's limits. The lowest counts, of several and of what the provider reports.

        Args:
            requests_per_minute: None to learn it from the provider.
            tokens_per_minute: Likewise.
        """
        with self._lock:
            if requests_per_minute is not None:
                self.requests.configure(requests_per_minute, strict=True)
            if tokens_per_minute is not None:
                self.tokens.configure(tokens_per_minute)
            self.active = bool(self.requests.rate or self.tokens.rate)

    def describe(self) -> str:
        """Its limits in words, such as `3 requests a minute`; empty while none is known."""
        buckets = ((self.requests, "requests"), (self.tokens, "tokens"))
        limits = [f"{round(60 * b.rate):,} {what}" for b, what in buckets if b.rate]
        return " and ".join(limits) + (" a minute" if limits else "")

    # -- turns ------------------------------------------------------------------------------------

    def turn_at(self, request: QueuedRequest) -> float:
        """When its turn comes: exact for the first in the queue, an estimate for the others.

        A request whose turn is overdue, because those before it do not take theirs, may go first.
        """
        if not self.active and not (self.fresh and request.batch):
            return -inf
        learned = self._learned
        if learned is not None and not (request.batch or learned.binds_all):
            return -inf
        with self._lock:
            ahead = bisect_left(self._queue, request.position)
            if not ahead:
                return self._ready(request)
            first = max(self._ready(self._queue[0][3]), self._factor_at)
            return first + ahead * self._interval()

    def paused(self, now: float) -> bool:
        """Whether a refusal (429) said to wait."""
        return self._paused_until > now

    def is_near(self, request: QueuedRequest, now: float) -> bool:
        """Whether a request is better off waiting here than elsewhere: its limit is not used up.

        Its turn comes in a moment; or nothing is known of the limit yet, since no answer has come.
        In a batch also: it was refused only for a moment; or there is room for it and for all
        before it, though not in this instant.
        """
        turn = self.turn_at(request)
        with self._lock:
            patience = BATCH_PATIENCE if request.batch else _PATIENCE
            # Who only refuses has had its moment: counted from when the request was there, too.
            patience += min(now, max(self.refusing_since, request.since))
            if self._paused_until > now:
                return request.batch and turn <= patience
            if turn <= patience or (self.fresh and self._learned is None):
                return True
            if not request.batch:
                return False
            self._advance(now)
            ahead = 1 + bisect_left(self._queue, request.position)
            tokens = ahead * request.tokens(self._answer) if self.tokens.rate else 0.0
            return self.requests.has_room(ahead) and self.tokens.has_room(tokens)

    def may_try(self, request: QueuedRequest, now: float) -> bool:
        """Whether it may be sent ahead of its turn: within what the user stated for any minute."""
        with self._lock:
            self._advance(now)
            tokens = request.tokens(self._answer) if self.tokens.stated else 0.0
            return self.requests.within_stated(1.0) and self.tokens.within_stated(tokens)

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
        """Seconds between two turns."""
        seconds = max(self.requests.seconds_for(1.0), self.tokens.seconds_for(self._cost))
        return max(seconds, 1 / self._unknown_rate(self._factor_at)) if self.fresh else seconds

    def _unknown_rate(self, now: float) -> float:
        """Batch calls per second while nothing is known of a limit."""
        if now < self._opened_at:
            return UNKNOWN_RATE
        doublings = min(8.0, (now - self._opened_at) / _OPENING_SECONDS)
        return float(min(_OPEN_RATE, UNKNOWN_RATE * 2.0**doublings))

    def reserve(self, request: QueuedRequest, now: float) -> Reservation:
        """Reserve one request and its tokens, regardless of the queue."""
        urgent = not request.batch
        woken: list[QueuedRequest] = []
        with self._lock:
            self._advance(now)
            cost = request.tokens(self._answer) if self.tokens.rate else 0.0
            self._cost += _AVERAGE_WEIGHT * (cost - self._cost)
            self.requests.take(1.0, urgent=urgent)
            self.tokens.take(cost, urgent=urgent)
            if self._learned is not None and self._learned.record_send(now):
                self._forget_learned()
            if self.fresh:
                # A few at once, then a few per second (GCRA).
                rate = self._unknown_rate(now)
                since = max(self._unknown_rate_at, now - (UNKNOWN_RATE - 1) / rate)
                self._unknown_rate_at = since + 1 / rate
                if rate >= _OPEN_RATE:
                    woken = self._end_fresh()
            reservation = Reservation(self, request, cost, now)
        for waiting in woken:
            waiting.wake()
        return reservation

    def _end_fresh(self) -> list[QueuedRequest]:
        """End the careful beginning; returns who need not wait any more."""
        self.fresh = False
        self._opened_at = inf
        return [] if self.active else [position[3] for position in self._queue]

    def _advance(self, now: float) -> None:
        factor = self._factor + max(0.0, now - self._factor_at) * RECOVERY
        self._factor, self._factor_at = min(1.0, factor), now
        if self._learned is not None and self._learned.pacing:
            self.requests.follow(self._learned.rate)
        self.requests.advance(now, self._factor)
        self.tokens.advance(now, self._factor)

    # -- the queue --------------------------------------------------------------------------------

    def join(self, request: QueuedRequest, now: float) -> None:
        """Enter the queue."""
        with self._lock:
            self._advance(now)
            insort(self._queue, request.position)

    def leave(self, request: QueuedRequest) -> None:
        """Leave the queue, and wake the next request if it is the first now."""
        with self._lock:
            index = bisect_left(self._queue, request.position)
            del self._queue[index]
            first = self._queue[0][3] if self._queue and not index else None
        if first is not None:
            first.wake()

    # -- learning ---------------------------------------------------------------------------------

    def wants_status(self, now: float) -> bool:
        """Whether the headers of an answer are worth reading: of every one when little is left."""
        return now >= self._look_at

    def observe(
        self, status: RateLimitStatus | None, reservation: Reservation | None, now: float
    ) -> None:
        """Learn from an answer's headers.

        Args:
            status: What they say; None if they say nothing.
            reservation: Of the answer's request.
            now: The engine's clock.
        """
        with self._lock:
            self.refusing_since = inf
            before = self._first_turn()
            self._advance(now)
            if status is not None and reservation is not None:
                if status.requests is not None:
                    self.requests.observe(
                        status.requests, reservation.requests, reservation.at, now
                    )
                if status.tokens is not None:
                    self.tokens.observe(status.tokens, reservation.tokens_sent, reservation.at, now)
                if status.requests is not None or status.tokens is not None:
                    self._learned = None  # it is told, and need not be learned
            self.requests.record_answer()
            self.tokens.record_answer()
            self.active = bool(self.requests.rate or self.tokens.rate)
            woken: list[QueuedRequest] = []
            if self.fresh and (self.active or now >= self._opened_at + 1.0 or not self._queue):
                woken = self._end_fresh()
            elif self.fresh:
                self._opened_at = min(self._opened_at, now)
                self._unknown_rate_at = min(self._unknown_rate_at, now)
            watch = self._queue or self.requests.below_half or self.tokens.below_half
            self._look_at = now if watch else now + _LOOK_SECONDS
            woken = woken or self._first_if_sooner(before)
        for request in woken:
            request.wake()

    def record_refusal(self, now: float, until: float, refusal: Refusal | None = None) -> None:
        """Slow down after a refusal (429); learn the limit from it, where nobody has told one.

        Args:
            now: The engine's clock.
            until: When the provider wants to be asked again.
            refusal: The refused request; None to learn nothing from it.
        """
        with self._lock:
            self._advance(now)
            self._look_at = now
            self._paused_until = max(self._paused_until, until)
            self.refusing_since = min(self.refusing_since, max(now, until))
            told = self._learned is None and (self.requests.rate or self.tokens.rate)
            if refusal is not None and not told:
                self._learn_from_refusal(refusal, now)
                return
            if now < self._decreased_at + DECREASE_SECONDS:
                return
            self._decreased_at = now
            self._factor = max(_MIN_FACTOR, self._factor * DECREASE)
            expected = [b for b in (self.requests, self.tokens) if b.nearly_empty]
            # The provider does not say which limit refused. It is one whose bucket was low; if none
            # was, the limit must be enforced over shorter periods than it is stated.
            for bucket in expected:
                if not bucket.per_second:
                    bucket.empty()
            if not expected:
                self.requests.assume_per_second()
                self.tokens.assume_per_second()
            self._advance(now)

    def _learn_from_refusal(self, refusal: Refusal, now: float) -> None:
        """Learn a limit that nobody has told from a refusal."""
        learned, bucket = self._learned, self.requests
        admitted = bucket.sent if refusal.sent_before is None else refusal.sent_before
        if learned is None:
            learned = self._learned = LearnedLimit(refusal, admitted, now)
        else:
            in_plenty = learned.pacing and bucket.provider_level > bucket.rate + 1
            if not learned.record_refusal(refusal, admitted, now, in_plenty=in_plenty):
                return
            if in_plenty:
                bucket.assume_per_second()
        if learned.pacing:
            self.active = True
            self._factor = 1.0
            bucket.record_answer()
            bucket.follow(learned.rate)
            bucket.advance(now, 1.0)
            # What was sent since is returned if it is refused, too.
            bucket.set_level(learned.level(now) - (bucket.sent - admitted))

    def _forget_learned(self) -> None:
        self._learned = None
        self.requests.forget()
        self.active = bool(self.tokens.rate)

    @property
    def counting(self) -> bool:
        """Whether what is sent is counted: a limit is known, or may still become known."""
        return self.active or self.fresh or self._learned is not None

    def settle(self, tokens: float, now: float) -> None:
        """Return tokens that were not used; a negative amount was used beyond the reservation."""
        with self._lock:
            before = self._first_turn()
            self._advance(now)
            self.tokens.give_back(tokens)
            woken = self._first_if_sooner(before)
        for request in woken:
            request.wake()

    def cancel(self, tokens: float, now: float) -> None:
        """Return a refused request and its tokens."""
        with self._lock:
            before = self._first_turn()
            self._advance(now)
            self.requests.cancel(1.0)
            self.tokens.cancel(tokens)
            woken = self._first_if_sooner(before)
        for request in woken:
            request.wake()

    def record_answer_length(self, tokens: float) -> None:
        """Average the length of answers, in tokens."""
        self._answer += _AVERAGE_WEIGHT * (tokens - self._answer)

    def _first_turn(self) -> float:
        return self._ready(self._queue[0][3]) if self._queue else -inf

    def _first_if_sooner(self, before: float) -> list[QueuedRequest]:
        """The request to wake because its turn comes sooner than it was told; as a list."""
        return (
            [self._queue[0][3]] if self._queue and self._first_turn() < before - _MIN_GAIN else []
        )


class RequestSize(Protocol):
    """How much one call asks for, and how soon; `CallOptions` of the room `runtime` is one.

    Attributes:
        batch: Whether no user is waiting for it.
        max_tokens: The longest answer it asks for; 0 where it does not say.
    """

    batch: bool
    max_tokens: int

    def prompt_tokens(self) -> int:
        """About how many tokens its prompt has."""
        ...

    def max_tokens_at(self, target: str) -> int:
        """The longest answer that it asks of a target, by its name; 0 where nothing says."""
        ...

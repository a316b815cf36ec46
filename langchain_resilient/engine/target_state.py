"""What is known of a target between requests: its speed, its health, and when it may be asked.

All of it is shared by the requests, chat models, event loops and threads of a process. Numbers are
written without a lock: two threads that count at the same moment may lose a sample, which changes
no decision.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from math import inf, log
from threading import Lock
from typing import TYPE_CHECKING, Any

from langchain_resilient.engine.circuit_breaker import (
    HEALTHY_SLOW_SHARE,
    SLOW_EVIDENCE,
    CircuitBreaker,
    silence_evidence,
    silent_share,
)
from langchain_resilient.engine.rate_limiter import RateLimiter
from langchain_resilient.engine.time_model import (
    MIN_SURVIVAL,
    UNKNOWN,
    LatencyHistogram,
    RequestProfile,
    TimeModel,
)
from langchain_resilient.faults import Fault, FaultKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from langchain_resilient.engine.rate_limiter import QueuedRequest, Reservation


class ConcurrencyLimiter:
    """A counting semaphore that never blocks: it can be asked, and calls back when it has room.

    The planner asks another target while this one is full, so it cannot wait in `acquire()`. All
    event loops and threads of the process share it: a callback has to return to its own loop with
    `call_soon_threadsafe`.
    """

    __slots__ = ("_lock", "_waiters", "limit", "used")

    def __init__(self, limit: int | None) -> None:
        self.limit: int | None = limit
        self.used: int = 0
        self._lock = Lock()
        self._waiters: deque[Callable[[], None]] = deque()

    @property
    def full(self) -> bool:
        """Whether no place is free."""
        return self.limit is not None and self.used >= self.limit

    def take(self) -> bool:
        """Take a place; False if none is free."""
        if self.limit is None:
            return True
        with self._lock:
            if self.used >= self.limit:
                return False
            self.used += 1
            return True

    def give_back(self) -> None:
        """Return a place, and call the oldest waiter."""
        if self.limit is None:
            return
        with self._lock:
            self.used -= 1
            waiter = self._waiters.popleft() if self._waiters else None
        if waiter is not None:
            waiter()

    def wait(self, waiter: Callable[[], None]) -> None:
        """Have `waiter` called once when a place is free; at once if one is free now."""
        with self._lock:
            if self.limit is not None and self.used >= self.limit:
                self._waiters.append(waiter)
                return
        waiter()

    def forget(self, waiter: Callable[[], None]) -> None:
        """Stop waiting. A call that this waiter got already is passed to the next."""
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                return
            next_waiter = self._waiters.popleft() if self._waiters and not self.full else None
        if next_waiter is not None:
            next_waiter()


ACCOUNT_OUT_SECONDS = 300.0
"""Seconds for which an account that refused the key or used up its credit is not asked."""

MAX_ACCOUNT_OUT_SECONDS = 3600.0
"""The longest such time: it doubles while the account stays out."""

NOT_FOUND_SECONDS = 3600.0
"""Seconds for which a model id that does not exist is not asked."""

OVERLOADED_SECONDS = 5.0
"""Seconds after a 429 or 503 in which a target gets no hedge and no rescue."""

ENOUGH_SAMPLES = 30
"""Fewer samples say nothing about a 95th percentile."""

MANY_SAMPLES = 500
"""Samples beside which requests under way need not be counted."""

DOWN_AFTER = 5
"""Failures in a row, over all requests, after which a target is down."""

SILENT_AFTER = 5
"""Late requests, with no answer to any request sent after them, that make a target silent."""

LONG_SILENCE_SECONDS = 5.0
"""Seconds without any text after which a silent target is not asked for rescue either."""

DOWN_SECONDS = 5.0
"""Seconds between requests that try a target that is down; text from it ends that."""

THINKING_SECONDS = {"low": 15.0, "medium": 30.0, "high": 60.0, "xhigh": 120.0}
"""Seconds that a model is taken to think, by effort, before it was seen: then a hedge is sent."""

THINKING_LIMIT_FACTOR = 6.0
"""Factor on those seconds after which a silent thinker is left, and on which it is late."""

TEXT_LIMIT = 15.0
"""Seconds without text after which a target is left whose speed is not known, and most others."""

MIN_TEXT_LIMIT = 5.0
"""The shortest such limit that is learned: a hedge has been sent long before."""

THINKING_LIMIT = 300.0
"""Seconds for which reasoning may go on without a text; twice that for high effort."""

LATE_FACTOR = 1.2
"""Factor on the learned percentile: a few percent slower than usual is not yet late."""

HELD_SECONDS = 5.0
"""Seconds before a sample of a target's speed counts; a trip meanwhile discards it."""

SLOW_PROBES = 40
"""Probes answered late after which a target counts as slower than before, rather than sick."""

FEW_SAMPLES = 5
"""Samples that are enough to compare the speed of targets."""

MAX_EXPECTED_SECONDS = 10.0
"""Seconds; a request that takes longer is answered by another target."""

_COLD_SHARE = 0.6
"""Share of the cold delay by which 95 % are taken to have spoken, before anything was learned."""

_SILENCE = 0.6
"""Share of the evidence of a late request that makes a loser's silence count as such a request."""

_REFRESH_SECONDS = 1.0
"""The greatest age of a cached percentile."""

_RECENT_TEXT_SECONDS = 30.0
"""Seconds within which text clears a target when all have tripped."""


class Account:
    """A provider's account: a refused key or used-up credit stops all targets that share it."""

    __slots__ = ("not_before", "strikes")

    def __init__(self) -> None:
        self.not_before: float = 0.0
        self.strikes: int = 0

    def block(self, now: float) -> None:
        """Do not ask it for five minutes, doubling up to an hour while it stays out."""
        if now >= self.not_before:  # else another request of the same bout has counted it
            out = min(MAX_ACCOUNT_OUT_SECONDS, ACCOUNT_OUT_SECONDS * 2**self.strikes)
            self.strikes += 1
            self.not_before = now + out


class TargetKey:
    """One key of a target.

    Attributes:
        account: Shared with all targets that use the key.
        not_before: The provider's own hint for this model: not asked earlier.
        rate_limiter: Paces what is sent with this key to this model.
    """

    __slots__ = ("account", "not_before", "rate_limiter")

    def __init__(self, account: Account, rate_limiter: RateLimiter | None = None) -> None:
        self.account = account
        self.not_before = 0.0
        self.rate_limiter = RateLimiter() if rate_limiter is None else rate_limiter

    def available_at(self) -> float:
        """The earliest time at which it may be used."""
        return max(self.not_before, self.account.not_before)


class TargetState:
    """One target as the engine sees it, shared by all requests of the process.

    Times are of the event loops' clock, which all loops of a process share.

    Attributes:
        name: As in receipts.
        provider: Hedges prefer another one.
        keys: Used in turn; those that are limited or blocked are passed over.
        concurrency: Its `max_concurrency`.
        gone_until: Its model does not exist; not asked before this time.
        overloaded_until: It answered 429 or 503: no hedges or rescues before this time.
        streams: False once it refused to stream: then whole answers are asked for.
        retry_first: Its `Target.retry_first`.
        in_process: It runs in this process: asking it twice at once only slows both down.
        replicated: It is many machines: a second request reaches another one.
        unreachable: How many connections to it have failed in a row.
        thinks: Its model is known to reason before it answers, unless told not to.
        circuit_breaker: Whether it is healthy.
        first_texts: Seconds to the first text, given the request.
        answers: Seconds to a whole answer, where it does not stream.
        pauses: Seconds of the longest pause in each complete stream.
        last_text_at: When text last came from it.
        answering_since: When the request was sent that ended its last silence.
        waiting: The attempts that wait for a first text, each with what to call when it falls
            silent or answers again; oldest first.
        paced: Whether a rate limit of it is known, or may still become known.
    """

    __slots__ = (
        "_ask_again_at",
        "_expected",
        "_failures",
        "_held_samples",
        "_key_turn",
        "_last_answered_start",
        "_late_starts",
        "_percentiles",
        "_slow_probes",
        "_typical_pause",
        "_waiters_told",
        "answering_since",
        "answers",
        "circuit_breaker",
        "concurrency",
        "first_texts",
        "gone_until",
        "in_process",
        "keys",
        "last_text_at",
        "name",
        "overloaded_until",
        "paced",
        "pauses",
        "provider",
        "replicated",
        "retry_first",
        "streams",
        "thinks",
        "unreachable",
        "waiting",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        provider: str,
        *,
        accounts: Sequence[Account] = (),
        rate_limiters: Sequence[RateLimiter | None] = (),
        max_concurrency: int | None = None,
        retry_first: bool = False,
        in_process: bool = False,
        thinks: bool = False,
        replicated: bool = False,
    ) -> None:
        self.replicated = replicated
        self.thinks = thinks
        self.unreachable = 0
        self.name = name
        self.provider = provider
        self.keys = tuple(map(TargetKey, accounts, rate_limiters or [None] * len(accounts))) or (
            TargetKey(Account()),
        )
        self.paced = True
        self.concurrency = ConcurrencyLimiter(max_concurrency)
        self.gone_until = 0.0
        self.overloaded_until = 0.0
        self.streams = True
        self.retry_first = retry_first
        self.in_process = in_process
        self.circuit_breaker = CircuitBreaker()
        self.first_texts = TimeModel()
        self.answers = TimeModel()
        self.pauses = LatencyHistogram()
        self.waiting: dict[Any, Callable[[], None]] = {}  # by attempt
        self._slow_probes: list[float] = []
        self._key_turn = 0
        self._failures = 0
        self._ask_again_at = 0.0
        self._waiters_told = False
        self._last_answered_start = -inf
        self._held_samples: deque[tuple[float, float, RequestProfile, bool, bool]] = deque()
        self._late_starts: deque[float] = deque(maxlen=SILENT_AFTER)
        self.last_text_at: float = -inf
        self.answering_since: float = -inf
        self._expected: dict[bool, tuple[float, float]] = {}
        self._percentiles: dict[tuple[float, bool], tuple[float, float | None]] = {}
        self._typical_pause = (0.0, 0.0)

    # -- when it may be asked ---------------------------------------------------------------------

    def available_at(self, *, ignore_block: bool = False) -> float:
        """The earliest time at which it may be asked.

        Args:
            ignore_block: Disregard blocked accounts and a missing model; keep to the server's hint.
        """
        if ignore_block:
            return min([key.not_before for key in self.keys])
        if len(self.keys) == 1:
            return max(self.gone_until, self.keys[0].available_at())
        return max(self.gone_until, min([key.available_at() for key in self.keys]))

    def next_key(self, now: float, request: QueuedRequest | None = None) -> int:
        """Choose the key for the next request: in turn, but those first that may be used now."""
        count = len(self.keys)
        if count == 1:
            return 0
        self._key_turn += 1
        turns = [(self._key_turn + i) % count for i in range(count)]
        usable = [i for i in turns if self.keys[i].available_at() <= now]
        if request is not None and self.paced and usable:
            return min(usable, key=lambda i: max(now, self.keys[i].rate_limiter.turn_at(request)))
        return usable[0] if usable else min(turns, key=lambda i: self.keys[i].not_before)

    # -- its rate limit ---------------------------------------------------------------------------

    @property
    def limited(self) -> bool:
        """Whether a rate limit is known."""
        if len(self.keys) == 1:
            return self.keys[0].rate_limiter.active
        return any(key.rate_limiter.active for key in self.keys)

    def turn_at(self, request: QueuedRequest) -> float:
        """When a request's turn comes at one of its keys; see `RateLimiter.turn_at`."""
        if len(self.keys) == 1:
            return self.keys[0].rate_limiter.turn_at(request)
        return min(
            [max(key.available_at(), key.rate_limiter.turn_at(request)) for key in self.keys]
        )

    def queues(self, now: float) -> list[RateLimiter]:
        """The rate limiters to queue at: of the keys whose accounts are not blocked."""
        if not self.paced or self.gone_until > now:
            return []
        return [key.rate_limiter for key in self.keys if key.account.not_before <= now]

    def read_rate_limits(
        self, key: int, stream: object, reservation: Reservation | None, now: float
    ) -> None:
        """Learn what a provider states about its limits in the head of an answer.

        Args:
            key: Which of the target's keys was used.
            stream: The answer; `rate_limit_status()` reads its headers, where the provider has any.
            reservation: What was reserved for the answer's request.
            now: The engine's clock.
        """
        rate_limiter = self.keys[key].rate_limiter
        if rate_limiter.wants_status(now):
            status = getattr(stream, "rate_limit_status", None)
            rate_limiter.observe(None if status is None else status(), reservation, now)
            self.paced = any(key.rate_limiter.active or key.rate_limiter.fresh for key in self.keys)

    # -- its speed --------------------------------------------------------------------------------

    def times(self, *, plain: bool) -> TimeModel:
        """How long its whole answers take, or its first texts."""
        return self.answers if plain else self.first_texts

    def percentile(
        self, q: float, now: float, *, plain: bool, profile: RequestProfile = UNKNOWN
    ) -> float | None:
        """The time by which a share `q` of such requests shows text; None while that is unknown.

        Args:
            q: From 0 to 1.
            now: The engine's clock.
            plain: Of whole answers, rather than first texts.
            profile: What is known of the request.
        """
        residual = self._residual(q, now, plain=plain)
        return None if residual is None else residual * self.times(plain=plain).scale(profile)

    def _residual(self, q: float, now: float, *, plain: bool) -> float | None:
        cached = self._percentiles.get((q, plain))
        if cached is not None and now < cached[0]:
            return cached[1]
        samples = self.times(plain=plain).residuals
        seconds = None
        if samples.count >= ENOUGH_SAMPLES:
            # Next to many samples the few that are under way change nothing.
            few = samples.count < MANY_SAMPLES or len(self.waiting) > samples.count / 10
            seconds = samples.quantile(q, self._waited(now, plain=plain) if few else ())
        if seconds is None and cached is not None and samples.count >= ENOUGH_SAMPLES:
            seconds = cached[1]  # too many were closed early to tell: keep the last known value
        self._percentiles[q, plain] = (now + _REFRESH_SECONDS, seconds)
        return seconds

    def _waited(self, now: float, *, plain: bool) -> list[float]:
        """How long each request under way has waited, as residuals."""
        times = self.times(plain=plain)
        return [
            (now - attempt.started) / times.scale(attempt.profile)
            for attempt in list(self.waiting)
            if attempt.plain is plain and not attempt.excused_seconds and now > attempt.started
        ]

    def late_after(
        self, now: float, *, plain: bool, cold: float, profile: RequestProfile = UNKNOWN
    ) -> float:
        """Seconds without text that count as evidence of sickness.

        A target whose speed is not known yet gets four times the cold delay, or twice its slowest
        text: a model that thinks for long is not sick.
        """
        times = self.times(plain=plain)
        learned = self._residual(1 - HEALTHY_SLOW_SHARE, now, plain=plain)
        if learned is not None:
            return LATE_FACTOR * learned * times.cautious_scale(profile)
        thinking = self.thinking_seconds(profile)
        if thinking:
            return max(3 * thinking, 2 * times.residuals.slowest * times.scale(profile))
        return max(4 * cold, 2 * times.residuals.slowest) * times.cautious_scale(profile)

    def silence_evidence(
        self, seconds: float, *, plain: bool, cold: float, profile: RequestProfile = UNKNOWN
    ) -> float:
        """How much a silence says against it, in nats: as much as it is unusual for such a request.

        Args:
            seconds: How long it lasts.
            plain: Of a whole answer, rather than a first text.
            cold: The delay of a hedge, where nothing has been learned.
            profile: What is known of the request.
        """
        times = self.times(plain=plain)
        residual = seconds / times.cautious_scale(profile)
        share = times.residuals.survival(residual) if times.count >= ENOUGH_SAMPLES else None
        if share is None:
            usual = 3 * self.thinking_seconds(profile) or _COLD_SHARE * cold
            share = max(MIN_SURVIVAL, HEALTHY_SLOW_SHARE ** (residual / usual))
        return silence_evidence(share)

    def unusual_after(
        self,
        evidence: float,
        now: float,
        *,
        plain: bool,
        cold: float,
        profile: RequestProfile = UNKNOWN,
    ) -> float:
        """Seconds of silence that say so much against it; the inverse of `silence_evidence`."""
        times = self.times(plain=plain)
        share = max(MIN_SURVIVAL, silent_share(evidence))
        residual = self._residual(round(1 - share, 3), now, plain=plain)
        if residual is None:
            usual = 3 * self.thinking_seconds(profile) or _COLD_SHARE * cold
            residual = usual * log(share) / log(HEALTHY_SLOW_SHARE)
        return residual * times.cautious_scale(profile)

    def thinking_seconds(self, profile: RequestProfile) -> float:
        """How long it is taken to think before it was seen; 0 for a model that does not."""
        effort = profile.effort
        if effort is None:
            return THINKING_SECONDS["medium"] if self.thinks else 0.0
        return THINKING_SECONDS.get(effort, 0.0)

    def text_limit(self, now: float, *, plain: bool, profile: RequestProfile = UNKNOWN) -> float:
        """Seconds without text beyond what a healthy target ever takes for such a request.

        Twice its 99.9th percentile, but, since that is known badly, at most three times its 95th or
        `TEXT_LIMIT`, whichever is longer.
        """
        times = self.times(plain=plain)
        usual = self._residual(1 - HEALTHY_SLOW_SHARE, now, plain=plain)
        scale = times.cautious_scale(profile)
        if usual is None:
            thinking = THINKING_LIMIT_FACTOR * self.thinking_seconds(profile)
            return max(thinking or TEXT_LIMIT * scale, 2 * times.residuals.slowest * scale)
        rarest = self._residual(0.999, now, plain=plain)
        longest = max(TEXT_LIMIT, 3 * usual)
        limit = longest if rarest is None else min(max(2 * rarest, MIN_TEXT_LIMIT), longest)
        return limit * scale

    def thinking_limit(
        self, now: float, *, plain: bool, profile: RequestProfile = UNKNOWN
    ) -> float:
        """Seconds after which reasoning that leads to no text is taken to be endless."""
        longest = THINKING_LIMIT * (2 if profile.effort in {"high", "xhigh"} else 1)
        usual = self.percentile(1 - HEALTHY_SLOW_SHARE, now, plain=plain, profile=profile)
        return longest if usual is None else max(longest, 3 * usual)

    def expected(self, now: float, *, plain: bool, profile: RequestProfile = UNKNOWN) -> float:
        """The mean wait for such a request, in seconds; infinity while that is unknown.

        Nobody is taken to wait longer than for `MAX_EXPECTED_SECONDS` times its scale.
        """
        scale = self.times(plain=plain).scale(profile)
        return self._mean_residual(now, plain=plain) * scale

    def _mean_residual(self, now: float, *, plain: bool) -> float:
        cached = self._expected.get(plain)
        if cached is not None and now < cached[0]:
            return cached[1]
        samples = self.times(plain=plain).residuals
        enough = samples.count >= FEW_SAMPLES
        mean = samples.mean_within(MAX_EXPECTED_SECONDS) if enough else None
        self._expected[plain] = (now + _REFRESH_SECONDS, inf if mean is None else mean)
        return inf if mean is None else mean

    def typical_pause(self, now: float) -> float:
        """The longest pause of 99 % of its answers, in seconds; 0 while unknown."""
        valid_until, seconds = self._typical_pause
        if now >= valid_until:
            enough = self.pauses.count >= ENOUGH_SAMPLES
            seconds = (self.pauses.quantile(0.99) if enough else None) or 0.0
            self._typical_pause = (now + _REFRESH_SECONDS, seconds)
        return seconds

    def learned_delay(self, now: float) -> float | None:
        """The time by which 95 % of its requests show text; None while unknown."""
        return self.percentile(1 - HEALTHY_SLOW_SHARE, now, plain=False)

    def record_first_text(
        self,
        seconds: float,
        now: float,
        *,
        plain: bool,
        late: bool,
        known: bool = True,
        profile: RequestProfile = UNKNOWN,
    ) -> None:
        """Record a first text (or a whole answer).

        Args:
            seconds: How long it took.
            now: The engine's clock.
            plain: It was a whole answer.
            late: The request had been counted as late.
            known: False if only a lower bound of the time is known.
            profile: What is known of the request.
        """
        self._add_sample(seconds, now, profile, plain=plain, censored=not known)
        started = now - seconds
        was_silent = self.silent
        self.last_text_at = now
        self._last_answered_start = max(self._last_answered_start, started)
        self._failures = self.unreachable = 0
        if not late:
            self.circuit_breaker.record_fast(started=started, now=now, waiting=len(self.waiting))
        self._waiters_told = self._waiters_told and self.silent
        if was_silent and not self.silent:
            # What was sent before or during the silence is lost (a network that was down and is
            # back, for example): the requests that wait for it may ask again.
            self.answering_since = started
            self._wake_waiters()

    def record_longest_pause(self, longest_pause: float, now: float) -> None:
        """Record the longest pause of a complete stream, in seconds."""
        self.pauses.add(longest_pause, now)

    def record_probe(self, seconds: float | None, now: float, *, plain: bool, good: float) -> None:
        """Record the outcome of a probe.

        Args:
            seconds: To its first text; None if it failed or got no text.
            now: The engine's clock.
            plain: To a whole answer.
            good: The most seconds that would be in good time.
        """
        if seconds is not None:
            self._failures = self.unreachable = 0
            self.last_text_at = now
        if seconds is None or seconds <= good:
            self._slow_probes.clear()
            self.circuit_breaker.record_probe(now, well=seconds is not None)
            return
        self._slow_probes.append(seconds)
        self.circuit_breaker.record_probe(now, well=False)
        if len(self._slow_probes) >= SLOW_PROBES:
            self._relearn(now, plain=plain)

    def _relearn(self, now: float, *, plain: bool) -> None:
        """Take its present speed for normal: it answers reliably, only slower than it used to."""
        samples = TimeModel()
        for seconds in self._slow_probes:
            samples.add(seconds, now)
        self._slow_probes.clear()
        self._percentiles.clear()
        if plain:
            self.answers = samples
        else:
            self.first_texts = samples
        self.circuit_breaker.recover_on_trial()

    def record_lost(
        self, seconds: float, now: float, *, plain: bool, profile: RequestProfile = UNKNOWN
    ) -> None:
        """Record a loser that was closed before its first text: a right-censored sample.

        While the target is silent, that says nothing about its speed.
        """
        if self.silent:
            return
        self._add_sample(seconds, now, profile, plain=plain, censored=True)

    def record_silence(self, evidence: float, now: float, trip_after: int, started: float) -> None:
        """Count the silence of a loser against the target, as much as it was unusual.

        Args:
            evidence: Nats, from `silence_evidence`, without those that were counted before.
            now: The engine's clock.
            trip_after: How many slow requests in a row trip it.
            started: When the request was sent.
        """
        if evidence >= _SILENCE * SLOW_EVIDENCE:
            self._late_starts.append(started)
        self._count_against(evidence, now, trip_after, started)

    def _add_sample(
        self, seconds: float, now: float, profile: RequestProfile, *, plain: bool, censored: bool
    ) -> None:
        """Hold a sample back for a while: if the target trips, it was a symptom and is discarded.

        Otherwise each bout of slowness would make slow normal, until none is noticed any more.
        """
        times = self.times(plain=plain)
        if times.count < ENOUGH_SAMPLES:
            times.add(seconds, now, profile, censored=censored)
            return
        if self.circuit_breaker.tripped:
            return
        held = self._held_samples
        held.append((seconds, now, profile, plain, censored))
        with suppress(IndexError):  # another thread's trip emptied it
            while held[0][1] <= now - HELD_SECONDS:
                seconds, at, profile, plain, censored = held.popleft()
                self.times(plain=plain).add(seconds, at, profile, censored=censored)

    def record_late(self, now: float, trip_after: int, *, started: float) -> None:
        """Record that a request is late: a mark against the target."""
        self._late_starts.append(started)
        self._count_against(SLOW_EVIDENCE, now, trip_after, started)

    def _count_against(self, evidence: float, now: float, trip_after: int, started: float) -> None:
        if self.in_process:
            return
        if self.circuit_breaker.record_slow(now, trip_after, evidence=evidence, started=started):
            self._held_samples.clear()
        if self.circuit_breaker.tripped and self.silent and not self._waiters_told:
            self._waiters_told = True
            self._wake_waiters()

    def record_failure(
        self, fault: Fault, now: float, rng: Random, key: int, trip_after: int
    ) -> None:
        """Remember of a failure what concerns later requests.

        Args:
            fault: What went wrong.
            now: The engine's clock.
            rng: The engine's generator.
            key: Which of its keys was used.
            trip_after: How many slow or failed requests in a row trip it; 0 for never.
        """
        self._note_reachability(fault)
        if fault.traits.blocks_account:
            self.keys[key].account.block(now)
        elif fault.kind is FaultKind.NOT_FOUND:
            self.gone_until = now + NOT_FOUND_SECONDS
        elif fault.kind is FaultKind.NO_STREAMING:
            self.streams = False
        elif fault.retry_after is not None:
            # Never before the hint, and with jitter, so that not all requests return at once.
            wait = fault.retry_after * (1 + 0.1 * rng.random())
            self.keys[key].not_before = max(self.keys[key].not_before, now + wait)
        if fault.kind is FaultKind.RATE_LIMIT or fault.status == 503:  # noqa: PLR2004
            self.overloaded_until = now + OVERLOADED_SECONDS
        if fault.kind is FaultKind.RATE_LIMIT:
            self.keys[key].rate_limiter.record_refusal(now, self.keys[key].not_before)
        if fault.traits.sick:
            self._failures += 1
            self._ask_again_at = now + DOWN_SECONDS
        if trip_after and fault.traits.sick and not self.in_process:
            failed = fault.kind is not FaultKind.TIMEOUT
            tripped = self.circuit_breaker.record_slow(now, trip_after, failed=failed)
            if tripped:
                self._held_samples.clear()

    def _note_reachability(self, fault: Fault) -> None:
        if fault.kind is FaultKind.CONNECTION:
            self.unreachable += 1
        elif fault.kind is not FaultKind.TIMEOUT:  # which does not show whether anybody was there
            self.unreachable = 0

    def record_success(self, key: int) -> None:
        """Clear the record of the account that gave a good answer."""
        self.keys[key].account.strikes = 0

    @property
    def silent(self) -> bool:
        """Whether no request was answered that was sent after the last five late ones."""
        return (
            len(self._late_starts) == SILENT_AFTER
            and self._last_answered_start < self._late_starts[0]
        )

    def long_silent(self, now: float) -> bool:
        """Whether it has been silent for so long that it can rescue no request."""
        return self.silent and now - self.last_text_at > LONG_SILENCE_SECONDS

    def down(self, now: float) -> bool:
        """Whether its last requests all failed, and it is not time to try it again."""
        return self._failures >= DOWN_AFTER and now < self._ask_again_at

    def record_send(self, now: float) -> None:
        """Record a send: while a target is down, one request at a time tries it."""
        if self._failures >= DOWN_AFTER:
            self._ask_again_at = now + DOWN_SECONDS

    def is_healthy(self, now: float) -> bool:
        """Whether it is neither tripped nor down."""
        return not self.circuit_breaker.tripped and not self.down(now)

    def health(self, now: float) -> str:
        """One of `ok`, `tripped`, `limited` (by its own hint), `account out`, `gone`."""
        if self.gone_until > now:
            return "gone"
        if min(key.account.not_before for key in self.keys) > now:
            return "account out"
        if self.available_at() > now:
            return "limited"
        return "tripped" if self.circuit_breaker.tripped else "ok"

    def _wake_waiters(self) -> None:
        """Wake the requests that wait for it. A target that fails need not."""
        for wake in list(self.waiting.values()):
            wake()


def reset_if_all_tripped(states: Sequence[TargetState], now: float) -> None:
    """Clear targets when all have tripped: the cause is hardly theirs (Envoy's panic threshold).

    Those that gave text lately are cleared; if none did, all are. Nothing trips for a while.
    """
    recent = [s for s in states if now - s.last_text_at <= _RECENT_TEXT_SECONDS]
    for state in recent or states:
        state.circuit_breaker.reset(now)

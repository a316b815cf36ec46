"""What is known of a target between requests: its speed, its health, and when it may be asked.

All of it is shared by the requests, chat models, event loops and threads of a process. Numbers are
written without a lock: two threads that count at the same moment may lose a sample, which changes
no decision.
"""

from __future__ import annotations

from collections import deque
from math import inf
from threading import Lock
from typing import TYPE_CHECKING, Any

from langchain_resilient.engine.circuit_breaker import SLOW_EVIDENCE, CircuitBreaker
from langchain_resilient.engine.learned_limit import Refusal
from langchain_resilient.engine.rate_limiter import BATCH_PATIENCE, RateLimiter
from langchain_resilient.engine.target_speed import TargetSpeed
from langchain_resilient.engine.time_model import UNKNOWN, RequestProfile
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

DOWN_AFTER = 5
"""Failures in a row, over all requests, after which a target is down."""

SILENT_AFTER = 5
"""Late requests, with no answer to any request sent after them, that make a target silent."""

LONG_SILENCE_SECONDS = 5.0
"""Seconds without any text after which a silent target is not asked for rescue either."""

DOWN_SECONDS = 5.0
"""Seconds between requests that try a target that is down; text from it ends that."""

SLOW_PROBES = 40
"""Probes answered late after which a target counts as slower than before, rather than sick."""

_SILENCE = 0.6
"""Share of the evidence of a late request that makes a loser's silence count as such a request."""

_HINT_JITTER = 0.05
"""Share of a hint by which it is exceeded at most: a low limit's gaps are no longer than that."""

_RECENT_TEXT_SECONDS = 30.0
"""Seconds within which text clears a target when all have tripped."""


class Account:
    """A provider's account: a refused key or used-up credit stops all targets that share it."""

    __slots__ = ("__weakref__", "not_before", "reason", "strikes")

    def __init__(self) -> None:
        self.not_before: float = 0.0
        self.strikes: int = 0
        self.reason: FaultKind | None = None

    def block(self, now: float, reason: FaultKind | None = None) -> None:
        """Do not ask it for five minutes, doubling up to an hour while it stays out."""
        self.reason = reason
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

    __slots__ = ("__weakref__", "account", "not_before", "rate_limiter")

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
        group: Other targets of this name are as good as it; empty for none.
        replicated: It is many machines: a second request reaches another one.
        one_machine: It is taken for one: a server of the user's own, of which nobody said more.
        unreachable: How many connections to it have failed in a row.
        circuit_breaker: Whether it is healthy.
        speed: How fast it is.
        last_text_at: When text last came from it.
        answering_since: When the request was sent that ended its last silence.
        waiting: The attempts that wait for a first text, each with what to call when it falls
            silent or answers again; oldest first.
        paced: Whether a rate limit of it is known, or may still become known.
    """

    __slots__ = (
        "__weakref__",
        "_ask_again_at",
        "_failures",
        "_key_turn",
        "_last_answered_start",
        "_late_starts",
        "_slow_probes",
        "_waiters_told",
        "answering_since",
        "circuit_breaker",
        "concurrency",
        "gone_until",
        "group",
        "in_process",
        "keys",
        "last_text_at",
        "name",
        "one_machine",
        "overloaded_until",
        "paced",
        "provider",
        "replicated",
        "retry_first",
        "speed",
        "streams",
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
        one_machine: bool = False,
        group: str = "",
    ) -> None:
        self.group = group
        self.replicated = replicated
        self.one_machine = one_machine
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
        self.waiting: dict[Any, Callable[[], None]] = {}  # by attempt
        self.speed = TargetSpeed(self.waiting, thinks=thinks)
        self._slow_probes: list[tuple[float, RequestProfile]] = []
        self._key_turn = 0
        self._failures = 0
        self._ask_again_at = 0.0
        self._waiters_told = False
        self._last_answered_start = -inf
        self._late_starts: deque[float] = deque(maxlen=SILENT_AFTER)
        self.last_text_at: float = -inf
        self.answering_since: float = -inf

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

    def turn_is_near(self, request: QueuedRequest, now: float) -> bool:
        """Whether only the pace of a key of its holds a request up; see `RateLimiter.is_near`."""
        until = now + BATCH_PATIENCE if request.batch else now
        return any(
            key.available_at() <= until and key.rate_limiter.is_near(request, now)
            for key in self.keys
        )

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
            self.paced = any(key.rate_limiter.counting for key in self.keys)

    # -- what it does -----------------------------------------------------------------------------

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
        tripped = self.circuit_breaker.tripped
        self.speed.record(seconds, now, profile, plain=plain, censored=not known, tripped=tripped)
        started = now - seconds
        was_silent = self.silent
        self.last_text_at = now
        self._last_answered_start = max(self._last_answered_start, started)
        self._failures = self.unreachable = 0
        if not late:
            self.circuit_breaker.record_fast(started=started, waiting=len(self.waiting))
        self._waiters_told = self._waiters_told and self.silent
        if was_silent and not self.silent:
            # What was sent before or during the silence is lost (a network that was down and is
            # back, for example): the requests that wait for it may ask again.
            self.answering_since = started
            self._wake_waiters()

    def record_probe(
        self,
        seconds: float | None,
        now: float,
        *,
        plain: bool,
        good: float,
        profile: RequestProfile = UNKNOWN,
    ) -> None:
        """Record the outcome of a probe.

        Args:
            seconds: To its first text; None if it failed or got no text.
            now: The engine's clock.
            plain: To a whole answer.
            good: The most seconds that would be in good time.
            profile: What is known of its request.
        """
        if seconds is not None:
            self._failures = self.unreachable = 0
            self.last_text_at = now
        if seconds is None or seconds <= good:
            self._slow_probes.clear()
            self.circuit_breaker.record_probe(now, well=seconds is not None)
            return
        self._slow_probes.append((seconds, profile))
        self.circuit_breaker.record_probe(now, well=False)
        if len(self._slow_probes) >= SLOW_PROBES:
            # It answers reliably, only slower than it used to: that is normal from now on.
            self.speed.relearn(self._slow_probes, now, plain=plain)
            self._slow_probes.clear()
            self.circuit_breaker.recover_on_trial()

    def record_lost(
        self, seconds: float, now: float, *, plain: bool, profile: RequestProfile = UNKNOWN
    ) -> None:
        """Record a loser that was closed before its first text: a right-censored sample.

        While the target is silent, that says nothing about its speed.
        """
        if self.silent:
            return
        tripped = self.circuit_breaker.tripped
        self.speed.record(seconds, now, profile, plain=plain, censored=True, tripped=tripped)

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

    def record_late(self, now: float, trip_after: int, *, started: float) -> None:
        """Record that a request is late: a mark against the target."""
        self._late_starts.append(started)
        self._count_against(SLOW_EVIDENCE, now, trip_after, started)

    def _count_against(self, evidence: float, now: float, trip_after: int, started: float) -> None:
        if self.in_process:
            return
        if self.circuit_breaker.record_slow(now, trip_after, evidence=evidence, started=started):
            self.speed.forget_held()
        if self.circuit_breaker.tripped and self.silent and not self._waiters_told:
            self._waiters_told = True
            self._wake_waiters()

    def record_failure(
        self,
        fault: Fault,
        now: float,
        rng: Random,
        key: int,
        trip_after: int,
        *,
        sent_at: float | None = None,
        reservation: Reservation | None = None,
    ) -> None:
        """Remember of a failure what concerns later requests.

        Args:
            fault: What went wrong.
            now: The engine's clock.
            rng: The engine's generator.
            key: Which of its keys was used.
            trip_after: How many slow or failed requests in a row trip it; 0 for never.
            sent_at: When the request was sent; None to learn no limit from its refusal.
            reservation: What was reserved for it.
        """
        self._note_reachability(fault)
        if fault.traits.blocks_account:
            self.keys[key].account.block(now, fault.kind)
        elif fault.kind is FaultKind.NOT_FOUND:
            self.gone_until = now + NOT_FOUND_SECONDS
        elif fault.kind is FaultKind.NO_STREAMING:
            self.streams = False
        elif fault.retry_after is not None:
            # Never before the hint, and with jitter, so that not all requests return at once.
            wait = fault.retry_after * (1 + _HINT_JITTER * rng.random())
            self.keys[key].not_before = max(self.keys[key].not_before, now + wait)
        if fault.kind is FaultKind.RATE_LIMIT or fault.status == 503:  # noqa: PLR2004
            self.overloaded_until = now + OVERLOADED_SECONDS
        if fault.kind is FaultKind.RATE_LIMIT:
            limiter = self.keys[key].rate_limiter
            before = None if reservation is None else reservation.requests - 1
            refusal = None if sent_at is None else Refusal(sent_at, before, fault.retry_after)
            limiter.record_refusal(now, self.keys[key].not_before, refusal)
            self.paced = self.paced or limiter.counting
        if fault.traits.sick:
            self._failures += 1
            self._ask_again_at = now + DOWN_SECONDS
        if trip_after and fault.traits.sick and not self.in_process:
            failed = fault.kind is not FaultKind.TIMEOUT
            tripped = self.circuit_breaker.record_slow(now, trip_after, failed=failed)
            if tripped:
                self.speed.forget_held()

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

"""What is remembered of a target between requests: its speed, its health, until when it is out.

All of it is shared by the requests, models, loops and threads of a process. Numbers are written
without a lock: two threads that count at the same moment may lose a sample, which nothing notices.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from math import inf
from threading import Lock
from typing import TYPE_CHECKING

from langchain_resilient.engine.circuit_breaker import HEALTHY_SLOW_SHARE, CircuitBreaker
from langchain_resilient.engine.rate_limiter import RateLimiter
from langchain_resilient.engine.time_model import LatencyHistogram
from langchain_resilient.faults import Fault, FaultKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from langchain_resilient.engine.rate_limiter import QueuedRequest, Reservation


class ConcurrencyLimiter:
    """A counting semaphore that never blocks: it is asked, and it calls back when it has room.

    The planner must go to another target while this one is full, so it cannot sit in `acquire()`.
    Shared by every event loop and thread of the process: a callback must bring itself home with
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
        """Whether nothing more may be sent now."""
        return self.limit is not None and self.used >= self.limit

    def take(self) -> bool:
        """Take one place if there is one."""
        if self.limit is None:
            return True
        with self._lock:
            if self.used >= self.limit:
                return False
            self.used += 1
            return True

    def give_back(self) -> None:
        """Return a place, and tell the oldest waiter."""
        if self.limit is None:
            return
        with self._lock:
            self.used -= 1
            waiter = self._waiters.popleft() if self._waiters else None
        if waiter is not None:
            waiter()

    def wait(self, waiter: Callable[[], None]) -> None:
        """Ask to be called once when a place comes free; at once if one is free already."""
        with self._lock:
            if self.limit is not None and self.used >= self.limit:
                self._waiters.append(waiter)
                return
        waiter()

    def forget(self, waiter: Callable[[], None]) -> None:
        """Wait no longer. A call that this waiter already got is passed to the next."""
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                return
            heir = self._waiters.popleft() if self._waiters and not self.full else None
        if heir is not None:
            heir()


ACCOUNT_OUT_SECONDS = 300.0
"""How long an account that refused the key or ran out of quota is left alone, at first."""


MAX_ACCOUNT_OUT_SECONDS = 3600.0


NOT_FOUND_SECONDS = 3600.0
"""How long a model id that does not exist is left alone."""


OVERLOADED_SECONDS = 5.0
"""For so long after a 429 or 503 nothing extra is sent to a target."""


ENOUGH_SAMPLES = 30
"""Fewer teach nothing about a 95th percentile."""


DOWN_AFTER = 5
"""So many failures in a row, of any requests, and a target is down."""


SILENT_AFTER = 5
"""So many late ones without an answer to anybody who came after, and a target is silent."""


LONG_SILENCE_SECONDS = 5.0


DOWN_SECONDS = 5.0
"""A target that is down is asked again by one request in so many seconds; if it speaks it is up."""


LATE_FACTOR = 1.2
"""So many times the learned percentile is late: a few percent slower than usual is not sick."""


HELD_SECONDS = 5.0
"""What is learned of a target's speed counts after so many seconds, if it has not tripped."""


SLOW_PROBES = 40
"""After so many probes that were answered, but late, a target is taken to have become slower."""


FEW_SAMPLES = 5
"""Enough for a first idea of how fast a target is."""


MAX_EXPECTED_SECONDS = 10.0
"""Seconds; a request that takes longer is answered by another."""


_REFRESH_SECONDS = 1.0
"""A learned percentile is this old at most."""


_RECENT_TEXT_SECONDS = 30.0


class Account:
    """The key that several targets share: a refused key or an empty purse stops them all."""

    __slots__ = ("not_before", "strikes")

    def __init__(self) -> None:
        self.not_before: float = 0.0
        self.strikes: int = 0

    def block(self, now: float) -> None:
        """Leave it alone for five minutes, doubling up to an hour while it stays out."""
        if now >= self.not_before:
            out = min(MAX_ACCOUNT_OUT_SECONDS, ACCOUNT_OUT_SECONDS * 2**self.strikes)
            self.strikes += 1
            self.not_before = now + out


class TargetKey:
    """One key of a target: its account, and until when this model is limited for it.

    Attributes:
        rate_limiter: Spreads what is sent with this key to this model.
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
        keys: Asked in turn, the limited and dead ones left out.
        concurrency: Its `max_concurrency`.
        gone_until: Its model does not exist; not asked until then.
        strained_until: It answered 429 or 503 lately: nothing extra is sent to it.
        streams: False once it refused to stream: then it is asked plainly.
        retry_first: Its `Target.retry_first`.
        in_process: It is this process: asking it twice at once only slows both down.
        circuit_breaker: Whether it is well.
        first_texts: Seconds to the first text.
        answers: Seconds to a whole answer, where it is asked without streaming.
        pauses: Seconds of the longest pause in each whole stream.
        spoke_at: When text last came from it.
        back_since: When the request was sent that ended its last silence.
        waiting: Who waits for a first text from it: told when it trips, oldest first.
        paced: Whether a limit of it is known, or may still be.
    """

    __slots__ = (
        "_ask_again_at",
        "_expected",
        "_failures",
        "_held_samples",
        "_last_answered_start",
        "_late_starts",
        "_next_key",
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
        "retry_first",
        "streams",
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
    ) -> None:
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
        self.first_texts = LatencyHistogram()
        self.answers = LatencyHistogram()
        self.pauses = LatencyHistogram()
        self.waiting: dict[object, Callable[[], None]] = {}
        self._slow_probes: list[float] = []
        self._next_key = 0
        self._failures = 0
        self._ask_again_at = 0.0
        self._waiters_told = False
        self._last_answered_start = -inf
        self._held_samples: deque[tuple[float, float, bool, bool]] = deque()
        self._late_starts: deque[float] = deque(maxlen=SILENT_AFTER)
        self.last_text_at: float = -inf
        self.answering_since: float = -inf
        self._expected: dict[bool, tuple[float, float]] = {}
        self._percentiles: dict[tuple[float, bool], tuple[float, float | None]] = {}
        self._typical_pause = (0.0, 0.0)

    # -- when it may be asked -------------------------------------------------------------------

    def available_at(self, *, ignore_block: bool = False) -> float:
        """The earliest time at which it may be asked.

        Args:
            ignore_block: Whatever is remembered of its accounts and model; only its own hint holds.
        """
        if ignore_block:
            return min([key.not_before for key in self.keys])
        if len(self.keys) == 1:
            return max(self.gone_until, self.keys[0].available_at())
        return max(self.gone_until, min([key.available_at() for key in self.keys]))

    def next_key(self, now: float, request: QueuedRequest | None = None) -> int:
        """Choose the key for the next request: in turn, those that may be used now first."""
        count = len(self.keys)
        if count == 1:
            return 0
        self._next_key += 1
        turns = [(self._next_key + i) % count for i in range(count)]
        usable = [i for i in turns if self.keys[i].available_at() <= now]
        if request is not None and self.paced and usable:
            return min(usable, key=lambda i: max(now, self.keys[i].rate_limiter.turn_at(request)))
        return usable[0] if usable else min(turns, key=lambda i: self.keys[i].not_before)

    # -- its pace -------------------------------------------------------------------------------

    @property
    def limited(self) -> bool:
        """Whether a limit of its rate is known."""
        if len(self.keys) == 1:
            return self.keys[0].rate_limiter.active
        return any(key.rate_limiter.active for key in self.keys)

    def turn_at(self, request: QueuedRequest) -> float:
        """When a request's turn is at one of its keys; see `RateLimiter.turn_at`."""
        if len(self.keys) == 1:
            return self.keys[0].rate_limiter.turn_at(request)
        return min(
            [max(key.available_at(), key.rate_limiter.turn_at(request)) for key in self.keys]
        )

    def queues(self, now: float) -> list[RateLimiter]:
        """Where to stand in line for it: with the keys that are no worse than limited."""
        if not self.paced or self.gone_until > now:
            return []
        return [key.rate_limiter for key in self.keys if key.account.not_before <= now]

    def read_rate_limits(
        self, key: int, stream: object, reservation: Reservation | None, now: float
    ) -> None:
        """Learn what a provider states about its limits in the head of an answer.

        Args:
            key: Which of the target's keys was used.
            stream: The answer; `quota()` reads its headers, where the provider has any.
            reservation: What was reserved for the answer's request.
            now: The engine's clock.
        """
        rate_limiter = self.keys[key].rate_limiter
        if rate_limiter.wants_status(now):
            quota = getattr(stream, "quota", None)
            rate_limiter.observe(None if quota is None else quota(), reservation, now)
            self.paced = any(key.rate_limiter.active or key.rate_limiter.fresh for key in self.keys)

    # -- what is learned ------------------------------------------------------------------------

    def percentile(self, q: float, now: float, *, plain: bool) -> float | None:
        """The time by which a share `q` of its requests has spoken; None if it is not known yet.

        Args:
            q: From 0 to 1.
            now: The engine's clock.
            plain: Of whole answers, instead of first texts.
        """
        known = self._percentiles.get((q, plain))
        if known is not None and now < known[0]:
            return known[1]
        seen = self.answers if plain else self.first_texts
        found = seen.quantile(q) if seen.count >= ENOUGH_SAMPLES else None
        if found is None and known is not None and seen.count >= ENOUGH_SAMPLES:
            found = known[1]  # too many were closed early to tell: believe what was known before
        self._percentiles[q, plain] = (now + _REFRESH_SECONDS, found)
        return found

    def late_after(self, now: float, *, plain: bool, cold: float) -> float:
        """Seconds without text that count as evidence of sickness.

        A target that is not known yet gets four times the cold delay, and twice its slowest text:
        a model that thinks long is not sick.
        """
        learned = self.percentile(1 - HEALTHY_SLOW_SHARE, now, plain=plain)
        if learned is not None:
            return LATE_FACTOR * learned
        seen = self.answers if plain else self.first_texts
        return max(4 * cold, 2 * seen.slowest)

    def expected(self, now: float, *, plain: bool) -> float:
        """Return the mean seconds that one waits for it, at most `MAX_EXPECTED_SECONDS` each time.

        Infinity while it is unknown.
        """
        known = self._expected.get(plain)
        if known is not None and now < known[0]:
            return known[1]
        seen = self.answers if plain else self.first_texts
        mean = seen.mean_within(MAX_EXPECTED_SECONDS) if seen.count >= FEW_SAMPLES else None
        self._expected[plain] = (now + _REFRESH_SECONDS, inf if mean is None else mean)
        return inf if mean is None else mean

    def typical_pause(self, now: float) -> float:
        """Seconds that the longest pause of all but 1 % of its answers takes; 0 if unknown."""
        good_until, found = self._typical_pause
        if now >= good_until:
            known = self.pauses.quantile(0.99) if self.pauses.count >= ENOUGH_SAMPLES else None
            found = known or 0.0
            self._typical_pause = (now + _REFRESH_SECONDS, found)
        return found

    def learned_delay(self, now: float) -> float | None:
        """The time by which all but 5 % of its requests have spoken; None if it is unknown."""
        return self.percentile(1 - HEALTHY_SLOW_SHARE, now, plain=False)

    def record_first_text(
        self, seconds: float, now: float, *, plain: bool, late: bool, known: bool = True
    ) -> None:
        """Take in a first text (or a whole answer).

        Args:
            seconds: How long it took.
            now: The engine's clock.
            plain: It was a whole answer.
            late: That was held against it.
            known: False if it took longer, and nobody knows how long.
        """
        self._add_sample(seconds, now, plain=plain, censored=not known)
        started = now - seconds
        was_silent = self.silent
        self.last_text_at = now
        self._last_answered_start = max(self._last_answered_start, started)
        self._failures = 0
        if not late:
            self.circuit_breaker.record_fast(started=started)
        self._waiters_told = self._waiters_told and self.silent
        if was_silent and not self.silent:
            # What was sent before it fell silent, or into the silence, is lost (a network that was
            # down and is back): those who wait for it may ask again.
            self.answering_since = started
            self._wake_waiters()

    def record_longest_pause(self, longest_pause: float, now: float) -> None:
        """Take in the longest pause of a whole stream, in seconds."""
        self.pauses.add(longest_pause, now)

    def record_probe(self, seconds: float | None, now: float, *, plain: bool, good: float) -> None:
        """Take in what a probe heard.

        Args:
            seconds: To its first text; None if it failed or heard nothing.
            now: The engine's clock.
            plain: Of a whole answer.
            good: How many seconds would be in good time.
        """
        if seconds is not None:
            self._failures = 0
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
        """It answers, only slower than it used to: so that is how it is from now on."""
        seen = LatencyHistogram()
        for seconds in self._slow_probes:
            seen.add(seconds, now)
        self._slow_probes.clear()
        self._percentiles.clear()
        if plain:
            self.answers = seen
        else:
            self.first_texts = seen
        self.circuit_breaker.recover_on_trial()

    def record_lost(self, seconds: float, now: float, *, plain: bool) -> None:
        """Take in a loser: it had not spoken when it was closed.

        While the target is silent that says nothing of how fast it is.
        """
        if self.silent:
            return
        self._add_sample(seconds, now, plain=plain, censored=True)

    def _add_sample(self, seconds: float, now: float, *, plain: bool, censored: bool) -> None:
        """Keep a sample for a while before it counts: if the target trips, it was of its sickness.

        Without that each bout of slowness would teach that slow is normal, until none is noticed.
        """
        seen = self.answers if plain else self.first_texts
        if seen.count < ENOUGH_SAMPLES:
            seen.add(seconds, now, censored=censored)
            return
        if self.circuit_breaker.tripped:
            return
        held = self._held_samples
        held.append((seconds, now, plain, censored))
        with suppress(IndexError):  # another thread's trip emptied it
            while held[0][1] <= now - HELD_SECONDS:
                seconds, at, plain, censored = held.popleft()
                (self.answers if plain else self.first_texts).add(seconds, at, censored=censored)

    def record_late(self, now: float, trip_after: int, *, started: float) -> None:
        """Take in that a request to it is late."""
        self._late_starts.append(started)
        if self.in_process:
            return
        if self.circuit_breaker.record_slow(now, trip_after):
            self._held_samples.clear()
        if self.circuit_breaker.tripped and self.silent and not self._waiters_told:
            self._waiters_told = True
            self._wake_waiters()

    def record_failure(
        self, fault: Fault, now: float, rng: Random, key: int, trip_after: int
    ) -> None:
        """Remember what concerns later requests too.

        Args:
            fault: What went wrong.
            now: The engine's clock.
            rng: The engine's generator.
            key: Which of its keys was used.
            trip_after: How many slow or failed requests in a row trip it; 0 for never.
        """
        if fault.traits.blocks_account:
            self.keys[key].account.block(now)
        elif fault.kind is FaultKind.NOT_FOUND:
            self.gone_until = now + NOT_FOUND_SECONDS
        elif fault.kind is FaultKind.NO_STREAMING:
            self.streams = False
        elif fault.retry_after is not None:
            # Never before the hint, and not all at once after it.
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

    def record_success(self, key: int) -> None:
        """A good answer clears the account's record."""
        self.keys[key].account.strikes = 0

    @property
    def silent(self) -> bool:
        """Whether nobody has been answered who asked after the last five late ones did."""
        return (
            len(self._late_starts) == SILENT_AFTER
            and self._last_answered_start < self._late_starts[0]
        )

    def long_silent(self, now: float) -> bool:
        """Whether it has been silent for so long that nobody should be sent there for rescue."""
        return self.silent and now - self.last_text_at > LONG_SILENCE_SECONDS

    def down(self, now: float) -> bool:
        """Whether all that was asked of it lately failed, and it is not time to ask again."""
        return self._failures >= DOWN_AFTER and now < self._ask_again_at

    def record_send(self, now: float) -> None:
        """Take in that a request was sent to it: one at a time tries whether it is still down."""
        if self._failures >= DOWN_AFTER:
            self._ask_again_at = now + DOWN_SECONDS

    def is_healthy(self, now: float) -> bool:
        """Whether there is nothing against it."""
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
        """Tell those who are caught on it. A failing target tells them itself."""
        for wake in list(self.waiting.values()):
            wake()


def reset_if_all_tripped(states: Sequence[TargetState], now: float) -> None:
    """All targets have tripped: that says nothing of any of them (Envoy's panic threshold).

    Those that spoke lately are believed again; if none did, all are. Nothing trips for a while.
    """
    speaking = [s for s in states if now - s.last_text_at <= _RECENT_TEXT_SECONDS]
    for state in speaking or states:
        state.circuit_breaker.reset(now)

"""What a fleet knows of accounts, keys and targets: each process's news, told to all others.

A refused key or used-up credit holds for everybody at once, as does a provider's hint to come back
later. Evidence for and against a target is pooled: each process tells its own, and what all have
against it trips it as what one has would. That a target is sick is a hint: the reader's own network
may be well. It passes the target over and probes it once; a good answer clears it for all that had
it by hearsay. One process of the fleet probes at a time.
"""

from __future__ import annotations

from math import inf
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from weakref import WeakSet

from langchain_resilient.engine.circuit_breaker import (
    FAILED_EVIDENCE,
    FAST_EVIDENCE,
    PROBE_EXPIRY,
    SLOW_EVIDENCE,
    CircuitBreaker,
    credit_for,
)
from langchain_resilient.engine.target_state import Account
from langchain_resilient.faults import FaultKind
from langchain_resilient.fleet.times import FleetTimes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from langchain_resilient.engine.target_state import TargetKey, TargetState

POLL_SECONDS = 1.0
"""Seconds between two questions for news, while requests are sent."""

MAX_POLL_SECONDS = 4.0
"""The same where there was only evidence lately; whoever has news of its own asks at once."""

QUICK_SECONDS = 0.2
"""The same while a target is doubted; and the least between two reports of evidence."""

_DOUBTED = 0.3
"""Share of the evidence that trips a target, from which on it is doubted: one late request of five
is nothing unusual, and is told to the others with what follows."""

IDLE_SECONDS = 10.0
"""Seconds without a request after which nothing is asked any more."""

TRIP_SECONDS = 60.0
"""Seconds for which a trip is told to those who ask."""

DOUBT_SECONDS = 60.0
"""Seconds without more evidence after which what was there is forgotten."""

_SEVERAL = 0.8
"""Share of the evidence that is enough where several processes gave it.

What slows the requests of one process in a row, its network or its event loop, slows none of
another's."""

_DEFAULT_THRESHOLD = 5 * SLOW_EVIDENCE
"""Nats that trip a target of which this process has no request that says how many."""

CLAIM_SECONDS = 3.0
"""Seconds for which one process alone may probe."""

MIN_PAUSE_SECONDS = 1.0
"""Seconds of a provider's hint that are worth telling others."""


_ROUNDING = 1e-3
"""Nats that evidence may lose on its way."""

_LEAST = -1e6
"""Nats: written for no bound."""


class Counter(Protocol):
    """What a process counts of its calls; `FleetRecorder` is one."""

    def totals(self) -> str:
        """Everything so far, as text."""
        ...

    def forget(self) -> None:
        """Begin at 0."""
        ...


class _News(NamedTuple):
    kind: str
    name: str
    seconds: float
    detail: str


class FleetHealth:
    """The news of one process and for it: a part of its link.

    Args:
        wake: Makes the link ask soon.
        away: Whether the server cannot be used now.

    Attributes:
        members: How many processes asked lately.
    """

    script = "health"

    def __init__(self, wake: Callable[[], None], away: Callable[[], bool]) -> None:
        self.away = away
        self.members = 1
        self._wake = wake
        self._lock = Lock()
        self._ours: list[_News] = []
        self._sent: list[_News] = []
        self._known = self._known_samples = -1
        self._times = FleetTimes()
        self._poll_seconds = POLL_SECONDS
        self._asked_at = -inf
        self._ask_at = -inf
        self._busy_until = -inf
        self._counter: Counter | None = None
        self._counts = ""
        self._accounts: dict[str, SharedAccount] = {}
        self._breakers: dict[str, WeakSet[SharedCircuitBreaker]] = {}
        self._keys: dict[str, WeakSet[TargetKey]] = {}

    def account(self, name: str) -> SharedAccount:
        """Find the account of that name."""
        with self._lock:
            return self._accounts.setdefault(name, SharedAccount(name, self))

    def breaker(
        self, name: str, waiting: Mapping[Any, Callable[[], None]] | None = None
    ) -> SharedCircuitBreaker:
        """Make the circuit breaker of a target; several may have one name.

        Args:
            name: The target's on the server.
            waiting: Whom to wake when others doubt it: see `TargetState.waiting`.
        """
        breaker = SharedCircuitBreaker(name, self, {} if waiting is None else waiting)
        with self._lock:
            self._breakers.setdefault(name, WeakSet()).add(breaker)
        return breaker

    def watch(self, name: str, state: TargetState, *, times: bool = True) -> None:
        """Have a target's evidence and times pooled.

        Args:
            name: The target's on the server.
            state: The target's.
            times: Whether its times are; else it learns them for itself.
        """
        state.circuit_breaker = self.breaker(name, state.waiting)
        if times:
            with self._lock:
                self._times.watch(name, state.speed)

    def watch_key(self, name: str, key: TargetKey) -> None:
        """Have a key wait as long as its provider told anybody."""
        with self._lock:
            self._keys.setdefault(name, WeakSet()).add(key)

    def tell(self, kind: str, name: str, seconds: float, detail: str = "") -> None:
        """Tell the others; from any thread."""
        with self._lock:
            news = _News(kind, name, seconds, detail)
            if news not in self._ours:
                self._ours.append(news)
            self._ask_at = -inf
        self._wake()

    def count_with(self, counter: Counter) -> None:
        """Keep on the server what this process has counted."""
        self._counter = counter

    def doubt(self) -> None:
        """Tell soon what there is against a target."""
        with self._lock:
            self._ask_at = min(self._ask_at, self._asked_at + QUICK_SECONDS)
        self._wake()

    def note_request(self, now: float) -> None:
        """A request was answered or is late: news are wanted for a while."""
        if now > self._busy_until - IDLE_SECONDS / 2:
            idle = now > self._busy_until
            self._busy_until = now + IDLE_SECONDS
            if idle:
                self._wake()

    # -- as the link sees it ----------------------------------------------------------------------

    def due_at(self) -> float:
        """Once in a while when requests are sent; at once with news of our own."""
        if self._ours or self._sent or self._known < 0:
            return self._ask_at
        return self._ask_at if self._ask_at < self._busy_until else inf

    def keys(self, prefix: str) -> list[str]:
        """Those of the whole namespace, in one slot of a cluster."""
        base = f"{prefix}:{{health}}"
        return [base, f"{base}:members", f"{base}:times", f"{base}:counts"]

    def request(self, now: float) -> list[Any]:
        """Our news, and which of the others' we know."""
        doubts = self._doubts()
        with self._lock:
            self._sent += self._ours
            self._ours = []
            self._asked_at = now
            times = [
                _News("time", name, float(row.split(",")[1]), row)
                for name, row in self._times.news(now, self.members)
            ]
            news = [*self._sent, *doubts, *times, *self._new_counts()]
            known = [self._known, self._known_samples]
            return [0, *known, *(value for each in news for value in each)]

    def _doubts(self) -> list[_News]:
        """The evidence since the last time; it is told once, and lost with a reply that is."""
        return [
            _News("doubt", breaker.name, DOUBT_SECONDS, f"{evidence[0]:.6f}|{evidence[1]:.6f}")
            for breaker in self._all_breakers()
            if (evidence := breaker.take_evidence()) is not None
        ]

    def _new_counts(self) -> list[_News]:
        if self._counter is None:
            return []
        before, self._counts = self._counts, self._counter.totals()
        return [_News("counts", "", 0.0, self._counts)] if self._counts != before else []

    def _all_breakers(self) -> list[SharedCircuitBreaker]:
        with self._lock:
            named = list(self._breakers.values())
        return [breaker for breakers in named for breaker in breakers]

    def granted(self, reply: Sequence[Any], now: float, member: str) -> None:
        """Take the others' news."""
        with self._lock:
            self._sent = []
            quiet = self._known >= 0  # else it has only just come
            self._known = int(reply[1])
            self.members, self._known_samples = max(1, int(reply[2])), int(reply[3])
        times: dict[str, list[str]] = {}
        for i in range(4, len(reply), 5):
            kind, name, seconds, who, detail = reply[i : i + 5]
            if kind == "time":
                what, _, rest = detail.partition(",")
                row = f"{what},{seconds},{rest.partition(',')[2]}"  # its age by now
                times.setdefault(name, []).append(row)
            elif kind == "claim":
                for breaker in self._breakers.get(name, ()) if who == member else ():
                    breaker.probe_until = now + float(seconds)
            elif kind == "doubt":
                score, _, several = detail.partition("|")
                for breaker in self._breakers.get(name, ()):
                    breaker.take_pooled(float(score), now, several=several == "1")
            elif who != member:
                quiet = False
                self._learn(_News(kind, name, float(seconds), detail), now)
        for name, rows in times.items():
            self._times.learn(name, rows, now)
        doubted = any(breaker.suspicion > _DOUBTED for breaker in self._all_breakers())
        with self._lock:
            longer = min(MAX_POLL_SECONDS, 2 * self._poll_seconds)
            self._poll_seconds = longer if quiet and not doubted else POLL_SECONDS
            wait = QUICK_SECONDS if doubted else self._poll_seconds
            self._ask_at = -inf if self._ours else now + wait

    def _learn(self, news: _News, now: float) -> None:
        if news.kind == "account" and news.name in self._accounts:
            account = self._accounts[news.name]
            account.not_before = max(account.not_before, now + news.seconds)
            account.reason = FaultKind(news.detail) if news.detail else None
        elif news.kind == "limited":
            for key in self._keys.get(news.name, ()):
                key.not_before = max(key.not_before, now + news.seconds)
        for breaker in self._breakers.get(news.name, ()):
            if news.kind == "trip":
                breaker.suspect(now)
            elif news.kind == "well":
                breaker.cleared(now)

    def lost(self, now: float) -> None:
        """Go by what this process sees itself; news are kept."""
        for breaker in self._all_breakers():
            breaker.forget_pooled()
        self._ask_at = now + POLL_SECONDS

    def forked(self) -> None:
        """The parent process tells its own."""
        self._lock = Lock()
        self._ours, self._sent = [], []
        self._known = self._known_samples = -1
        self._times.forget()
        self._counts = ""
        if self._counter is not None:
            self._counter.forget()
        self._asked_at = self._ask_at = -inf
        for breaker in self._all_breakers():
            breaker.forget_pooled()


class SharedAccount(Account):
    """An account whose blocks all processes keep; made by `FleetHealth.account`."""

    __slots__ = ("_health", "_name")

    def __init__(self, name: str, health: FleetHealth) -> None:
        super().__init__()
        self._name, self._health = name, health

    def block(self, now: float, reason: FaultKind | None = None) -> None:
        """Do not ask it for a while, in any process."""
        before = self.not_before
        super().block(now, reason)
        if self.not_before > before:
            detail = "" if reason is None else reason.value
            self._health.tell("account", self._name, self.not_before - now, detail)


class SharedCircuitBreaker(CircuitBreaker):
    """A target's circuit breaker, whose evidence is pooled; made by `FleetHealth.breaker`.

    What this process saw counts as ever. Beside it stands what all have seen together: the less
    well founded of the two, since it trips by hearsay only.

    Attributes:
        name: The target's on the server.
        hearsay: Whether it tripped because of what other processes said.
        probe_until: Until when this process is the one that probes.
    """

    __slots__ = (
        "__weakref__",
        "_floor",
        "_health",
        "_peak",
        "_pooled",
        "_several",
        "_sum",
        "_waiting",
        "hearsay",
        "name",
        "probe_until",
    )  # fmt: skip

    def __init__(
        self, name: str, health: FleetHealth, waiting: Mapping[Any, Callable[[], None]]
    ) -> None:
        super().__init__()
        self.name, self._health, self._waiting = name, health, waiting
        self.hearsay = False
        self.probe_until = -inf
        self._pooled = self._floor = 0.0
        self._several = False
        self._sum, self._peak = 0.0, -inf  # since the last report: see `health.lua`

    @property
    def score(self) -> float:
        """The evidence against it, in nats: of this process, or of all if that is more."""
        return max(0.0, self._score, self._pooled)

    @property
    def suspicion(self) -> float:
        """The same as a share of what trips it; 1 where others have found it sick."""
        if self.tripped:
            return 1.0 if self.hearsay else super().suspicion
        threshold = self._threshold if self._threshold < inf else _DEFAULT_THRESHOLD
        return min(1.0, max(0.0, self._score / threshold, self._pooled / self._pooled_threshold))

    @property
    def _pooled_threshold(self) -> float:
        threshold = self._threshold if self._threshold < inf else _DEFAULT_THRESHOLD
        return threshold * (_SEVERAL if self._several else 1.0) - _ROUNDING

    # -- what this process sees -------------------------------------------------------------------

    def record_slow(
        self,
        now: float,
        trip_after: int,
        *,
        failed: bool = False,
        evidence: float = SLOW_EVIDENCE,
        started: float = inf,
    ) -> bool:
        """Count a late or failed request; evidence and a trip are told."""
        self._health.note_request(now)
        was_tripped, fresh = self.tripped, started > self._fast_started
        tripped = super().record_slow(
            now, trip_after, failed=failed, evidence=evidence, started=started
        )
        if was_tripped or now < self._no_trip_until:
            return False
        if tripped:
            self.hearsay = False
        else:
            if fresh:  # credit from answers to requests that were sent before it is void
                self._floor = 0.0
                self._peak, self._pooled = max(self._peak, 0.0), max(self._pooled, 0.0)
            self._count(FAILED_EVIDENCE if failed else evidence)
            if self._pooled < self._pooled_threshold:
                self._health.doubt()
                return False
            self._trip(now)
            self.hearsay = True
        self._health.tell("trip", self.name, TRIP_SECONDS)
        return True

    def record_fast(self, *, started: float, waiting: int = 0) -> None:
        """Count an answer in good time; one that was sent after hearsay disproves it."""
        self._health.note_request(started)
        if self.tripped and self.hearsay and started > self.tripped_at:
            self._recover()
            return
        if not self.tripped:
            self._floor = min(self._floor, credit_for(waiting * self._health.members))
            self._count(FAST_EVIDENCE)
            self._peak = max(self._peak, self._floor)
            self._pooled = max(self._pooled, self._floor)
        super().record_fast(started=started, waiting=waiting)

    def _count(self, evidence: float) -> None:
        """Add to the evidence that is pooled."""
        self._sum += evidence
        self._peak += evidence
        self._pooled += evidence

    # -- what all see -----------------------------------------------------------------------------

    def take_evidence(self) -> tuple[float, float] | None:
        """What is to be told, once: the sum since the last time, and the highest of its ends."""
        evidence = self._sum, max(self._peak, _LEAST)
        self._sum, self._peak = 0.0, -inf
        return evidence if evidence[0] else None

    def take_pooled(self, score: float, now: float, *, several: bool) -> None:
        """Take what all processes have against it, and whether several gave it."""
        before = self.suspicion
        self._pooled, self._several = max(score + self._sum, self._peak), several
        if self._pooled >= self._pooled_threshold:
            self.suspect(now)
        elif self.suspicion > before:
            self._wake()

    def forget_pooled(self) -> None:
        """Go by what this process sees alone."""
        self._pooled, self._sum, self._peak = 0.0, 0.0, -inf
        self._several = False

    def suspect(self, now: float) -> None:
        """Other processes found the target sick: pass it over, and probe it soon."""
        if not self.tripped and now >= self._no_trip_until:
            self._trip(now)
            if self._threshold == inf:  # no request of ours has set it
                self._threshold = _DEFAULT_THRESHOLD
            self._probe_at = now
            self.hearsay = True
            self._wake()

    def _wake(self) -> None:
        """Have the requests that wait for it look again when to ask another."""
        for wake in list(self._waiting.values()):
            wake()

    def claim_probe(self, now: float) -> bool:
        """Whether to probe it now: one process of the fleet does, unless the server is away."""
        if not self.tripped or now < self._probe_at:
            return False
        if now <= self.probe_until or now > self._probe_at + PROBE_EXPIRY or self._health.away():
            return super().claim_probe(now)
        self._health.tell("claim", self.name, CLAIM_SECONDS)
        return False

    def record_probe(self, now: float, *, well: bool) -> None:
        """Count the outcome of a probe; a good one disproves hearsay at once."""
        if well and self.tripped and self.hearsay:
            self._recover()
            return
        super().record_probe(now, well=well)

    def cleared(self, now: float) -> None:
        """Another process found it well: enough for hearsay; else it is probed soon."""
        self.forget_pooled()
        if self.tripped and self.hearsay:
            super()._recover()
        elif self.tripped:
            self._probe_at = min(self._probe_at, now)

    def reset(self, now: float) -> None:
        """Clear it, which says nothing of its health to others."""
        self.forget_pooled()
        super()._recover()
        super().reset(now)

    def _trip(self, now: float) -> None:
        self.forget_pooled()
        super()._trip(now)

    def _recover(self, *, half: bool = False) -> None:
        told = self.tripped and not half
        super()._recover(half=half)
        self.probe_until = -inf
        if told:
            self._health.tell("well", self.name, TRIP_SECONDS)

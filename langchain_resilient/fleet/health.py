"""What a fleet knows of accounts, keys and targets: each process's news, told to all others.

A refused key or used-up credit holds for everybody at once, as does a provider's hint to come back
later. That a target is sick is a hint: the reader's own network may be well. It passes the target
over and probes it once; a good answer clears it for all that had it by hearsay. One process of the
fleet probes at a time.
"""

from __future__ import annotations

from math import inf
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_resilient.engine.circuit_breaker import PROBE_EXPIRY, CircuitBreaker
from langchain_resilient.engine.target_state import Account
from langchain_resilient.faults import FaultKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_resilient.engine.target_state import TargetKey

POLL_SECONDS = 1.0
"""Seconds between two questions for news, while requests are sent."""

IDLE_SECONDS = 10.0
"""Seconds without a request after which nothing is asked any more."""

TRIP_SECONDS = 60.0
"""Seconds for which a trip is told to those who ask."""

CLAIM_SECONDS = 3.0
"""Seconds for which one process alone may probe."""

MIN_PAUSE_SECONDS = 1.0
"""Seconds of a provider's hint that are worth telling others."""


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
    """

    script = "health"
    suffix = ""

    def __init__(self, wake: Callable[[], None], away: Callable[[], bool]) -> None:
        self.away = away
        self._wake = wake
        self._lock = Lock()
        self._ours: list[_News] = []
        self._sent: list[_News] = []
        self._known = -1
        self._ask_at = -inf
        self._busy_until = -inf
        self._accounts: dict[str, SharedAccount] = {}
        self._breakers: dict[str, list[SharedCircuitBreaker]] = {}
        self._keys: dict[str, list[TargetKey]] = {}

    def account(self, name: str) -> SharedAccount:
        """Find the account of that name."""
        with self._lock:
            return self._accounts.setdefault(name, SharedAccount(name, self))

    def breaker(self, name: str) -> SharedCircuitBreaker:
        """Make the circuit breaker of a target; several may have one name."""
        breaker = SharedCircuitBreaker(name, self)
        with self._lock:
            self._breakers.setdefault(name, []).append(breaker)
        return breaker

    def watch_key(self, name: str, key: TargetKey) -> None:
        """Have a key wait as long as its provider told anybody."""
        with self._lock:
            self._keys.setdefault(name, []).append(key)

    def tell(self, kind: str, name: str, seconds: float, detail: str = "") -> None:
        """Tell the others; from any thread."""
        with self._lock:
            news = _News(kind, name, seconds, detail)
            if news not in self._ours:
                self._ours.append(news)
            self._ask_at = -inf
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
        """Once a second while requests are sent; at once with news of our own."""
        if self._ours or self._sent or self._known < 0:
            return self._ask_at
        return self._ask_at if self._ask_at < self._busy_until else inf

    def keys(self, prefix: str) -> list[str]:
        """One for the whole namespace."""
        return [f"{prefix}:{{health}}"]

    def request(self, now: float) -> list[Any]:  # noqa: ARG002  # a part's
        """Our news, and which of the others' we know."""
        with self._lock:
            self._sent += self._ours
            self._ours = []
            return [0, self._known, *(value for news in self._sent for value in news)]

    def granted(self, reply: Sequence[Any], now: float, member: str) -> None:
        """Take the others' news."""
        with self._lock:
            self._sent = []
            self._known = int(reply[1])
            self._ask_at = now + POLL_SECONDS
        for i in range(2, len(reply), 5):
            kind, name, seconds, who, detail = reply[i : i + 5]
            if kind == "claim":
                for breaker in self._breakers.get(name, ()) if who == member else ():
                    breaker.probe_until = now + float(seconds)
            elif who != member:
                self._learn(_News(kind, name, float(seconds), detail), now)

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
        self._ask_at = now + POLL_SECONDS

    def forked(self) -> None:
        """The parent process tells its own."""
        self._lock = Lock()
        self._ours, self._sent, self._known = [], [], -1


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
    """A target's circuit breaker, which tells its trips; made by `FleetHealth.breaker`.

    Attributes:
        hearsay: Whether it tripped because another process said so.
        probe_until: Until when this process is the one that probes.
    """

    __slots__ = ("_health", "_name", "hearsay", "probe_until")

    def __init__(self, name: str, health: FleetHealth) -> None:
        super().__init__()
        self._name, self._health = name, health
        self.hearsay = False
        self.probe_until = -inf

    def record_slow(self, now: float, *args: Any, **kwargs: Any) -> bool:
        """Count a late or failed request; a trip is told."""
        self._health.note_request(now)
        tripped = super().record_slow(now, *args, **kwargs)
        if tripped:
            self.hearsay = False
            self._health.tell("trip", self._name, TRIP_SECONDS)
        return tripped

    def record_fast(self, *, started: float, waiting: int = 0) -> None:
        """Count an answer in good time; one that was sent after hearsay disproves it."""
        self._health.note_request(started)
        if self.tripped and self.hearsay and started > self.tripped_at:
            self._recover()
            return
        super().record_fast(started=started, waiting=waiting)

    def claim_probe(self, now: float) -> bool:
        """Whether to probe it now: one process of the fleet does, unless the server is away."""
        if not self.tripped or now < self._probe_at:
            return False
        if now <= self.probe_until or now > self._probe_at + PROBE_EXPIRY or self._health.away():
            return super().claim_probe(now)
        self._health.tell("claim", self._name, CLAIM_SECONDS)
        return False

    def record_probe(self, now: float, *, well: bool) -> None:
        """Count the outcome of a probe; a good one disproves hearsay at once."""
        if well and self.tripped and self.hearsay:
            self._recover()
            return
        super().record_probe(now, well=well)

    def suspect(self, now: float) -> None:
        """Another process found the target sick: pass it over, and probe it soon."""
        if not self.tripped and now >= self._no_trip_until:
            self._trip(now)
            self._threshold = min(self._threshold, 5.0)  # where no request of ours has set it
            self._probe_at = now
            self.hearsay = True

    def cleared(self, now: float) -> None:
        """Another process found it well: enough for hearsay; else it is probed soon."""
        if self.tripped and self.hearsay:
            super()._recover()
        elif self.tripped:
            self._probe_at = min(self._probe_at, now)

    def reset(self, now: float) -> None:
        """Clear it, which says nothing of its health to others."""
        super()._recover()
        super().reset(now)

    def _recover(self, *, half: bool = False) -> None:
        told = self.tripped and not half
        super()._recover(half=half)
        self.probe_until = -inf
        if told:
            self._health.tell("well", self._name, TRIP_SECONDS)

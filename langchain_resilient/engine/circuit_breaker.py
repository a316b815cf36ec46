"""Is a target sick? A sequential test over its requests, a trip, and probes until it is well.

Each request to a target says "slow" (no text by the 95th percentile or so, or a failure) or "fast".
A healthy target says slow 5 times in 100. CUSUM (Page, "Continuous Inspection Schemes", Biometrika
1954) adds up the log-likelihood ratio of "slow 70 %" against "slow 5 %": five in a row trip it,
scattered ones never do. A budget of hedges alone cannot survive a target that hangs: at 5 % extra
load, 19 of 20 requests would wait for their limit.
"""

from __future__ import annotations

from math import inf, log

NORMAL = 0.05
"""The share of slow requests of a healthy target."""


FAILING = 0.005
"""The share of failing requests of a healthy target."""


_SICK = 0.7


_UP = log(_SICK / NORMAL)


_UP_FAILED = log(_SICK / FAILING)


_DOWN = log((1 - _SICK) / (1 - NORMAL))


_ON_TRIAL = 0.6


PROBE_SECONDS = 1.0
"""The first wait between probes; it doubles."""


MAX_PROBE_SECONDS = 30.0


PROBE_AGAIN = 0.5
"""The wait after a probe that went well."""


PROBES_WELL = 3
"""So many good probes in a row, and the target is well."""


FORGOTTEN = 60.0
"""Nobody came by to probe for so long: the next request simply tries it."""


MUTED = 30.0
"""After a panic nothing trips for so long."""


class CircuitBreaker:
    """The evidence about one target. Times are the engine's clock.

    Attributes:
        tripped: It is left out while others are well.
        tripped_at: When it last tripped.
        trips: How often it has tripped.
    """

    __slots__ = ("_enough", "_muted_until", "_probe_at", "_probe_wait", "_score", "_well",
                 "tripped", "tripped_at", "trips")  # fmt: skip

    def __init__(self) -> None:
        self.tripped: bool = False
        self.tripped_at: float = float("-inf")
        self.trips: int = 0
        self._score = 0.0
        self._enough = inf
        self._muted_until = 0.0
        self._probe_at = 0.0
        self._probe_wait = PROBE_SECONDS
        self._well = 0

    def slow(self, now: float, trip_after: int, *, failed: bool = False) -> bool:
        """Take in a late or failed request.

        Args:
            now: The engine's clock.
            trip_after: How many late ones in a row trip it; of failed ones it takes fewer.
            failed: It did not only take long.

        Returns:
            Whether this one tripped it.
        """
        if self.tripped or now < self._muted_until:
            return False
        self._score += _UP_FAILED if failed else _UP
        self._enough = trip_after * _UP - 1e-9
        if self._score < self._enough:
            return False
        self._trip(now)
        return True

    def fast(self, *, started: float) -> None:
        """Take in a request that was answered in good time.

        Args:
            started: When it was sent: what was sent before the trip says nothing of the time since.
        """
        if self.tripped:
            if started > self.tripped_at:
                self._count_well()
        elif self._score:
            self._score = max(0.0, self._score + _DOWN)

    def claim_probe(self, now: float) -> bool:
        """Whether it should be probed now; who asks first is the one to do it."""
        if not self.tripped or now < self._probe_at:
            return False
        if now > self._probe_at + FORGOTTEN:
            self._recover(half=True)
            return False
        # Until its outcome is known there is no second one.
        self._probe_at = now + FORGOTTEN
        return True

    def probed(self, now: float, *, well: bool) -> None:
        """Take in what came of a probe."""
        if not self.tripped:
            return
        if not well:
            self._well = 0
            self._probe_at = now + self._probe_wait
            self._probe_wait = min(MAX_PROBE_SECONDS, 2 * self._probe_wait)
            return
        self._probe_at = now + PROBE_AGAIN
        self._count_well()

    def _count_well(self) -> None:
        self._well += 1
        if self._well >= PROBES_WELL:
            self._recover()

    def believe(self) -> None:
        """It is well, as far as one can tell without a good probe."""
        self._recover(half=True)

    def calm(self, now: float) -> None:
        """All targets are out, so it says nothing about this one: ask it, and trip nothing."""
        self._recover()
        self._muted_until = now + MUTED

    def _trip(self, now: float) -> None:
        if now - self.tripped_at > FORGOTTEN:
            # One that trips again and again is probed no more often for that.
            self._probe_wait = PROBE_SECONDS
        self.tripped = True
        self.tripped_at = now
        self.trips += 1
        self._score = 0.0
        self._well = 0
        self._probe_at = now + self._probe_wait

    def _recover(self, *, half: bool = False) -> None:
        self.tripped = False
        # One that nobody has probed is on trial: the half of it puts it out again.
        self._score = self._enough * _ON_TRIAL if half else 0.0

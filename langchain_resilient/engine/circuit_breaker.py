"""Is a target sick? A sequential test over its requests, a trip, and probes until it is well.

Each request to a target says "slow" (no text by the 95th percentile or so, or a failure) or "fast".
A healthy target says slow 5 times in 100. CUSUM (Page, "Continuous Inspection Schemes", Biometrika
1954) adds up the log-likelihood ratio of "slow 70 %" against "slow 5 %": five in a row trip it,
scattered ones never do. A budget of hedges alone cannot survive a target that hangs: at 5 % extra
load, 19 of 20 requests would wait for their limit.
"""

from __future__ import annotations

from math import inf, log

HEALTHY_SLOW_SHARE = 0.05
"""The share of slow requests of a healthy target."""


HEALTHY_FAILING_SHARE = 0.005
"""The share of failing requests of a healthy target."""


_SICK_SLOW_SHARE = 0.7


_SLOW_EVIDENCE = log(_SICK_SLOW_SHARE / HEALTHY_SLOW_SHARE)


_FAILED_EVIDENCE = log(_SICK_SLOW_SHARE / HEALTHY_FAILING_SHARE)


_FAST_EVIDENCE = log((1 - _SICK_SLOW_SHARE) / (1 - HEALTHY_SLOW_SHARE))


_ON_TRIAL = 0.6


PROBE_SECONDS = 1.0
"""The first wait between probes; it doubles."""


MAX_PROBE_SECONDS = 30.0


PROBE_AGAIN = 0.5
"""The wait after a probe that went well."""


PROBES_TO_RECOVER = 3
"""So many good probes in a row, and the target is well."""


PROBE_EXPIRY = 60.0
"""Nobody came by to probe for so long: the next request simply tries it."""


NO_TRIP_SECONDS = 30.0
"""After a panic nothing trips for so long."""


class CircuitBreaker:
    """The evidence about one target. Times are the engine's clock.

    Attributes:
        tripped: It is left out while others are well.
        tripped_at: When it last tripped.
        trips: How often it has tripped.
    """

    __slots__ = (
        "_good_probes",
        "_no_trip_until",
        "_probe_at",
        "_probe_wait",
        "_score",
        "_threshold",
        "tripped",
        "tripped_at",
        "trips",
    )  # fmt: skip

    def __init__(self) -> None:
        self.tripped: bool = False
        self.tripped_at: float = float("-inf")
        self.trips: int = 0
        self._score = 0.0
        self._threshold = inf
        self._no_trip_until = 0.0
        self._probe_at = 0.0
        self._probe_wait = PROBE_SECONDS
        self._good_probes = 0

    def record_slow(self, now: float, trip_after: int, *, failed: bool = False) -> bool:
        """Take in a late or failed request.

        Args:
            now: The engine's clock.
            trip_after: How many late ones in a row trip it; of failed ones it takes fewer.
            failed: It did not only take long.

        Returns:
            Whether this one tripped it.
        """
        if self.tripped or now < self._no_trip_until:
            return False
        self._score += _FAILED_EVIDENCE if failed else _SLOW_EVIDENCE
        self._threshold = trip_after * _SLOW_EVIDENCE - 1e-9
        if self._score < self._threshold:
            return False
        self._trip(now)
        return True

    def record_fast(self, *, started: float) -> None:
        """Take in a request that was answered in good time.

        Args:
            started: When it was sent: what was sent before the trip says nothing of the time since.
        """
        if self.tripped:
            if started > self.tripped_at:
                self._count_good_probe()
        elif self._score:
            self._score = max(0.0, self._score + _FAST_EVIDENCE)

    def claim_probe(self, now: float) -> bool:
        """Whether it should be probed now; who asks first is the one to do it."""
        if not self.tripped or now < self._probe_at:
            return False
        if now > self._probe_at + PROBE_EXPIRY:
            self._recover(half=True)
            return False
        # Until its outcome is known there is no second one.
        self._probe_at = now + PROBE_EXPIRY
        return True

    def record_probe(self, now: float, *, well: bool) -> None:
        """Take in what came of a probe."""
        if not self.tripped:
            return
        if not well:
            self._good_probes = 0
            self._probe_at = now + self._probe_wait
            self._probe_wait = min(MAX_PROBE_SECONDS, 2 * self._probe_wait)
            return
        self._probe_at = now + PROBE_AGAIN
        self._count_good_probe()

    def _count_good_probe(self) -> None:
        self._good_probes += 1
        if self._good_probes >= PROBES_TO_RECOVER:
            self._recover()

    def recover_on_trial(self) -> None:
        """It is well, as far as one can tell without a good probe."""
        self._recover(half=True)

    def reset(self, now: float) -> None:
        """All targets are out, so it says nothing about this one: ask it, and trip nothing."""
        self._recover()
        self._no_trip_until = now + NO_TRIP_SECONDS

    def _trip(self, now: float) -> None:
        if now - self.tripped_at > PROBE_EXPIRY:
            # One that trips again and again is probed no more often for that.
            self._probe_wait = PROBE_SECONDS
        self.tripped = True
        self.tripped_at = now
        self.trips += 1
        self._score = 0.0
        self._good_probes = 0
        self._probe_at = now + self._probe_wait

    def _recover(self, *, half: bool = False) -> None:
        self.tripped = False
        # One that nobody has probed is on trial: the half of it puts it out again.
        self._score = self._threshold * _ON_TRIAL if half else 0.0

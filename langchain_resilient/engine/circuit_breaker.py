"""Takes a sick target out: a sequential test over its requests, a trip, probes until it recovers.

Each request to a target counts as slow (no text by about the 95th percentile, or a failure) or as
fast. On a healthy target 5 in 100 are slow. CUSUM (Page, "Continuous Inspection Schemes",
Biometrika 1954) sums the log-likelihood ratios of "70 % are slow" against "5 % are slow": five slow
ones in a row trip the breaker, scattered ones never do. A count of failures in a row, or a rate
over a window, would be either slower to notice or quicker to be wrong.

A request that was closed while it was silent, because another answered first, says something too:
as much as its silence was unlikely for a healthy target (`silence_evidence`). Were that not
counted, a target that hangs would go unnoticed for as long as its fallback is fast.

A hedge budget alone cannot survive a target that hangs: at 5 % extra load, 19 of 20 requests would
wait for their time limit.
"""

from __future__ import annotations

from math import exp, inf, log

HEALTHY_SLOW_SHARE = 0.05
"""The share of slow requests of a healthy target."""

HEALTHY_FAILING_SHARE = 0.005
"""The share of failing requests of a healthy target."""

_SICK_SLOW_SHARE = 0.7
"""The share of slow requests of a sick target; the test is for a change from one to the other."""

SLOW_EVIDENCE = log(_SICK_SLOW_SHARE / HEALTHY_SLOW_SHARE)
"""Nats for one slow request: the unit of `Health.trip_after`."""

FAILED_EVIDENCE = log(_SICK_SLOW_SHARE / HEALTHY_FAILING_SHARE)
"""Nats for one that failed."""

FAST_EVIDENCE = log((1 - _SICK_SLOW_SHARE) / (1 - HEALTHY_SLOW_SHARE))
"""Nats for one that was answered in good time: below 0."""


def silence_evidence(share: float) -> float:
    """The log-likelihood ratio of a silence: of a target of which 70 % hang, against a healthy one.

    Args:
        share: Of a healthy target's requests, those that are silent for as long; above 0.

    Returns:
        Nats; near 0 for a short silence, and `SLOW_EVIDENCE` for one that 5 % of all exceed.
    """
    return log((_SICK_SLOW_SHARE + (1 - _SICK_SLOW_SHARE) * share) / share)


def silent_share(evidence: float) -> float:
    """The inverse of `silence_evidence`: how unusual a silence of so many nats is; at most 1."""
    return min(1.0, _SICK_SLOW_SHARE / max(1e-9, exp(evidence) - (1 - _SICK_SLOW_SHARE)))


def credit_for(waiting: int) -> float:
    """The least evidence, below 0, beside so many requests that wait: twice their slow ones."""
    return -2 * HEALTHY_SLOW_SHARE * SLOW_EVIDENCE * waiting


_ON_TRIAL = 0.6
"""Share of the threshold at which a target comes back that no probe has cleared."""

PROBE_SECONDS = 1.0
"""Seconds before the first probe; each failed one doubles them."""

MAX_PROBE_SECONDS = 30.0
"""The longest wait between probes."""

PROBE_AGAIN = 0.5
"""Seconds after a good probe before the next."""

PROBES_TO_RECOVER = 3
"""Good probes in a row after which the target has recovered."""

PROBE_EXPIRY = 60.0
"""Seconds without the outcome of any probe, after which the next request simply tries it."""

NO_TRIP_SECONDS = 30.0
"""Seconds in which nothing trips after all targets had tripped."""


class CircuitBreaker:
    """The evidence for and against one target. Times are by the engine's clock.

    Attributes:
        tripped: The target is passed over while others are healthy.
        tripped_at: When it last tripped.
        trips: How often it has tripped.
        sick_at: When something last showed that a tripped target is sick: the trip, or a probe.
    """

    __slots__ = (
        "_due_since",
        "_fast_started",
        "_good_probes",
        "_no_trip_until",
        "_probe_at",
        "_probe_wait",
        "_score",
        "_threshold",
        "sick_at",
        "tripped",
        "tripped_at",
        "trips",
    )  # fmt: skip

    def __init__(self) -> None:
        self.tripped: bool = False
        self.tripped_at: float = float("-inf")
        self.trips: int = 0
        self.sick_at: float = float("-inf")
        self._score = 0.0
        self._threshold = inf
        self._no_trip_until = 0.0
        self._probe_at = 0.0
        self._due_since = 0.0
        self._probe_wait = PROBE_SECONDS
        self._good_probes = 0
        self._fast_started = -inf

    @property
    def score(self) -> float:
        """The evidence against it so far, in nats; at least 0."""
        return max(0.0, self._score)

    @property
    def good_probes(self) -> int:
        """Good probes in a row since it tripped."""
        return self._good_probes

    @property
    def suspicion(self) -> float:
        """The same as a share of what trips it."""
        return min(1.0, max(0.0, self._score) / self._threshold)

    def record_slow(
        self,
        now: float,
        trip_after: int,
        *,
        failed: bool = False,
        evidence: float = SLOW_EVIDENCE,
        started: float = inf,
    ) -> bool:
        """Count a late or failed request.

        Args:
            now: The engine's clock.
            trip_after: How many late requests in a row trip it; failed ones weigh more.
            failed: It failed, rather than only taking long.
            evidence: Nats against it, where its silence was shorter or counted in part before.
            started: When it was sent; credit from answers to requests sent before it is void.

        Returns:
            Whether this one tripped the breaker.
        """
        if self.tripped or now < self._no_trip_until:
            return False
        if started > self._fast_started and self._score < 0:
            self._score = 0.0
        self._score += FAILED_EVIDENCE if failed else evidence
        self._threshold = trip_after * SLOW_EVIDENCE - 1e-9
        if self._score < self._threshold:
            return False
        self._trip(now)
        return True

    def record_fast(self, *, started: float, waiting: int = 0) -> None:
        """Count a request that was answered in good time.

        Of many requests that are sent at the same time, the fast ones are answered first, and the
        few slow ones, of which a healthy target has some, come at the end in a row. So the fast
        leave a credit for twice as many slow ones as are to be expected among those that wait.

        Args:
            started: When it was sent; one from before a trip says nothing about the time since.
            waiting: How many other requests wait for this target.
        """
        if self.tripped:
            if started > self.tripped_at:
                self._count_good_probe()
            return
        floor = credit_for(waiting)
        if waiting:
            self._fast_started = max(self._fast_started, started)
        if self._score > floor:
            self._score = max(floor, self._score + FAST_EVIDENCE)

    def claim_probe(self, now: float) -> bool:
        """Whether to probe it now; the caller that gets True is the one to do it."""
        if not self.tripped or now < self._probe_at:
            return False
        if now > self._probe_at + PROBE_EXPIRY:
            self._recover(half=True)
            return False
        # No second probe before the outcome of this one is known, or it is given up for lost.
        self._due_since, self._probe_at = self._probe_at, now + PROBE_EXPIRY
        return True

    def abandon_probe(self) -> None:
        """Have it probed again, as if the last one had not been sent: it was stopped by us.

        Where every probe is, since each request has an event loop of its own that ends with it, a
        request simply tries the target in the end (`PROBE_EXPIRY`).
        """
        if self.tripped:
            self._probe_at = self._due_since

    def record_probe(self, now: float, *, well: bool) -> None:
        """Count the outcome of a probe."""
        if not self.tripped:
            return
        if not well:
            self.sick_at = now
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
        """Put it back on trial: it seems healthy, though no good probe has shown it."""
        self._recover(half=True)

    def reset(self, now: float) -> None:
        """Clear it, and trip nothing for a while: all targets are out, so none is to blame."""
        self._recover()
        self._no_trip_until = now + NO_TRIP_SECONDS

    def restore(
        self,
        now: float,
        trip_after: int,
        *,
        tripped: bool,
        evidence: float,
        sick_at: float,
        good_probes: int,
    ) -> None:
        """Take over what another process has found out.

        Args:
            now: The engine's clock.
            trip_after: How many late requests in a row trip it.
            tripped: It was out: the first request that can probes it.
            evidence: Nats against it; so much is taken over that one more late request trips it.
            sick_at: When something last showed that one that was out is sick.
            good_probes: Good probes in a row since it tripped: a process of one call makes one.
        """
        self._threshold = trip_after * SLOW_EVIDENCE - 1e-9
        if tripped:
            self._trip(now)
            self._probe_at = now
            self.sick_at = min(now, sick_at)
            self._good_probes = max(0, min(good_probes, PROBES_TO_RECOVER - 1))
        else:
            self._score = min(evidence, self._threshold - SLOW_EVIDENCE + 1e-6)

    def _trip(self, now: float) -> None:
        if now - self.tripped_at > PROBE_EXPIRY:
            # A target that trips again soon keeps its longer wait between probes.
            self._probe_wait = PROBE_SECONDS
        self.tripped = True
        self.tripped_at = self.sick_at = now
        self.trips += 1
        self._score = 0.0
        self._good_probes = 0
        self._probe_at = now + self._probe_wait

    def _recover(self, *, half: bool = False) -> None:
        self.tripped = False
        # One that no probe has cleared is on trial: little more evidence takes it out again.
        self._score = self._threshold * _ON_TRIAL if half else 0.0

"""How long a target takes to its first text, learned from winners and losers alike.

A loser that was cancelled after 1.2 s did not take 1.2 s: it took *longer* than that. If such
samples were left out, every quantile would be too small, hedges would fire on ordinary requests,
and the budget would be gone when the tail comes. Survival analysis calls such samples
right-censored and has the estimator for them (Kaplan & Meier, "Nonparametric Estimation from
Incomplete Observations", JASA 1958).
"""

from __future__ import annotations

from math import ceil, exp, log, log2

SMALLEST = 0.001
"""Seconds; anything faster counts as this."""

LARGEST = 600.0
"""Seconds; anything slower counts as this.

Finagle's histogram ends at two seconds: there a hanging target looks no worse than a slow one."""

_STEP = log(1.02)
"""Logarithm of the ratio of neighbouring buckets: quantiles are exact to 2 %."""

_BUCKETS = ceil(log(LARGEST / SMALLEST) / _STEP) + 1

_MIN_COUNT = 200
"""Effective samples that decay always leaves, however rare requests are: else a quiet hour would
forget everything."""

_MAX_COUNT = 1000
"""The most effective samples: at a high rate old ones fade sooner, and changes show sooner."""

_RESCALE = 2.0**64
"""The weight at which all counts are scaled down, long before a float overflows."""


class LatencyHistogram:
    """A logarithmic histogram in 2 % steps whose samples fade, some of them right-censored.

    A sample weighs half as much after `half_life` seconds, unless too few would be left. It has no
    lock: threads that add at the same moment can lose a sample, which no quantile notices.

    Args:
        half_life: Seconds.

    Attributes:
        slowest: The longest uncensored sample ever, in seconds; 0 without any.

    Example:
        ```python
        seen = LatencyHistogram(half_life=120)
        seen.add(0.42, now=10.0)
        seen.add(1.20, now=11.0, censored=True)  # a loser, closed after 1.2 s
        seen.quantile(0.95)
        ```
    """

    __slots__ = ("_at", "_censored", "_seen", "_weight", "half_life", "slowest", "total")

    def __init__(self, half_life: float = 120.0) -> None:
        self.half_life: float = half_life
        self._seen = [0.0] * _BUCKETS
        self._censored = [0.0] * _BUCKETS
        self._weight = 1.0  # of a sample added now; growing it is cheaper than fading all others
        self._at: float | None = None
        self.total: float = 0.0
        self.slowest: float = 0.0

    @property
    def count(self) -> float:
        """How many fresh samples the histogram is worth."""
        return self.total / self._weight

    def add(self, seconds: float, now: float, *, censored: bool = False) -> None:
        """Add one sample.

        Args:
            seconds: From sending to the first text, or for a censored one to the moment of closing.
            now: The engine's clock.
            censored: No text had come by then.
        """
        self._fade(now)
        (self._censored if censored else self._seen)[_bucket(seconds)] += self._weight
        self.total += self._weight
        if self.total > _MAX_COUNT * self._weight:
            self._weight *= 1 + 1 / _MAX_COUNT
        if seconds > self.slowest and not censored:
            self.slowest = seconds

    def quantile(self, q: float) -> float | None:
        """The time by which a share `q` of the requests shows text; None if it is unknown.

        It is unknown where all samples that could tell were censored earlier.

        Args:
            q: From 0 to 1.
        """
        at_risk, survival = self.total, 1.0
        wanted = 1.0 - q
        for bucket, (seen, censored) in enumerate(zip(self._seen, self._censored, strict=True)):
            if seen and at_risk > 0:
                survival *= max(0.0, 1.0 - seen / at_risk)
                if survival <= wanted:
                    # The upper edge: if all requests take the same time, none is later than it.
                    return SMALLEST * exp(bucket * _STEP)
            at_risk -= seen + censored
        return None

    def mean_within(self, limit: float) -> float | None:
        """The mean of `min(seconds, limit)`: the expected wait for somebody who waits `limit`.

        The restricted mean survival time: the area under the Kaplan-Meier curve (Irwin, "The
        standard error of an estimate of expectation of life", Journal of Hygiene, 1949).

        Args:
            limit: Seconds.

        Returns:
            Seconds; None without samples.
        """
        if not self.total:
            return None
        at_risk, survival, area, before = self.total, 1.0, 0.0, 0.0
        for bucket, (seen, censored) in enumerate(zip(self._seen, self._censored, strict=True)):
            if seen and at_risk > 0:
                at = _middle(bucket)
                if at >= limit:
                    break
                area += survival * (at - before)
                survival, before = survival * max(0.0, 1.0 - seen / at_risk), at
            at_risk -= seen + censored
        return area + survival * (limit - before)

    def _fade(self, now: float) -> None:
        if self._at is not None and now > self._at:
            most_halvings = -log2(1.0 - 1.0 / _MIN_COUNT)
            self._weight *= 2.0 ** min((now - self._at) / self.half_life, most_halvings)
            if self._weight > _RESCALE:
                self._rescale()
        self._at = now if self._at is None else max(self._at, now)

    def _rescale(self) -> None:
        scale = 1.0 / self._weight
        self._seen = [x * scale for x in self._seen]
        self._censored = [x * scale for x in self._censored]
        self.total *= scale
        self._weight = 1.0


def _bucket(seconds: float) -> int:
    if seconds <= SMALLEST:
        return 0
    return min(_BUCKETS - 1, int(log(seconds / SMALLEST) / _STEP) + 1)


def _middle(bucket: int) -> float:
    """The geometric middle of a bucket, in seconds."""
    return SMALLEST * exp((bucket - 0.5) * _STEP) if bucket else SMALLEST

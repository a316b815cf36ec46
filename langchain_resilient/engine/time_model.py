"""How long a target takes to its first text, learned from winners and losers alike.

A loser that was cancelled after 1.2 s did not take 1.2 s: it took *longer* than that. Leaving such
samples out makes every quantile too small, hedges fire on ordinary requests, and the budget is gone
when the tail comes. Survival analysis calls them right-censored and has the estimator for them
(Kaplan & Meier, "Nonparametric Estimation from Incomplete Observations", JASA 1958).
"""

from __future__ import annotations

from math import ceil, exp, log, log2

SMALLEST = 0.001
"""Seconds; all that is faster counts as this fast."""


LARGEST = 600.0
"""Seconds; all that is slower counts as this slow."""


_STEP = log(1.02)


_BUCKETS = ceil(log(LARGEST / SMALLEST) / _STEP) + 1


_MIN_COUNT = 200
"""Decay never leaves fewer effective samples than this, whatever the request rate."""


_MAX_COUNT = 1000
"""Nor more than this: at a high rate old samples fade sooner, and a change is learned sooner."""


_RESCALE = 2.0**64


class LatencyHistogram:
    """A log-histogram of 2 % steps whose old samples fade, with censored ones among them.

    One sample weighs half as much after `half_life` seconds, unless too few would be left. No lock:
    threads that add at the same moment can lose a sample, which no quantile notices.

    Args:
        half_life: Seconds.

    Attributes:
        slowest: The slowest that ever spoke, in seconds; 0 if none did.

    Example:
        ```python
        seen = LatencyHistogram(half_life=120)
        seen.add(0.42, now=10.0)
        seen.add(1.20, now=11.0, censored=True)  # a loser, closed after 1.2 s
        seen.quantile(0.95)
        ```
    """

    __slots__ = ("_at", "_lost", "_seen", "_weight", "half_life", "slowest", "total")

    def __init__(self, half_life: float = 120.0) -> None:
        self.half_life: float = half_life
        self._seen = [0.0] * _BUCKETS
        self._lost = [0.0] * _BUCKETS
        self._weight = 1.0  # of a sample added now; growing it is cheaper than fading all others
        self._at: float | None = None
        self.total: float = 0.0
        self.slowest: float = 0.0

    @property
    def count(self) -> float:
        """How many samples of today the histogram is worth."""
        return self.total / self._weight

    def add(self, seconds: float, now: float, *, censored: bool = False) -> None:
        """Add one sample.

        Args:
            seconds: From sending to the first text, or for a censored one to the moment of closing.
            now: The engine's clock.
            censored: It had not spoken by then.
        """
        self._fade(now)
        (self._lost if censored else self._seen)[_bucket(seconds)] += self._weight
        self.total += self._weight
        if self.total > _MAX_COUNT * self._weight:
            self._weight *= 1 + 1 / _MAX_COUNT
        if seconds > self.slowest and not censored:
            self.slowest = seconds

    def quantile(self, q: float) -> float | None:
        """The time by which a share `q` of the requests has spoken; None if it is not known.

        It is unknown where the samples that could tell were all closed before.

        Args:
            q: From 0 to 1.
        """
        at_risk, survival = self.total, 1.0
        wanted = 1.0 - q
        for bucket, (seen, lost) in enumerate(zip(self._seen, self._lost, strict=True)):
            if seen and at_risk > 0:
                survival *= max(0.0, 1.0 - seen / at_risk)
                if survival <= wanted:
                    # The upper edge: of requests that all take the same time, none is later.
                    return SMALLEST * exp(bucket * _STEP)
            at_risk -= seen + lost
        return None

    def mean_within(self, limit: float) -> float | None:
        """Return the mean of `min(seconds, limit)`: what one waits at most `limit` for it.

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
        for bucket, (seen, lost) in enumerate(zip(self._seen, self._lost, strict=True)):
            if seen and at_risk > 0:
                at = _middle(bucket)
                if at >= limit:
                    break
                area += survival * (at - before)
                survival, before = survival * max(0.0, 1.0 - seen / at_risk), at
            at_risk -= seen + lost
        return area + survival * (limit - before)

    def _fade(self, now: float) -> None:
        if self._at is not None and now > self._at:
            fewest = -log2(1.0 - 1.0 / _MIN_COUNT)
            self._weight *= 2.0 ** min((now - self._at) / self.half_life, fewest)
            if self._weight > _RESCALE:
                self._rescale()
        self._at = now if self._at is None else max(self._at, now)

    def _rescale(self) -> None:
        scale = 1.0 / self._weight
        self._seen = [x * scale for x in self._seen]
        self._lost = [x * scale for x in self._lost]
        self.total *= scale
        self._weight = 1.0


def _bucket(seconds: float) -> int:
    if seconds <= SMALLEST:
        return 0
    return min(_BUCKETS - 1, int(log(seconds / SMALLEST) / _STEP) + 1)


def _middle(bucket: int) -> float:
    """The geometric middle of a bucket, in seconds."""
    return SMALLEST * exp((bucket - 0.5) * _STEP) if bucket else SMALLEST

"""The best possible: what a policy could reach at most, over the same latencies.

With X1 the latency of the first target, X2 of the second, S1(t) = P(X1 > t), and a load of B extra
sends per request, the smallest reachable p-quantile is

- racing always (unlimited load):       Q_p(min of all X)
- clairvoyant (knows every latency):    inf{ t : S1(t) - min(B, P(X1 > t, X2 <= t)) <= 1 - p }
- not clairvoyant (sends a second request after d seconds, with probability q):
      min over d of inf{ t : S1(t) - q(d) P(X1 > t, X2 <= t - d) <= 1 - p },  q(d) = min(1, B/S1(d))

The last is the yardstick for a hedging policy: no policy that decides once, by the time waited,
does better (Kaler, He & Elnikety, "Optimal Reissue Policies for Reducing Tail Latency", SPAA 2017).
`Exact` computes the three from distributions, `Sampled` from pairs of samples.
"""

from __future__ import annotations

from bisect import bisect_right
from math import ceil, inf, prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_resilient.simulation.latency import Latency

_DELAYS = 40
"""How many delays the search for the best one tries."""

_LONGEST = 1e5
"""Seconds; a quantile beyond this is infinite."""


def quantile(ascending: Sequence[float], p: float) -> float:
    """The smallest value that a share `p` of the sorted values does not exceed."""
    if not ascending:
        return inf
    return ascending[max(0, ceil(p * len(ascending) - 1e-9) - 1)]


class Exact:
    """The three bounds for independent targets of known distributions.

    Args:
        first: Of the target that is asked first.
        second: Of the one that a second request would go to.

    Example:
        ```python
        Exact(HeavyTail(), HeavyTail()).best(0.99, load=0.05)  # 2.1 seconds
        ```
    """

    def __init__(self, first: Latency, second: Latency) -> None:
        self._first = first
        self._second = second

    def alone(self, p: float) -> float:
        """Without any second request, in seconds."""
        return _first_time(self._first.survival, 1 - p)

    def race(self, p: float) -> float:
        """With both asked at once, always, in seconds."""
        targets = (self._first, self._second)
        return _first_time(lambda t: prod(x.survival(t) for x in targets), 1 - p)

    def clairvoyant(self, p: float, load: float) -> float:
        """With a second request exactly where it helps, for a share `load` of them, in seconds."""

        def late(t: float) -> float:
            alone = self._first.survival(t)
            return alone - min(load, alone * (1 - self._second.survival(t)))

        return _first_time(late, 1 - p)

    def after(self, delay: float, p: float, load: float) -> float:
        """With a second request after `delay` seconds, as often as the load allows, in seconds."""
        waiting = self._first.survival(delay)
        often = min(1.0, load / waiting) if waiting > 0 else 1.0

        def late(t: float) -> float:
            helped = 1 - self._second.survival(t - delay) if t > delay else 0.0
            return self._first.survival(t) * (1 - often * helped)

        return _first_time(late, 1 - p)

    def best(self, p: float, load: float) -> float:
        """With the best delay for this quantile and load, in seconds."""
        shares = _shares(load)
        delays = (_first_time(self._first.survival, share) for share in shares)
        return min(self.after(delay, p, load) for delay in delays)


class Sampled:
    """The three bounds over pairs of samples; no assumption of independence.

    Args:
        first: Latencies of the first target, in seconds.
        second: Of the second, in the same order of requests.
    """

    def __init__(self, first: Sequence[float], second: Sequence[float]) -> None:
        # Longest first: those that a delay concerns are then a prefix.
        self._pairs = sorted(zip(first, second, strict=True), reverse=True)
        self._ascending = [x for x, _ in reversed(self._pairs)]

    def alone(self, p: float) -> float:
        """Without any second request, in seconds."""
        return quantile(self._ascending, p)

    def race(self, p: float) -> float:
        """With both asked at once, always, in seconds."""
        return quantile(sorted(min(pair) for pair in self._pairs), p)

    def clairvoyant(self, p: float, load: float) -> float:
        """With a second request exactly where it helps, for a share `load` of them, in seconds."""
        count = len(self._pairs)

        def late(t: float) -> float:
            slow = self._pairs[: count - bisect_right(self._ascending, t)]
            helped = sum(second <= t for _, second in slow)
            return (len(slow) - min(load * count, helped)) / count

        return _first_time(late, 1 - p)

    def after(self, delay: float, p: float, load: float) -> float:
        """With a second request after `delay` seconds, as often as the load allows, in seconds."""
        count = len(self._pairs)
        allowed = (1 - p) * count
        waiting = self._pairs[: count - bisect_right(self._ascending, delay)]
        if len(waiting) <= allowed:
            return self.alone(p)
        often = min(1.0, load * count / len(waiting))
        helped = sorted((min(x, delay + y) for x, y in waiting), reverse=True)
        alone = [x for x, _ in waiting]
        return _weighted(((alone, 1 - often), (helped, often)), allowed)

    def best(self, p: float, load: float) -> float:
        """With the best delay for this quantile and load, in seconds."""
        if load <= 0:
            return self.alone(p)
        delays = {quantile(self._ascending, 1 - share) for share in _shares(load)}
        return min((self.after(d, p, load) for d in delays if d < inf), default=self.alone(p))


def _shares(load: float) -> list[float]:
    """Shares of requests that are still waiting at the delay: from load/2 up to load x 10."""
    least, most = min(0.5, load / 2), min(1.0, load * 10)
    steps = _DELAYS - 1
    return [min(1.0, load), *(least * (most / least) ** (i / steps) for i in range(_DELAYS))]


def _weighted(parts: Sequence[tuple[Sequence[float], float]], allowed: float) -> float:
    """Find the smallest time that values of no more weight than `allowed` exceed.

    Args:
        parts: Descending values, with the weight of each.
        allowed: The weight that may be later.
    """
    longest = sorted(
        (
            (value, weight)
            for values, weight in parts
            if weight > 0
            for value in values[: ceil(allowed / weight) + 1]
        ),
        reverse=True,
    )
    later = 0.0
    for value, weight in longest:
        later += weight
        if later > allowed + 1e-9:
            return value
    return 0.0


def _first_time(late: Callable[[float], float], allowed: float) -> float:
    """Find when a falling share of the late is down to what is allowed, in seconds."""
    low, high = 0.0, _LONGEST
    if late(high) > allowed:
        return inf
    while high - low > 1e-6 * max(1e-3, high):
        middle = (low + high) / 2
        if late(middle) > allowed:
            low = middle
        else:
            high = middle
    return high

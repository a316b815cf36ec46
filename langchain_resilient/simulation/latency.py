"""Latencies as pure functions: of a uniform number, which is one of seed, target and request."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from math import exp, inf, log
from statistics import NormalDist
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

_MASK = 2**64 - 1
_NORMAL = NormalDist()


def uniform(seed: int, target: int, request: int, attempt: int) -> float:
    """A number in [0, 1) that depends on nothing but its arguments.

    So whoever computes with the same four (the race, the oracle, a baseline) sees the same latency,
    in whatever order. It is the output function of SplitMix64 (Steele, Lea & Flood, "Fast
    Splittable Pseudorandom Number Generators", OOPSLA 2014), applied twice.
    """
    z = _mix(seed * 0x9E3779B97F4A7C15 + target * 0xD1342543DE82EF95 + attempt)
    return (_mix(z + request * 0x9E3779B97F4A7C15) >> 11) * 2.0**-53


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


class Latency(Protocol):
    """A distribution of the time to the first text, in seconds; infinite where none ever comes."""

    def at(self, u: float) -> float:
        """Turn a uniform number into a latency."""
        ...

    def survival(self, seconds: float) -> float:
        """The share of the requests that take longer than this."""
        ...


@dataclass(frozen=True, slots=True)
class HeavyTail:
    """A log-normal body, a Pareto tail, and a few requests that never answer.

    The defaults are the reference distribution of this package's own study: synthetic, for want of
    a public trace of these providers.

    Attributes:
        median: Of the body, in seconds.
        sigma: Of the body's logarithm.
        tail: The share of the tail.
        tail_least: The tail's shortest, in seconds.
        tail_index: The tail's exponent: 1.2 has a mean but no variance.
        hangs: The share that never answers.
    """

    median: float = 0.5
    sigma: float = 0.5
    tail: float = 0.03
    tail_least: float = 2.0
    tail_index: float = 1.2
    hangs: float = 0.003

    def at(self, u: float) -> float:
        """Turn a uniform number into a latency: one part of it for each of the three kinds."""
        if u < self.hangs:
            return inf
        if u < self.hangs + self.tail:
            return self.tail_least * float(
                (1 - (u - self.hangs) / self.tail) ** (-1 / self.tail_index)
            )
        body = 1 - self.hangs - self.tail
        z = _NORMAL.inv_cdf(max(1e-12, (u - self.hangs - self.tail) / body))
        return self.median * exp(self.sigma * z)

    def survival(self, seconds: float) -> float:
        """The share of the requests that take longer than this."""
        if seconds <= 0:
            return 1.0
        body = 1 - self.hangs - self.tail
        slow = body * (1 - _NORMAL.cdf(log(seconds / self.median) / self.sigma))
        late = min(1.0, float((self.tail_least / seconds) ** self.tail_index))
        return self.hangs + self.tail * late + slow


class Recorded:
    """Latencies that were measured: each request draws one of them (Efron's bootstrap, 1979).

    Args:
        seconds: The measurements, in any order; infinity for a request that was never answered.
    """

    __slots__ = ("_sorted",)

    def __init__(self, seconds: Sequence[float]) -> None:
        self._sorted = sorted(seconds)

    def at(self, u: float) -> float:
        """Turn a uniform number into one of the measurements."""
        return self._sorted[int(u * len(self._sorted))]

    def survival(self, seconds: float) -> float:
        """The share of the measurements that are longer than this."""
        return 1 - bisect_right(self._sorted, seconds) / len(self._sorted)

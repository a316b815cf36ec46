"""Delays: how long a simulated provider takes, as a number of seconds or a distribution.

Every draw comes from the `random.Random` that is handed in, so a seed replays a run exactly.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from random import Random


class Distribution(ABC):
    """A way to draw a delay in seconds. Subclass it to bring your own.

    Example:
        ```python
        Reply(first_text=Lognormal(median=0.5, sigma=0.5))
        ```
    """

    @abstractmethod
    def sample(self, random: Random) -> float:
        """Draw one delay.

        Args:
            random: The only source of chance allowed.

        Returns:
            Seconds, never negative; `math.inf` hangs for ever.
        """


Delay = float | Distribution
"""Seconds, or a distribution of them. `math.inf` hangs for ever."""


@dataclass(frozen=True)
class Uniform(Distribution):
    """Any delay between two bounds, all equally likely.

    Attributes:
        low: Shortest delay in seconds.
        high: Longest delay in seconds.
    """

    low: float
    high: float

    def sample(self, random: Random) -> float:
        """Draw between `low` and `high` seconds."""
        return random.uniform(self.low, self.high)


@dataclass(frozen=True)
class Exponential(Distribution):
    """Memoryless delays: what a queue in front of a provider adds.

    Attributes:
        mean: Mean delay in seconds.
    """

    mean: float

    def sample(self, random: Random) -> float:
        """Draw around `mean` seconds."""
        return random.expovariate(1.0 / self.mean) if self.mean > 0 else 0.0


@dataclass(frozen=True)
class Lognormal(Distribution):
    """The usual shape of a healthy provider's time to first text.

    Attributes:
        median: Half of the delays are shorter, in seconds.
        sigma: Spread of the logarithm; 0.5 puts the 95th percentile at 2.3 medians.
    """

    median: float
    sigma: float

    def sample(self, random: Random) -> float:
        """Draw around `median` seconds."""
        return self.median * math.exp(random.gauss(0.0, self.sigma))


@dataclass(frozen=True)
class Pareto(Distribution):
    """A heavy tail: the few requests that hedging is for.

    Attributes:
        minimum: Shortest delay in seconds.
        alpha: Tail index; the smaller, the heavier. At or below 1 the mean is infinite.
    """

    minimum: float
    alpha: float

    def sample(self, random: Random) -> float:
        """Draw `minimum` seconds or more."""
        return self.minimum * random.paretovariate(self.alpha)


@dataclass(frozen=True)
class Mixture(Distribution):
    """One of several delays, each with its weight.

    Attributes:
        parts: Pairs of `(weight, delay)`; the weights need not add up to one.

    Example:
        ```python
        Mixture((0.967, Lognormal(0.5, 0.5)), (0.03, Pareto(2.0, 1.2)), (0.003, math.inf))
        ```
    """

    parts: tuple[tuple[float, Delay], ...]

    def __init__(self, *parts: tuple[float, Delay]) -> None:
        if not parts or min(weight for weight, _ in parts) < 0 or not sum(w for w, _ in parts):
            msg = (
                "a Mixture needs parts (weight, delay) with weights >= 0 that add up to more than 0"
            )
            raise ValueError(msg)
        object.__setattr__(self, "parts", tuple(parts))

    def sample(self, random: Random) -> float:
        """Draw from one of the parts."""
        weights = [weight for weight, _ in self.parts]
        return draw(random.choices(self.parts, weights)[0][1], random)


def draw(delay: Delay, random: Random) -> float:
    """Turn a delay into seconds.

    Args:
        delay: Seconds or a distribution.
        random: Where the chance comes from.

    Returns:
        Seconds, at least 0.
    """
    seconds = delay.sample(random) if isinstance(delay, Distribution) else delay
    return seconds if seconds > 0 else 0.0

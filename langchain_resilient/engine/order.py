"""In which order targets are preferred: learned speed, or weights. Sick ones go last elsewhere."""

from __future__ import annotations

from math import inf, log
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from langchain_resilient.engine.ports import Route

EXPLORE = 0.05
"""The share of requests that go first to another target than the fastest known, lest one that has
become faster is never noticed (epsilon-greedy; Sutton & Barto, "Reinforcement Learning", 2.2)."""

EXPLORE_UNKNOWN = 0.3
"""The same while a target is unknown. Not all at once: it may be slow, or dead."""


def fastest(routes: Sequence[Route], now: float, rng: Random, *, plain: bool) -> list[Route]:
    """Order by the time that is to be expected to the first text.

    Args:
        routes: The chain.
        now: The engine's clock.
        rng: The engine's generator.
        plain: By the time to a whole answer instead.
    """
    speed = [route.state.expected(now, plain=plain) for route in routes]
    # The index keeps the chain's order among equals.
    places = sorted(range(len(routes)), key=lambda i: (speed[i], i))
    unknown = [i for i in places if speed[i] == inf and i != places[0]]
    others = unknown or places[1:]
    if others and rng.random() < (EXPLORE_UNKNOWN if unknown else EXPLORE):
        tried = others[int(rng.random() * len(others))]
        places.remove(tried)
        places.insert(0, tried)
    return [routes[i] for i in places]


def balanced(routes: Sequence[Route], weights: Sequence[float], rng: Random) -> list[Route]:
    """Shuffle so that each target comes first in proportion to its weight, and so on for the rest.

    Each draws an exponential variate with its weight as the rate; the smallest goes first
    (Efraimidis & Spirakis, "Weighted random sampling with a reservoir", 2006).

    Args:
        routes: The chain.
        weights: One a route; 0 puts it behind all others.
        rng: The engine's generator.
    """
    keys = [-log(1.0 - rng.random()) / w if w > 0 else inf for w in weights]
    places = sorted(range(len(routes)), key=lambda i: (keys[i], i))
    return [routes[i] for i in places]

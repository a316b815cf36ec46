"""Delays: seconds and distributions."""

from __future__ import annotations

import math
import random

import pytest

from langchain_resilient.testing import Exponential, Lognormal, Mixture, Pareto, Uniform


@pytest.mark.parametrize(
    ("delay", "low", "high"),
    [
        (Uniform(1.0, 3.0), 1.8, 2.2),
        (Exponential(2.0), 1.6, 2.4),
        (Lognormal(2.0, 0.5), 2.0, 2.6),
        (Pareto(1.0, 3.0), 1.3, 1.8),
        (Mixture((1, 1.0), (3, 3.0)), 2.3, 2.7),
    ],
)
def test_delays_are_drawn_around_their_mean(delay: Uniform, low: float, high: float) -> None:
    """From the random that is handed in, so the same seed draws the same."""
    draws = [delay.sample(random.Random(seed)) for seed in range(1500)]
    assert draws[:5] == [delay.sample(random.Random(seed)) for seed in range(5)]
    assert low <= sum(draws) / len(draws) <= high


def test_a_mixture_may_hang() -> None:
    """Infinity is a delay like any other."""
    assert Mixture((1, math.inf)).sample(random.Random(0)) == math.inf

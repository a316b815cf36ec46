"""Latencies are pure functions, and distributed as they say."""

from __future__ import annotations

from math import inf

import pytest

from langchain_resilient.simulation.latency import HeavyTail, Recorded, uniform

COUNT = 20_000


def test_the_uniform_numbers_are_uniform():
    """Every tenth of [0, 1) gets its tenth of them, within four standard errors."""
    tenths = [0] * 10
    for number in range(COUNT):
        tenths[int(uniform(1, 0, number, 0) * 10)] += 1
    # One standard error of a count is sqrt(20000 * 0.1 * 0.9) = 42.
    assert all(abs(count - COUNT / 10) < 4 * 42 for count in tenths)


@pytest.mark.parametrize("other", [(2, 0, 0, 0), (1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, 1)])
def test_each_argument_makes_another_number(other):
    """Seed, target, request and attempt all count."""
    assert uniform(*other) != uniform(1, 0, 0, 0)


def test_neighbouring_targets_are_not_correlated():
    """The latencies of two targets for one request have nothing to do with each other."""
    pairs = [(uniform(1, 0, n, 0) - 0.5, uniform(1, 1, n, 0) - 0.5) for n in range(COUNT)]
    correlation = sum(a * b for a, b in pairs) / COUNT * 12
    assert abs(correlation) < 4 / COUNT**0.5


@pytest.mark.parametrize("seconds", [0.3, 0.5, 1.4, 2.0, 2.1, 6.0, 60.0])
def test_the_heavy_tail_is_distributed_as_its_survival_says(seconds):
    """The share of samples over a time is its survival there, within four standard errors."""
    one = HeavyTail()
    share = sum(one.at(uniform(1, 0, n, 0)) > seconds for n in range(COUNT)) / COUNT
    expected = one.survival(seconds)
    error = (expected * (1 - expected) / COUNT) ** 0.5
    assert share == pytest.approx(expected, abs=4 * error)


def test_recorded_latencies_are_drawn_alike():
    """Every measurement has the same part of [0, 1)."""
    one = Recorded([3.0, 1.0, inf, 2.0])
    assert [one.at(u) for u in (0.0, 0.3, 0.6, 0.99)] == [1.0, 2.0, 3.0, inf]


def test_recorded_survival_counts_the_longer_ones():
    """Those that are as long are not longer."""
    one = Recorded([1.0, 2.0, 3.0, inf])
    assert [one.survival(t) for t in (0.5, 1.0, 2.5, 1e9)] == [1.0, 0.75, 0.5, 0.25]

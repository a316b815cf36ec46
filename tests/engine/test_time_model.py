"""Quantiles with and without censored samples, fading, and bounds."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_resilient.engine.time_model import LARGEST, SMALLEST, LatencyHistogram


def draws(n: int, seed: int = 1) -> list[float]:
    rng = Random(seed)
    return [rng.lognormvariate(-0.7, 0.5) for _ in range(n)]


def exact(samples: list[float], q: float) -> float:
    return sorted(samples)[int(q * (len(samples) - 1))]


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9, 0.955, 0.99])
def test_quantiles_are_within_the_step(q):
    """Two per cent of the true ones."""
    samples, seen = draws(20_000), LatencyHistogram()
    for x in samples:
        seen.add(x, 0.0)
    assert seen.quantile(q) == pytest.approx(exact(samples, q), rel=0.03)


def test_censored_losers_do_not_bend_the_quantile():
    """Requests closed at the hedge delay, as losers are, leave p95.5 where it is."""
    samples, seen, dropped = draws(20_000), LatencyHistogram(), LatencyHistogram()
    rng = Random(2)
    delay = exact(samples, 0.9)
    for x in samples:
        lost_at = delay + rng.expovariate(5.0)
        if x > lost_at:
            seen.add(lost_at, 0.0, censored=True)
        else:
            seen.add(x, 0.0)
            dropped.add(x, 0.0)
    true = exact(samples, 0.955)
    assert seen.quantile(0.955) == pytest.approx(true, rel=0.05)
    # Leaving them out is the mistake that this guards against.
    assert dropped.quantile(0.955) < 0.97 * true


def test_without_a_sample_nothing_is_known():
    """Nor with censored ones only."""
    seen = LatencyHistogram()
    assert seen.quantile(0.5) is None
    seen.add(1.0, 0.0, censored=True)
    assert seen.quantile(0.5) is None


def test_old_samples_fade():
    """Three half-lives after a lasting change the quantile is the new one."""
    seen, rate = LatencyHistogram(half_life=120.0), 20
    for i in range(120 * rate):
        seen.add(1.0, i / rate)
    for i in range(360 * rate):
        seen.add(2.0, 120 + i / rate)
    assert seen.quantile(0.2) == pytest.approx(2.0, rel=0.03)


def test_a_slow_trickle_of_requests_is_not_forgotten():
    """One request a minute still has two hundred samples behind it."""
    seen = LatencyHistogram(half_life=120.0)
    for i in range(1000):
        seen.add(1.0, i * 60.0)
    assert 150 < seen.count <= 201


def test_a_year_of_samples_does_not_overflow():
    """Weights are rescaled in time."""
    seen = LatencyHistogram(half_life=1.0)
    for i in range(50_000):
        seen.add(1.0, i * 0.5)
    assert seen.quantile(0.5) == pytest.approx(1.0, rel=0.03)


def test_time_that_runs_backwards_is_harmless():
    """Threads may bring their samples out of order."""
    seen = LatencyHistogram()
    seen.add(1.0, 10.0)
    seen.add(1.0, 5.0)
    assert seen.count == pytest.approx(2.0)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 1e6), st.floats(0, 1e6), st.booleans()), min_size=1, max_size=50
    ),
    st.floats(0, 1),
)
def test_a_quantile_is_always_a_time_within_the_bounds(samples, q):
    """Whatever is added, in whatever order; and larger shares take longer."""
    seen = LatencyHistogram()
    for seconds, now, censored in samples:
        seen.add(seconds, now, censored=censored)
    result, more = seen.quantile(q), seen.quantile(min(1.0, q + 0.1))
    if result is not None:
        assert SMALLEST <= result <= LARGEST * 1.02
        assert more is None or more >= result

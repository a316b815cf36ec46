"""Quantiles of durations, with those that were cut short among them."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_resilient.observability.stats import UNKNOWN_QUANTILES, DurationHistogram


def draws(n=20_000, seed=1):
    rng = Random(seed)
    return [rng.lognormvariate(-0.7, 0.5) for _ in range(n)]


def exact(samples, q):
    return sorted(samples)[int(q * (len(samples) - 1))]


def test_quantiles_are_within_a_step():
    """Two per cent of the true ones."""
    samples, times = draws(), DurationHistogram()
    for seconds in samples:
        times.add(seconds)
    quantiles = times.quantiles()
    for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        assert getattr(quantiles, name) == pytest.approx(exact(samples, q), rel=0.02)


def test_losers_do_not_make_a_target_look_fast():
    """Those that were closed early are censored: the p95 stays where it is."""
    samples, times = draws(), DurationHistogram()
    closed, rng = exact(samples, 0.8), Random(2)
    for seconds in samples:
        cut = closed + rng.expovariate(1.0)
        times.add(min(seconds, cut), cut=seconds > cut)
    assert times.quantiles().p95 == pytest.approx(exact(samples, 0.95), rel=0.05)


def test_what_nobody_saw_is_not_known():
    """Where the slowest fifth was always closed, there is no p95."""
    times = DurationHistogram()
    for i in range(100):
        times.add(1.0 if i < 80 else 2.0, cut=i >= 80)
    assert times.quantiles().p50 == pytest.approx(1.0, rel=0.02)
    assert times.quantiles().p95 is None


def test_without_times_nothing_is_known():
    """Nor with cut ones only."""
    times = DurationHistogram()
    assert times.quantiles() == UNKNOWN_QUANTILES
    times.add(1.0, cut=True)
    assert times.quantiles() == UNKNOWN_QUANTILES


@given(st.lists(st.tuples(st.floats(-1, 1e6), st.booleans()), max_size=50))
def test_quantiles_rise(samples):
    """Whatever is added, a clock that jumped back included."""
    times = DurationHistogram()
    for seconds, cut in samples:
        times.add(seconds, cut=cut)
    quantiles = times.quantiles()
    known = [t for t in (quantiles.p50, quantiles.p95, quantiles.p99) if t is not None]
    assert known == sorted(known)
    assert all(t > 0 for t in known)

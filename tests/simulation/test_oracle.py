"""The bounds, against the figures of the study and against a count by hand."""

from __future__ import annotations

from itertools import product
from math import inf

import pytest

from langchain_resilient.simulation.latency import HeavyTail, uniform
from langchain_resilient.simulation.oracle import Exact, Sampled, quantile

ONE = HeavyTail()
EXACT = Exact(ONE, ONE)

# The table of section 2 of the study, which took it from samples: load, percentile, then seconds.
STUDY = [
    # load, p, best, clairvoyant, race
    (0.01, 0.99, 3.86, 3.20, 1.05),
    (0.02, 0.99, 3.03, 2.25, 1.05),
    (0.05, 0.95, 1.33, 1.05, 0.77),
    (0.05, 0.99, 2.098, 1.30, 1.05),
    (0.05, 0.999, 2.94, 2.18, 2.18),
    (0.10, 0.99, 1.765, 1.05, 1.05),
]


@pytest.mark.parametrize(("load", "p", "best", "clairvoyant", "race"), STUDY)
def test_the_exact_bounds_are_those_of_the_study(load, p, best, clairvoyant, race):
    """Within 1.1 %, the noise of the study's samples."""
    value = (EXACT.best(p, load), EXACT.clairvoyant(p, load), EXACT.race(p))
    assert value == pytest.approx((best, clairvoyant, race), rel=0.011)


@pytest.mark.parametrize(
    ("load", "seconds"), [(0.01, 6.62), (0.02, 3.66), (0.05, 2.099), (0.10, 1.765)]
)
def test_the_delay_at_one_minus_the_load_is_as_in_the_study(load, seconds):
    """The plain choice of delay, which the best one is compared with; within 1.6 %."""
    delay = EXACT.alone(1 - load)
    assert EXACT.after(delay, 0.99, load) == pytest.approx(seconds, rel=0.016)


def test_a_share_that_never_answers_makes_the_quantile_infinite():
    """0.3 % hang: nobody has a p99.9 without a second request."""
    assert EXACT.alone(0.999) == inf


@pytest.fixture(scope="module")
def sampled() -> Sampled:
    """30,000 requests to two targets of the reference distribution."""
    first, second = (
        [ONE.at(uniform(7, position, number, 0)) for number in range(30_000)]
        for position in range(2)
    )
    return Sampled(first, second)


@pytest.mark.parametrize(("load", "p"), list(product((0.02, 0.05, 0.1), (0.95, 0.99))))
def test_the_sampled_bounds_come_near_the_exact_ones(sampled, load, p):
    """The same formulas over samples: within their noise of 6 %."""
    value = (sampled.best(p, load), sampled.clairvoyant(p, load), sampled.race(p))
    exact = (EXACT.best(p, load), EXACT.clairvoyant(p, load), EXACT.race(p))
    assert value == pytest.approx(exact, rel=0.06)


@pytest.mark.parametrize("p", [0.9, 0.95, 0.99])
def test_no_bound_is_below_one_that_may_do_more(sampled, p):
    """Racing always <= clairvoyant <= the best delay <= alone."""
    results = [
        sampled.race(p),
        sampled.clairvoyant(p, 0.05),
        sampled.best(p, 0.05),
        sampled.alone(p),
    ]
    assert results == sorted(results)


def test_the_bounds_of_four_requests_counted_by_hand():
    """With one second request for the four, the slowest takes 1 + 2 s instead of 10 s."""
    four = Sampled([1.0, 2.0, 3.0, 10.0], [9.0, 9.0, 9.0, 2.0])
    assert four.after(1.0, 1.0, load=0.75) == 3.0
    assert four.clairvoyant(1.0, load=0.25) == pytest.approx(3.0, abs=1e-4)
    assert four.race(0.75) == 2.0


def test_a_load_that_does_not_reach_everyone_leaves_some_late():
    """Half of those who wait get a second request: one of two stays slow."""
    four = Sampled([1.0, 1.0, 10.0, 10.0], [1.0, 1.0, 1.0, 1.0])
    assert four.after(2.0, 0.75, load=0.25) == 3.0
    assert four.after(2.0, 1.0, load=0.25) == 10.0


def test_without_load_the_best_is_to_be_alone():
    """Nothing may be sent, so nothing is gained."""
    four = Sampled([1.0, 2.0, 3.0, 10.0], [1.0, 1.0, 1.0, 1.0])
    assert four.best(0.99, load=0.0) == 10.0


@pytest.mark.parametrize(("p", "value"), [(0.25, 1), (0.26, 2), (0.5, 2), (0.99, 4), (1.0, 4)])
def test_a_quantile_is_the_smallest_value_that_enough_do_not_exceed(p, value):
    """Of four values, at and between the steps."""
    assert quantile([1, 2, 3, 4], p) == value


def test_the_quantile_of_nothing_is_infinite():
    """Nobody was answered."""
    assert quantile([], 0.5) == inf

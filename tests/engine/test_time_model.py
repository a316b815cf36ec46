"""Quantiles with and without censored samples, fading, bounds; and the scale of requests."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_resilient.engine.target_speed import TargetSpeed
from langchain_resilient.engine.time_model import (
    DOUBLING_TOKENS,
    LARGEST,
    SMALLEST,
    UNKNOWN,
    LatencyHistogram,
    RequestProfile,
    TimeModel,
)


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


# -- the time given the request ---------------------------------------------------------------


def model_of(doubling: float, *, count: int = 600, seed: int = 1, **profile) -> TimeModel:
    """A model that has seen requests of three lengths, and a few that took very long."""
    rng, model = Random(seed), TimeModel()
    for i in range(count):
        tokens = rng.choices([300, 16_000, 60_000], [7, 2, 1])[0]
        seconds = 0.5 * (1 + tokens / doubling) * rng.lognormvariate(0, 0.5)
        model.add(seconds if i % 50 else 10 * seconds, i / 20, RequestProfile(tokens, **profile))
    return model


def ratio(model: TimeModel) -> float:
    """How many times longer the longest prompt takes than the shortest."""
    return model.scale(RequestProfile(60_000)) / model.scale(RequestProfile(300))


@pytest.mark.parametrize("doubling", [1_000.0, 5_000.0, 20_000.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_prompts_length_is_fitted(doubling, seed):
    """Whatever it was guessed to be, and though one in fifty takes ten times as long."""
    true = (1 + 60_000 / doubling) / (1 + 300 / doubling)
    assert ratio(model_of(doubling, seed=seed)) == pytest.approx(true, rel=0.2)


def test_a_length_that_does_not_matter_is_left_out():
    """The prior is overruled."""
    assert ratio(model_of(1e12)) < 1.2


def test_a_few_samples_tell_more_than_the_prior():
    """Twenty of them: nearer to the truth than the guess."""
    true, guess = 1 + 60, 1 + 60_000 / DOUBLING_TOKENS
    assert abs(ratio(model_of(1_000.0, count=24)) - true) < abs(guess - true)


def test_requests_of_no_known_profile_have_the_scale_of_one():
    """Then it is the histogram that it was."""
    model, histogram = TimeModel(), LatencyHistogram()
    for i in range(100):
        model.add(0.1 + i / 50, i / 10)
        histogram.add(0.1 + i / 50, i / 10)
    assert model.scale(UNKNOWN) == 1.0
    assert model.residuals.quantile(0.9) == histogram.quantile(0.9)


def test_residuals_are_those_of_a_request_of_no_length():
    """So that long prompts and short ones can be compared."""
    model = model_of(5_000.0)
    assert model.residuals.quantile(0.5) == pytest.approx(0.5, rel=0.15)


def test_each_effort_has_its_factor():
    """Learned relative to the one that is asked for most."""
    rng, model = Random(2), TimeModel()
    for i in range(400):
        effort = "high" if i % 4 == 0 else "low"
        seconds = (12.0 if effort == "high" else 1.0) * rng.lognormvariate(0, 0.3)
        model.add(seconds, i / 10, RequestProfile(300 + i, effort))
    high = model.scale(RequestProfile(300, "high"))
    assert high / model.scale(RequestProfile(300, "low")) == pytest.approx(12.0, rel=0.2)


def test_an_effort_that_was_never_seen_is_guessed():
    """It takes longer than a lower one that was."""
    model = TimeModel()
    for i in range(100):
        model.add(1.0, i / 10, RequestProfile(300 + i, "low"))
    assert model.scale(RequestProfile(300, "high")) > 2 * model.scale(RequestProfile(300, "low"))


def test_a_much_longer_prompt_than_any_before_is_judged_with_caution():
    """Only until ten of its length were answered."""
    model = TimeModel()
    for i in range(60):
        model.add(0.5, i / 10, RequestProfile(300))
    long = RequestProfile(60_000)
    assert model.cautious_scale(long) > 2 * model.scale(long)
    for i in range(10):
        model.add(6.0, 10.0 + i, long)
    assert model.cautious_scale(long) == model.scale(long)


def test_the_length_of_a_whole_answer_counts():
    """Where answers are waited for plainly."""
    rng, model = Random(3), TimeModel()
    for i in range(400):
        tokens = rng.choice([50, 800])
        model.add((0.5 + tokens / 100) * rng.lognormvariate(0, 0.2), i / 10,
                  RequestProfile(300, None, tokens))  # fmt: skip
    long, short = (model.scale(RequestProfile(300, None, n)) for n in (800, 50))
    assert long / short == pytest.approx(8.5, rel=0.2)


@given(st.floats(0.01, 9), st.integers(1, 60))
@settings(max_examples=50, deadline=None)
def test_survival_falls_from_one(seconds, count):
    """And is never taken to be nothing: samples are finite."""
    histogram = LatencyHistogram()
    for i in range(count):
        histogram.add(seconds * (1 + i), i / 10)
    shares = [histogram.survival(seconds * x) for x in (0.5, 1.5, count + 1.0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1.0
    assert 0 < shares[-1] <= 0.05 + (count < 20)


def test_without_samples_survival_is_unknown():
    """Neither none nor all."""
    assert LatencyHistogram().survival(1.0) is None


# -- a thinker of which little is known ----------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "delay"),
    [([], 30.0), ([20.0, 22.0], 30.0), ([20.0, 33.0], 40.0), ([170.0], 60.0)],
    ids=["nothing", "usual", "longer", "an outlier"],
)
def test_a_thinker_is_hedged_a_little_after_its_slowest(seen, delay):
    """Within bounds: from what its effort says to twice that; any other model is no thinker."""
    speed = TargetSpeed({}, thinks=True)
    for number, seconds in enumerate(seen):
        speed.record(seconds, float(number), plain=False)
    assert speed.thinking_delay(plain=False) == pytest.approx(delay, rel=0.02)
    assert TargetSpeed({}).thinking_delay(plain=False) == 0

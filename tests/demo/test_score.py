"""What is counted of a side's calls."""

from __future__ import annotations

import pytest

from langchain_resilient.demo.score import ScoredCall, Score


@pytest.fixture
def score() -> Score:
    """Three answers, one failure, and one call that waits."""
    return Score(
        "side",
        calls=[
            ScoredCall(1, 0.0, 0.5, "answered"),
            ScoredCall(2, 1.0, 3.0, "answered"),
            ScoredCall(3, 2.0, 0.2, "failed"),
            ScoredCall(4, 3.0, 0.8, "answered"),
            ScoredCall(5, 8.0),
        ],
    )


def test_lost_is_what_goes_beyond_the_usual_and_all_of_a_failure(score):
    """Two seconds of the slow one, the failed one's, and one of the waiting one's two."""
    assert score.lost(10.0) == pytest.approx(2.0 + 0.2 + 1.0)


def test_quantiles_are_of_calls_that_ended(score):
    """The one that waits has no time yet."""
    assert (score.quantile(0.5), score.quantile(1.0)) == (0.5, 3.0)


def test_without_calls_there_is_no_quantile():
    """Not zero, which would look fast."""
    assert Score("side").quantile(0.5) is None


def test_the_histogram_counts_waiting_calls_by_their_age(score):
    """Failures stand elsewhere."""
    assert score.histogram((1.0, 2.5), now=10.0) == [2, 1, 1]


def test_the_worst_wait_stands_where_the_call_began(score):
    """With the failure marked in its column."""
    assert score.worst(5, 10.0, now=10.0) == [
        (3.0, False), (0.8, True), (0.0, False), (0.0, False), (2.0, False)
    ]  # fmt: skip

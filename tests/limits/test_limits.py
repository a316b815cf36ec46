"""Small batches under rate limits, through the real SDK in virtual time: see `python -m tests.limits`."""

from __future__ import annotations

import pytest

from tests.limits.rows import Limits, Row, ideal
from tests.limits.world import play

ROWS = [
    Row((Limits(60),), requests=160),
    Row((Limits(60, window="second"),), "configured", requests=120),
    Row((Limits(60, others=0.3),), requests=160),
]


@pytest.mark.parametrize("row", ROWS)
def test_a_batch_takes_hardly_longer_than_its_limit_makes_it(row):
    """And is hardly ever refused."""
    assert play(row).broken() == []


def test_the_ideal_counts_what_is_saved_up_at_first():
    """Six hundred go at once, ten a second after them."""
    assert ideal(Row((Limits(600, 1e9),), requests=1600)) == pytest.approx(100.5)
    assert ideal(Row((Limits(600, 1e9, "second"),), requests=1600)) == pytest.approx(159.5)


def test_without_spread_the_preferred_target_does_the_work():
    """The other one has room, and is not asked."""
    two = (Limits(60), Limits(60))
    result = play(Row(two, requests=90, spread=False))
    assert result.sends == (90, 0)

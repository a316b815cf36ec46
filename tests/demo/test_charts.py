"""Bars made of characters."""

from __future__ import annotations

from langchain_resilient.demo.charts import bar, columns, height


def test_columns_fill_from_below():
    """Half a column of two lines is one full line."""
    assert columns([0.0, 0.5, 1.0, 0.25], 2) == ["  █ ", " ██▄"]


def test_a_bar_shows_whatever_is_more_than_nothing():
    """One call of thousands is still to be seen."""
    assert (bar(0.0, 3), bar(0.001, 3), bar(0.5, 2), bar(1.0, 3)) == ("   ", "▏  ", "█ ", "███")


def test_heights_are_logarithmic_and_bounded():
    """From the least to the most; no time has no height."""
    assert [height(t, 1.0, 100.0) for t in (0.0, 10.0, 100.0, 1e9)] == [0.0, 0.5, 1.0, 1.0]

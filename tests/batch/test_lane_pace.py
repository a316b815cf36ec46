"""How long live answers take, what a deadline asks for, and spans of time."""

from __future__ import annotations

import datetime as dt
from math import inf
from typing import Any

import pytest

from langchain_resilient.batch.journal_file import BatchRow
from langchain_resilient.batch.lane_batch import LaneBatch
from langchain_resilient.batch.lane_pace import CANCEL_SECONDS, Deadline, LivePace, within_seconds

DESK: Any = None  # not asked here


def batch(tag: str, share: float, began: float = 0.0) -> LaneBatch:
    """A batch of 100 requests of which some share is done."""
    row = BatchRow(tag, "openai:m", "/v1/chat/completions", None, 100)
    return LaneBatch(row, DESK, began, share=share, moved=1000.0)


def deadline(at: float) -> Deadline:
    """One with 10 live answers a second, of 1 second each: 123 seconds are left over."""
    pace = LivePace()
    pace.seconds = 1.0
    return Deadline(at, pace, lambda: 10.0)


def test_the_last_moments():
    """Live answers take a quarter longer than reckoned, and a cancelled batch its ten minutes."""
    last = deadline(10_000.0)
    assert last.release_at(0) == 10_000.0 - 123.0
    assert last.release_at(1000) == 10_000.0 - 123.0 - 125.0
    assert last.cancel_at(1000) == last.release_at(1000) - CANCEL_SECONDS
    assert deadline(inf).cancel_at(1000) == inf


def test_the_least_likely_batch_goes_first():
    """It is cancelled, and then bought, while the others may still come back in time."""
    last = deadline(10_000.0)
    slow, fast, unknown = batch("slow", 0.1), batch("fast", 0.5), batch("unknown", 0.0)
    batches, counts = [fast, unknown, slow], {"slow": 4000, "fast": 4000, "unknown": 4000}
    cancel = [last.cancel_at(prompts) for prompts in (12_000, 8000, 4000)]
    before = last.due(batches, counts, 12_000, cancel[0] - 1.0)
    assert (before.late, before.slow, before.next_at) == ([], [], cancel[0])
    first = last.due(batches, counts, 12_000, cancel[0] + 1.0)
    assert (first.late, first.slow) == ([], [unknown])
    assert first.next_at == min(cancel[1], last.release_at(12_000))
    unknown.cancelling = True
    second = last.due(batches, counts, 12_000, cancel[1] + 1.0)
    assert (second.late, second.slow) == ([], [slow])
    late = last.due(batches, counts, 12_000, last.release_at(12_000) + 1.0)
    assert late.late == [unknown]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("6h", 21600), ("1h 30min", 5400), ("90m", 5400), ("1.5d", 129600), ("45s", 45), (60, 60),
     (dt.timedelta(hours=1), 3600), (None, None)],
)  # fmt: skip
def test_spans_of_time(given, seconds):
    """As one writes them."""
    assert within_seconds(given) == seconds


@pytest.mark.parametrize("given", ["", "soon", "6", "6h soon", 0, -1, float("inf"), True, "0h"])
def test_what_is_no_span_of_time(given):
    """Says what it may be."""
    with pytest.raises(ValueError, match="within must be a time"):
        within_seconds(given)


def test_the_pace_of_live_answers():
    """Reckoned from the first answer, then measured; never above the limit."""
    pace = LivePace()
    pace.seconds = 2.0
    assert pace.rate(64, float("inf")) == 16.0
    assert pace.rate(64, 5.0) == 5.0
    pace.begin(0.0)
    for n in range(100):
        pace.add(n / 4, 2.0)
    assert pace.rate(64, float("inf")) == pytest.approx(4.0, rel=0.05)

"""What flat means: bounds on what may grow from the tenth minute of a run to its end."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.soak.windows import Window

WARM_UP = 600.0
"""Seconds that are not counted of a long run; of a shorter one it is a tenth: until then pools,
histograms and the allocator's own stock grow to their size."""

SPAN = 3
"""Windows of which the median is taken at either end: one of them may have had bad luck."""


@dataclass(frozen=True)
class Bounds:
    """What may grow, and how much.

    Attributes:
        megabytes: Of resident memory.
        objects: Of the garbage collector, as a share.
        latency: The last windows' p50 and p99, in those of the first.
        errors: The share of calls that may end in an error.
    """

    megabytes: float = 5.0
    objects: float = 0.01
    latency: float = 1.3
    errors: float = 0.0


def complaints(windows: Sequence[Window], bounds: Bounds) -> list[str]:
    """List what was not flat, in words.

    Args:
        windows: Of the whole run, in order.
        bounds: What may grow.
    """
    counted = _counted(windows)
    found = [*_growth(counted, bounds), *_left_behind(counted)]
    if late := sum(one.late for one in windows):
        found.append(f"{late} calls ended after their deadline")
    errors = sum(sum(one.errors.values()) for one in windows)
    calls = errors + sum(one.answered for one in windows)
    if errors > bounds.errors * calls:
        found.append(f"{errors} of {calls} calls ended in an error")
    return found


def _counted(windows: Sequence[Window]) -> Sequence[Window]:
    """Leave out those that are for warming up."""
    first, passed = max(1, len(windows) // 10), 0.0
    if sum(one.seconds for one in windows) >= 2 * WARM_UP:
        for number, one in enumerate(windows):
            passed += one.seconds
            if passed >= WARM_UP:
                first = max(first, number + 1)
                break
    return windows[first:]


def growth(windows: Sequence[Window], name: str) -> tuple[float, float]:
    """A figure at the begin and at the end: medians of a few windows each."""
    figures = [getattr(one, name) for one in windows]
    return median(figures[:SPAN]), median(figures[-SPAN:])


def _growth(windows: Sequence[Window], bounds: Bounds) -> list[str]:
    found = []
    first, last = growth(windows, "rss")
    if last - first > bounds.megabytes:
        found.append(f"memory grew from {first:.1f} to {last:.1f} MB")
    for name, most in (
        ("objects", 1 + bounds.objects),
        ("p50", bounds.latency),
        ("p99", bounds.latency),
    ):
        first, last = growth(windows, name)
        if last > most * first:
            found.append(f"{name} grew from {first:.4g} to {last:.4g}")
    return found


def _left_behind(windows: Sequence[Window]) -> list[str]:
    found = []
    for name in ("tasks", "threads", "files"):
        seen = {getattr(one, name) for one in windows}
        if len(seen) > 1:
            found.append(f"{name} after each window: {sorted(seen)}")
    if busy := sum(one.busy for one in windows):
        found.append(f"the server was still busy with {busy} requests after their callers had gone")
    return found

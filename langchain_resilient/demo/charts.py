"""Bars made of characters."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_ACROSS = " ▏▎▍▌▋▊▉█"


def columns(heights: Sequence[float], rows: int) -> list[str]:
    """Draw a column chart.

    Args:
        heights: Of each column, from 0 to 1.
        rows: How many lines high.

    Returns:
        The lines, the highest first.

    Example:
        ```python
        columns([0.5, 1.0], 1)  # ["▄█"]
        ```
    """
    lines = []
    for row in reversed(range(rows)):
        parts = (round((height * rows - row) * 8) for height in heights)
        lines.append("".join(_EIGHTHS[min(8, max(0, part))] for part in parts))
    return lines


def bar(share: float, width: int) -> str:
    """Draw a bar across; what is more than nothing shows.

    Args:
        share: Of the width, from 0 to 1.
        width: In characters.
    """
    eighths = max(round(share * width * 8), 1 if share > 0 else 0)
    full, rest = divmod(min(eighths, width * 8), 8)
    return ("█" * full + (_ACROSS[rest] if rest else "")).ljust(width)


def height(seconds: float, lowest: float, highest: float) -> float:
    """Place a time on a logarithmic scale from 0 to 1; times of 0 have no height."""
    if seconds <= 0:
        return 0.0
    return min(1.0, max(0.06, log(seconds / lowest) / log(highest / lowest)))

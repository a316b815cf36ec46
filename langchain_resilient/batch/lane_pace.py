"""How long live answers take, and the spans of time that users write."""

from __future__ import annotations

import re
from datetime import timedelta
from math import inf

_SECONDS = 10.0
"""Of a live answer, until one has come."""

_MEASURED = 50
"""Live answers in a row from which their rate is taken."""


class LivePace:
    """How fast prompts are answered live, as far as this run has seen.

    Attributes:
        seconds: Of one answer.
    """

    def __init__(self) -> None:
        self.seconds = _SECONDS
        self._began: float | None = None
        self._answers = 0
        self._rate: float | None = None

    def begin(self, now: float) -> None:
        """Note that there is more to do than one worker does."""
        if self._began is None:
            self._began, self._answers = now, 0

    def pause(self) -> None:
        """Note that there is nothing to do."""
        self._began = None

    def add(self, now: float, seconds: float) -> None:
        """Count an answer that took so long."""
        self.seconds += (seconds - self.seconds) / 10
        self._answers += 1
        if self._began is not None and self._answers >= _MEASURED and now > self._began:
            self._rate = self._answers / (now - self._began)

    def rate(self, workers: int, limit: float) -> float:
        """Answers a second, by what was measured, else by half of what so many workers could do.

        Args:
            workers: Requests under way at one time.
            limit: What rate limits let through.
        """
        reckoned = workers / (2.0 * max(self.seconds, 0.5))
        return min(limit, reckoned if self._rate is None else self._rate)


_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}

_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(min|[smhd])\s*", re.IGNORECASE)


def within_seconds(within: str | float | timedelta | None) -> float | None:
    """Read a span of time: seconds, a `timedelta`, or a text such as `"6h"` or `"1h 30min"`.

    Raises:
        ValueError: If it is none of these, or not more than 0.

    Example:
        ```python
        within_seconds("1h 30min")  # 5400.0
        ```
    """
    seconds: float | None = None
    if within is None:
        return None
    if isinstance(within, timedelta):
        seconds = within.total_seconds()
    elif isinstance(within, str):
        parts = _PART.findall(within)
        if parts and not _PART.sub("", within).strip():
            seconds = sum(float(number) * _UNITS[unit.lower()] for number, unit in parts)
    elif not isinstance(within, bool):
        seconds = float(within)
    if seconds is None or not 0 < seconds < inf:
        msg = f'within must be a time such as "6h" or "1h 30min", or seconds, not {within!r}'
        raise ValueError(msg)
    return seconds

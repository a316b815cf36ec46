"""How long live answers take, what a deadline asks for, and the spans of time that users write."""

from __future__ import annotations

import re
from datetime import timedelta
from math import inf
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from langchain_resilient.batch.lane_batch import LaneBatch

CANCEL_SECONDS = 660.0
"""How long a cancelled batch may take until its answers are there: OpenAI says ten minutes."""

SAFETY = 1.25
"""By how much longer live requests may take than is reckoned."""

MARGIN_SECONDS = 120.0
"""How long before the deadline all should be there, beside the time of some answers."""

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


class Due(NamedTuple):
    """What is to be done so that the deadline holds.

    Attributes:
        late: Batches whose prompts are to be asked live now.
        slow: Batches that are to be cancelled, so that what is done of them is here in time.
        next_at: When there is more to do, as far as that is known now.
    """

    late: list[LaneBatch]
    slow: list[LaneBatch]
    next_at: float


class Deadline:
    """When batches must be given up, so that all prompts are answered in time.

    Args:
        at: When all must be answered, by the loop's clock; `inf` for no deadline.
        pace: Of live answers.
        rate: Live answers a second, at any moment.

    Attributes:
        at: As given.
    """

    def __init__(self, at: float, pace: LivePace, rate: Callable[[], float]) -> None:
        self.at = at
        self._pace = pace
        self._rate = rate

    def release_at(self, prompts: int) -> float:
        """The last moment at which so many prompts can be bought live in time."""
        margin = MARGIN_SECONDS + 3.0 * self._pace.seconds
        return self.at - margin - SAFETY * prompts / self._rate()

    def cancel_at(self, prompts: int) -> float:
        """The last moment to cancel a batch, so that what is done of it is there before that."""
        return self.release_at(prompts) - CANCEL_SECONDS

    def due(
        self,
        batches: Sequence[LaneBatch],
        counts: Mapping[str, int],
        prompts: int,
        now: float,
    ) -> Due:
        """Say which batches to cancel, and which prompts to buy; the least likely first.

        Args:
            batches: Those whose prompts wait.
            counts: Prompts that wait, by the tag of their batch.
            prompts: How many there are in all, with those that are not yet read.
            now: The loop's time.
        """
        due = Due([], [], inf)
        for batch in sorted(batches, key=lambda b: (b.expected(now), b.row.tag), reverse=True):
            release_at, cancel_at = self.release_at(prompts), self.cancel_at(prompts)
            next_at = cancel_at if now < cancel_at else release_at
            due = due._replace(next_at=min(due.next_at, next_at))
            if now >= release_at:
                due.late.append(batch)
            elif now >= cancel_at and not batch.cancelling:
                due.slow.append(batch)
            prompts -= counts[batch.row.tag]
        return due


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

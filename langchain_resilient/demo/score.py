"""What became of one side's requests: the calls, their times, and what they cost the user."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

USUAL = 1.0
"""Seconds in which an undisturbed answer is there; what is longer counts as lost."""

Fate = Literal["waiting", "answered", "wrong", "failed"]


@dataclass(slots=True)
class ScoredCall:
    """One request of one side.

    Attributes:
        number: Counted from 1.
        started: Seconds since the show began.
        seconds: To its end; None while it is waiting.
        fate: What became of it. `"wrong"` is an answer that is not whole, to the letter.
    """

    number: int
    started: float
    seconds: float | None = None
    fate: Fate = "waiting"

    def waited(self, now: float) -> float:
        """Seconds to its end, or so far."""
        return max(0.0, now - self.started) if self.seconds is None else self.seconds


@dataclass
class Score:
    """All requests of one side, and the last things worth telling about them.

    Attributes:
        name: Of the side.
        calls: In the order of sending.
        lines: The last events, oldest first: a line for people, and whether it is bad news.
    """

    name: str
    calls: list[ScoredCall] = field(default_factory=list)
    lines: deque[tuple[str, bool]] = field(default_factory=lambda: deque(maxlen=40))

    def count(self, *fates: Fate) -> int:
        """Count the calls of some fates."""
        return sum(call.fate in fates for call in self.calls)

    def lost(self, now: float) -> float:
        """Seconds that users waited beyond `USUAL`; for a call that failed, all of them."""
        return sum(
            call.waited(now) if call.fate in ("failed", "wrong")
            else max(0.0, call.waited(now) - USUAL)
            for call in self.calls
        )  # fmt: skip

    def quantile(self, share: float) -> float | None:
        """Seconds within which this share of all calls that ended did, answered or not.

        An error that comes at once would look fast: it is counted among the failures as well.
        """
        times = sorted(call.seconds for call in self.calls if call.seconds is not None)
        return times[max(0, ceil(share * len(times)) - 1)] if times else None

    def histogram(self, edges: Iterable[float], now: float) -> list[int]:
        """Count the calls, those waiting by their age, up to each edge and beyond the last."""
        bounds = [*edges]
        counts = [0] * (len(bounds) + 1)
        for call in self.calls:
            if call.fate in ("answered", "waiting"):
                waited = call.waited(now)
                counts[next((i for i, b in enumerate(bounds) if waited <= b), len(bounds))] += 1
        return counts

    def worst(self, columns: int, length: float, now: float) -> list[tuple[float, bool]]:
        """Cut the show into columns: the longest wait of each one's calls, and whether any failed.

        A call stands where it began; a column without calls has a wait of 0.
        """
        value = [(0.0, False)] * columns
        for call in self.calls:
            column = min(int(call.started / length * columns), columns - 1)
            longest, failed = value[column]
            bad = failed or call.fate in ("failed", "wrong")
            value[column] = (max(longest, call.waited(now)), bad)
        return value

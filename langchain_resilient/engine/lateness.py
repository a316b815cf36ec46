"""When an attempt is late: for a hedge, for the judgement on its target, and for its limits."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from langchain_resilient.policy import Hedge

if TYPE_CHECKING:
    from langchain_resilient.engine.events import Attempt

LEAST = 0.05
MOST = 10.0
"""Bounds of a learned delay, in seconds.

Without an upper one a target that grows slower drags its own percentile along until nothing is ever
late (CASSANDRA-14293)."""

LEAST_LATE = 0.25
"""Nothing is held against a target that spoke within this many seconds: our own loop may have been
busy."""

_COLD = Hedge().cold


def hedge_delay(hedge: Hedge, attempt: Attempt, now: float) -> float:
    """Seconds after which another target is asked beside this attempt."""
    if hedge.delay != "learned":
        return hedge.delay
    q = 1 - 0.9 * hedge.budget
    learned = attempt.lane.state.percentile(q, now, plain=attempt.plain)
    if learned is None:
        return hedge.cold
    limit = attempt.lane.limits.first_text
    return max(LEAST, min(learned, MOST, inf if limit is None else limit / 2))


def late_after(hedge: Hedge | None, attempt: Attempt, now: float) -> float:
    """Seconds after which its silence is held against its target."""
    cold = _COLD if hedge is None else hedge.cold
    return max(LEAST_LATE, attempt.lane.state.late_after(now, plain=attempt.plain, cold=cold))


def due(attempt: Attempt) -> float:
    """When one of its limits is reached."""
    limits = attempt.lane.limits
    at = inf if limits.answer is None else attempt.started + limits.answer
    if attempt.suspect:
        return at
    if attempt.first_text is None:
        at = min(at, attempt.hedge_at, attempt.late_at)
        return at if limits.first_text is None else min(at, attempt.started + limits.first_text)
    return at if limits.chunk_gap is None else min(at, attempt.last_chunk + limits.chunk_gap)

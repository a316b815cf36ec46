"""When an attempt is late: for a hedge, for the judgement on its target, and for its limits."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from langchain_resilient.engine.watch import NORMAL
from langchain_resilient.fault import Fault, FaultKind
from langchain_resilient.policy import Hedge

if TYPE_CHECKING:
    from langchain_resilient.engine.events import Attempt
    from langchain_resilient.engine.health import TargetState
    from langchain_resilient.policy import Timeouts

LEAST = 0.05
MOST = 10.0
"""Bounds of a learned delay, in seconds.

Without an upper one a target that grows slower drags its own percentile along until nothing is ever
late (CASSANDRA-14293)."""

LEAST_LATE = 0.25
"""Nothing is held against a target that spoke within this many seconds: our own loop may have been
busy."""

BATCH_FACTOR = 3.0
"""So many times the time by which 95 % have spoken is taken for a hang in a batch."""

PAUSE_FACTOR = 2.0
"""A silence in the middle of an answer is long if it is so many times as long as the longest of
nearly all answers."""

_COLD = Hedge().cold


def hedge_delay(hedge: Hedge, attempt: Attempt, now: float, *, batch: bool = False) -> float:
    """Seconds after which another target is asked beside this attempt; see `delay_for`."""
    lane = attempt.lane
    return delay_for(hedge, lane.state, lane.limits, now, plain=attempt.plain, batch=batch)


def delay_for(
    hedge: Hedge,
    state: TargetState,
    limits: Timeouts,
    now: float,
    *,
    plain: bool,
    batch: bool = False,
) -> float:
    """Seconds after which another target is asked beside a request to this one, if sent now.

    Args:
        hedge: The policy.
        state: The target's, which has learned what is usual.
        limits: The target's own.
        now: The engine's clock.
        plain: Whether a whole answer is asked for, rather than a stream.
        batch: Nobody waits for this one answer, and under a limit of the rate a hedge takes the
            place of a first send: only what hangs is worth that.
    """
    if hedge.delay != "learned":
        return hedge.delay
    if batch and state.limited:
        usual = state.percentile(1 - NORMAL, now, plain=plain)
        return max(hedge.cold, BATCH_FACTOR * (usual or 0.0))
    q = 1 - 0.9 * hedge.budget
    learned = state.percentile(q, now, plain=plain)
    if learned is None:
        return hedge.cold
    limit = limits.first_text
    return max(LEAST, min(learned, MOST, inf if limit is None else limit / 2))


def late_after(hedge: Hedge | None, attempt: Attempt, now: float) -> float:
    """Seconds after which its silence is held against its target."""
    cold = _COLD if hedge is None else hedge.cold
    return max(LEAST_LATE, attempt.lane.state.late_after(now, plain=attempt.plain, cold=cold))


def pause_after(hedge: Hedge | None, attempt: Attempt, now: float) -> float:
    """Seconds of silence in the middle of an answer after which another target is asked beside."""
    if hedge is None or hedge.pause is None:
        return inf
    return max(hedge.pause, PAUSE_FACTOR * attempt.lane.state.usual_pause(now))


def due(attempt: Attempt) -> float:
    """When one of its limits is reached."""
    limits = attempt.lane.limits
    at = inf if limits.answer is None else attempt.started + attempt.excused + limits.answer
    if attempt.suspect:
        return at
    at = min(at, attempt.pace_at)
    if attempt.first_text is None:
        at = min(at, attempt.hedge_at, attempt.late_at)
        if limits.first_text is None:
            return at
        return min(at, attempt.started + attempt.excused + limits.first_text)
    if not attempt.paused:
        at = min(at, attempt.last_chunk + attempt.pause)
    return at if limits.chunk_gap is None else min(at, attempt.last_chunk + limits.chunk_gap)


def watch_afresh(attempt: Attempt, now: float) -> None:
    """Count its silence from now on: before, we could not have heard it."""
    if attempt.last_chunk == inf:
        return  # it is whole, or held up by our own reader
    forgiven = now - attempt.started - attempt.excused
    attempt.hedge_at += forgiven
    attempt.late_at += forgiven
    attempt.excused += forgiven
    attempt.last_chunk = now
    watch_pace(attempt, now)


def watch_pace(attempt: Attempt, now: float) -> None:
    """Look at its throughput one window from now; what it has said by now is not counted."""
    limits = attempt.lane.limits
    if limits.min_tokens_per_second is not None:
        attempt.pace_at = now + limits.throughput_window
        attempt.pace_from = (attempt.draft.tokens() or None) if attempt.draft else None


def too_slow(attempt: Attempt, now: float) -> Fault | None:
    """Judge its throughput over the last window, and begin the next.

    The window in which it began to speak is not judged: how long it takes to begin has its own
    limit.
    """
    limits, before = attempt.lane.limits, attempt.pace_from
    watch_pace(attempt, now)
    least, after = limits.min_tokens_per_second, attempt.pace_from
    if least is None or before is None or after is None:
        return None
    speed = (after - before) / limits.throughput_window
    if speed >= least:
        return None
    said = f"only {speed:.2g} tokens/s for {limits.throughput_window:g} s"
    return Fault(FaultKind.STALL, said)

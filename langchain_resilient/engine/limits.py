"""When something is due of an attempt: its hedge, its limits, and when its silence counts."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from langchain_resilient.engine.circuit_breaker import HEALTHY_SLOW_SHARE
from langchain_resilient.engine.time_model import UNKNOWN, RequestProfile
from langchain_resilient.faults import Fault, FaultKind
from langchain_resilient.policies import Hedge
from langchain_resilient.receipt import AttemptKind

if TYPE_CHECKING:
    from langchain_resilient.engine.attempt import Attempt
    from langchain_resilient.engine.target_state import TargetState
    from langchain_resilient.policies import TimeLimits


DEFAULT_COLD = Hedge().cold
"""The delay in seconds of a hedge while nothing is known, where nothing is hedged."""

MIN_HEDGE_DELAY = 0.05
"""The shortest delay that is learned, in seconds.

There is no longest one: a model that thinks for a minute is late after more than that. A target
that gets slower does not drag its own percentile along until nothing is late any more
(CASSANDRA-14293): its late samples are held back, and thrown away when it trips."""

_HASTE = 0.6
"""Share of a hedge's delay that is saved at a target which is about to trip."""

RESCUE_EVIDENCE = 3.2
"""Nats against a target at which a request is rescued that found no token for a hedge: those of the
silences before it, and of its own. Two silences that 5 % of requests exceed are enough, or one that
3 % do."""

_OWN_EVIDENCE = 1.2
"""The part of them that its own silence must have."""

MAX_SPARSE = 8
"""Attempts that wait for a first text at the same time, hedges included, up to which that is done:
so few cannot overload anybody, and while they wait, hardly any token comes in."""

MAX_COLD_DELAY = 10.0
"""The longest delay, in seconds, for a long prompt while nothing has been learned."""

MIN_LATE_SECONDS = 0.25
"""Text within so many seconds is never late: our own event loop may have been busy."""

BATCH_FACTOR = 3.0
"""In a batch, factor on the 95th percentile beyond which a request is taken to hang."""

PAUSE_FACTOR = 2.0
"""Factor on the longest pause of nearly all answers beyond which a silence is long."""

_THINKING_GAP = 10.0
"""Seconds between two pieces of reasoning, where the gap within an answer has no limit."""


def hedge_delay(hedge: Hedge, attempt: Attempt, now: float, *, batch: bool = False) -> float:
    """Seconds after which another target is asked beside this attempt; see `delay_for`."""
    candidate = attempt.candidate
    return delay_for(
        hedge,
        candidate.state,
        candidate.limits,
        now,
        plain=attempt.plain,
        batch=batch,
        profile=attempt.profile,
    )


def delay_for(
    hedge: Hedge,
    state: TargetState,
    limits: TimeLimits,
    now: float,
    *,
    plain: bool,
    batch: bool = False,
    profile: RequestProfile = UNKNOWN,
) -> float:
    """Seconds after which another target is asked beside a request to this one, if sent now.

    Args:
        hedge: The policy.
        state: The target's, which has learned what is usual.
        limits: The target's own.
        now: The engine's clock.
        plain: Whether a whole answer is asked for, rather than a stream.
        profile: What is known of the request.
        batch: Under a rate limit, a hedge in a batch takes the place of a first send, and no user
            waits for this one answer: so only a request that hangs is hedged.
    """
    if hedge.delay != "learned":
        return hedge.delay
    if batch and state.limited:
        usual = state.speed.percentile(1 - HEALTHY_SLOW_SHARE, now, plain=plain, profile=profile)
        return max(hedge.cold, BATCH_FACTOR * (usual or 0.0))
    # A share of `budget` of the requests may be hedged. Aiming at nine tenths of it keeps the
    # budget from running dry by chance (Dean & Barroso, "The Tail at Scale", 2013: hedge at the
    # 95th percentile for 5 % extra load).
    q = 1 - 0.9 * hedge.budget
    learned = state.speed.percentile(q, now, plain=plain, profile=profile)
    limit = limits.first_text
    longest = limit / 2 if isinstance(limit, float) else inf
    # The more its last silences were unusual, the less is waited for another.
    haste = 1 - _HASTE * state.circuit_breaker.suspicion
    if learned is None:
        thinking = state.speed.thinking_delay(plain=plain, profile=profile)
        if thinking:
            return max(hedge.cold, haste * min(thinking, longest))
        cold = hedge.cold * state.speed.times(plain=plain).scale(profile)
        return haste * max(hedge.cold, min(cold, MAX_COLD_DELAY, longest))
    return max(MIN_HEDGE_DELAY, min(haste * learned, longest))


def late_after(hedge: Hedge | None, attempt: Attempt, now: float) -> float:
    """Seconds after which its silence counts against its target."""
    cold = DEFAULT_COLD if hedge is None else hedge.cold
    return max(
        MIN_LATE_SECONDS,
        attempt.candidate.state.speed.late_after(
            now, plain=attempt.plain, cold=cold, profile=attempt.profile
        ),
    )


def rescue_after(attempt: Attempt, now: float, cold: float) -> float:
    """Seconds of silence after which it is rescued although there was no token for a hedge."""
    state = attempt.candidate.state
    needed = max(_OWN_EVIDENCE, RESCUE_EVIDENCE - state.circuit_breaker.score)
    return state.speed.unusual_after(
        needed, now, plain=attempt.plain, cold=cold, profile=attempt.profile
    )


def text_limit(attempt: Attempt, now: float) -> float:
    """Seconds for which it may show no text; see `TimeLimits.first_text`."""
    limit = attempt.candidate.limits.first_text
    if limit == "learned":
        speed = attempt.candidate.state.speed
        return speed.text_limit(now, plain=attempt.plain, profile=attempt.profile)
    return inf if limit is None else limit


def thinking_limit(attempt: Attempt, now: float) -> float:
    """Seconds for which it may reason without a text; see `TimeLimits.thinking`."""
    limit = attempt.candidate.limits.thinking
    if limit == "learned":
        speed = attempt.candidate.state.speed
        return speed.thinking_limit(now, plain=attempt.plain, profile=attempt.profile)
    return inf if limit is None else limit


def text_due_at(attempt: Attempt) -> float:
    """When an attempt without text is over its limit.

    Reasoning holds that back, but not for ever.
    """
    started = attempt.started + attempt.excused_seconds
    silent = started + attempt.text_limit
    if not attempt.thinks:
        return silent
    return max(silent, min(_reasoning_until(attempt), started + attempt.thinking_limit))


def late_due_at(attempt: Attempt) -> float:
    """When its silence counts against its target; reasoning is no silence."""
    if not attempt.thinks or attempt.late_at == inf:
        return attempt.late_at
    return max(attempt.late_at, _reasoning_until(attempt))


def _reasoning_until(attempt: Attempt) -> float:
    """Until when it counts as reasoning: no more time may pass than within an answer."""
    gap = attempt.candidate.limits.chunk_gap
    return attempt.last_chunk + (_THINKING_GAP if gap is None else gap)


def pause_limit(hedge: Hedge | None, attempt: Attempt, now: float) -> float:
    """Seconds of silence within an answer after which another target is asked beside it."""
    if hedge is None or hedge.pause is None:
        return inf
    return max(hedge.pause, PAUSE_FACTOR * attempt.candidate.state.speed.typical_pause(now))


def next_limit_at(attempt: Attempt) -> float:
    """When the next of its limits is reached."""
    limits = attempt.candidate.limits
    at = inf if limits.answer is None else attempt.started + attempt.excused_seconds + limits.answer
    if attempt.timed_out:
        return at
    at = min(at, attempt.window_ends_at)
    if attempt.first_text is None:
        return min(
            at, attempt.hedge_at, attempt.rescue_at, late_due_at(attempt), text_due_at(attempt)
        )
    if not attempt.paused:
        at = min(at, attempt.last_chunk + attempt.pause_limit)
    return at if limits.chunk_gap is None else min(at, attempt.last_chunk + limits.chunk_gap)


def check_answer(attempt: Attempt, now: float) -> Fault | None:
    """Check whether its whole answer takes too long; see `TimeLimits.answer`."""
    limit = attempt.candidate.limits.answer
    if limit is None or now < attempt.started + attempt.excused_seconds + limit:
        return None
    return Fault(FaultKind.TIMEOUT, f"the answer took over {limit:g} s")


def text_fault(attempt: Attempt, now: float) -> tuple[Fault, bool]:
    """The fault of one whose text is overdue, and whether it is final.

    One that only reasons is not read on: it could do so for ever.
    """
    seconds = now - attempt.started - attempt.excused_seconds
    if attempt.thinks and seconds >= attempt.thinking_limit:
        message = f"only reasoning for {attempt.thinking_limit:g} s"
        return Fault(FaultKind.TIMEOUT, message), True
    return Fault(FaultKind.TIMEOUT, f"no text within {seconds:.3g} s"), False


def start_text_limits(attempt: Attempt, hedge: Hedge | None, now: float) -> None:
    """Begin those of an answer whose first text has come."""
    attempt.first_text = attempt.last_chunk = now
    attempt.longest_pause = 0.0
    start_throughput_window(attempt, now)
    if attempt.kind is not AttemptKind.LAST_RESORT:
        attempt.pause_limit = pause_limit(hedge, attempt, now)


def restart_limits(attempt: Attempt, now: float) -> None:
    """Count its silence from now on, since our process could hear nothing before."""
    if attempt.last_chunk == inf:
        return  # its answer is complete, or our own reader holds it up
    elapsed = now - attempt.started - attempt.excused_seconds
    attempt.hedge_at += elapsed
    attempt.late_at += elapsed
    attempt.rescue_at += elapsed
    attempt.excused_seconds += elapsed
    attempt.last_chunk = now
    start_throughput_window(attempt, now)


def start_throughput_window(attempt: Attempt, now: float) -> None:
    """Begin a window in which its throughput is measured."""
    limits = attempt.candidate.limits
    if limits.min_tokens_per_second is not None:
        attempt.window_ends_at = now + limits.throughput_window
        attempt.window_start_tokens = (
            (attempt.response.tokens() or None) if attempt.response else None
        )


def check_throughput(attempt: Attempt, now: float) -> Fault | None:
    """Check its throughput over the last window, and begin the next.

    The window of its first text is not checked: how long that takes has a limit of its own.
    """
    limits, before = attempt.candidate.limits, attempt.window_start_tokens
    start_throughput_window(attempt, now)
    minimum, after = limits.min_tokens_per_second, attempt.window_start_tokens
    if minimum is None or before is None or after is None:
        return None
    speed = (after - before) / limits.throughput_window
    if speed >= minimum:
        return None
    message = f"only {speed:.2g} tokens/s for {limits.throughput_window:g} s"
    return Fault(FaultKind.STALL, message)

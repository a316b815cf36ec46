"""The targets and attempts of one request: their limits, and which are still counted on."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from langchain_resilient.engine.circuit_breaker import HEALTHY_SLOW_SHARE, SLOW_EVIDENCE
from langchain_resilient.engine.time_model import UNKNOWN, RequestProfile
from langchain_resilient.faults import Fault, FaultKind
from langchain_resilient.options import Hedge
from langchain_resilient.receipt import AttemptKind, AttemptRecord, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_resilient.engine.rate_limiter import QueuedRequest, Reservation
    from langchain_resilient.engine.target_state import TargetState
    from langchain_resilient.options import TimeLimits


DEFAULT_COLD = Hedge().cold


class Candidate:
    """One target, as one request sees it.

    Attributes:
        index: Its position in the chain.
        state: What all requests know of it.
        limits: Its own, or the chat model's.
        tries: How often it was asked. Not counted: a last resort that was stopped for an answer
            that had only begun (see `Planner._restore_last_resort`).
        unusable_answers: How many of its whole answers were empty or invalid.
        active: How many of its attempts are still counted on.
        ready_at: When its backoff is over.
        excluded: Asking it again cannot help this request.
        retry_at_once: It gets one more try before the chain moves on.
        no_charge: That try costs no retry token: it uses another key, or does not stream.
        ignore_block: It may be asked although its account is blocked, for want of any other.
        queued_request: The request as its rate limiters see it; None where it is not paced.
    """

    __slots__ = (
        "active",
        "excluded",
        "ignore_block",
        "index",
        "limits",
        "no_charge",
        "queued_request",
        "ready_at",
        "retry_at_once",
        "state",
        "tries",
        "unusable_answers",
    )  # fmt: skip

    def __init__(
        self,
        index: int,
        state: TargetState,
        limits: TimeLimits,
        queued_request: QueuedRequest | None = None,
    ) -> None:
        self.index = index
        self.state = state
        self.limits = limits
        self.tries = 0
        self.unusable_answers = 0
        self.active = 0
        self.ready_at = 0.0
        self.excluded = False
        self.retry_at_once = False
        self.no_charge = False
        self.ignore_block = False
        self.queued_request = queued_request

    def available_at(self) -> float:
        """The earliest time at which this request may ask it."""
        state = self.state
        at = max(state.available_at(ignore_block=self.ignore_block), self.ready_at)
        if state.paced and self.queued_request is not None:
            return max(at, state.turn_at(self.queued_request))
        return at

    def saturated(self, now: float) -> bool:
        """Whether only its rate limit, its hint or its concurrency is in the way."""
        if self.excluded or self.ready_at > now:
            return False
        if self.available_at() <= now:
            return self.state.concurrency.full
        return self.queued_request is not None and bool(self.state.queues(now))


class Attempt:
    """One send to one target. The planner owns all fields but the driver's three.

    Attributes:
        key: Which of the target's keys is used.
        plain: It counts when its answer is whole, not at its first text.
        started: When it was sent.
        first_text: When its first text came.
        last_chunk: When content last came; `inf` while our own reader holds it up.
        hedge_at: When another target is to be asked beside it; `inf` for never.
        late_at: When its silence counts against the target; `inf` once that was done.
        rescue_at: When it is rescued although there was no token for a hedge; `inf` for never.
        late: It was counted as late.
        timed_out: It is over a limit: others are asked, but it may still win.
        paused: It fell silent in the middle: another is asked beside it, and the first text wins.
        longest_pause: Its longest pause since the first text, in seconds.
        pause_limit: Seconds of silence after which it counts as paused; `inf` for never.
        window_ends_at: When its throughput is checked next; `inf` for never.
        window_start_tokens: Its tokens at the last check; None before its first.
        excused_seconds: Seconds that our own reader, or our own process, held it up.
        retry_state: tenacity's view of it, where it is a retry.
        reservation: What was reserved for it; None where it is not paced.
        response: The driver's: what was received.
        task: The driver's: the task that reads it.
        pending_chunks: The driver's: chunks that wait for the commit.
        profile: What is known of the request.
        text_limit: Seconds without text after which it is no longer waited for; `inf` for never.
        thinking_limit: The same while reasoning arrives.
        thinks: Reasoning has arrived.
    """

    __slots__ = (
        "candidate",
        "ended",
        "excused_seconds",
        "fault",
        "first_text",
        "hedge_at",
        "key",
        "kind",
        "last_chunk",
        "late",
        "late_at",
        "longest_pause",
        "number",
        "outcome",
        "pause_limit",
        "paused",
        "pending_chunks",
        "plain",
        "profile",
        "rescue_at",
        "reservation",
        "response",
        "retry_state",
        "started",
        "task",
        "text_limit",
        "thinking_limit",
        "thinks",
        "timed_out",
        "window_ends_at",
        "window_start_tokens",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        candidate: Candidate,
        kind: AttemptKind,
        now: float,
        *,
        key: int = 0,
        plain: bool = False,
        profile: RequestProfile = UNKNOWN,
    ) -> None:
        self.profile: RequestProfile = profile
        self.text_limit: float = inf
        self.thinking_limit: float = inf
        self.thinks: bool = False
        self.number: int = number
        self.candidate: Candidate = candidate
        self.kind: AttemptKind = kind
        self.key: int = key
        self.plain: bool = plain
        self.started: float = now
        self.first_text: float | None = None
        self.last_chunk: float = now
        self.ended: float | None = None
        self.hedge_at: float = inf
        self.late_at: float = inf
        self.rescue_at: float = inf
        self.late: bool = False
        self.timed_out: bool = False
        self.paused: bool = False
        self.longest_pause: float = 0.0
        self.pause_limit: float = inf
        self.window_ends_at: float = inf
        self.window_start_tokens: int | None = None
        self.excused_seconds: float = 0.0
        self.outcome: Outcome | None = None
        self.fault: Fault | None = None
        self.retry_state: Any = None
        self.response: Any = None
        self.task: Any = None
        self.pending_chunks: list[Any] = []
        self.reservation: Reservation | None = None


def attempt_record(a: Attempt, began: float, now: float) -> AttemptRecord:
    """The record of one attempt, for the receipt.

    Args:
        a: The attempt.
        began: When the call began.
        now: The engine's clock.
    """
    unknown = Outcome.OPEN if a.kind is AttemptKind.SHADOW else Outcome.CANCELLED
    cached, written = a.response.cache_tokens()
    return AttemptRecord(
        target=a.candidate.state.name,
        kind=a.kind,
        started=a.started - began,
        first_text=None if a.first_text is None else a.first_text - began,
        ended=(now if a.ended is None else a.ended) - began,
        outcome=a.outcome or unknown,
        fault=a.fault,
        input_tokens=a.response.input_tokens(),
        output_tokens=a.response.output_tokens(),
        cached_tokens=cached,
        written_tokens=written,
    )


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
        usual = state.percentile(1 - HEALTHY_SLOW_SHARE, now, plain=plain, profile=profile)
        return max(hedge.cold, BATCH_FACTOR * (usual or 0.0))
    # A share of `budget` of the requests may be hedged. Aiming at nine tenths of it keeps the
    # budget from running dry by chance (Dean & Barroso, "The Tail at Scale", 2013: hedge at the
    # 95th percentile for 5 % extra load).
    q = 1 - 0.9 * hedge.budget
    learned = state.percentile(q, now, plain=plain, profile=profile)
    limit = limits.first_text
    longest = limit / 2 if isinstance(limit, float) else inf
    # The more its last silences were unusual, the less is waited for another.
    haste = 1 - _HASTE * state.circuit_breaker.suspicion
    if learned is None:
        thinking = state.thinking_seconds(profile)
        if thinking:
            return max(hedge.cold, haste * min(thinking, longest))
        cold = hedge.cold * state.times(plain=plain).scale(profile)
        return haste * max(hedge.cold, min(cold, MAX_COLD_DELAY, longest))
    return max(MIN_HEDGE_DELAY, min(haste * learned, longest))


def late_after(hedge: Hedge | None, attempt: Attempt, now: float) -> float:
    """Seconds after which its silence counts against its target."""
    cold = DEFAULT_COLD if hedge is None else hedge.cold
    return max(
        MIN_LATE_SECONDS,
        attempt.candidate.state.late_after(
            now, plain=attempt.plain, cold=cold, profile=attempt.profile
        ),
    )


def rescue_after(attempt: Attempt, now: float, cold: float) -> float:
    """Seconds of silence after which it is rescued although there was no token for a hedge."""
    state = attempt.candidate.state
    needed = max(_OWN_EVIDENCE, RESCUE_EVIDENCE - state.circuit_breaker.score)
    return state.unusual_after(needed, now, plain=attempt.plain, cold=cold, profile=attempt.profile)


def set_text_limits(attempt: Attempt, now: float) -> None:
    """Set how long it may be silent, and how long it may think; see `TimeLimits`."""
    limits, state = attempt.candidate.limits, attempt.candidate.state
    silent, thinking = limits.first_text, limits.thinking
    if silent == "learned":
        silent = state.text_limit(now, plain=attempt.plain, profile=attempt.profile)
    if thinking == "learned":
        thinking = state.thinking_limit(now, plain=attempt.plain, profile=attempt.profile)
    attempt.text_limit = inf if silent is None else silent
    attempt.thinking_limit = inf if thinking is None else thinking


def text_due_at(attempt: Attempt) -> float:
    """When an attempt without text is over its limit.

    Reasoning holds that back, as long as no more time passes between two pieces of it than may pass
    within an answer; but not for ever.
    """
    started = attempt.started + attempt.excused_seconds
    at = started + attempt.text_limit
    if attempt.thinks:
        gap = attempt.candidate.limits.chunk_gap
        at = max(at, attempt.last_chunk + (_THINKING_GAP if gap is None else gap))
        at = min(at, max(started + attempt.thinking_limit, started + attempt.text_limit))
    return at


def late_due_at(attempt: Attempt) -> float:
    """When its silence counts against its target; reasoning is no silence."""
    if not attempt.thinks or attempt.late_at == inf:
        return attempt.late_at
    gap = attempt.candidate.limits.chunk_gap
    return max(attempt.late_at, attempt.last_chunk + (_THINKING_GAP if gap is None else gap))


def pause_limit(hedge: Hedge | None, attempt: Attempt, now: float) -> float:
    """Seconds of silence within an answer after which another target is asked beside it."""
    if hedge is None or hedge.pause is None:
        return inf
    return max(hedge.pause, PAUSE_FACTOR * attempt.candidate.state.typical_pause(now))


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


class AttemptList:
    """The attempts of one request, and what opening and closing one means for its target.

    Args:
        trip_after: How many slow requests in a row trip a target; 0 for never.
        cold: Seconds by which a target is taken to speak of which nothing has been learned.

    Attributes:
        all: All that were started, in order.
        live: Those that are being read.
    """

    __slots__ = ("_cold", "_trip_after", "all", "live")

    def __init__(self, trip_after: int = 0, cold: float = DEFAULT_COLD) -> None:
        self._trip_after = trip_after
        self._cold = cold
        self.all: list[Attempt] = []
        self.live: list[Attempt] = []

    def active_count(self) -> int:
        """How many are counted on, that is, are within their limits."""
        return sum([not a.timed_out for a in self.live])

    def any_healthy(self) -> bool:
        """Whether one is counted on whose target has not tripped."""
        return any(
            not a.timed_out and not a.candidate.state.circuit_breaker.tripped for a in self.live
        )

    def all_lost(self) -> bool:
        """Whether all that are counted on are lost; see `_lost`."""
        counted = [a for a in self.live if not a.timed_out]
        return bool(counted) and all(_lost(a) for a in counted)

    def lost_candidates(self) -> list[Candidate]:
        """The targets whose attempts are lost, which may therefore be asked once more."""
        return [a.candidate for a in self.live if not a.timed_out and _lost(a)]

    def any_target_is_back(self) -> bool:
        """Whether a target of theirs answers again after a silence."""
        return any(a.late and a.started < a.candidate.state.answering_since for a in self.live)

    def open(self, attempt: Attempt, on_trip: Callable[[], None] | None) -> None:
        """Begin one.

        Args:
            attempt: Its place at the target has been taken already.
            on_trip: Called when its target falls silent or answers again; None for no call.
        """
        candidate = attempt.candidate
        candidate.tries += 1
        candidate.active += 1
        candidate.retry_at_once = False
        if on_trip is not None:
            candidate.state.waiting[attempt] = on_trip
        self.all.append(attempt)
        self.live.append(attempt)

    def mark_timed_out(self, attempt: Attempt) -> bool:
        """Stop counting on it.

        Returns:
            Whether to keep reading it: only one per request, for more would pile up connections
            to a target that hangs.
        """
        first = not any(a.timed_out for a in self.live)
        attempt.timed_out = True
        attempt.candidate.active -= 1
        return first

    def reinstate(self, attempt: Attempt) -> None:
        """Count on it again: it has shown text after all."""
        attempt.timed_out = False
        attempt.fault = None
        attempt.candidate.active += 1

    def record_first_text(self, attempt: Attempt, now: float) -> None:
        """Record its first text with the target."""
        state = attempt.candidate.state
        seconds = now - attempt.started - attempt.excused_seconds
        # After a stall of our own process only a lower bound of the time is known.
        known = not attempt.excused_seconds
        state.record_first_text(
            seconds,
            now,
            plain=attempt.plain,
            late=attempt.late,
            known=known,
            profile=attempt.profile,
        )
        state.waiting.pop(attempt, None)

    def close(self, attempt: Attempt, outcome: Outcome, now: float) -> None:
        """End one, return its place at the target, and settle its reservation."""
        attempt.outcome = outcome
        attempt.ended = now
        candidate = attempt.candidate
        if not attempt.timed_out:
            candidate.active -= 1
        candidate.state.concurrency.give_back()
        reservation = attempt.reservation
        if reservation is not None:
            fault, response = attempt.fault, attempt.response
            if fault is not None and fault.kind is FaultKind.RATE_LIMIT:
                reservation.cancel(now)
            elif outcome is Outcome.WON and reservation.tokens and response is not None:
                reservation.settle(response.input_tokens(), response.output_tokens(), now)
        candidate.state.waiting.pop(attempt, None)
        self.live.remove(attempt)

    def close_others(
        self,
        winner: Attempt | None,
        how: Outcome,
        now: float,
        *,
        begun: bool = True,
        resort: bool = True,
    ) -> list[Attempt]:
        """End all but the winner. Without text, one still shows how long its target takes at least.

        Args:
            winner: It goes on; None ends all.
            how: The outcome of those that were merely slower.
            now: The engine's clock.
            begun: Whether those that have shown text are ended too.
            resort: Whether the last resort is ended too.

        Returns:
            Those that were ended; the driver is still to stop them.
        """
        stopped: list[Attempt] = []
        for attempt in tuple(self.live):
            if attempt is winner or (attempt.first_text is not None and not begun):
                continue
            if attempt.kind is AttemptKind.LAST_RESORT and not resort:
                continue
            if attempt.first_text is None:
                seconds = now - attempt.started
                attempt.candidate.state.record_lost(
                    seconds, now, plain=attempt.plain, profile=attempt.profile
                )
                if self._trip_after and not attempt.thinks:
                    self._record_silence(attempt, now)
            # One that was over a limit failed; one that was merely slower lost.
            self.close(attempt, Outcome.FAILED if attempt.fault else how, now)
            stopped.append(attempt)
        return stopped

    def _record_silence(self, attempt: Attempt, now: float) -> None:
        """Count a loser's silence against its target; all but what its lateness was counted for."""
        state = attempt.candidate.state
        if attempt.late or attempt.kind is AttemptKind.LAST_RESORT:
            return
        seconds = now - attempt.started - attempt.excused_seconds
        if seconds >= MIN_LATE_SECONDS:
            evidence = state.silence_evidence(
                seconds, plain=attempt.plain, cold=self._cold, profile=attempt.profile
            )
            state.record_silence(
                min(SLOW_EVIDENCE, evidence), now, self._trip_after, attempt.started
            )


def _lost(attempt: Attempt) -> bool:
    """Whether its target tripped and is silent, or answers again after such a silence.

    A target that is merely slow still answers; if all are slow, asking elsewhere only adds load.
    """
    state = attempt.candidate.state
    if state.circuit_breaker.tripped and state.silent:
        return True
    return attempt.late and attempt.started < state.answering_since

"""The attempts of one request: which are counted on, and what each end means for its target."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from langchain_resilient.engine.circuit_breaker import SLOW_EVIDENCE
from langchain_resilient.engine.limits import (
    DEFAULT_COLD,
    MIN_LATE_SECONDS,
    hedge_delay,
    late_after,
    rescue_after,
    start_throughput_window,
    text_limit,
)
from langchain_resilient.faults import FaultKind
from langchain_resilient.receipt import AttemptKind, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_resilient.engine.attempt import Attempt, Candidate
    from langchain_resilient.policies import Health, Hedge


class AttemptList:
    """The attempts of one request, and what opening and closing one means for its target.

    Args:
        hedge: When another target is asked beside a slow one; None for never.
        health: When a target counts as sick; None for never.
        batch: Whether the request is one of a batch.

    Attributes:
        all: All that were started, in order.
        live: Those that are being read.
    """

    __slots__ = ("_batch", "_cold", "_hedge", "_trip_after", "all", "live")

    def __init__(self, hedge: Hedge | None, health: Health | None, *, batch: bool) -> None:
        self._hedge = hedge
        self._batch = batch
        self._cold = DEFAULT_COLD if hedge is None else hedge.cold
        # How many slow requests in a row trip a target; None where none counts as sick.
        self._trip_after = None if health is None else health.trip_after
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

    def open(self, attempt: Attempt, now: float, wake: Callable[[], None]) -> None:
        """Begin one, and its limits; the last resort has none.

        Args:
            attempt: Its place at the target has been taken already.
            now: The engine's clock.
            wake: Called when its target falls silent or answers again.
        """
        candidate = attempt.candidate
        start_throughput_window(attempt, now)
        if attempt.kind is not AttemptKind.LAST_RESORT:
            attempt.text_limit = text_limit(attempt, now)
            if self._hedge is not None:
                delay = hedge_delay(self._hedge, attempt, now, batch=self._batch)
                attempt.hedge_at = now + delay
            if self._trip_after is not None:
                attempt.late_at = now + late_after(self._hedge, attempt, now)
                candidate.state.waiting[attempt] = wake
        candidate.tries += 1
        candidate.active += 1
        candidate.retry_at_once = False
        self.all.append(attempt)
        self.live.append(attempt)

    def hasten_hedges(self, now: float) -> None:
        """Wait less for a target of which others have found meanwhile that it is hardly well."""
        if self._hedge is None:
            return
        for attempt in self.live:
            if now < attempt.hedge_at < inf and attempt.candidate.state.circuit_breaker.suspicion:
                delay = hedge_delay(self._hedge, attempt, now, batch=self._batch)
                at = attempt.started + attempt.excused_seconds + delay
                attempt.hedge_at = min(attempt.hedge_at, at)

    def postpone_hedge(self, at: float) -> None:
        """Look for a hedge again when a target is open to one, unless one is due anyway."""
        silent = [a for a in self.live if not a.timed_out and a.first_text is None]
        if self._hedge is not None and silent and not any(a.hedge_at < inf for a in silent):
            silent[0].hedge_at = at

    def plan_rescues(self, now: float) -> None:
        """There is no token for a hedge: have each rescued once its silence is unusual.

        Only where few requests are under way. A single user whose first target begins to hang would
        else wait for a token that nobody earns.
        """
        for attempt in self.live:
            if not attempt.timed_out and attempt.first_text is None:
                seconds = rescue_after(attempt, now, self._cold)
                at = attempt.started + attempt.excused_seconds + seconds
                attempt.rescue_at = max(now, at)

    def record_late(self, attempt: Attempt, now: float) -> None:
        """Record its silence with the target."""
        attempt.late_at = inf
        attempt.late = True
        if self._trip_after is not None:
            state = attempt.candidate.state
            state.record_late(now, self._trip_after, started=attempt.started)

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

    def record_answer(self, attempt: Attempt, now: float) -> None:
        """Record its whole and valid answer with the target."""
        if attempt.first_text is None:
            attempt.first_text = now
            self.record_first_text(attempt, now)
        attempt.fault = None
        state = attempt.candidate.state
        state.record_success(attempt.key)
        if attempt.pause_limit < inf:
            state.speed.record_longest_pause(attempt.longest_pause, now)

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
                    self._record_silence(attempt, now, self._trip_after)
            # One that was over a limit failed; one that was merely slower lost.
            self.close(attempt, Outcome.FAILED if attempt.fault else how, now)
            stopped.append(attempt)
        return stopped

    def _record_silence(self, attempt: Attempt, now: float, trip_after: int) -> None:
        """Count a loser's silence against its target; all but what its lateness was counted for."""
        state = attempt.candidate.state
        if attempt.late or attempt.kind is AttemptKind.LAST_RESORT:
            return
        seconds = now - attempt.started - attempt.excused_seconds
        if seconds >= MIN_LATE_SECONDS:
            evidence = state.speed.silence_evidence(
                seconds, plain=attempt.plain, cold=self._cold, profile=attempt.profile
            )
            state.record_silence(min(SLOW_EVIDENCE, evidence), now, trip_after, attempt.started)


def _lost(attempt: Attempt) -> bool:
    """Whether its target tripped and is silent, or answers again after such a silence.

    A target that is merely slow still answers; if all are slow, asking elsewhere only adds load.
    """
    state = attempt.candidate.state
    if state.circuit_breaker.tripped and state.silent:
        return True
    return attempt.late and attempt.started < state.answering_since

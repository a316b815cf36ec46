"""The attempts of one request: which are counted on, and what each end means for its target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_resilient.engine.circuit_breaker import SLOW_EVIDENCE
from langchain_resilient.engine.limits import DEFAULT_COLD, MIN_LATE_SECONDS
from langchain_resilient.faults import FaultKind
from langchain_resilient.receipt import AttemptKind, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_resilient.engine.attempt import Attempt, Candidate


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
            evidence = state.speed.silence_evidence(
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

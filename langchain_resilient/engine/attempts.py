"""The attempts of one request: which are under way, which are still counted on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_resilient.engine.events import Action, Attempt, Lane, Stop
from langchain_resilient.receipt import AttemptKind, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable


class Attempts:
    """Keeps the books that go with opening and closing an attempt.

    Attributes:
        all: Every one that was started, in order.
        live: Those that are being read.
    """

    __slots__ = ("all", "live")

    def __init__(self) -> None:
        self.all: list[Attempt] = []
        self.live: list[Attempt] = []

    def active(self) -> int:
        """How many are counted on: those over a limit are not."""
        return sum([not a.suspect for a in self.live])

    def covered(self) -> bool:
        """Whether an attempt is counted on whose target is well."""
        return any(not a.suspect and not a.lane.state.watch.tripped for a in self.live)

    def caught(self) -> bool:
        """Whether all that are counted on are lost."""
        counted = [a for a in self.live if not a.suspect]
        return bool(counted) and all(_lost(a) for a in counted)

    def lost_lanes(self) -> list[Lane]:
        """The targets whose attempts are lost, and which may therefore be asked once more."""
        return [a.lane for a in self.live if not a.suspect and _lost(a)]

    def back(self) -> bool:
        """Whether a target of theirs has come back from its silence."""
        return any(a.late and a.started < a.lane.state.back_since for a in self.live)

    def open(self, attempt: Attempt, alarm: Callable[[], None] | None) -> None:
        """Begin one.

        Args:
            attempt: Its place at the target was taken already.
            alarm: Called when its target trips; None if nobody wants to know.
        """
        lane = attempt.lane
        lane.tries += 1
        lane.active += 1
        lane.again = False
        if alarm is not None:
            lane.state.waiting[attempt] = alarm
        self.all.append(attempt)
        self.live.append(attempt)

    def doubt(self, attempt: Attempt) -> bool:
        """Count on it no longer.

        Returns:
            Whether to go on listening to it: only to one of a request, for more would pile up
            connections in a black hole.
        """
        first = not any(a.suspect for a in self.live)
        attempt.suspect = True
        attempt.lane.active -= 1
        return first

    def believe(self, attempt: Attempt) -> None:
        """Count on it again."""
        attempt.suspect = False
        attempt.fault = None
        attempt.lane.active += 1

    def spoke(self, attempt: Attempt, now: float) -> None:
        """Teach the target's state what a first text tells."""
        state = attempt.lane.state
        seconds = now - attempt.started - attempt.excused
        # After a standstill of ours nobody knows how long it took, only that it took longer.
        known = not attempt.excused
        state.spoke(seconds, now, plain=attempt.plain, late=attempt.late, known=known)
        state.waiting.pop(attempt, None)

    def close(self, attempt: Attempt, outcome: Outcome, now: float) -> None:
        """End one, and give its place at the target back."""
        attempt.outcome = outcome
        attempt.ended = now
        lane = attempt.lane
        if not attempt.suspect:
            lane.active -= 1
        lane.state.slots.give_back()
        if attempt.grant is not None:
            attempt.grant.settle(attempt, now)
        lane.state.waiting.pop(attempt, None)
        self.live.remove(attempt)

    def close_others(
        self,
        winner: Attempt | None,
        how: Outcome,
        now: float,
        *,
        begun: bool = True,
        resort: bool = True,
    ) -> list[Action]:
        """End all but the winner. One that had not spoken teaches how long it took at least.

        Args:
            winner: It goes on; None ends all.
            how: The outcome of those that were merely slower.
            now: The engine's clock.
            begun: Whether those that have spoken are ended too.
            resort: Whether the last resort is ended too.
        """
        out: list[Action] = []
        for attempt in tuple(self.live):
            if attempt is winner or (attempt.first_text is not None and not begun):
                continue
            if attempt.kind is AttemptKind.LAST_RESORT and not resort:
                continue
            if attempt.first_text is None:
                seconds = now - attempt.started
                attempt.lane.state.closed(seconds, now, plain=attempt.plain)
            # One that was given up on failed; one that was merely slower lost.
            self.close(attempt, Outcome.FAILED if attempt.fault else how, now)
            out.append(Stop(attempt))
        return out


def _lost(attempt: Attempt) -> bool:
    """Whether its target tripped and says nothing at all, or has come back from such a silence.

    A target that is merely slow is still answering; if all are, asking elsewhere only adds load.
    """
    state = attempt.lane.state
    if state.watch.tripped and state.silent:
        return True
    return attempt.late and attempt.started < state.back_since

"""The attempts of one request: which are under way, which are still counted on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_resilient.engine.events import Action, Attempt, Stop
from langchain_resilient.receipt import Outcome

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
        """Whether all that are counted on are at targets that tripped and say nothing at all.

        One that is merely slow is still answering; if all are, asking elsewhere only adds load.
        """
        states = [a.lane.state for a in self.live if not a.suspect]
        return bool(states) and all(s.watch.tripped and s.silent for s in states)

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
        seconds = now - attempt.started
        state.spoke(seconds, now, plain=attempt.plain, late=attempt.late)
        state.waiting.pop(attempt, None)

    def close(self, attempt: Attempt, outcome: Outcome, now: float) -> None:
        """End one, and give its place at the target back."""
        attempt.outcome = outcome
        attempt.ended = now
        lane = attempt.lane
        if not attempt.suspect:
            lane.active -= 1
        lane.state.slots.give_back()
        lane.state.waiting.pop(attempt, None)
        self.live.remove(attempt)

    def close_others(self, winner: Attempt | None, how: Outcome, now: float) -> list[Action]:
        """End all but the winner. One that had not spoken teaches how long it took at least."""
        out: list[Action] = []
        for attempt in tuple(self.live):
            if attempt is winner:
                continue
            if attempt.first_text is None:
                seconds = now - attempt.started
                attempt.lane.state.closed(seconds, now, plain=attempt.plain)
            # One that was given up on failed; one that was merely slower lost.
            self.close(attempt, Outcome.FAILED if attempt.fault else how, now)
            out.append(Stop(attempt))
        return out

"""What one request waits for besides its attempts: a token, or room at a target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_resilient.receipt import AttemptKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from langchain_resilient.engine.budget import Budget, Ticket
    from langchain_resilient.engine.health import TargetState
    from langchain_resilient.engine.limiter import Slots


class Waiting:
    """At most one ticket for a token, and a place in the queues of full targets.

    Args:
        since: When the request began: the oldest is served first.
        useful_until: Later than this a token could hardly help it.
        nudge: Called when there is something to look at; from any thread.

    Attributes:
        ticket: Waits for a token, or was just granted one.
        kind: What the token is for.
    """

    __slots__ = ("_nudge", "_queues", "_since", "_useful_until", "kind", "ticket")

    def __init__(self, since: float, useful_until: float, nudge: Callable[[], None]) -> None:
        self._since = since
        self._useful_until = useful_until
        self._nudge = nudge
        self._queues: list[Slots] = []
        self.ticket: Ticket | None = None
        self.kind: AttemptKind = AttemptKind.HEDGE

    def ask(self, budget: Budget, kind: AttemptKind, now: float) -> None:
        """Wait for a token; one that was waited for before is no longer needed."""
        if self.ticket is not None:
            if self.ticket.budget is budget:
                return
            self.ticket.give_up(now)
        self.kind = kind
        self.ticket = budget.wait(self._since, self._useful_until, self._nudge)

    def granted(self) -> Ticket | None:
        """Take the ticket, if its token has come. The caller spends it or gives it up."""
        ticket = self.ticket
        if ticket is None or not ticket.granted:
            return None
        self.ticket = None
        return ticket

    def queue(self, full: Iterable[TargetState]) -> None:
        """Wait for room at these targets."""
        for state in full:
            if state.slots not in self._queues:
                self._queues.append(state.slots)
                state.slots.wait(self._nudge)

    def leave(self, now: float) -> None:
        """Wait for nothing any more."""
        if self.ticket is not None:
            ticket, self.ticket = self.ticket, None
            ticket.give_up(now)
        if self._queues:
            self.leave_queues()

    def leave_queues(self) -> None:
        """Wait for no room any more; room that was offered is passed on to the next."""
        queues, self._queues = self._queues, []
        for slots in queues:
            slots.forget(self._nudge)

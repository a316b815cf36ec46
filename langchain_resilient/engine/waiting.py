"""What one request waits for besides its attempts: a token, room at a target, or its turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_resilient.receipt import AttemptKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from langchain_resilient.engine.ask import Ask
    from langchain_resilient.engine.budget import Budget, Ticket
    from langchain_resilient.engine.health import TargetState
    from langchain_resilient.engine.limiter import Slots
    from langchain_resilient.engine.pacing import Pacer


class Waiting:
    """At most one ticket for a token, and a place in the queues of full or paced targets.

    Args:
        since: When the request began: the oldest is served first.
        useful_until: Later than this a token could hardly help it.
        nudge: Called when there is something to look at; from any thread.

    Attributes:
        useful_until: Later than this a token could hardly help it.
        ticket: Waits for a token, or was just granted one.
        kind: What the token is for.
    """

    __slots__ = ("_lines", "_nudge", "_queues", "_since", "kind", "ticket", "useful_until")

    def __init__(self, since: float, useful_until: float, nudge: Callable[[], None]) -> None:
        self._since = since
        self.useful_until = useful_until
        self._nudge = nudge
        self._queues: list[Slots] = []
        self._lines: list[tuple[Pacer, Ask]] = []
        self.ticket: Ticket | None = None
        self.kind: AttemptKind = AttemptKind.HEDGE

    def ask(self, budget: Budget, kind: AttemptKind, now: float) -> None:
        """Wait for a token; one that was waited for before is no longer needed."""
        if self.ticket is not None:
            if self.ticket.budget is budget:
                return
            self.ticket.give_up(now)
        self.kind = kind
        self.ticket = budget.wait(self._since, self.useful_until, self._nudge)

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

    def stand_in(self, lines: Sequence[tuple[Pacer, Ask]], now: float) -> None:
        """Stand in these lines and no others; who stays keeps its place."""
        left = [line for line in self._lines if line not in lines]
        for pacer, ask in lines:
            if (pacer, ask) not in self._lines:
                pacer.join(ask, now)
        self._lines = list(lines)
        for pacer, ask in left:
            pacer.leave(ask)

    def leave(self, now: float) -> None:
        """Wait for nothing any more."""
        if self.ticket is not None:
            ticket, self.ticket = self.ticket, None
            ticket.give_up(now)
        if self._queues:
            self.leave_queues()
        if self._lines:
            self.stand_in((), now)

    def leave_queues(self) -> None:
        """Wait for no room any more; room that was offered is passed on to the next."""
        queues, self._queues = self._queues, []
        for slots in queues:
            slots.forget(self._nudge)

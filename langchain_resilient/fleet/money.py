"""Dollars of a spend cap that are leased to one process: nobody spends what another may.

A process spends from its lease without asking, and reports that later; it is counted once, however
often it is said. A lease that is not renewed for half a minute, because its process died, counts as
spent. While the server is away, only what is leased may be spent.
"""

from __future__ import annotations

import time
from math import inf
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_resilient.fleet.link import Link

REPORT_SECONDS = 0.5
"""Seconds between two reports of what was spent."""

RENEW_SECONDS = 10.0
"""Seconds after which a lease is renewed though nothing was spent."""

_AGAIN_SECONDS = 0.05
"""Seconds between two questions of a call that finds its process's lease used up."""


class CapConflictError(ValueError):
    """Other processes have a spend cap of that name with another amount or time."""


class DollarLease:
    """What one process may spend of a cap; a part of its link.

    Args:
        link: To the server.
        name: The cap's name on the server.
        dollars: The cap.
        window: Its time in seconds; `inf` for ever.
        label: What people call it.
        granted: Called after each renewal, from the link's thread.

    Attributes:
        members: How many processes have a lease.

    Raises:
        CapConflictError: If other processes have a cap of that name with another amount or time.
    """

    script = "money"

    def __init__(
        self,
        link: Link,
        name: str,
        dollars: float,
        window: float,
        *,
        granted: Callable[[], None] = lambda: None,
        label: str = "",
    ) -> None:
        self.members = link.shared.processes
        self._link = link
        self._name, self._label = name, label
        self._cap = dollars
        self._window = 0.0 if window == inf else window
        self._told = granted
        self._lock = Lock()
        self._seq = int(time.time() * 1000)
        # Where the server was never reached: this process's part of the cap, as of its limits.
        self._lease = dollars / link.shared.processes
        self._fleet_left = dollars
        self._fleet_spent = 0.0
        self._opens_at = -inf
        self._spent = 0.0  # since the last report
        self._reported: float | None = None  # sent, and not confirmed yet
        self._reached = False
        self._ask_at = -inf
        self._ask_again_at = -inf
        self._low = 0.0
        link.ask_now(self)
        link.add(self)

    def left(self, now: float) -> float:
        """Dollars that this process may still spend.

        Where its lease is used up and the fleet has more, the server is asked at once.
        """
        left = self._left()
        if left > 0 or not self._reached or self._fleet_left <= 0 or self._link.away:
            return max(0.0, left)
        if now >= self._ask_again_at:
            self._ask_again_at = now + _AGAIN_SECONDS
            self._link.ask_now(self)
        return max(0.0, self._left())

    def _left(self) -> float:
        return self._lease - self._spent - (self._reported or 0.0)

    def spend(self, dollars: float, now: float) -> None:
        """Count what was spent."""
        with self._lock:
            self._spent += dollars
            low = self._left() < self._low
            self._ask_at = min(self._ask_at, now if low else now + REPORT_SECONDS)
        self._link.wake()

    def spent(self) -> float:
        """Dollars that all processes spent within the window, as far as known here."""
        return self._fleet_spent + self._spent + (self._reported or 0.0)

    def opens_at(self) -> float:
        """When some of it counts no more, at the latest; `inf` for never."""
        if not self._window:
            return inf
        return self._opens_at if self._reached else time.monotonic() + self._window

    # -- as the link sees it ----------------------------------------------------------------------

    def due_at(self) -> float:
        """Soon after something was spent; else in time to renew the lease."""
        return self._ask_at

    def keys(self, prefix: str) -> list[str]:
        """One for the cap."""
        return [f"{prefix}:cap:{{{self._name}}}"]

    def request(self, now: float) -> list[Any]:  # noqa: ARG002  # a part's
        """What was spent."""
        with self._lock:
            if self._reported is None:
                self._seq += 1
                self._reported, self._spent = self._spent, 0.0
            leaves = int(self._link.closing)
            return [0, self._seq, self._cap, self._window, self._reported, leaves, self._label]

    def granted(self, reply: Sequence[Any], now: float, member: str) -> None:  # noqa: ARG002
        """Take the new lease.

        Raises:
            CapConflictError: If the cap of that name is another one.
        """
        if reply[0] == "-2":
            self._ask_at = now + RENEW_SECONDS
            if self._reached:  # others have changed it since: nothing of theirs is spent
                self._lease = 0.0
                return
            theirs, span = float(reply[1]), float(reply[2])
            msg = (
                f"a spend cap of this name has ${theirs:g} in {span:g} s in other processes, and "
                f"${self._cap:g} in {self._window:g} s here: give it another name, or the same "
                "amount and time everywhere"
            )
            raise CapConflictError(msg)
        _, lease, left, spent, members, opens = map(float, reply)
        with self._lock:
            self._reported = None
            self._reached = True
            self._lease, self._fleet_left, self._fleet_spent = lease, left, spent
            self._low = lease / 2
            self.members = round(members)
            self._opens_at = now + opens
            self._ask_at = now + RENEW_SECONDS
        self._told()

    def lost(self, now: float) -> None:
        """Spend what is leased, and no more."""
        self._ask_at = now + REPORT_SECONDS

    def forked(self) -> None:
        """The lease is the parent process's."""
        self._lock = Lock()
        self._lease = self._spent = 0.0
        self._reported, self._ask_at = None, -inf

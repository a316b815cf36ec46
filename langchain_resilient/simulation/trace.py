"""What happened, event by event, and one hash over all of it."""

from __future__ import annotations

import hashlib
from typing import NamedTuple


class Event(NamedTuple):
    """One line of a run's timeline.

    Attributes:
        time: Virtual seconds since the run began.
        request: Its number.
        what: `ask`, `send`, `text`, `fail`, `close`, or how the call ended.
        target: Where it happened; empty for the caller's own events.
    """

    time: float
    request: int
    what: str
    target: str

    def __str__(self) -> str:
        """Read like a log line."""
        return f"{self.time:14.6f}  #{self.request:<7} {self.what:<10} {self.target}".rstrip()


class Trace:
    """Collects events into a SHA-256, and into a list if they are wanted.

    Two runs with the same hash did the same things at the same nanosecond, in the same order.

    Args:
        keep: Whether to keep the events too.
    """

    __slots__ = ("_hash", "_keep", "events")

    def __init__(self, *, keep: bool = False) -> None:
        self._hash = hashlib.sha256()
        self._keep = keep
        self.events: list[Event] = []

    def add(self, time: float, request: int, what: str, target: str = "") -> None:
        """Take in one event."""
        self._hash.update(f"{time:.9f} {request} {what} {target}\n".encode())
        if self._keep:
            self.events.append(Event(time, request, what, target))

    @property
    def digest(self) -> str:
        """The hash so far, in hexadecimal."""
        return self._hash.hexdigest()

"""The one timer of a race, and what it tells of our own loop: whether it stood still."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, TimerHandle
    from collections.abc import Callable

_LAG = 0.05
"""An alarm that comes so many seconds late shows that our own loop was held up."""

_STANDSTILL = 0.25
"""One so late shows that we stood still: stopped, suspended, or blocked by other work."""

_CATCH_UP = 1.0
"""Seconds at most in which what came meanwhile is read before anything is held against anybody."""

_MOST_THAWS = 3
"""A loop that always stands still must not hide for ever that a target hangs."""


class Alarm:
    """Calls back when something is due. Where the loop was late, what lies unread goes first.

    Args:
        loop: The race's.
        due: Called with the time.
        thaw: Called with the time when the process had stood still, before `due`.
    """

    __slots__ = ("_at", "_due", "_handle", "_loop", "_thaw", "_thaws")

    def __init__(
        self,
        loop: AbstractEventLoop,
        due: Callable[[float], None],
        thaw: Callable[[float], object],
    ) -> None:
        self._loop = loop
        self._due = due
        self._thaw = thaw
        self._thaws = 0
        self._handle: TimerHandle | None = None
        self._at = inf

    def arm(self, at: float) -> None:
        """See that it comes in time. An early one is left alone: whoever is called looks again."""
        if at < self._at:
            if self._handle is not None:
                self._handle.cancel()
            self._handle = self._loop.call_at(at, self._ring)
            self._at = at

    def stop(self) -> None:
        """Let it never come."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _ring(self) -> None:
        now = self._loop.time()
        late = now - self._at
        if late < _LAG:
            self._tell()
            return
        until = now
        if late >= _STANDSTILL and self._thaws < _MOST_THAWS:
            self._thaws += 1
            self._thaw(now)
            until += _CATCH_UP
        self._wait(now, until)

    def _wait(self, now: float, until: float) -> None:
        at = now + _LAG / 5
        self._handle = self._loop.call_at(at, self._ring_when_calm, at, until)

    def _ring_when_calm(self, at: float, until: float) -> None:
        """Tell, once the loop is no longer busy with what came during a standstill."""
        now = self._loop.time()
        if now - at < _LAG / 5 or now >= until:
            self._tell()
        else:
            self._wait(now, until)

    def _tell(self) -> None:
        # A loop may call up to its clock's resolution early: what is due then is due now. Chunks
        # may also have moved the moment on: then nothing is due, and it is armed again.
        now = max(self._loop.time(), self._at)
        self._handle, self._at = None, inf
        self._due(now)

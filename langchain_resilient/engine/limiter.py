"""How many requests a target may hold at one time."""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Slots:
    """A counting semaphore that never blocks: it is asked, and it calls back when it has room.

    The planner must go to another target while this one is full, so it cannot sit in `acquire()`.
    Shared by every event loop and thread of the process: a callback must bring itself home with
    `call_soon_threadsafe`.
    """

    __slots__ = ("_lock", "_waiters", "limit", "used")

    def __init__(self, limit: int | None) -> None:
        self.limit: int | None = limit
        self.used: int = 0
        self._lock = Lock()
        self._waiters: deque[Callable[[], None]] = deque()

    @property
    def full(self) -> bool:
        """Whether nothing more may be sent now."""
        return self.limit is not None and self.used >= self.limit

    def take(self) -> bool:
        """Take one place if there is one."""
        if self.limit is None:
            return True
        with self._lock:
            if self.used >= self.limit:
                return False
            self.used += 1
            return True

    def give_back(self) -> None:
        """Return a place, and tell the oldest waiter."""
        if self.limit is None:
            return
        with self._lock:
            self.used -= 1
            waiter = self._waiters.popleft() if self._waiters else None
        if waiter is not None:
            waiter()

    def wait(self, waiter: Callable[[], None]) -> None:
        """Ask to be called once when a place comes free; at once if one is free already."""
        with self._lock:
            if self.limit is not None and self.used >= self.limit:
                self._waiters.append(waiter)
                return
        waiter()

    def forget(self, waiter: Callable[[], None]) -> None:
        """Wait no longer. A call that this waiter already got is passed to the next."""
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                return
            heir = self._waiters.popleft() if self._waiters and not self.full else None
        if heir is not None:
            heir()

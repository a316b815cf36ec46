"""Money that was spent in the last minute, hour, day or month.

Time is the event loop's clock, given with each call: jumps of the wall clock do nothing.
"""

from __future__ import annotations

import threading
from collections import deque
from math import fsum, inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

    from langchain_resilient.policy import SpendCap

BUCKETS = 60
"""Of which a window is made: money counts for up to one of them longer than the window."""


class Ledger:
    """Dollars spent in a sliding window. Safe for use by any thread.

    Its memory is bounded: amounts are added up in at most 62 buckets.

    Args:
        cap: How much may be spent, in how long a time.

    Example:
        ```python
        ledger = Ledger(SpendCap(5, per="hour"))
        ledger.add(4.0, now=0.0)
        ledger.left(now=10.0)  # 1.0
        ledger.left(now=3700.0)  # 5.0
        ```
    """

    __slots__ = ("_buckets", "_expiry", "_lock", "_step", "_sum", "cap")

    def __init__(self, cap: SpendCap) -> None:
        self.cap: SpendCap = cap
        self._step = cap.window / BUCKETS
        self._buckets: deque[tuple[int, float]] = deque()
        self._sum = 0.0
        self._expiry = inf
        self._lock = threading.Lock()

    def add(self, dollars: float, now: float) -> None:
        """Count what was spent just now."""
        with self._lock:
            self._forget(now)
            index = int(now // self._step)
            last, before = self._buckets[-1] if self._buckets else (-1, 0.0)
            # Threads may bring their amounts a little out of order: the last bucket takes them.
            if index <= last:
                self._buckets[-1] = (last, before + dollars)
            else:
                self._buckets.append((index, dollars))
            self._expiry = self._end(self._buckets[0][0])
            self._sum += dollars

    def spent(self, now: float) -> float:
        """Dollars spent within the window that ends now."""
        if now < self._expiry:
            return self._sum
        with self._lock:
            self._forget(now)
            return self._sum

    def left(self, now: float) -> float:
        """Dollars that may still be spent; not below 0."""
        return max(0.0, self.cap.dollars - self.spent(now))

    def covers(self, need: float, now: float) -> bool:
        """Whether something is left, and no less than `need` dollars."""
        return _covers(self.left(now), need)

    def open_at(self, now: float, need: float = 0.0) -> float:
        """When the cap lets through again.

        Args:
            now: The time.
            need: Dollars that must then be left.

        Returns:
            `now` if it does so now; `inf` if it never does.
        """
        with self._lock:
            self._forget(now)
            kept = deque(self._buckets)
        at = now
        while not _covers(self.cap.dollars - fsum(dollars for _, dollars in kept), need):
            if not kept:
                return inf
            at = self._end(kept.popleft()[0])
        return at

    def _end(self, bucket: int) -> float:
        """When the money of a bucket counts no more."""
        return (bucket + 1 + BUCKETS) * self._step

    def _forget(self, now: float) -> None:
        if now < self._expiry:
            return
        buckets = self._buckets
        while buckets and now >= self._end(buckets[0][0]):
            buckets.popleft()
        self._sum = fsum(dollars for _, dollars in buckets)
        self._expiry = self._end(buckets[0][0]) if buckets else inf


def _covers(left: float, need: float) -> bool:
    return left > 0 and left >= need


_ledgers: dict[Hashable, Ledger] = {}
_lock = threading.Lock()


def ledger_of(cap: SpendCap, owner: Hashable) -> Ledger:
    """The process's one ledger for a cap: whoever builds the same model anew spends on.

    Args:
        cap: One with a name is shared by all who use that name, whoever the owner is.
        owner: Whose money it is.
    """
    key = (cap, None if cap.name else owner)
    with _lock:
        found = _ledgers.get(key)
        if found is None:
            found = _ledgers[key] = Ledger(cap)
    return found


def forget() -> None:
    """Forget what was spent: for tests."""
    with _lock:
        _ledgers.clear()

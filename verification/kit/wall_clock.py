"""When something happened by the wall's clock, though that clock is set forward or back meanwhile.

A virtual machine that was suspended for a while sets its wall clock forward; the monotonic clock
stood still. Who compares times of both, with the distance between them as it is in the end, takes
everything before that for later than it was.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

_EVERY = 0.02
"""Seconds between two looks: less than any simulated answer takes, so that nothing is hidden."""

_CHANGE = 0.001
"""Seconds by which the distance differs without being told: reading two clocks takes a moment."""


class WallClock:
    """Watches the distance of the wall's clock from the monotonic one, in a thread of its own.

    Args:
        wall: Seconds since 1970.
        monotonic: Seconds of the clock whose moments are asked about.

    Example:
        ```python
        with WallClock() as clock:
            began = time.monotonic()
            await something()
        print(clock.time_of(began))
        ```
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._looked = monotonic()
        # Each distance with the moments between which it may have held.
        self._distances = [(float("-inf"), float("inf"), wall() - self._looked)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="wall-clock", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Compare the clocks now."""
        now = self._monotonic()
        distance = self._wall() - now
        begin, _, known = self._distances[-1]
        if abs(distance - known) > _CHANGE:
            self._distances[-1] = (begin, now, known)
            self._distances.append((self._looked, float("inf"), distance))
        self._looked = now

    def time_of(self, moment: float) -> float:
        """The earliest time that the wall's clock may have shown at a moment.

        Between two looks it is not known when it was set: who accuses takes the earlier.

        Args:
            moment: Seconds of the monotonic clock.

        Returns:
            Seconds since 1970.
        """
        return moment + min(
            distance for begin, end, distance in self._distances if begin <= moment <= end
        )

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY):
            self.look()

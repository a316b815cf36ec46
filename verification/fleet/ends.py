"""How far apart the processes of a run ended."""

from __future__ import annotations


class Ends:
    """Of whatever knows when each process ended.

    Attributes:
        ends: Seconds that each took.
    """

    ends: list[float]

    @property
    def lead(self) -> float:
        """By how many seconds of the whole rate the first to end was ahead of the second."""
        first, second, *_ = sorted(self.ends)
        return (second - first) / len(self.ends)

    @property
    def unevenness(self) -> float:
        """How much later the last ended than the second, as a share."""
        return 1 - sorted(self.ends)[1] / max(self.ends)

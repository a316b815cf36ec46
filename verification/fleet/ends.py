"""How far apart the processes of a run ended."""

from __future__ import annotations


class Ends:
    """Of whatever knows when each process ended.

    Attributes:
        ends: Seconds that each took.
    """

    ends: list[float]

    @property
    def unevenness(self) -> float:
        """How much later the last ended than the first, as a share."""
        return 1 - min(self.ends) / max(self.ends)

    @property
    def unevenness_of_others(self) -> float:
        """How much later the last ended than the second, as a share."""
        return 1 - sorted(self.ends)[1] / max(self.ends)

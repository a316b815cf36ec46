"""Token buckets that bound the extra load of hedges."""

from __future__ import annotations


class Budget:
    """A share of the requests, saved up to a burst (Finagle's and gRPC A6's retry budgets).

    Every request pays in `share`; every extra one takes 1. Starting with half a burst lets the
    first requests of a short script hedge too. Plain counting: safe to share between threads, where
    a lost update costs a fraction of a hedge.

    Example:
        ```python
        budget = Budget(share=0.05, burst=20)
        budget.deposit()
        if budget.take():
            ...  # send the extra request
        ```
    """

    __slots__ = ("burst", "share", "tokens")

    def __init__(self, share: float, burst: int) -> None:
        self.share = share
        self.burst = burst
        self.tokens = burst / 2 if share > 0 else 0.0

    def deposit(self) -> None:
        """Count one ordinary request."""
        if self.tokens < self.burst:
            self.tokens = min(self.burst, self.tokens + self.share)

    def take(self) -> bool:
        """Pay for one extra request; False if there is nothing to pay with."""
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

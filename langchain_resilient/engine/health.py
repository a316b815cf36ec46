"""What is remembered of a target between requests: until when it, or its account, is out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_resilient.engine.limiter import Slots
from langchain_resilient.fault import BLOCKS_ACCOUNT, Fault, FaultKind

if TYPE_CHECKING:
    from random import Random

ACCOUNT_OUT_SECONDS = 300.0
"""How long an account that refused the key or ran out of quota is left alone, at first."""

ACCOUNT_OUT_MOST = 3600.0
NOT_FOUND_SECONDS = 3600.0
"""How long a model id that does not exist is left alone."""


class Account:
    """The key that several targets share: a refused key or an empty purse stops them all."""

    __slots__ = ("not_before", "strikes")

    def __init__(self) -> None:
        self.not_before = 0.0
        self.strikes = 0

    def block(self, now: float) -> None:
        """Leave it alone for five minutes, doubling up to an hour while it stays out."""
        if now >= self.not_before:
            out = min(ACCOUNT_OUT_MOST, ACCOUNT_OUT_SECONDS * 2**self.strikes)
            self.strikes += 1
            self.not_before = now + out


class TargetState:
    """One target as the engine sees it, shared by all requests of the process.

    Times are of the event loops' clock, which all loops of a process share.

    Attributes:
        name: As in receipts.
        provider: Hedges prefer another one.
        account: Shared by the targets of one key.
        slots: Its `max_concurrency`.
        not_before: It asked to be left alone until then.
        gone_until: Its model does not exist; not asked until then.
        streams: False once it refused to stream: then it is asked plainly.
        retry_first: Its `Target.retry_first`.
        in_process: It is this process: asking it twice at once only slows both down.
    """

    __slots__ = ("account", "gone_until", "in_process", "name", "not_before", "provider",
                 "retry_first", "slots", "streams")  # fmt: skip

    def __init__(
        self,
        name: str,
        provider: str,
        *,
        account: Account | None = None,
        max_concurrency: int | None = None,
        retry_first: bool = False,
        in_process: bool = False,
    ) -> None:
        self.name = name
        self.provider = provider
        self.account = account or Account()
        self.slots = Slots(max_concurrency)
        self.not_before = 0.0
        self.gone_until = 0.0
        self.streams = True
        self.retry_first = retry_first
        self.in_process = in_process

    def available_at(self) -> float:
        """The earliest time at which it may be asked."""
        return max(self.not_before, self.gone_until, self.account.not_before)

    def failed(self, fault: Fault, now: float, rng: Random) -> None:
        """Remember what concerns later requests too."""
        if fault.kind in BLOCKS_ACCOUNT:
            self.account.block(now)
        elif fault.kind is FaultKind.NOT_FOUND:
            self.gone_until = now + NOT_FOUND_SECONDS
        elif fault.kind is FaultKind.NO_STREAMING:
            self.streams = False
        elif fault.retry_after is not None:
            # Never before the hint, and not all at once after it.
            wait = fault.retry_after * (1 + 0.1 * rng.random())
            self.not_before = max(self.not_before, now + wait)

    def succeeded(self) -> None:
        """A good answer clears the account's record."""
        self.account.strikes = 0

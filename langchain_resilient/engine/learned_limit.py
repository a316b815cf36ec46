"""A limit on requests that no header tells, learned from refusals (429).

A refusal says more than "slow down". The provider's bucket holds less than one request at that
moment, and exactly one when it says to come back. So what it let in between two refusals, over the
time between them, is the rate, however unevenly it was sent; the longer the time, the more exactly.
"""

from __future__ import annotations

from math import log
from typing import NamedTuple


class Refusal(NamedTuple):
    """One request that was refused.

    Attributes:
        sent_at: When it was sent.
        sent_before: How many had been sent before it; None if nothing was counted then.
        hint: Seconds after which the provider wants to be asked again; None if it does not say.
    """

    sent_at: float
    sent_before: float | None
    hint: float | None


class _Mark(NamedTuple):
    """A moment at which the provider's bucket was empty: how many it had let in by then."""

    at: float
    admitted: float


FIRST_RATE = 2.0
"""Requests per second after the first refusal, while only that is known."""

_SEARCH = log(2) / 0.5
"""By how much a request that is let in raises that: it doubles in half a second."""

TELLING_HINT = 2.0
"""Seconds from which a hint tells about the gap. Shorter ones are mostly rounded up to a second."""

_SEARCH_FACTOR = 1.25
"""What a request that is let in raises a rate by that a hint has told."""

_IN_A_ROW = 1
"""Requests let in between two refusals without a hint, up to which they mean a limit, rather than a
server that refuses now and then."""

_MIN_HOLD, _MAX_HOLD, _MAX_HOLD_SECONDS = 8.0, 100.0, 120.0
"""Requests for which a measured rate is kept before more is tried; as many as it was measured over,
but within these bounds, so that a limit that was raised is noticed."""

_MIN_BLIND_HOLD, _MAX_BLIND_HOLD = 2.0, 32.0
"""The same where refusals come without a hint: little is known after the first of them."""

_LEAP = 1.2
"""How far a rate must have been raised above what was measured to show that more is possible."""

_FORGET_FACTOR = 16.0
"""How far above what was measured a rate must come before there is taken to be no limit."""

_FORGET_REQUESTS = 1000
"""Requests let in after a single refusal, with the same meaning; fewer while nothing is paced."""

_DRIFT = 0.25
"""How far the last stretch may be off the whole time before the whole time is forgotten."""

_WHOLE, _EXACT = 0.25, 0.02
"""Seconds by which hints are wrong on average: in whole seconds, and in fractions of them."""

ALWAYS_PACED_RATE = 1.0
"""Requests per second of a learned limit up to which interactive calls keep to it too.

A call that is refused goes to another target at once; only where each refusal costs seconds is it
better not to ask."""


class LearnedLimit:
    """The estimate of one limit. Not safe to share between threads; its `RateLimiter` has the lock.

    Attributes:
        rate: Requests per second to send at.
        pacing: Whether it is a limit as far as we know; else only refusals are watched.
        measured: Whether the rate was measured, between two refusals.
        hinted: Whether a hint has told about the gap.
    """

    __slots__ = (
        "_again",
        "_anchor",
        "_free_at",
        "_growth",
        "_hold",
        "_known_at",
        "_last",
        "_leapt",
        "_may_leap",
        "_measured_rate",
        "_resumed_at",
        "_since",
        "hinted",
        "measured",
        "pacing",
        "rate",
    )

    def __init__(self, refusal: Refusal, admitted: float, now: float) -> None:
        self.measured = False
        self._may_leap, self._leapt = True, False
        self._again = False  # whether there was a second refusal that said anything
        self._measured_rate = 0.0
        self._restart(refusal, admitted, now)

    def _restart(self, refusal: Refusal, admitted: float, now: float) -> None:
        hint = refusal.hint or 0.0
        self.hinted = hint >= TELLING_HINT
        self.pacing = refusal.hint is not None or self.measured
        self.rate = self._measured_rate or (1 / hint if self.hinted else FIRST_RATE)
        self._anchor = self._last = _Mark(refusal.sent_at + hint, admitted)
        self._free_at = None if refusal.hint is None else self._last.at
        self._known_at = now
        self._hold, self._growth = _MIN_HOLD, 2 ** (1 / _MIN_HOLD)
        self._since = 0.0
        self._resumed_at = now

    @property
    def binds_all(self) -> bool:
        """Whether interactive calls keep to it too, rather than batches alone.

        One refusal may have been chance: its hint is kept, but is no rate yet.
        """
        return (self.measured or (self.hinted and self._again)) and self.rate <= ALWAYS_PACED_RATE

    def level(self, now: float) -> float:
        """What the provider's bucket holds after a refusal, as far as that tells."""
        if self._free_at is None:
            return 0.0
        return 1.0 - self.rate * max(0.0, self._free_at - now)

    def record_send(self, now: float) -> bool:
        """Count a request; True if so many were let in that there is hardly a limit.

        The rate is raised for the one before, which was not refused so far.
        """
        before, self._since = self._since, self._since + 1
        if not before:
            self._resumed_at = now
        if self.measured:
            if self._since > self._hold:
                self.rate *= self._growth
            return self.rate > _FORGET_FACTOR * self._measured_rate
        if not self.pacing:
            return self._since > _FORGET_REQUESTS / 10
        if self.hinted:
            self.rate *= _SEARCH_FACTOR if before else 1.0
        else:
            self.rate += _SEARCH if before else 0.0
        return self._since > _FORGET_REQUESTS

    def record_refusal(
        self, refusal: Refusal, admitted: float, now: float, *, in_plenty: bool
    ) -> bool:
        """Learn from a refusal.

        Args:
            refusal: The refused request.
            admitted: How many had been let in before it.
            now: The engine's clock.
            in_plenty: A lot should have been left: what was not sent in the meantime was lost, so
                nothing can be measured.

        Returns:
            Whether it said anything: those that were sent before the last one was known do not.
        """
        if refusal.sent_at <= self._known_at:
            return False
        self._known_at = now
        self._again = True
        hint = refusal.hint
        mark = _Mark(refusal.sent_at + (hint or 0.0), admitted)
        self._free_at = None if hint is None else mark.at
        count = admitted - self._last.admitted
        if not self.pacing:
            in_a_row = hint is not None or count <= _IN_A_ROW
            self._restart(refusal, admitted, now)
            self.pacing = in_a_row
        elif in_plenty:
            self._restart(refusal, admitted, now)
        elif count < 1:
            self._lower(mark, hint)
        elif mark.at > self._last.at:
            self._measure(mark, count, hint)
        return True

    def _lower(self, mark: _Mark, hint: float | None) -> None:
        """Refused again, and nothing was let in since: wait as the hint says, or twice as long."""
        if hint is None:
            waited = max(mark.at - self._last.at, 0.5 / self.rate)
            self.rate = min(self.rate, 0.5 / waited)
            self.hinted = self.rate <= ALWAYS_PACED_RATE
        elif hint >= TELLING_HINT and not self.measured:
            self.rate = min(self.rate, 1 / hint)
            self.hinted = True
        self._since = 0.0

    def _measure(self, mark: _Mark, count: float, hint: float | None) -> None:
        """Measure the rate between this refusal and an earlier one."""
        seconds = mark.at - self._last.at
        rate = count / seconds
        error = 0.25 / rate
        if hint is not None:
            error = min(error, _WHOLE) if hint == int(hint) else _EXACT
        whole = (mark.admitted - self._anchor.admitted) / (mark.at - self._anchor.at)
        if abs(rate - whole) > _DRIFT * whole + 2 * rate * error / seconds:
            self._anchor = self._last
        total, lasted = mark.admitted - self._anchor.admitted, mark.at - self._anchor.at
        # Rather too slow than too fast: what is saved in the meantime is spent by the next try.
        rate = total / (lasted + error)
        if hint is None and not self.measured:
            # Refused all the time until one was let in: the bucket was empty at first.
            rate = max(rate, min(self.rate, 1 / max(self._resumed_at - self._last.at, error)))
        in_hold = self.measured and self._since <= self._hold
        if in_hold:
            self._may_leap = self._may_leap and not self._leapt
        self._leapt = False
        if self.measured and self._may_leap and self.rate > _LEAP * max(rate, self._measured_rate):
            # A bucket of a second loses what is saved, so the rate is higher than what was let in.
            # If it was saved after all, the next refusal comes soon.
            rate = (rate * self.rate) ** 0.5
            self._leapt = True
            self._anchor = mark
        shortest = _MIN_BLIND_HOLD if hint is None else _MIN_HOLD
        longest = max(_MAX_HOLD, _MAX_HOLD_SECONDS * rate) if hint is not None else _MAX_BLIND_HOLD
        self._hold = shortest if in_hold else min(longest, max(shortest, total))
        self._growth = 2 ** (1 / self._hold)
        self._since = 0.0
        self.rate = self._measured_rate = rate
        self.measured = True
        self._last = mark

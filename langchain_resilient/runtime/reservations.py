"""Money that is set aside for answers under way, so that many at once do not exceed a spend cap.

Each request to a target reserves what it will cost at most: its prompt, and an answer as long as
`max_tokens` allows or, where that is not set, as the longest lately. What it did cost takes the
place of that when its call ends. The last answer of a cap is let through alone, though it may cost
more than is left: a cap is exceeded by at most one answer for each target.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

from langchain_resilient.engine.attempt import attempt_record
from langchain_resilient.exchange import TOKEN_LIMITS
from langchain_resilient.prices import Usage, attempt_cost, cost, price_for
from langchain_resilient.receipt import Outcome
from langchain_resilient.runtime.spending import Standing

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Callable, Iterable

    from langchain_resilient.engine.attempt import Attempt
    from langchain_resilient.engine.interfaces import AttemptListener
    from langchain_resilient.engine.target_state import TargetState
    from langchain_resilient.exchange import ChatRequest
    from langchain_resilient.prices import Price
    from langchain_resilient.runtime.spending import Account, SpendLimiter


_INSIDE: ContextVar[bool] = ContextVar("langchain_resilient_inside_a_capped_call", default=False)
"""Whether this task works for a call that has reserved money: a call that its `check` or a wrapped
model makes must not wait for that, since it would wait for itself."""


class _Reservation(NamedTuple):
    """Dollars in the ledgers of a target: for a request under way, or what one that ended cost."""

    account: Account
    dollars: float
    ended: bool = False

    def take(self) -> None:
        """Reserve them."""
        name = None if self.ended else self.account.target.name
        for ledger in self.account.ledgers:
            ledger.reserve(name, self.dollars)

    def give_back(self, *, quietly: bool = False) -> None:
        """Release them; quietly, if they are taken again at once."""
        name = None if self.ended else self.account.target.name
        for ledger in self.account.ledgers:
            ledger.release(name, self.dollars, quietly=quietly)


class CallReservations:
    """What one call has reserved. It is its race's listener, too, and passes on to another.

    Between two attempts it keeps the place of the last one, so that a retry never finds its money
    reserved by another call.

    Args:
        limiter: The model's.
        request: What the call sends.
        prompt_tokens: How many tokens its prompt has, about.
        batch: Whether nobody sits and waits for it.

    Attributes:
        listener: Who else is to be told of its attempts.
    """

    __slots__ = ("_batch", "_billed", "_inside", "_limiter", "_live", "_place", "_prompt_tokens",
                 "_request", "listener")  # fmt: skip

    def __init__(
        self, limiter: SpendLimiter, request: ChatRequest, prompt_tokens: int, *, batch: bool
    ) -> None:
        self._limiter = limiter
        self._request = request
        self._prompt_tokens = prompt_tokens
        self._batch = batch
        self._inside = _INSIDE.get()
        self._live: dict[Attempt, _Reservation | None] = {}
        self._place: _Reservation | None = None
        self._billed: list[_Reservation] = []
        self.listener: AttemptListener | None = None

    # -- before the race ---------------------------------------------------------------------

    def admit(self, name: str, now: float) -> bool:
        """Reserve money for a first request to a target, if it need not be waited for."""
        self._give_up_place()
        if self._standing(name, now) is Standing.RESERVED:
            return False
        self._place = self._reservation(name)
        if self._place is not None:
            self._place.take()
        return True

    async def wait(self, name: str, until: float | None) -> bool:
        """Wait until another call has settled what it reserved.

        Returns:
            Whether one did, in time.
        """
        loop, settled = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed, and this call with it
                loop.call_soon_threadsafe(settled.set)

        ledgers = self._limiter.account(name).ledgers
        for ledger in ledgers:
            ledger.wait(wake)
        try:
            if self._standing(name, loop.time()) is Standing.RESERVED:
                async with asyncio.timeout_at(until):
                    await settled.wait()
        except TimeoutError:
            return False
        finally:
            for ledger in ledgers:
                ledger.forget(wake)
        return True

    def patience(self, deadline: float | None, now: float, *, others: bool) -> float | None:
        """Until when the first target is worth waiting for.

        Args:
            deadline: Seconds that the call may take.
            now: The loop's time.
            others: Whether anybody else could answer.
        """
        if self._batch or deadline is None:
            return None
        return now + (deadline / 2 if others else deadline)

    def payable(self, names: Iterable[str], now: float) -> list[str]:
        """The targets that could be asked without waiting for other calls."""
        return [n for n in names if self._standing(n, now) is Standing.OPEN]

    # -- for the planner ---------------------------------------------------------------------

    def may_send(self, state: TargetState) -> bool:
        """Whether the money for another request to a target is there."""
        return self._standing_beside(state.name) is Standing.OPEN

    def may_wait(self, state: TargetState) -> bool:
        """Whether it may be there once other calls have settled what they reserved."""
        return self._standing_beside(state.name) is Standing.RESERVED

    # -- as a listener -----------------------------------------------------------------------

    def began(self, attempt: Attempt) -> None:
        """Reserve what it will cost at most."""
        self._give_up_place()
        reservation = self._reservation(attempt.candidate.state.name)
        if reservation is not None:
            reservation.take()
        self._live[attempt] = reservation
        if self.listener is not None:
            self.listener.began(attempt)

    async def enter(self, attempt: Attempt) -> None:
        """Let calls inside this one know that they are."""
        _INSIDE.set(True)
        if self.listener is not None:
            await self.listener.enter(attempt)

    def over(self, attempt: Attempt) -> None:
        """Keep what it cost in place of what was reserved for it."""
        self._sweep()
        if self.listener is not None:
            self.listener.over(attempt)

    async def close(self, keep: Callable[[Task[None]], None]) -> None:
        """Close the other one."""
        if self.listener is not None:
            await self.listener.close(keep)

    def settled(self) -> None:
        """Give everything back: the ledgers hold now what was spent."""
        self._give_up_place()
        for reservation in (*self._live.values(), *self._billed):
            if reservation is not None:
                reservation.give_back()
        self._live.clear()
        self._billed.clear()

    # -- money -------------------------------------------------------------------------------

    def _standing_beside(self, name: str) -> Standing:
        """How a target stands if this call gives up the place that it keeps."""
        now = asyncio.get_running_loop().time()
        self._sweep()
        place = self._place
        if place is None:
            return self._standing(name, now)
        place.give_back(quietly=True)
        standing = self._standing(name, now)
        place.take()
        return standing

    def _standing(self, name: str, now: float) -> Standing:
        account, price = self._priced(name)
        if price is None or price.free:
            return Standing.OPEN
        least, most = self._need(account, price)
        standings = [x.standing(account.target.name, least, most, now) for x in account.ledgers]
        standing = max(standings, default=Standing.OPEN)
        return Standing.OPEN if standing is Standing.RESERVED and self._inside else standing

    def _reservation(self, name: str) -> _Reservation | None:
        account, price = self._priced(name)
        if price is None or price.free or not account.ledgers:
            return None
        return _Reservation(account, self._need(account, price)[1])

    def _priced(self, name: str) -> tuple[Account, Price | None]:
        account = self._limiter.account(name)
        return account, price_for(account.target) if account.ledgers else None

    def _need(self, account: Account, price: Price) -> tuple[float, float]:
        """Dollars for the prompt alone, and for the longest answer too."""
        request = self._request
        params = {**request.defaults, **account.target.sampling_params(), **request.overrides}
        limits = [limit for name in TOKEN_LIMITS if isinstance(limit := params.get(name), int)]
        length = min(limits, default=account.answers.longest) * int(params.get("n") or 1)
        prompt = self._prompt_tokens
        return cost(price, Usage(prompt, 0)), cost(price, Usage(prompt, length))

    def _sweep(self) -> None:
        """Take out the attempts that have ended; the last one leaves its place to the next."""
        for attempt in [a for a in self._live if a.outcome is not None]:
            reservation = self._live.pop(attempt)
            if reservation is None:
                continue
            record = attempt_record(attempt, attempt.started, attempt.ended or attempt.started)
            price = price_for(reservation.account.target)
            spent = attempt_cost(record, price, self._prompt_tokens)
            if spent:
                bill = _Reservation(reservation.account, spent, ended=True)
                bill.take()
                self._billed.append(bill)
            if self._live or self._place is not None or attempt.outcome is Outcome.WON:
                reservation.give_back()
            else:
                self._place = reservation

    def _give_up_place(self) -> None:
        if self._place is not None:
            self._place.give_back()
            self._place = None

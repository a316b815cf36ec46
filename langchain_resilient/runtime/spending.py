"""Spend caps: decides which targets are still affordable, and counts what each call cost."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter, deque
from enum import IntEnum
from math import fsum, inf
from typing import TYPE_CHECKING, NamedTuple

from langchain_resilient.errors import SpendCapError
from langchain_resilient.policies import money
from langchain_resilient.prices import Usage, attempt_cost, cost, price_for, prices_for
from langchain_resilient.providers import keys_for
from langchain_resilient.receipt import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from langchain_resilient.fleet.link import Link
    from langchain_resilient.fleet.options import Shared
    from langchain_resilient.options import Target
    from langchain_resilient.policies import SpendCap
    from langchain_resilient.receipt import AttemptRecord, Receipt


BUCKETS = 60
"""Of which a window is made: money counts for up to one of them longer than the window."""


class Standing(IntEnum):
    """Whether a request is affordable."""

    OPEN = 0
    RESERVED = 1
    """Not while answers under way may need what is left."""
    SPENT = 2


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

    __slots__ = ("_buckets", "_expiry", "_holders", "_lock", "_pending", "_reserved", "_step",
                 "_sum", "_waiting", "cap")  # fmt: skip

    def __init__(self, cap: SpendCap) -> None:
        self.cap: SpendCap = cap
        self._step = cap.window / BUCKETS
        self._buckets: deque[tuple[int, float]] = deque()
        self._sum = 0.0
        self._expiry = inf
        self._reserved = self._pending = 0.0
        self._holders: Counter[str] = Counter()
        self._waiting: dict[Callable[[], None], None] = {}
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

    @property
    def pending(self) -> float:
        """Dollars that are set aside for no target in particular."""
        return self._pending

    # -- reservations: what answers under way may cost -------------------------------------------

    def reserve(self, target: str | None, dollars: float) -> None:
        """Set money aside: for a request to a target; None for one that has ended."""
        with self._lock:
            if target is None:
                self._pending += dollars
            else:
                self._reserved += dollars
                self._holders[target] += 1

    def release(self, target: str | None, dollars: float, *, quietly: bool = False) -> None:
        """Undo a reservation, and wake who waits for it; quietly, if it is taken again at once."""
        with self._lock:
            if target is None:
                self._pending = max(0.0, self._pending - dollars)
            else:
                self._holders[target] -= 1
                self._holders += Counter()  # without those that are zero
                # Sums of fractions leave crumbs.
                self._reserved = max(0.0, self._reserved - dollars) if self._holders else 0.0
            waiting = () if quietly else tuple(self._waiting)
        for wake in waiting:
            wake()

    def standing(self, target: str, least: float, most: float, now: float) -> Standing:
        """Whether another request to a target is affordable beside those under way.

        Args:
            target: Its name. Of each target one answer may cost more than is left.
            least: Dollars that it costs at least.
            most: Dollars that it costs at most.
            now: The time.
        """
        left = self.left(now) - self._pending
        if not _covers(left, least):
            return Standing.SPENT
        if most <= left - self._reserved or not self._holders[target]:
            return Standing.OPEN
        return Standing.RESERVED

    def wait(self, wake: Callable[[], None]) -> None:
        """Have a function called whenever a reservation is released, from any thread."""
        with self._lock:
            self._waiting[wake] = None

    def forget(self, wake: Callable[[], None]) -> None:
        """Call it no more."""
        with self._lock:
            self._waiting.pop(wake, None)

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


class LeasedLedger(Ledger):
    """A ledger that all processes of a fleet share: of it this one spends what is leased to it.

    Args:
        cap: How much may be spent, in how long a time.
        link: To what the processes share.
        name: The cap's name there.

    Raises:
        ValueError: If other processes have a cap of that name with another amount or time.
    """

    __slots__ = ("_lease",)

    def __init__(self, cap: SpendCap, link: Link, name: str) -> None:
        super().__init__(cap)
        from langchain_resilient.fleet.money import DollarLease  # noqa: PLC0415

        self._lease = DollarLease(
            link, name, cap.dollars, cap.window, granted=self._wake_all, label=cap.name
        )

    def _wake_all(self) -> None:
        with self._lock:
            waiting = tuple(self._waiting)
        for wake in waiting:
            wake()

    def add(self, dollars: float, now: float) -> None:
        """Count what was spent just now, for all processes."""
        self._lease.spend(dollars, now)

    def spent(self, now: float) -> float:  # noqa: ARG002  # the base class's
        """Dollars spent by all processes within the window, as far as this one knows."""
        return self._lease.spent()

    def left(self, now: float) -> float:
        """Dollars that this process may still spend; not below 0."""
        return self._lease.left(now)

    def open_at(self, now: float, need: float = 0.0) -> float:
        """When some of what was spent counts no more; see `Ledger.open_at`."""
        return now if self.covers(need, now) else self._lease.opens_at()


def _covers(left: float, need: float) -> bool:
    return left > 0 and left >= need


_ledgers: dict[tuple[SpendCap, Hashable, Shared | None], Ledger] = {}
_answers: dict[Hashable, AnswerLength] = {}
_lock = threading.Lock()


def ledger_of(
    cap: SpendCap, owner: Hashable, link: Link | None = None, owner_name: str = ""
) -> Ledger:
    """The process's one ledger for a cap: whoever builds the same model anew spends on.

    Args:
        cap: One with a name is shared by all who use that name, whoever the owner is.
        owner: Whose money it is.
        link: To what other processes share; None for nothing.
        owner_name: The owner as all processes say it, without secrets.

    Raises:
        ValueError: If other processes have a cap of that name with another amount or time.
    """
    key = (cap, None if cap.name else owner, None if link is None else link.shared)
    with _lock:
        ledger = _ledgers.get(key)
        if ledger is None:
            if link is None:
                ledger = Ledger(cap)
            else:
                clash = [
                    other
                    for other, _, theirs in _ledgers
                    if cap.name and other.name == cap.name and theirs == link.shared
                ]
                if clash:
                    elsewhere = f"{clash[0]} in another model"
                    msg = f"the spend cap named {cap.name!r} is {elsewhere}, not {cap}"
                    raise ValueError(msg)
                named = f"name {cap.name}" if cap.name else f"{cap.dollars} {cap.per} {owner_name}"
                name = hashlib.sha256(named.encode()).hexdigest()[:24]
                ledger = LeasedLedger(cap, link, name)
            _ledgers[key] = ledger
    return ledger


def reset_ledgers() -> None:
    """Forget what was spent: for tests."""
    with _lock:
        _ledgers.clear()
        _answers.clear()


UNKNOWN_LENGTH = 4096
"""Tokens of an answer, at most, of a target that has not answered yet and has no `max_tokens`."""

_FORGET = 0.01
"""Of the difference to a shorter answer, by which the longest is forgotten."""


class AnswerLength:
    """How long the answers of a target are at most. No lock: a lost sample changes little.

    Attributes:
        longest: Tokens of the longest one lately.
    """

    __slots__ = ("_known", "longest")

    def __init__(self) -> None:
        self.longest: int = UNKNOWN_LENGTH
        self._known = 0.0

    def saw(self, tokens: int) -> None:
        """Learn from a whole answer: at once upwards, slowly downwards."""
        self._known = max(tokens, self._known - _FORGET * (self._known - tokens))
        self.longest = round(self._known)


class Account(NamedTuple):
    """A target, the ledgers that its cost goes into, and how long its answers are."""

    target: Target
    ledgers: tuple[Ledger, ...]
    answers: AnswerLength


class SpendLimiter:
    """What a model may still spend: its own cap and those of its targets. Safe for any thread.

    Args:
        targets: All that may be asked, by name, the last resort too. Later additions count.
        cap: The model's own.
        link: To what other processes share; None for nothing.
        name_of: Names a target as all processes do, without secrets; only where there is a link.

    Raises:
        MissingExtraError: If prices are needed and `genai-prices` is not installed.
        ValueError: If the price of a target is not known.

    Example:
        ```python
        limiter = SpendLimiter({t.name: t for t in targets}, SpendCap(5))
        names = limiter.allowed(["openai:gpt-6-luna", "local"], now)
        if not names:
            raise limiter.error(["openai:gpt-6-luna", "local"], now)
        ...
        limiter.settle(race.receipt(), estimate_prompt_tokens(request.messages), now)
        ```
    """

    __slots__ = ("_accounts", "_link", "_name_of", "_own", "_targets")

    def __init__(
        self,
        targets: Mapping[str, Target],
        cap: SpendCap | None = None,
        link: Link | None = None,
        name_of: Callable[[Target], str] = str,
    ) -> None:
        everyone = frozenset(map(_owner, targets.values()))
        self._link, self._name_of = link, name_of
        self._own = None
        if cap is not None:
            names = "" if link is None else " ".join(sorted(map(name_of, targets.values())))
            self._own = ledger_of(cap, everyone, link, names)
        self._targets = targets
        self._accounts: dict[str, Account] = {}
        for name in targets:
            self.account(name)

    def allowed(self, names: Sequence[str], now: float, prompt: int = 0) -> Sequence[str]:
        """Leave out the targets whose money is spent, in the same order; free ones stay.

        Args:
            names: Of the targets that would be asked.
            now: The loop's time.
            prompt: Its tokens: a target is also left out if what is left does not even pay for the
                prompt.
        """
        open_ones = [name for name in names if self._stop(name, now, prompt) is None]
        return names if len(open_ones) == len(names) else open_ones

    def settle(self, receipt: Receipt, prompt: int, now: float) -> tuple[float, ...]:
        """Count what a call cost, its losers too.

        Args:
            receipt: The finished call's; also that of one that failed or was cancelled.
            prompt: Its tokens, as estimated, for where no provider counted them.
            now: The loop's time.

        Returns:
            Dollars for each attempt, in order.
        """
        prompt_tokens = (a.input_tokens for a in receipt.attempts if a.input_tokens)
        prompt = next(prompt_tokens, 0) or prompt
        return tuple(self._count(a, prompt, now) for a in receipt.attempts)

    def why_not(self, name: str, now: float, prompt: int = 0) -> str | None:
        """Say why a target is left out, for `Receipt.skipped`; None if it is not."""
        stop = self._stop(name, now, prompt)
        return None if stop is None else _cap_message(stop[0], stop[1], now)

    def error(self, names: Sequence[str], now: float, prompt: int = 0) -> SpendCapError:
        """Make the error for a call that nobody may answer: `allowed` left nobody."""
        stops = [stop for n in names if (stop := self._stop(n, now, prompt)) is not None]
        reasons = dict.fromkeys(_cap_message(*stop, now) for stop in stops)
        if not stops:
            caps = dict.fromkeys(x.cap for n in names for x in self.account(n).ledgers)
            reasons |= dict.fromkeys(_all_reserved(cap) for cap in caps)
        opens, spent = min(
            ((at.open_at(now, need), at.spent(now)) for at, need in stops), default=(now, 0.0)
        )
        return SpendCapError(
            f"nothing was asked: {', '.join(reasons)}\nWhat to do: wait, raise the cap, or add a "
            'target that is free, such as "local", to the chain or as last_resort.',
            spent=spent,
            opens_in=None if opens == inf else opens - now,
        )

    def _count(self, attempt: AttemptRecord, prompt: int, now: float) -> float:
        if attempt.target not in self._targets:
            return 0.0
        account = self.account(attempt.target)
        if attempt.outcome is Outcome.WON and attempt.output_tokens:
            account.answers.saw(attempt.output_tokens)
        dollars = attempt_cost(attempt, price_for(account.target), prompt)
        for ledger in account.ledgers if dollars else ():
            ledger.add(dollars, now)
        return dollars

    def _stop(self, name: str, now: float, prompt: int) -> tuple[Ledger, float] | None:
        """Which ledger stops it, and what it would have to cover."""
        account = self.account(name)
        if not account.ledgers or (
            not prompt and all(ledger.left(now) for ledger in account.ledgers)
        ):
            return None
        price = price_for(account.target)
        if price is None or price.free:
            return None
        need = cost(price, Usage(prompt, 0)) if prompt else 0.0
        for ledger in account.ledgers:
            if not ledger.covers(need, now):
                return ledger, need
        return None

    def account(self, name: str) -> Account:
        """Open the account of a target when it is first seen: its price must be known by then."""
        account = self._accounts.get(name)
        if account is None:
            target = self._targets[name]
            ledgers = [] if self._own is None else [self._own]
            if target.spend_cap is not None:
                name = "" if self._link is None else self._name_of(target)
                ledgers.append(ledger_of(target.spend_cap, _owner(target), self._link, name))
            if ledgers:
                prices_for([target], "spend_cap")
            answers = _answers.setdefault(_owner(target), AnswerLength())
            account = self._accounts[name] = Account(target, tuple(ledgers), answers)
        return account


def _owner(target: Target) -> Hashable:
    """Whose money a target spends: equal ones of any model are one."""
    return (target.name, target.model, target.base_url, hash(keys_for(target)))


def _cap_message(ledger: Ledger, need: float, now: float) -> str:
    opens, spent = ledger.open_at(now, need), money(ledger.spent(now))
    when = "it will not open again" if opens == inf else f"it opens again in {_span(opens - now)}"
    if ledger.left(now):
        return (
            f"the spend cap of {ledger.cap} cannot pay for this prompt ({spent} spent, "
            f"{money(need)} needed); {when}"
        )
    return f"the spend cap of {ledger.cap} is reached ({spent} spent); {when}"


def _all_reserved(cap: SpendCap) -> str:
    return f"what is left of the spend cap of {cap} is reserved for answers under way"


def _span(seconds: float) -> str:
    """Write a time with two units: `3 h 12 min`."""
    whole = max(1, round(seconds))
    for unit, name, smaller, its_name in _UNITS:
        if whole >= unit:
            rest = whole % unit // smaller
            return f"{whole // unit} {name}" + (f" {rest} {its_name}" if rest else "")
    return f"{whole} s"


_UNITS = ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))

"""What all models of the process share: target states, budgets, context windows, reapers."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import importlib.util
import os
import threading
from random import Random
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from langchain_resilient import notices
from langchain_resilient.engine.background import Reaper
from langchain_resilient.engine.budgets import Budgets
from langchain_resilient.engine.rate_limiter import RateLimiter
from langchain_resilient.engine.target_state import Account, TargetState
from langchain_resilient.errors import NoTargetsError, SkippedTargetWarning
from langchain_resilient.observability.recorder import FleetRecorder
from langchain_resilient.providers import (
    address_of,
    families,
    json_fallback,
    keys_for,
    missing_key,
    model_lists,
    provider_entry,
)
from langchain_resilient.runtime.token_estimate import ContextWindow

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from langchain_resilient.fleet.health import FleetHealth
    from langchain_resilient.fleet.link import Link
    from langchain_resilient.fleet.options import Shared
    from langchain_resilient.options import Target
    from langchain_resilient.policies import Health, Hedge, Retry

T = TypeVar("T")


def usable_targets(targets: Sequence[Target], last_resort: Target | None = None) -> list[Target]:
    """Leave out the targets without a key, each with one warning.

    Args:
        targets: The chain.
        last_resort: Who answers if none is left: then that is no error.

    Raises:
        NoTargetsError: If none is left; says which variables to set and how to do without a key.
    """
    usable, missing = [], {}
    for target in targets:
        if (variable := missing_key(target)) is not None:
            missing[target.name] = variable
        else:
            usable.append(target)
    if not usable and (last_resort is None or missing_key(last_resort) is not None):
        variables = " or ".join(sorted(set(missing.values())))
        installed = importlib.util.find_spec("xllamacpp") is not None
        how = "" if installed else ' (pip install "langchain-resilient[local]")'
        msg = (
            f"no target can be asked: set {variables} (or pass api_key=...), or use the embedded "
            f'model, which needs no key{how}: ResilientChatModel(targets=["local"]), or '
            '`last_resort="local"` beside these targets'
        )
        raise NoTargetsError(msg)
    for name, env in missing.items():
        warn_once(f"{name} is skipped: {env} is not set and no api_key was given")
    return usable


_warned: set[str] = set()
_warning = threading.Lock()


def warn_once(message: str, category: type[Warning] = SkippedTargetWarning) -> None:
    """Warn once per process, of a skipped target unless another category is given."""
    with _warning:
        known = message in _warned
        _warned.add(message)
    if not known:
        notices.warn(message, category)


MAX_KEPT = 500
"""Targets, accounts, rate limiters and budgets that are kept after their last model is gone."""


class _LastUsed(Generic[T]):
    """Objects by what they belong to: all that somebody uses, and the last that somebody has used.

    A service whose users bring their own keys would otherwise keep the state of each key for ever.
    """

    def __init__(self) -> None:
        self._living: WeakValueDictionary[Hashable, T] = WeakValueDictionary()
        self._kept: dict[Hashable, T] = {}

    def get(self, key: Hashable) -> T | None:
        """Find one; it is the last used now."""
        found = self._living.get(key)
        return None if found is None else self.add(key, found)

    def add(self, key: Hashable, value: T) -> T:
        """Put one in, and let go of the one that nobody has asked for for longest."""
        self._living[key] = value
        self._kept.pop(key, None)
        self._kept[key] = value
        if len(self._kept) > MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        return value

    def clear(self) -> None:
        """Forget all."""
        self._living.clear()
        self._kept.clear()


class SharedState:
    """What was learned of targets: readiness, speed, health, and the budgets of chains.

    Models share `SHARED_STATE` unless they are told not to (`share_learning=False`).

    Args:
        link: To what other processes share; None for nothing.

    Attributes:
        link: As above.
        recorder: Adds up the calls of all models of this process, for the fleet.
    """

    def __init__(self, link: Link | None = None) -> None:
        self.link: Link | None = link
        self.recorder: FleetRecorder | None = None
        self._is_apart = False
        self._health: FleetHealth | None = None
        if link is not None:
            from langchain_resilient.fleet.health import FleetHealth  # noqa: PLC0415

            self._health = FleetHealth(link.wake, lambda: bool(link.away))
            self.recorder = FleetRecorder()
            self._health.count_with(self.recorder)
            link.add(self._health)
        self._states: _LastUsed[TargetState] = _LastUsed()
        self._accounts: _LastUsed[Account] = _LastUsed()
        self._rate_limiters: _LastUsed[RateLimiter] = _LastUsed()
        self._budgets: _LastUsed[Budgets] = _LastUsed()
        self._windows: dict[Hashable, ContextWindow] = {}
        self._lock = threading.Lock()

    def apart(self) -> SharedState:
        """Make a state of the same fleet that learns for itself.

        Limits and accounts are the fleet's, so they are the process's too. So a model for each call
        adds nothing to what the link serves.
        """
        other = SharedState()
        other.link, other.recorder, other._health = self.link, self.recorder, self._health
        other._is_apart = True
        other._accounts, other._rate_limiters = self._accounts, self._rate_limiters
        other._lock = self._lock
        return other

    def state_of(self, target: Target) -> TargetState:
        """Find a target's state: the same object for equal targets.

        A LangChain model as a target is known to its own chain only: two cannot be told equal.
        """
        if target.runnable is not None:
            return _new_state(target, [Account()], [_configured(RateLimiter(), target)])
        name, keys = _identity(target)
        with self._lock:
            state = self._states.get(name)
            if state is None:
                accounts = [self._account(target, i, key) for i, key in enumerate(keys)]
                rate_limiters = [self._rate_limiter(target, i, key) for i, key in enumerate(keys)]
                state = self._states.add(name, _new_state(target, accounts, rate_limiters))
                for rate_limiter in rate_limiters:
                    _configured(rate_limiter, target)
                health = self._health
                if health is not None:
                    health.watch(
                        shared_name(target, 0, target.model), state, times=not self._is_apart
                    )
                    for i, target_key in enumerate(state.keys):
                        health.watch_key(shared_name(target, i, target.model), target_key)
        return state

    def _account(self, target: Target, number: int, key: Hashable) -> Account:
        known = self._accounts.get(key)
        if known is not None:
            return known
        health = self._health
        name = shared_name(target, number)
        return self._accounts.add(key, Account() if health is None else health.account(name))

    def _rate_limiter(self, target: Target, number: int, key: Hashable) -> RateLimiter:
        """The pace of one of a target's keys: of this process, or of all that share it."""
        rate_limiter = self._rate_limiters.get((key, target.model))
        if rate_limiter is None:
            link = self.link
            if link is None:
                rate_limiter = RateLimiter()
            else:
                from langchain_resilient.fleet.limits import LeasedRateLimiter  # noqa: PLC0415

                leased = LeasedRateLimiter(
                    shared_name(target, number, target.model),
                    link.wake,
                    label=f"{target.provider}:{target.model}",
                    processes=link.shared.processes,
                )
                # Before the server is asked: with the first question it is told the user's limits.
                leased.health = self._health
                leased.configure(target.requests_per_minute, target.tokens_per_minute)
                link.add(leased)
                rate_limiter = leased
            self._rate_limiters.add((key, target.model), rate_limiter)
        return rate_limiter

    def window_of(self, target: Target) -> ContextWindow:
        """What is known of how long a request a target takes."""
        key = (target.name, target.model, target.base_url, target.context_window)
        window = self._windows.get(key)
        if window is None:
            with self._lock:
                window = self._windows.setdefault(key, ContextWindow(target.context_window))
        return window

    def budgets_of(
        self,
        targets: Sequence[Target],
        hedge: Hedge | None,
        health: Health | None,
        retry: Retry,
    ) -> Budgets:
        """Find the budgets of a chain: the same for equal chains with equal policies."""
        if any(target.runnable is not None for target in targets):
            return Budgets.of(hedge, health, retry)
        paid = None if hedge is None else (hedge.budget, hedge.burst)
        names = tuple(_identity(target)[0] for target in targets)
        key = (names, paid, health, retry.budget, retry.burst)
        with self._lock:
            budgets = self._budgets.get(key)
            if budgets is None:
                budgets = self._budgets.add(key, Budgets.of(hedge, health, retry))
        return budgets

    def forget(self) -> None:
        """Start anew."""
        with self._lock:
            self._states.clear()
            self._accounts.clear()
            self._rate_limiters.clear()
            self._budgets.clear()
            self._windows.clear()


def _identity(target: Target) -> tuple[Hashable, tuple[Hashable, ...]]:
    """By what a target's state is known, and its accounts."""
    server = (target.provider, address_of(target).url)
    keys = tuple((*server, hash(key)) for key in keys_for(target))
    paced = (target.requests_per_minute, target.tokens_per_minute)
    name = (
        target.name,
        target.model,
        target.max_concurrency,
        target.retry_first,
        target.thinks,
        target.replicated,
        target.group,
        keys,
        paced,
    )
    return name, keys


SHARED_STATE = SharedState()
"""The process's own."""

_of_fleets: dict[Shared, SharedState] = {}


def state_for(shared: Shared | None, *, share_learning: bool) -> SharedState:
    """The state that a model uses: the process's, a fleet's, or one of its own.

    Args:
        shared: What processes share; None for nothing.
        share_learning: Whether models of this process share it.

    Raises:
        MissingExtraError: If something is shared and redis-py is not installed.
        ConnectionError: If a required server cannot be reached.
    """
    if shared is None:
        return SHARED_STATE if share_learning else SharedState()
    from langchain_resilient.fleet.link import link_of  # noqa: PLC0415  # not everyone shares

    link = link_of(shared)
    with _warning:
        state = _of_fleets.get(shared)
        if state is None:
            state = _of_fleets[shared] = SharedState(link)
    return state if share_learning else state.apart()


def shared_name(target: Target, number: int, *more: str) -> str:
    """Name one of a target's keys, and more, so that all processes say the same and none the key.

    Args:
        target: The target.
        number: Of its key.
        *more: What else is a part of it, such as the model.
    """
    key = (
        f"from {target.api_key.__module__}.{target.api_key.__qualname__}"
        if callable(target.api_key) and hasattr(target.api_key, "__qualname__")
        else str(keys_for(target)[number])
    )
    text = "\0".join((target.provider, str(address_of(target).url), *more))
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()[:24]


_rng = Random()


if hasattr(os, "register_at_fork"):
    # Forked workers that all waited the same "random" time would come back at the same moment.
    os.register_at_fork(after_in_child=_rng.seed)


def shared_rng() -> Random:
    """The engine's one source of chance: every model of the process draws from it."""
    return _rng


def reset(seed: int | None = None) -> None:
    """Forget all that was learned of targets: for tests, and after a key was mended in place.

    Args:
        seed: Makes what chance decides from now on replayable; None takes a fresh one.
    """
    SHARED_STATE.forget()
    if _of_fleets:
        from langchain_resilient.fleet.link import forget_links  # noqa: PLC0415

        _of_fleets.clear()
        forget_links()
    json_fallback.forget_refusals()
    families.forget()
    model_lists.forget()
    with _warning:
        _warned.clear()
    _rng.seed(seed)


def _configured(rate_limiter: RateLimiter, target: Target) -> RateLimiter:
    rate_limiter.configure(target.requests_per_minute, target.tokens_per_minute)
    return rate_limiter


def _new_state(
    target: Target, accounts: Sequence[Account], rate_limiters: Sequence[RateLimiter]
) -> TargetState:
    return TargetState(
        target.name,
        target.provider,
        accounts=accounts,
        rate_limiters=rate_limiters,
        max_concurrency=target.max_concurrency,
        retry_first=target.retry_first,
        in_process=provider_entry(target.provider).in_process,
        thinks=target.reasons(),
        replicated=target.replicated,
        one_machine=_is_one_machine(target),
        group=target.group,
    )


def _is_one_machine(target: Target) -> bool:
    """Whether it is a server of the user's own that was not said to be many.

    A vendor's public service is many, though it is not hedged with itself unless the user says so.
    """
    entry = provider_entry(target.provider)
    if target.replicated or target.runnable is not None or entry.in_process:
        return False
    url, _, public = address_of(target)
    return url is not None and (not public or url.startswith("http://"))


_reapers: WeakKeyDictionary[asyncio.AbstractEventLoop, Reaper] = WeakKeyDictionary()


def loop_reaper() -> Reaper:
    """The running loop's reaper."""
    loop = asyncio.get_running_loop()
    reaper = _reapers.get(loop)
    if reaper is None:
        reaper = _reapers[loop] = Reaper()
    return reaper

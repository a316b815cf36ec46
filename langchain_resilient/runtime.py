"""Joins a model's configuration to the engine: its chain with keys and providers, its plan, its races.

A model builds its runtime on first use and never carries it along: copies and pickles leave it behind.
What is learned of a target (pushback, a dead account) is shared by all models of the process.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import warnings
from random import Random
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from langchain_resilient.engine.events import End
from langchain_resilient.engine.health import Account, TargetState
from langchain_resilient.engine.race import Race, Route, Tools
from langchain_resilient.engine.reaper import Reaper
from langchain_resilient.errors import NoTargetsError, ResilientError, StreamBrokenError, exhausted, rejected
from langchain_resilient.fault import Fault, FaultKind
from langchain_resilient.providers import create, entry, key_for, known
from langchain_resilient.providers.faults import classify
from langchain_resilient.target import Target, as_target
from langchain_resilient.wire.draft import Draft

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from langchain_resilient.engine.events import Plan
    from langchain_resilient.request import ChatRequest

logger = logging.getLogger("langchain_resilient")


class SkippedTargetWarning(UserWarning):
    """A target of the chain cannot be asked: it has no key, or its model is gone."""


class Runtime:
    """One model's chain, ready to race.

    Args:
        targets: The chain, keys filled in; those without a key are left out with one warning.
        plan: The policy.
        last_resort: Asked when nobody else can answer.
    """

    def __init__(
        self, targets: Sequence[Target], plan: Plan, last_resort: Target | None = None
    ) -> None:
        self.plan = plan
        self.targets = usable(targets)
        self._by_name = {t.name: t for t in self.targets}
        self._routes: dict[str, Route] = {}
        self.chain = [self.route(t) for t in self.targets]
        self.last_resort = self.route(last_resort) if last_resort is not None else None
        if last_resort is not None:
            self._by_name[last_resort.name] = last_resort
        self._tools = Tools(classify, Draft, Random(), self._on_fault)

    def route(self, target: Target) -> Route:
        """Make the place of a target in a chain."""
        return Route(state_of(target), create(target), target.timeouts)

    def chosen(self, models: Any) -> list[Route]:
        """The routes for a `model=` override: a target of the chain by its name or model id, or any other.

        Raises:
            ValueError: If it is neither; says what it may be.
        """
        wanted = [models] if isinstance(models, str | Target) else list(models)
        return [self._find(one) for one in wanted]

    def _find(self, wanted: Any) -> Route:
        for target, route in zip(self.targets, self.chain, strict=True):
            if wanted in (target.name, target.model):
                return route
        if not isinstance(wanted, str):
            return self.route(as_target(wanted))
        found = self._routes.get(wanted)
        if found is None:
            if wanted.partition(":")[0] not in known():
                msg = (
                    f"model={wanted!r} is no target of this chain ({', '.join(self._by_name)}) and "
                    'not of the form "provider:model"'
                )
                raise ValueError(msg)
            target = as_target(wanted)
            usable([target])
            self._by_name.setdefault(target.name, target)
            found = self._routes[wanted] = self.route(target)
        return found

    def target(self, name: str) -> Target:
        """The target that a receipt calls by this name."""
        return self._by_name[name]

    def race(self, request: ChatRequest, plan: Plan | None = None, **options: Any) -> Race:
        """Make a race on the running loop; `chain`, `validate`, `on_retry`, `plain` may be given."""
        chain = options.pop("chain", None)
        return Race(
            self.chain if chain is None else chain,
            request,
            plan or self.plan,
            self._tools,
            reaper(),
            last_resort=self.last_resort,
            **options,
        )

    def error(self, race: Race, plan: Plan, partial: str = "") -> ResilientError:
        """Build the error for a race that nobody won."""
        receipt = race.receipt()
        if race.end is End.BROKEN or (partial and race.end is End.DEADLINE):
            fault = receipt.faults[-1] if receipt.faults else None
            why = f"{fault[0]}: {fault[1]}" if fault else f"the deadline of {plan.deadline:g} s passed"
            msg = f"the stream broke after {len(partial)} characters were delivered: {why}"
            return StreamBrokenError(msg, receipt, partial)
        if race.end is End.REJECTED:
            return rejected(receipt)
        return exhausted(receipt, deadline=race.end is End.DEADLINE, timeout=plan.deadline)

    def _on_fault(self, name: str, fault: Fault) -> None:
        logger.info("%s: %s", name, fault)
        if fault.kind is FaultKind.NOT_FOUND:
            warn_once(f"{name} is skipped: its model was not found ({fault.message})")
        elif fault.kind is FaultKind.INTERNAL and fault.cause is not None:
            logger.error("%s: unexpected error", name, exc_info=fault.cause)


def usable(targets: Sequence[Target]) -> list[Target]:
    """Leave out the targets without a key, each with one warning.

    Raises:
        NoTargetsError: If none is left; says which variables to set and how to do without a key.
    """
    found, missing = [], {}
    for target in targets:
        env = entry(target.provider).api_key_env
        if env and not target.base_url and key_for(target) is None:
            missing[target.name] = env
        else:
            found.append(target)
    if not found:
        variables = " or ".join(sorted(set(missing.values())))
        msg = (
            f"no target can be asked: set {variables} (or pass api_key=...), or use the embedded model, "
            'which needs no key: pip install "langchain-resilient[local]" and '
            'ResilientChatModel(targets=["local"])'
        )
        raise NoTargetsError(msg)
    for name, env in missing.items():
        warn_once(f"{name} is skipped: {env} is not set and no api_key was given")
    return found


_warned: set[str] = set()


def warn_once(message: str) -> None:
    """Warn of a skipped target, once a process."""
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, SkippedTargetWarning, stacklevel=2)
        logger.warning(message)


_states: dict[Hashable, TargetState] = {}
_accounts: dict[Hashable, Account] = {}
_lock = threading.Lock()


def state_of(target: Target) -> TargetState:
    """What the process knows of a target; the same object for equal targets of any model.

    A LangChain model as a target is known to its own chain only: two of them cannot be told equal.
    """
    if target.runnable is not None:
        return _new_state(target, Account())
    account = (target.provider, target.base_url, hash(key_for(target)))
    key = (target.name, target.model, target.max_concurrency, target.retry_first, account)
    with _lock:
        found = _states.get(key)
        if found is None:
            found = _new_state(target, _accounts.setdefault(account, Account()))
            _states[key] = found
    return found


def _new_state(target: Target, account: Account) -> TargetState:
    return TargetState(
        target.name,
        target.provider,
        account=account,
        max_concurrency=target.max_concurrency,
        retry_first=target.retry_first,
    )


_reapers: WeakKeyDictionary[asyncio.AbstractEventLoop, Reaper] = WeakKeyDictionary()


def reaper() -> Reaper:
    """The running loop's reaper."""
    loop = asyncio.get_running_loop()
    found = _reapers.get(loop)
    if found is None:
        found = _reapers[loop] = Reaper()
    return found



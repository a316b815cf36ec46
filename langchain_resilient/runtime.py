"""Joins a model's configuration to the engine: its chain, its plan, its races.

A model builds its runtime on first use and never carries it along: copies and pickles leave it
behind. What is learned of a target (pushback, a dead account) is shared by all models of the
process.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import warnings
from random import Random
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from langchain_resilient.call import Call
from langchain_resilient.engine.budget import Budget
from langchain_resilient.engine.events import End, Plan
from langchain_resilient.engine.health import Account, TargetState
from langchain_resilient.engine.ports import Route, Tools
from langchain_resilient.engine.race import Race
from langchain_resilient.engine.reaper import Reaper
from langchain_resilient.errors import (
    NoTargetsError,
    ResilientError,
    exhausted,
    rejected,
    stream_broken,
)
from langchain_resilient.fault import Fault, FaultKind
from langchain_resilient.providers import create, entry, key_for, known
from langchain_resilient.providers.faults import classify
from langchain_resilient.receipt import AttemptKind
from langchain_resilient.target import Target, as_target
from langchain_resilient.wire.answers import stamp, to_result
from langchain_resilient.wire.deltas import Deltas
from langchain_resilient.wire.draft import Draft

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Hashable, Sequence

    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import ChatGenerationChunk, ChatResult

    from langchain_resilient.config import Configuration
    from langchain_resilient.engine.events import Attempt
    from langchain_resilient.receipt import Receipt

logger = logging.getLogger("langchain_resilient")


class SkippedTargetWarning(UserWarning):
    """A target of the chain cannot be asked: it has no key, or its model is gone."""


class Runtime:
    """One model's chain, ready to race. Targets without a key are left out, each with one warning.

    Args:
        config: The model's fields.

    Raises:
        NoTargetsError: If no target is left.
    """

    def __init__(self, config: Configuration) -> None:
        hedge, last_resort = config.hedging(), config.fallback_target()
        self.plan = Plan(
            deadline=config.timeout,
            timeouts=config.timeouts,
            hedge=hedge,
            retry=config.retry.at_most(config.max_retries),
            budget=Budget(hedge.budget, hedge.burst) if hedge else Budget(0, 1),
            fallback_on=config.fallback_on,
            reserve=config.reserve(),
        )
        self.targets = usable(config.keyed_targets())
        self._check = config.check
        self._defaults = config.sampling_params()
        self._by_name = {t.name: t for t in self.targets}
        self._routes: dict[str, Route] = {}
        self.chain = [self.route(t) for t in self.targets]
        self.last_resort = self.route(last_resort) if last_resort is not None else None
        if last_resort is not None:
            self._by_name[last_resort.name] = last_resort
        self._tools = Tools(classify, Draft, Random(), self._on_fault)

    async def generate(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, run_manager: Any, kwargs: Any
    ) -> ChatResult:
        """Race to a whole answer; what `_agenerate` returns."""
        race, plan = self._race(messages, stop, run_manager, kwargs)
        draft = await race.answer()
        if draft is None:
            raise self._error(race, plan)
        receipt = race.receipt()
        target = self._by_name[receipt.winner or ""]
        _log_last_resort(receipt)
        return stamp(to_result(draft, target.provider, target.model), receipt.as_dict())

    async def stream(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, run_manager: Any, kwargs: Any
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
        """Race to the first text, then pass the winner's chunks on; what `_astream` yields."""
        race, plan = self._race(messages, stop, run_manager, kwargs, stream=True)
        deltas: Deltas | None = None
        chunks = race.chunks()
        try:
            async for chunk in chunks:
                if deltas is None:
                    deltas = Deltas(self._winner(race).provider)
                piece = deltas.add(chunk)
                if piece is not None:
                    yield piece
        finally:
            await chunks.aclose()
        winner = race.winner
        if race.end is not End.ANSWERED or deltas is None or winner is None:
            raise self._error(race, plan)
        last, receipt = deltas.last(winner.draft, self._winner(race).model), race.receipt()
        _log_last_resort(receipt)
        stamp(last, receipt.as_dict())
        yield last

    def _race(
        self,
        messages: Sequence[BaseMessage],
        stop: list[str] | None,
        run_manager: Any,
        kwargs: dict[str, Any],
        *,
        stream: bool = False,
    ) -> tuple[Race, Plan]:
        call = Call(self._defaults, messages, stop, kwargs, stream=stream)
        plan = call.plan(self.plan)
        plain = call.several or (plan.hedge is not None and plan.hedge.on == "response")
        race = Race(
            self.chain if call.model is None else self._chosen(call.model),
            call.request,
            plan,
            self._tools,
            reaper(),
            last_resort=self.last_resort,
            validate=self._judge if self._check is not None else None,
            on_retry=run_manager.on_retry if run_manager is not None else None,
            plain=plain and not stream,
        )
        return race, plan

    async def _judge(self, attempt: Attempt) -> Fault | None:
        """Ask the caller's `validate` about a whole answer."""
        target = self._by_name[attempt.lane.state.name]
        result = to_result(attempt.draft, target.provider, target.model)
        try:
            # Only called where there is a check; a generation of ours holds an AIMessage.
            check: Any = self._check
            said: Any = check(result.generations[0].message)
            said = await said if inspect.isawaitable(said) else said
        except Exception as error:  # noqa: BLE001  # an exception is a way to say no
            return Fault(FaultKind.INVALID, f"validate raised {error!r}", cause=error)
        return Fault(FaultKind.INVALID, "validate said False") if said is False else None

    def _winner(self, race: Race) -> Target:
        winner = race.winner
        return self._by_name[winner.lane.state.name if winner is not None else ""]

    def route(self, target: Target) -> Route:
        """Make the place of a target in a chain."""
        limits = target.timeouts or self.plan.timeouts
        source = create(target.model_copy(update={"timeouts": limits}))
        return Route(state_of(target), source, limits)

    def _chosen(self, models: Any) -> list[Route]:
        """Find the routes for a `model=` override: targets of the chain, or any others.

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
            return self._adopt(as_target(wanted))
        found = self._routes.get(wanted)
        if found is None:
            if wanted.partition(":")[0] not in known():
                msg = (
                    f"model={wanted!r} is no target of this chain ({', '.join(self._by_name)}) and "
                    'not of the form "provider:model"'
                )
                raise ValueError(msg)
            found = self._routes[wanted] = self._adopt(as_target(wanted))
        return found

    def _adopt(self, target: Target) -> Route:
        """Take in a target from outside the chain, for one call."""
        usable([target])
        self._by_name[target.name] = target
        return self.route(target)

    def _error(self, race: Race, plan: Plan) -> ResilientError:
        """Build the error for a race that nobody won."""
        receipt, timeout = race.receipt(), plan.deadline
        if race.partial is not None:
            return stream_broken(receipt, race.partial, timeout)
        if race.end is End.REJECTED:
            return rejected(receipt)
        return exhausted(receipt, deadline=race.end is End.DEADLINE, timeout=timeout)

    def _on_fault(self, name: str, fault: Fault) -> None:
        logger.info("%s: %s", name, fault)
        if fault.kind is FaultKind.NOT_FOUND:
            warn_once(f"{name} is skipped: its model was not found ({fault.message})")
        elif fault.kind is FaultKind.INTERNAL and fault.cause is not None:
            logger.error("%s: unexpected error", name, exc_info=fault.cause)


def _log_last_resort(receipt: Receipt) -> None:
    """Say aloud that no target could answer: an answer of last resort must not pass unnoticed."""
    if receipt.attempts[-1].kind is AttemptKind.LAST_RESORT and receipt.last_resort:
        logger.warning("answered by the last resort: %s", receipt)


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
            f"no target can be asked: set {variables} (or pass api_key=...), or use the embedded "
            'model, which needs no key: pip install "langchain-resilient[local]" and '
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
        in_process=entry(target.provider).in_process,
    )


_reapers: WeakKeyDictionary[asyncio.AbstractEventLoop, Reaper] = WeakKeyDictionary()


def reaper() -> Reaper:
    """The running loop's reaper."""
    loop = asyncio.get_running_loop()
    found = _reapers.get(loop)
    if found is None:
        found = _reapers[loop] = Reaper()
    return found

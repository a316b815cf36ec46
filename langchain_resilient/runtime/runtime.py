"""Joins a model's configuration to the engine: its chain, its plan, its races.

A model builds its runtime on first use and never carries it along: copies and pickles leave it
behind. What is learned of a target (pushback, a dead account) is shared by all models of the
process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_resilient.configuration import (
    deadline_of,
    grace_of,
    has_default_deadline,
    hedge_of,
    keyed_targets,
    last_resort_of,
    observers_of,
    reserve_of,
    shared_of,
)
from langchain_resilient.engine.candidates import UNREACHABLE_AFTER
from langchain_resilient.engine.interfaces import CallEnd, Dependencies, Plan, Route
from langchain_resilient.engine.limits import delay_for
from langchain_resilient.engine.race import Race
from langchain_resilient.engine.stream_buffer import Segment, StreamBuffer
from langchain_resilient.engine.target_speed import THINKING_SECONDS
from langchain_resilient.errors import (
    ResilientError,
    UnreachableWarning,
    all_targets_failed,
    request_rejected,
    stream_broken,
)
from langchain_resilient.faults import Fault, FaultKind
from langchain_resilient.observability.observer import CallDetails, log_call, notify_observers
from langchain_resilient.observability.recorder import Recorder
from langchain_resilient.policies import THINKING_DEADLINE
from langchain_resilient.prices import price_for
from langchain_resilient.providers import (
    address_of,
)
from langchain_resilient.providers.errors import classify
from langchain_resilient.receipt import Receipt
from langchain_resilient.runtime.background_loop import BackgroundLoop, background_loop
from langchain_resilient.runtime.call import CallOptions, validator_for
from langchain_resilient.runtime.routes import REFRESH_SECONDS, Connections, Routes, clock, prepare
from langchain_resilient.runtime.routing import Router
from langchain_resilient.runtime.shared_state import (
    loop_reaper,
    shared_rng,
    state_for,
    usable_targets,
    warn_once,
)
from langchain_resilient.runtime.streaming import StreamAssembler, break_strategy_for
from langchain_resilient.sampling import sampling_params
from langchain_resilient.threads import Threads
from langchain_resilient.wire.accumulator import ResponseAccumulator
from langchain_resilient.wire.output import attach_receipt, to_chat_result
from langchain_resilient.wire.provider_state import RECEIPT_KEY

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

    from langchain_resilient.configuration import Configuration
    from langchain_resilient.engine.attempt import Attempt
    from langchain_resilient.engine.time_model import RequestProfile
    from langchain_resilient.observability.stats import Stats
    from langchain_resilient.options import Target
    from langchain_resilient.policies import OnBreak
    from langchain_resilient.prices import Price
    from langchain_resilient.runtime.batched import BatchDesk
    from langchain_resilient.runtime.call import AnswerValidator, StoredAnswer
    from langchain_resilient.runtime.memory import Memory
    from langchain_resilient.runtime.streaming import Audience


logger: logging.Logger = logging.getLogger("langchain_resilient")

_prepared: set[str] = set()
"""Providers whose SDKs were imported, or are being so."""


class Runtime:
    """One model's chain, ready to race. Targets without a key are left out, each with one warning.

    Args:
        config: The model's fields.

    Raises:
        NoTargetsError: If no target is left, and there is no last resort.
    """

    def __init__(self, config: Configuration) -> None:
        hedge, last_resort = hedge_of(config), last_resort_of(config)
        self.targets = usable_targets(keyed_targets(config), last_resort)
        self._shared = state_for(shared_of(config), share_learning=config.share_learning)
        self.plan: Plan = Plan(
            deadline=deadline_of(config),
            time_limits=config.time_limits,
            hedge=hedge,
            retry=config.retry.at_most(config.max_retries),
            budgets=self._shared.budgets_of(self.targets, hedge, config.health, config.retry),
            health=config.health,
            fallback_on=config.fallback_on,
            reserve=reserve_of(config),
            last_resort_after=config.last_resort_after,
            grace=grace_of(config),
            spread=config.spread,
            equal=config.spread and config.order in ("balanced", "fastest"),
        )
        self._patient = has_default_deadline(config)
        self._check = config.check
        self._threads = Threads("langchain-resilient-check")
        self._on_break: OnBreak = config.on_break
        self._observers = observers_of(config)
        self._defaults = sampling_params(config)
        # A class there is converted, and parsed, as in a call.
        form = self._defaults.get("response_format")
        self._bound = {"response_format": form} if isinstance(form, type) else {}
        self._memory = _memory(config)
        self._routes = Routes(
            config.time_limits,
            self._shared,
            health=config.health,
            memory=self._memory,
            # LangChain's class for OpenAI takes this wish for its form for one for this API.
            wants_responses=getattr(config, "output_version", None) == "responses/v1",
        )
        self._by_name = self._routes.by_name
        routes = [self._routes.add(t) for t in self.targets]
        self.last_resort = None if last_resort is None else self._routes.make(last_resort)
        rng = shared_rng()
        self._router = Router(config, self._by_name, self._shared, rng)
        self.chain = self._router.arrange(routes)
        fleet = self._shared.recorder
        self._recorder = Recorder() if fleet is None else fleet.part(self._price)
        self._dependencies = Dependencies(classify, ResponseAccumulator, rng, self._on_fault)
        self._keeps_warm = config.keep_warm
        kept = (*self.chain, self.last_resort) if self.last_resort is not None else self.chain
        self._connections = Connections(kept)
        self._prepared = self._imported = False

    async def generate(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, run_manager: Any, kwargs: Any
    ) -> ChatResult:
        """Race to a whole answer; what `_agenerate` returns."""
        if not self._prepared:
            await self._prepare()
        call = self._options(messages, stop, kwargs, stream=False)
        if call.receipts is not None and call.receipts.stored is not None:
            return await self._judge(call, call.receipts.stored)
        race, plan, validator = (
            await self._capped_race(call, run_manager)
            if self._router.capped
            else self._race(call, run_manager)
        )
        try:
            await race.answer()
        finally:
            try:
                receipt = self._settle(call, race)
            finally:
                if race.listener is not None:
                    await race.listener.close(loop_reaper().keep)
        answered = race.winner
        if answered is None and validator is not None:
            answered = validator.kept
        if answered is None and call.structure is None:
            answered = race.kept
        if answered is None:
            raise self._error(race, plan, receipt)
        result = self._whole(answered) if validator is None else validator.result_of(answered)
        if call.parses:
            call.add_parsed(*[generation.message for generation in result.generations])
        return attach_receipt(result, receipt.as_dict())

    async def stream(
        self,
        messages: Sequence[BaseMessage],
        stop: list[str] | None,
        run_manager: Any,
        kwargs: Any,
        audience: Audience = "reader",
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
        """Race to the first text, then pass the winner's chunks on; what `_astream` yields."""
        if not self._prepared:
            await self._prepare()
        call = self._options(messages, stop, kwargs, stream=True)
        break_strategy = break_strategy_for(call.on_break or self._on_break, call.request, audience)
        buffer = StreamBuffer(break_strategy)
        race, plan, _ = (
            await self._capped_race(call, run_manager, buffer)
            if self._router.capped
            else self._race(call, run_manager, buffer)
        )
        assembler = StreamAssembler(break_strategy, self._target_of)
        add = assembler.add
        chunks = race.chunks()
        try:
            async for item in chunks:
                if isinstance(item, Segment):
                    piece = assembler.turn(item)
                    add = assembler.add
                else:
                    piece = add(item)
                if piece is not None:
                    yield piece
        finally:
            await chunks.aclose()
            try:
                receipt = self._settle(call, race, assembler)
            finally:
                if race.listener is not None:
                    await race.listener.close(loop_reaper().keep)
        winner = race.winner
        if winner is None and assembler.partial is None and call.structure is None:
            winner = race.kept
            for piece in assembler.kept(winner):
                yield piece
        if winner is None:
            raise self._error(race, plan, receipt, assembler.partial)
        if (rest := assembler.rest()) is not None:
            yield rest
        last = assembler.last(winner)
        attach_receipt(last, receipt.as_dict())
        yield self._with_parsed(last, winner, call) if call.parses else last

    def _options(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, kwargs: Any, *, stream: bool
    ) -> CallOptions:
        given = {**self._bound, **kwargs} if self._bound else kwargs
        return CallOptions(
            self._defaults, messages, stop, given, stream=stream, own_limits=self._routes.own_limits
        )

    def _whole(self, attempt: Attempt) -> ChatResult:
        """Convert an answer that has ended."""
        target = self._target_of(attempt)
        return to_chat_result(attempt.response, target.provider, target.model)

    def _with_parsed(
        self, last: ChatGenerationChunk, winner: Attempt, call: CallOptions
    ) -> ChatGenerationChunk:
        """Put the object that a streamed answer holds on its last chunk.

        Raises:
            OutputParserException: If it does not fit.
        """
        whole = self._whole(winner).generations[0].message
        call.raise_if_unfit(whole)
        call.add_parsed(whole)
        if "parsed" in whole.additional_kwargs:
            last.message.additional_kwargs["parsed"] = whole.additional_kwargs["parsed"]
        return last

    def batch_desk(self, name: str | None = None) -> BatchDesk | None:
        """Find who takes batches: the target of that name, else the first of the chain that does.

        That it is not the first of all is logged.

        Returns:
            None if there is none.
        """
        from langchain_resilient.runtime.batched import open_desk  # noqa: PLC0415  # seldom needed

        for route in self.chain:
            target = self._by_name[route.state.name]
            if name in (None, target.name):
                desk = open_desk(
                    route, target, self._defaults, router=self._router, recorder=self._recorder
                )
                if desk is None:
                    continue
                first = self.chain[0].state.name
                if name is None and target.name != first:
                    logger.warning("batches go to %s: %s takes none", target.name, first)
                return desk
        return None

    async def _judge(self, call: CallOptions, stored: StoredAnswer) -> ChatResult:
        """Judge an answer that came by a batch as any other.

        Raises:
            StoredAnswerError: If it is no answer to this call.
        """
        desk = self.batch_desk(stored.target)
        if desk is None:
            msg = f"{stored.target} is no target of this chain that takes batches"
            raise LookupError(msg)
        validator = validator_for(call, self._check, self._threads, desk.target_of)
        result, receipt = await desk.judge(call, stored, validator)
        log_call(receipt, "answered")
        if self._observers:
            details = CallDetails(
                end="answered",
                streamed=False,
                targets=self._by_name,
                params={**call.request.defaults, **call.request.overrides},
            )
            notify_observers(self._observers, receipt, details, copy_context())
        return attach_receipt(result, receipt.as_dict())

    async def aclose(self) -> None:
        """Close what the targets hold open on the running loop, once the losers have closed."""
        await self._connections.close()
        await loop_reaper().drain()
        if self._memory is not None:
            await asyncio.to_thread(self._memory.save, clock(), final=True)
        await self._routes.aclose()

    def count_cached(self, generations: Sequence[ChatGeneration]) -> None:
        """Count the answers to a call that are out of LangChain's cache, and write it on them."""
        for generation in generations:
            message = generation.message
            before = message.response_metadata.get(RECEIPT_KEY) or {}
            receipt = Receipt((), before.get("winner"), 0.0, cached=True)
            # The cache may hold the message itself.
            metadata = {**message.response_metadata, RECEIPT_KEY: receipt.as_dict()}
            generation.message = message.model_copy(update={"response_metadata": metadata})
        self._recorder.add(Receipt((), None, 0.0, cached=True))

    async def warm(self) -> dict[str, str | None]:
        """What `llm.awarm()` does."""
        results = await self._connections.open()
        self._connections.keep(after=REFRESH_SECONDS)
        return results

    def warm_soon(self) -> None:
        """Do the same without waiting for it: on the running loop, else on that of sync calls."""
        try:
            self._connections.keep()
        except RuntimeError:
            loop = background_loop()
            if isinstance(loop, BackgroundLoop):  # which there is none of at the interpreter's end
                loop.loop.call_soon_threadsafe(self._connections.keep)

    def continue_from(self, other: Runtime) -> None:
        """Take over the statistics of the runtime that this one replaces."""
        self._recorder = other._recorder  # another of ours

    def stats(self, *, fleet: bool = False) -> Stats:
        """What `llm.stats()` returns."""
        recorder = self._recorder
        if fleet:
            if (link := self._shared.link) is None:
                msg = "stats(fleet=True) needs a model with shared=: without it nothing is shared"
                raise ValueError(msg)
            recorder = Recorder()
            for totals in link.counts():
                recorder.absorb(totals)
        routes = [*self.chain, *([self.last_resort] if self.last_resort else [])]
        return recorder.snapshot(
            {route.state.name: route.state for route in routes},
            clock(),
            self._price,
            self._delays(),
        )

    def _price(self, name: str) -> Price | None:
        return price_for(self._by_name[name]) if name in self._by_name else None

    def health(self, name: str) -> str | None:
        """How a target is now, in a word, as in `stats()`; None if it is none of ours."""
        route = self._routes.made.get(name)
        return None if route is None else route.state.health(clock())

    def _delays(self) -> dict[str, float]:
        """The delay in seconds after which each target would be hedged now."""
        hedge, now = self.plan.hedge, clock()
        if hedge is None or len(self.chain) < 2:  # noqa: PLR2004  # no other target to ask
            return {}
        plain, limits = hedge.on == "response", self.plan.time_limits
        return {
            route.state.name: delay_for(
                hedge, route.state, route.limits or limits, now, plain=plain
            )
            for route in self.chain
        }

    async def _prepare(self) -> None:
        """Import the first target's SDK in a thread, once, and then the others' beside its answer.

        Half a second of import inside the race would block the loop and pass for a slow provider;
        and the first fallback of a process comes when it matters.
        """
        if self._keeps_warm:
            self._connections.keep()
            if self._imported:
                return
        alone = [self.last_resort] if self.last_resort is not None else []  # without any key
        first, *others = self.chain or alone
        await asyncio.to_thread(prepare, [first])
        # With each call, a model that keeps warm looks at whether it does on the call's loop.
        self._imported, self._prepared = True, not self._keeps_warm
        cold = [r.state.provider for r in self.chain if r.state.provider not in _prepared]
        _prepared.update(cold)
        if len(set(cold)) > 1:
            with contextlib.suppress(RuntimeError):  # no thread starts at the interpreter's end
                threading.Thread(target=prepare, args=(others,), daemon=True).start()

    def _race(
        self,
        call: CallOptions,
        run_manager: Any,
        buffer: StreamBuffer | None = None,
        *,
        routes: Sequence[Route] | None = None,
        began: float | None = None,
    ) -> tuple[Race, Plan, AnswerValidator | None]:
        plan = call.plan(self.plan)
        listener = _trace(run_manager, self._by_name)
        if call.reservations is not None:
            call.reservations.listener, listener = listener, call.reservations
            plan = replace(plan, funds=call.reservations)
        if began is not None and plan.deadline is not None and not call.batch:
            waited = asyncio.get_running_loop().time() - began
            plan = replace(plan, deadline=max(0.0, plan.deadline - waited))
        if self._observers:
            call.context = copy_context()
        hedge = plan.hedge
        if hedge is not None and hedge.max_extra_cost is not None:
            plan = replace(plan, cost=lambda state: self._router.cost(call, state.name))
        plain = call.several or (hedge is not None and hedge.on == "response")
        validator = validator_for(call, self._check, self._threads, self._target_of)
        profile = call.profile(plain=plain)
        if profile.effort in THINKING_SECONDS and self._patient and not call.has_deadline:
            plan = replace(plan, deadline=THINKING_DEADLINE)
        race = Race(
            self._choose_routes(call, profile) if routes is None else routes,
            call.request,
            plan,
            self._dependencies,
            loop_reaper(),
            last_resort=self.last_resort,
            validate=validator,
            on_retry=run_manager.on_retry if run_manager is not None else None,
            plain=plain and buffer is None,
            buffer=buffer,
            size=call,
            profile=profile,
            listener=listener,
        )
        if call.receipts is not None:
            call.receipts.race = race
        return race, plan, validator

    def _choose_routes(self, call: CallOptions, profile: RequestProfile) -> Sequence[Route]:
        """Choose the routes of one call, in order.

        Raises:
            SpendCapError: If the money is spent and no target is left that could answer.
        """
        chain = self.chain if call.model is None else self._routes.chosen(call.model, self.chain)
        now = asyncio.get_running_loop().time()
        chosen = self._router.choose(chain, call, now, profile)
        if not chosen and self.last_resort is None:
            raise self._router.error(chain, call, now)
        return chosen

    async def _capped_race(
        self, call: CallOptions, run_manager: Any, buffer: StreamBuffer | None = None
    ) -> tuple[Race, Plan, AnswerValidator | None]:
        """Make the race of a call under a spend cap, once its money is reserved.

        Where other calls have reserved what is left of the first target's, it is waited for: most
        of them cost less.
        """
        time = asyncio.get_running_loop().time
        began, plan = time(), call.plan(self.plan)
        plain = call.several or (plan.hedge is not None and plan.hedge.on == "response")
        profile = call.profile(plain=plain)
        reservations = call.reservations = self._router.reservations(call)
        chosen = self._choose_routes(call, profile)
        others = len(chosen) > 1 or self.last_resort is not None
        until = reservations.patience(plan.deadline, began, others=others)
        while chosen and not reservations.admit(chosen[0].state.name, time()):
            if not await reservations.wait(chosen[0].state.name, until):
                names = [route.state.name for route in chosen]
                payable = reservations.payable(names, time())
                if not payable and self.last_resort is None:
                    raise self._router.error(chosen, call, time())
                chosen = [route for route in chosen if route.state.name in payable]
                break
            chosen = self._choose_routes(call, profile)
        try:
            race, plan, validator = self._race(
                call, run_manager, buffer, routes=chosen, began=began
            )
        except BaseException:
            reservations.settled()
            raise
        return race, plan, validator

    def _settle(
        self, call: CallOptions, race: Race, assembler: StreamAssembler | None = None
    ) -> Receipt:
        """Record what the race showed and cost, however it ended."""
        receipt = race.receipt()
        if assembler is not None and (breaks := assembler.breaks(race)):
            receipt = replace(receipt, breaks=breaks)
        costs = self._router.settle(call, receipt, asyncio.get_running_loop().time())
        self._recorder.add(receipt, costs, cancelled=race.end is None)
        if receipt.winner is None and call.skipped:
            receipt = replace(receipt, skipped=(*receipt.skipped, *call.skipped))
        elif call.skipped and (why := dict(call.skipped).get(self.chain[0].state.name)):
            receipt = replace(receipt, elsewhere=why)
        if call.receipts is not None:
            call.receipts.append(receipt)
            call.receipts = None  # it knows the race, whose planner knows the call: a circle
        if self._memory is not None:
            self._memory.note(asyncio.get_running_loop().time())
        self._report(call, race, receipt, costs)
        return receipt

    def _report(
        self, call: CallOptions, race: Race, receipt: Receipt, costs: tuple[float, ...] | None
    ) -> None:
        """Write to the log, and notify the observers."""
        end = "cancelled" if race.end is None else race.end.value
        log_call(receipt, end)
        if call.context is None:
            return
        answer = race.winner.response if race.winner is not None else None
        details = CallDetails(
            end=end,
            streamed=call.stream,
            targets=self._by_name,
            params={**call.request.defaults, **call.request.overrides},
            cost=costs,
            response_id=answer.id if answer is not None else None,
            response_model=answer.model if answer is not None else None,
            finish_reason=answer.finish_reason if answer is not None else None,
        )
        notify_observers(self._observers, receipt, details, call.context)

    def _target_of(self, attempt: Attempt) -> Target:
        return self._by_name[attempt.candidate.state.name]

    def _error(
        self, race: Race, plan: Plan, receipt: Receipt, partial: str | None = None
    ) -> ResilientError:
        """Build the error for a race that nobody won."""
        timeout = plan.deadline
        if partial is not None:
            return stream_broken(receipt, partial, timeout)
        if race.end is CallEnd.REJECTED:
            return request_rejected(receipt)
        return all_targets_failed(receipt, deadline=race.end is CallEnd.DEADLINE, timeout=timeout)

    def _on_fault(self, name: str, fault: Fault) -> None:
        logger.info("%s: %s", name, fault)
        if fault.kind is FaultKind.NOT_FOUND:
            warn_once(f"{name} is skipped: its model was not found ({fault.message})")
        elif fault.kind is FaultKind.CONNECTION:
            self._warn_of_silence()
        elif fault.kind is FaultKind.INTERNAL and fault.cause is not None:
            logger.error("%s: unexpected error", name, exc_info=fault.cause)

    def _warn_of_silence(self) -> None:
        """Say early that nobody is there: the deadline may be minutes away."""
        if any(route.state.unreachable < UNREACHABLE_AFTER for route in self.chain):
            return
        targets = (self._by_name[route.state.name] for route in self.chain)
        places = dict.fromkeys(address_of(target).url or target.name for target in targets)
        warn_once(
            f"nobody answers at {', '.join(places)}: check base_url, the network, and whether the "
            "server runs. The call asks again until its deadline (timeout=); max_retries=1 makes "
            "it fail at once",
            UnreachableWarning,
        )


def _memory(config: Configuration) -> Memory | None:
    if config.remember is None:
        return None
    from langchain_resilient.runtime.memory import memory_at  # noqa: PLC0415  # few need it

    return memory_at(Path(config.remember))


def _trace(run: Any, targets: dict[str, Target]) -> Any:
    """Make the trace of a call; None, and at no cost, where nobody traces it."""
    if run is None or not run.handlers:
        return None
    from langchain_resilient.observability.tracing import attempt_tracer  # noqa: PLC0415  # it is heavy

    return attempt_tracer(run, targets)

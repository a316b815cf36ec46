"""Attempts as child runs of the model's run, in LangSmith and other LangChain tracers.

The model's run alone carries usage: attempts are runs of the type "chain", whose tokens stand in
their metadata under names of our own, so that nothing is counted twice.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import AsyncCallbackManager
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.tracers import BaseTracer, LangChainTracer
from langchain_core.tracers._streaming import _StreamingCallbackHandler
from langchain_core.tracers.base import AsyncBaseTracer

from langchain_resilient.engine.attempt import attempt_record
from langchain_resilient.providers.langchain import RUN_CONFIG
from langchain_resilient.receipt import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from langchain_core.callbacks import (
        AsyncCallbackManagerForChainRun,
        BaseCallbackHandler,
        BaseRunManager,
    )
    from langchain_core.outputs import Generation

    from langchain_resilient.engine.attempt import Attempt
    from langchain_resilient.engine.reaper import Reaper
    from langchain_resilient.options import Target
    from langchain_resilient.receipt import AttemptRecord


def without_usage(manager: AsyncCallbackManager) -> AsyncCallbackManager:
    """Keep the tracers of a callback manager, and let them see no usage.

    The tokens of an inner run are those of the model's run, which says them already. Other handlers
    would take the inner run for another answer to the user.
    """
    quiet = manager.copy()
    quiet.set_handlers([_tracer_without_usage(one) for one in manager.handlers if _is_tracer(one)])
    return quiet


def _is_tracer(handler: BaseCallbackHandler) -> bool:
    return isinstance(handler, BaseTracer | AsyncBaseTracer)


def _tracer_without_usage(tracer: Any) -> Any:
    """Copy a tracer, which goes on writing into the same runs."""
    # Not `copy.copy`, for which a tracer gives itself.
    quiet, tell = object.__new__(type(tracer)), tracer.on_llm_end
    vars(quiet).update(vars(tracer))

    def on_llm_end(response: LLMResult, **kwargs: Any) -> Any:
        return tell(_strip_usage(response), **kwargs)

    async def on_llm_end_async(response: LLMResult, **kwargs: Any) -> Any:
        return await tell(_strip_usage(response), **kwargs)

    async_tracer = isinstance(tracer, AsyncBaseTracer)
    quiet.on_llm_end = on_llm_end_async if async_tracer else on_llm_end
    if isinstance(tracer, LangChainTracer):
        # LangChain asks LangSmith's tracer for such a copy before each run of a model.
        quiet.copy_with_metadata_defaults = lambda **given: _tracer_without_usage(
            tracer.copy_with_metadata_defaults(**given)
        )
    return quiet


def _strip_usage(response: LLMResult) -> LLMResult:
    told = {k: v for k, v in (response.llm_output or {}).items() if k not in _USAGE}
    batches: Any = [[_stripped(one) for one in batch] for batch in response.generations]
    return LLMResult(generations=batches, llm_output=told or None, run=response.run)


_USAGE = ("token_usage", "usage", "usage_metadata")
"""Where LangChain's models tell it, and tracers look."""


def _stripped(generation: Any) -> Generation | Any:
    message = getattr(generation, "message", None)
    if not isinstance(message, AIMessage):
        return generation
    about = {k: v for k, v in message.response_metadata.items() if k not in _USAGE}
    bare = message.model_copy(update={"usage_metadata": None, "response_metadata": about})
    return ChatGeneration(message=bare, generation_info=generation.generation_info)


logger = logging.getLogger("langchain_resilient")


_PREFIX = "resilience_"


class AttemptError(Exception):
    """What a tracer shows for a failed attempt: its fault, without the exception behind it."""


class AttemptTracer:
    """Tells callback handlers when the attempts of one call begin and end.

    Handlers run in order, one event after the other, in a task of their own: neither a request nor
    an answer waits for them, except for the start of a target that is a LangChain model, whose own
    run must find its parent. `close` waits for the rest, before the model's run ends.

    Args:
        manager: Starts runs below the model's.
        targets: By name.
    """

    __slots__ = ("_events", "_manager", "_open", "_runs", "_targets", "_worker")

    def __init__(self, manager: AsyncCallbackManager, targets: Mapping[str, Target]) -> None:
        self._manager = manager
        self._targets = targets
        self._runs: dict[Attempt, AsyncCallbackManagerForChainRun] = {}
        self._open: dict[Attempt, asyncio.Event] = {}
        self._events: asyncio.Queue[tuple[Attempt, asyncio.Event | AttemptRecord] | None]
        self._events = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None

    # -- for the race -----------------------------------------------------------------------------

    def began(self, attempt: Attempt) -> None:
        """Hear that an attempt is sent."""
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._work())
        told = self._open[attempt] = asyncio.Event()
        self._events.put_nowait((attempt, told))

    async def enter(self, attempt: Attempt) -> None:
        """Let the runs of a target that is a LangChain model find their parent."""
        target = self._targets.get(attempt.candidate.state.name)
        if target is None or target.runnable is None:
            return
        await self._open[attempt].wait()
        if (run := self._runs.get(attempt)) is not None:
            RUN_CONFIG.set({"callbacks": without_usage(run.get_child())})

    def over(self, attempt: Attempt) -> None:
        """Hear that an attempt has ended."""
        if self._open.pop(attempt, None) is not None:
            now = asyncio.get_running_loop().time()
            self._events.put_nowait((attempt, attempt_record(attempt, attempt.started, now)))

    async def close(self, reaper: Reaper) -> None:
        """End what is under way, and wait until all was told."""
        if self._worker is None:
            return
        for attempt in list(self._open):
            self.over(attempt)
        self._events.put_nowait(None)
        reaper.keep(self._worker)  # a caller who goes away meanwhile leaves it to its end
        await asyncio.shield(self._worker)

    # -- telling ----------------------------------------------------------------------------------

    async def _work(self) -> None:
        while (event := await self._events.get()) is not None:
            attempt, told = event
            try:
                if isinstance(told, asyncio.Event):
                    await self._start(attempt, told)
                else:
                    await self._end(attempt, told)
            except Exception:  # a handler's `raise_error` is no fault of a target
                logger.exception("a callback handler failed")

    async def _start(self, attempt: Attempt, told: asyncio.Event) -> None:
        name = attempt.candidate.state.name
        manager = self._manager.copy()
        manager.add_tags(["attempt", attempt.kind.value], inherit=False)
        manager.add_metadata(_facts(self._asked(attempt)), inherit=False)
        try:
            self._runs[attempt] = await manager.on_chain_start(
                None, _facts({"target": name}), name=name
            )
        finally:
            told.set()

    def _asked(self, attempt: Attempt) -> dict[str, Any]:
        name = attempt.candidate.state.name
        target = self._targets.get(name)
        found = {"target": name, "kind": attempt.kind.value, "key_index": attempt.key}
        return found if target is None else {**found, "provider": target.provider}

    async def _end(self, attempt: Attempt, told: AttemptRecord) -> None:
        run = self._runs.pop(attempt, None)
        if run is None:
            return
        facts = _facts(_learned(told))
        for handler in run.handlers:
            _annotate(handler, run.run_id, told.outcome.value, facts)
        if told.outcome is Outcome.FAILED:
            await run.on_chain_error(AttemptError(str(told.fault)))
        else:
            await run.on_chain_end(facts)


def attempt_tracer(parent: BaseRunManager, targets: Mapping[str, Target]) -> AttemptTracer | None:
    """Make the trace of one call; None where no handler wants to know.

    Whoever hears of the model's run hears of its attempts, which are a part of it. Handlers that
    pass events on to the user (`astream_events`, LangGraph's streams) are left out: an attempt is
    no step of their program.

    Args:
        parent: The model's run.
        targets: By name.
    """
    handlers = [one for one in parent.handlers if _wants(one)]
    if not handlers:
        return None
    manager = AsyncCallbackManager(handlers, handlers, parent.run_id)
    manager.add_tags(parent.inheritable_tags)
    # LangChain's own (`ls_model_name`, ...) speak of the first target, whoever is asked.
    given = parent.inheritable_metadata.items()
    manager.add_metadata({k: v for k, v in given if not k.startswith("ls_")})
    return AttemptTracer(manager, targets)


def _wants(handler: BaseCallbackHandler) -> bool:
    return not handler.ignore_chain and not isinstance(handler, _StreamingCallbackHandler)


def _learned(told: AttemptRecord) -> dict[str, Any]:
    found = told.as_dict()
    for name in ("target", "kind", "started", "ended"):
        del found[name]
    return found


def _facts(found: Mapping[str, Any]) -> dict[str, Any]:
    return {_PREFIX + name: value for name, value in found.items()}


def _annotate(
    handler: BaseCallbackHandler, run_id: UUID, outcome: str, facts: Mapping[str, Any]
) -> None:
    """Write on a tracer's run what was learned since its start, which no callback can say."""
    if not isinstance(handler, BaseTracer | AsyncBaseTracer):
        return
    run = handler.run_map.get(str(run_id))
    if run is not None:
        run.tags = [*(run.tags or []), outcome]
        run.extra["metadata"] = {**(run.extra.get("metadata") or {}), **facts}

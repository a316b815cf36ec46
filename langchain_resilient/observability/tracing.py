"""Attempts as child runs of the model's run, in LangSmith and other LangChain tracers.

Only the model's own run carries usage. Attempts are runs of the type "chain" with their tokens in
metadata under names of our own, so that tracers count nothing twice.
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
    from collections.abc import Callable, Mapping
    from uuid import UUID

    from langchain_core.callbacks import (
        AsyncCallbackManagerForChainRun,
        BaseCallbackHandler,
        BaseRunManager,
    )
    from langchain_core.outputs import Generation

    from langchain_resilient.engine.attempt import Attempt
    from langchain_resilient.options import Target
    from langchain_resilient.receipt import AttemptRecord


def without_usage(manager: AsyncCallbackManager) -> AsyncCallbackManager:
    """Copy a callback manager with its tracers only, which then see no usage.

    The tokens of an inner run are those of the model's run, which reports them already. Handlers
    other than tracers would take the inner run for another answer to the user.
    """
    tracers = [_tracer_without_usage(h) for h in manager.handlers if _is_tracer(h)]
    copy = manager.copy()
    copy.set_handlers(tracers)
    return copy


def _is_tracer(handler: BaseCallbackHandler) -> bool:
    return isinstance(handler, BaseTracer | AsyncBaseTracer)


def _tracer_without_usage(tracer: Any) -> Any:
    """Copy a tracer so that it reports no usage; it writes to the same runs as the original."""
    # Not `copy.copy`: a tracer defines that as returning itself.
    copy, original_on_llm_end = object.__new__(type(tracer)), tracer.on_llm_end
    vars(copy).update(vars(tracer))

    def on_llm_end(response: LLMResult, **kwargs: Any) -> Any:
        return original_on_llm_end(_strip_usage(response), **kwargs)

    async def on_llm_end_async(response: LLMResult, **kwargs: Any) -> Any:
        return await original_on_llm_end(_strip_usage(response), **kwargs)

    async_tracer = isinstance(tracer, AsyncBaseTracer)
    copy.on_llm_end = on_llm_end_async if async_tracer else on_llm_end
    if isinstance(tracer, LangChainTracer):
        # LangChain makes such a copy of LangSmith's tracer before each run of a model.
        copy.copy_with_metadata_defaults = lambda **defaults: _tracer_without_usage(
            tracer.copy_with_metadata_defaults(**defaults)
        )
    return copy


def _strip_usage(response: LLMResult) -> LLMResult:
    output = {k: v for k, v in (response.llm_output or {}).items() if k not in _USAGE}
    batches: Any = [[_stripped(gen) for gen in batch] for batch in response.generations]
    return LLMResult(generations=batches, llm_output=output or None, run=response.run)


_USAGE = ("token_usage", "usage", "usage_metadata")
"""The keys under which LangChain's models report usage and tracers look for it."""


def _stripped(generation: Any) -> Generation | Any:
    message = getattr(generation, "message", None)
    if not isinstance(message, AIMessage):
        return generation
    metadata = {k: v for k, v in message.response_metadata.items() if k not in _USAGE}
    stripped = message.model_copy(update={"usage_metadata": None, "response_metadata": metadata})
    return ChatGeneration(message=stripped, generation_info=generation.generation_info)


logger = logging.getLogger("langchain_resilient")
_PREFIX = "resilience_"


class AttemptError(Exception):
    """What a tracer shows for a failed attempt: its fault, without the exception behind it."""


class AttemptTracer:
    """Reports the beginning and end of each attempt of one call to callback handlers.

    Handlers run in order, one event after the other, in a task of their own: neither requests nor
    answers wait for them. The exception is a target that is a LangChain model: it waits until the
    run of its attempt exists, since its own run needs that parent. `close` waits for what is left
    before the model's run ends.

    Args:
        manager: Starts runs below the model's run.
        targets: The model's targets by name.
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
        started = self._open[attempt] = asyncio.Event()
        self._events.put_nowait((attempt, started))

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

    async def close(self, keep: Callable[[asyncio.Task[None]], None]) -> None:
        """End the runs of attempts under way, and wait until everything is reported."""
        if self._worker is None:
            return
        for attempt in list(self._open):
            self.over(attempt)
        self._events.put_nowait(None)
        keep(self._worker)  # a caller that goes away meanwhile must not end it
        await asyncio.shield(self._worker)

    # -- reporting -------------------------------------------------------------------------------

    async def _work(self) -> None:
        while (event := await self._events.get()) is not None:
            attempt, detail = event
            try:
                if isinstance(detail, asyncio.Event):
                    await self._start(attempt, detail)
                else:
                    await self._end(attempt, detail)
            except Exception:  # a handler with `raise_error` is no fault of a target
                logger.exception("a callback handler failed")

    async def _start(self, attempt: Attempt, started: asyncio.Event) -> None:
        name = attempt.candidate.state.name
        manager = self._manager.copy()
        manager.add_tags(["attempt", attempt.kind.value], inherit=False)
        manager.add_metadata(_prefixed(self._start_metadata(attempt)), inherit=False)
        try:
            self._runs[attempt] = await manager.on_chain_start(
                None, _prefixed({"target": name}), name=name
            )
        finally:
            started.set()

    def _start_metadata(self, attempt: Attempt) -> dict[str, Any]:
        name = attempt.candidate.state.name
        target = self._targets.get(name)
        metadata = {"target": name, "kind": attempt.kind.value, "key_index": attempt.key}
        return metadata if target is None else {**metadata, "provider": target.provider}

    async def _end(self, attempt: Attempt, record: AttemptRecord) -> None:
        run = self._runs.pop(attempt, None)
        if run is None:
            return
        metadata = _prefixed(_end_metadata(record))
        for handler in run.handlers:
            _annotate(handler, run.run_id, record.outcome.value, metadata)
        if record.outcome is Outcome.FAILED:
            await run.on_chain_error(AttemptError(str(record.fault)))
        else:
            await run.on_chain_end(metadata)


def attempt_tracer(parent: BaseRunManager, targets: Mapping[str, Target]) -> AttemptTracer | None:
    """Make the tracer of one call; None if no handler wants its events.

    Handlers of the model's run see its attempts, which are part of it. Those that pass events on to
    the user (`astream_events`, LangGraph's streams) are left out: an attempt is not a step of the
    user's program.

    Args:
        parent: The model's run.
        targets: The model's targets by name.
    """
    handlers = [handler for handler in parent.handlers if _wants_attempts(handler)]
    if not handlers:
        return None
    manager = AsyncCallbackManager(handlers, handlers, parent.run_id)
    manager.add_tags(parent.inheritable_tags)
    # LangChain's own metadata (`ls_model_name`, ...) names the first target, whichever is asked.
    inherited = parent.inheritable_metadata.items()
    manager.add_metadata({k: v for k, v in inherited if not k.startswith("ls_")})
    return AttemptTracer(manager, targets)


def _wants_attempts(handler: BaseCallbackHandler) -> bool:
    return not handler.ignore_chain and not isinstance(handler, _StreamingCallbackHandler)


def _end_metadata(record: AttemptRecord) -> dict[str, Any]:
    metadata = record.as_dict()
    for name in ("target", "kind", "started", "ended"):
        del metadata[name]
    return metadata


def _prefixed(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {_PREFIX + name: value for name, value in metadata.items()}


def _annotate(
    handler: BaseCallbackHandler, run_id: UUID, outcome: str, metadata: Mapping[str, Any]
) -> None:
    """Add to a tracer's run what became known after its start; no callback can carry that."""
    if not isinstance(handler, BaseTracer | AsyncBaseTracer):
        return
    run = handler.run_map.get(str(run_id))
    if run is not None:
        run.tags = [*(run.tags or []), outcome]
        run.extra["metadata"] = {**(run.extra.get("metadata") or {}), **metadata}

"""Which run a stream belongs to: LangChain does not tell `_stream` and `_astream`.

`BaseChatModel.stream` starts the model's run by itself and hands its manager to nobody. So the
run's id is chosen beforehand, and its manager is left in a context variable for the moment in which
the stream begins.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.globals import get_debug
from langchain_core.runnables.config import ensure_config, var_child_runnable_config
from langchain_core.tracers.context import _configure_hooks, tracing_v2_callback_var
from langsmith.utils import tracing_is_enabled

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from langchain_core.callbacks import Callbacks
    from langchain_core.runnables import RunnableConfig


LLMRun = AsyncCallbackManagerForLLMRun | CallbackManagerForLLMRun


_run: ContextVar[LLMRun | None] = ContextVar("langchain_resilient_run", default=None)


def take_run() -> LLMRun | None:
    """Take the run of the stream that begins now; None if nobody wants to know of it.

    What begins inside of the stream does not see it.
    """
    run = _run.get()
    if run is not None:
        _run.set(None)
    return run


@contextmanager
def belongs_to(run: LLMRun | None) -> Iterator[None]:
    """Let what begins inside be a part of a run."""
    token = _run.set(run)
    try:
        yield
    finally:
        _run.reset(token)


def choose_run(
    config: RunnableConfig | None, callbacks: Callbacks
) -> tuple[RunnableConfig | None, LLMRun | None]:
    """Choose the id of a run that LangChain is about to start.

    Args:
        config: The call's.
        callbacks: The model's own.

    Returns:
        The configuration to start it with, and a manager that knows the run; as given, and None,
        where no callback handler could want child runs.
    """
    if not callbacks and _silent(config):
        return config, None
    found = ensure_config(config)
    manager: Any = CallbackManager.configure(
        found.get("callbacks"),
        callbacks,
        inheritable_tags=found.get("tags"),
        inheritable_metadata=found.get("metadata"),
    )
    if not manager.handlers:
        return config, None
    run_id = found.get("run_id") or uuid4()
    run = AsyncCallbackManagerForLLMRun(
        run_id=run_id,
        handlers=manager.handlers,
        inheritable_handlers=manager.inheritable_handlers,
        inheritable_tags=manager.inheritable_tags,
        inheritable_metadata=manager.inheritable_metadata,
    )
    # The tracers that the environment asks for are made by `configure`: the run must have the same.
    return {**found, "callbacks": _same(found.get("callbacks"), manager), "run_id": run_id}, run


def _silent(config: RunnableConfig | None) -> bool:
    """Whether nothing asks for a handler: to look is cheaper than to `configure`."""
    above = var_child_runnable_config.get()
    return not (
        (config is not None and config.get("callbacks"))
        or (above is not None and above.get("callbacks"))
        or tracing_v2_callback_var.get() is not None
        or any(var.get() is not None for var, *_ in _configure_hooks)
        or get_debug()
        or tracing_is_enabled()
    )


def _same(given: Any, manager: Any) -> Any:
    if isinstance(given, list) or given is None:
        return manager.inheritable_handlers
    same = given.copy()
    for handler in manager.inheritable_handlers:
        if handler not in same.handlers:
            same.add_handler(handler)
    return same


def traced(source: Iterator[Any], run: LLMRun) -> Iterator[Any]:
    """Begin a stream as part of a run, and pass it on."""
    with belongs_to(run):
        first = next(source, _NOTHING)
    if first is not _NOTHING:
        yield first
        yield from source


async def atraced(source: AsyncIterator[Any], run: LLMRun) -> AsyncGenerator[Any, None]:
    """Begin a stream as part of a run, and pass it on."""
    try:
        with belongs_to(run):
            first = await anext(source, _NOTHING)
        if first is not _NOTHING:
            yield first
            async for item in source:
                yield item
    finally:
        await source.aclose()  # type: ignore[attr-defined]  # an async generator


_NOTHING: Any = object()

"""Tells `_stream` and `_astream` which LangChain run they belong to.

`BaseChatModel.stream` starts the run itself and passes its manager on to nobody. So we choose the
run's id beforehand, and leave a manager for it in a context variable for the moment in which the
stream begins.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.globals import get_debug
from langchain_core.runnables.config import ensure_config, var_child_runnable_config
from langchain_core.utils.env import env_var_is_set
from langsmith.utils import tracing_is_enabled

from langchain_resilient.threads import imported

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from langchain_core.callbacks import Callbacks
    from langchain_core.runnables import RunnableConfig


LLMRun = AsyncCallbackManagerForLLMRun | CallbackManagerForLLMRun
_run: ContextVar[LLMRun | None] = ContextVar("langchain_resilient_run", default=None)


def take_run() -> LLMRun | None:
    """Take the run of the stream that begins now; None if nothing traces it.

    Taking it clears the variable, so that models called inside the stream do not see it.
    """
    run = _run.get()
    if run is not None:
        _run.set(None)
    return run


@contextmanager
def belongs_to(run: LLMRun | None) -> Iterator[None]:
    """Make what begins inside this block part of a run."""
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
        The configuration to start it with, and a manager of the run; the configuration as given and
        None if no callback handler could want child runs.
    """
    if not callbacks and _has_no_handlers(config, _tracing()):
        return config, None
    full_config = ensure_config(config)
    manager: Any = CallbackManager.configure(
        full_config.get("callbacks"),
        callbacks,
        inheritable_tags=full_config.get("tags"),
        inheritable_metadata=full_config.get("metadata"),
    )
    if not manager.handlers:
        return config, None
    run_id = full_config.get("run_id") or uuid4()
    run = AsyncCallbackManagerForLLMRun(
        run_id=run_id,
        handlers=manager.handlers,
        inheritable_handlers=manager.inheritable_handlers,
        inheritable_tags=manager.inheritable_tags,
        inheritable_metadata=manager.inheritable_metadata,
    )
    # `configure` also made the tracers that the environment asks for: the run must use those.
    callbacks_with_tracers = _with_handlers(full_config.get("callbacks"), manager)
    return {**full_config, "callbacks": callbacks_with_tracers, "run_id": run_id}, run


def _has_no_handlers(config: RunnableConfig | None, tracing: Any) -> bool:
    """Whether nothing asks for a callback handler: checking is far cheaper than `configure`."""
    above = var_child_runnable_config.get()
    return not (
        (config is not None and config.get("callbacks"))
        or (above is not None and above.get("callbacks"))
        or (
            tracing is not None
            and (
                tracing.tracing_v2_callback_var.get() is not None
                or any(var.get() is not None for var, *_ in tracing._configure_hooks)  # noqa: SLF001
            )
        )
        or get_debug()
        or tracing_is_enabled()
    )


def _tracing() -> Any:
    """LangChain's module of tracers, which takes long to import; None while nobody has used it."""
    return imported("langchain_core.tracers.context")


def is_unwatched() -> bool:
    """Whether a call without a configuration is nobody's but its caller's.

    Then nothing that LangChain does around it can be seen. Some tracers put themselves into every
    callback manager: so one is made.
    """
    tracing = _tracing()
    hooks = getattr(tracing, "_configure_hooks", ())
    return not (
        var_child_runnable_config.get()
        or env_var_is_set("LANGCHAIN_TRACING")
        or env_var_is_set("LANGCHAIN_HANDLER")
        or any(variable and env_var_is_set(variable) for *_, variable in hooks)
        or AsyncCallbackManager([]).handlers
    ) and _has_no_handlers(None, tracing)


def _with_handlers(callbacks: Any, manager: Any) -> Any:
    """Add the manager's inheritable handlers to the callbacks of a configuration."""
    if isinstance(callbacks, list) or callbacks is None:
        return manager.inheritable_handlers
    extended = callbacks.copy()
    for handler in manager.inheritable_handlers:
        if handler not in extended.handlers:
            extended.add_handler(handler)
    return extended


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

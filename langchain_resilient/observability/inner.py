"""Runs inside of a target that is a LangChain model: seen by tracers, counted by nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.tracers import BaseTracer, LangChainTracer
from langchain_core.tracers.base import AsyncBaseTracer

if TYPE_CHECKING:
    from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackHandler
    from langchain_core.outputs import Generation


def unbilled(manager: AsyncCallbackManager) -> AsyncCallbackManager:
    """Keep the tracers of a callback manager, and let them see no usage.

    The tokens of an inner run are those of the model's run, which says them already. Other handlers
    would take the inner run for another answer to the user.
    """
    quiet = manager.copy()
    quiet.set_handlers([_unbilled(one) for one in manager.handlers if _is_tracer(one)])
    return quiet


def _is_tracer(handler: BaseCallbackHandler) -> bool:
    return isinstance(handler, BaseTracer | AsyncBaseTracer)


def _unbilled(tracer: Any) -> Any:
    """Copy a tracer, which goes on writing into the same runs."""
    # Not `copy.copy`, for which a tracer gives itself.
    quiet, tell = object.__new__(type(tracer)), tracer.on_llm_end
    vars(quiet).update(vars(tracer))

    def on_llm_end(response: LLMResult, **kwargs: Any) -> Any:
        return tell(_without_usage(response), **kwargs)

    async def on_llm_end_async(response: LLMResult, **kwargs: Any) -> Any:
        return await tell(_without_usage(response), **kwargs)

    async_tracer = isinstance(tracer, AsyncBaseTracer)
    quiet.on_llm_end = on_llm_end_async if async_tracer else on_llm_end
    if isinstance(tracer, LangChainTracer):
        # LangChain asks LangSmith's tracer for such a copy before each run of a model.
        quiet.copy_with_metadata_defaults = lambda **given: _unbilled(
            tracer.copy_with_metadata_defaults(**given)
        )
    return quiet


def _without_usage(response: LLMResult) -> LLMResult:
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

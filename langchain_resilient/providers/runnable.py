"""Any LangChain chat model (or any Runnable that takes messages) as a target."""

from __future__ import annotations

import warnings
from contextlib import aclosing
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, BaseMessage
from pydantic import SecretStr

from langchain_resilient.providers._sdk import DroppedParameterWarning
from langchain_resilient.providers.evidence import refused_parameters, scrub

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable

    from langchain_core.runnables import RunnableConfig

    from langchain_resilient.request import ChatRequest, Chunk
    from langchain_resilient.target import Target

# Most chat models of LangChain take these by call; what else is special to one belongs to it.
_OPTIONAL = frozenset({"stop", "temperature", "max_tokens", "top_p", "parallel_tool_calls", "seed"})
_PORTABLE = _OPTIONAL | {"tools", "tool_choice", "response_format"}

# The call that the user made is the run that callbacks hear of: of two, tokens would show twice.
_SILENT: RunnableConfig = {"callbacks": []}

OUTER: ContextVar[RunnableConfig] = ContextVar("langchain_resilient_outer", default=_SILENT)
"""What the model of the next answer in this task is run with: the tracers of the call, if any."""


class RunnableProvider:
    """Serves `Target(ChatAnthropic(...))`. Its own retries should be off: ours would multiply them.

    The model keeps its own parameters; those of the call (`stop`, tools) are handed to it, and left
    out from then on where it does not take one. Its messages pass through unchanged, so that
    nothing of another vendor's format is lost.
    """

    def __init__(self, target: Target) -> None:
        self._name = target.name
        self._runnable = target.runnable
        self._params = target.sampling_params()
        self._dropped: set[str] = set()

    async def open(self, request: ChatRequest, *, stream: bool) -> AsyncGenerator[Chunk, None]:
        """Start; the model runs when the first chunk is asked for."""
        return self._answer(request, stream=stream)

    async def _answer(self, request: ChatRequest, *, stream: bool) -> AsyncGenerator[Chunk, None]:
        wanted = {**self._params, **request.overrides}
        messages, begun = list(request.source), False
        config = OUTER.get()
        OUTER.set(_SILENT)  # it is not for what the model runs inside
        while True:
            kwargs = {k: wanted[k] for k in (_PORTABLE - self._dropped) & wanted.keys()}
            try:
                async with aclosing(self._run(messages, kwargs, config, stream=stream)) as values:
                    async for value in values:
                        begun = True
                        yield as_chunk(value)
            except Exception as error:
                scrub(error, _secrets(self._runnable))
                refused = refused_parameters(error, kwargs.keys() & _OPTIONAL)
                if begun or not refused:
                    raise
                self._drop(refused)
            else:
                return

    def _run(
        self,
        messages: list[BaseMessage],
        kwargs: dict[str, Any],
        config: RunnableConfig,
        *,
        stream: bool,
    ) -> AsyncGenerator[Any, None]:
        model = self._runnable
        if not hasattr(model, "bind_tools"):
            return _once(model.ainvoke(messages, config))
        if tools := kwargs.pop("tools", None):
            choice = _choice(kwargs.pop("tool_choice", None))
            model = model.bind_tools(tools, **({} if choice is None else {"tool_choice": choice}))
        if not stream:
            return _once(model.ainvoke(messages, config, **kwargs))
        answers: AsyncGenerator[Any, None] = model.astream(messages, config, **kwargs)
        return answers

    def _drop(self, names: set[str]) -> None:
        for name in names - self._dropped:
            self._dropped.add(name)
            msg = f"{self._name} does not take {name!r}: left out for this target"
            warnings.warn(msg, DroppedParameterWarning, stacklevel=2)


async def _once(answer: Awaitable[Any]) -> AsyncGenerator[Any, None]:
    yield await answer


def _choice(choice: Any) -> Any:
    """Say it in LangChain's words, which every `bind_tools` knows: "any", or a tool's name."""
    if isinstance(choice, dict) and isinstance(choice.get("function"), dict):
        return choice["function"].get("name")
    return "any" if choice == "required" else choice


def _secrets(runnable: Any) -> list[str]:
    """List the keys of a LangChain model, bound to arguments or not."""
    known = [getattr(model, "__dict__", {}) for model in (runnable, getattr(runnable, "bound", 0))]
    return [
        value.get_secret_value()
        for fields in known
        for value in fields.values()
        if isinstance(value, SecretStr)
    ]


def as_chunk(value: Any) -> Chunk:
    """Wrap whatever a Runnable gave: a message, a piece of one, or text."""
    if isinstance(value, AIMessage):
        return {"message_chunk": value}
    text = value.content if isinstance(value, BaseMessage) else value
    if not isinstance(text, str):
        msg = f"a target must answer with a message or a str, not {type(value).__name__}"
        raise TypeError(msg)
    delta = {"role": "assistant", "content": text}
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}]}

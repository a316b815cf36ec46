"""Any LangChain chat model (or any Runnable that takes messages) as a target."""

from __future__ import annotations

import warnings
from contextlib import aclosing
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from pydantic import SecretStr

from langchain_resilient.providers._sdk import DroppedParameterWarning
from langchain_resilient.providers.evidence import refused_parameters, scrub
from langchain_resilient.providers.runnable_ways import knows_tools, reshaped, turned
from langchain_resilient.providers.ways import Ways
from langchain_resilient.wire.native import without_foreign_blocks
from langchain_resilient.wire.ways import wanted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable

    from langchain_core.runnables import RunnableConfig

    from langchain_resilient.request import ChatRequest, Chunk
    from langchain_resilient.target import Target
    from langchain_resilient.wire.ways import Wanted, Way

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
        self._ways = Ways(id(self))

    async def open(self, request: ChatRequest, *, stream: bool) -> AsyncGenerator[Chunk, None]:
        """Start; the model runs when the first chunk is asked for."""
        return self._answer(request, stream=stream)

    async def _answer(self, request: ChatRequest, *, stream: bool) -> AsyncGenerator[Chunk, None]:
        given = {**self._params, **request.overrides}
        begun, want = False, wanted(given)
        way = self._first_way(want) if want else None
        config = OUTER.get()
        OUTER.set(_SILENT)  # it is not for what the model runs inside
        while True:
            kwargs = {k: given[k] for k in (_PORTABLE - self._dropped) & given.keys()}
            try:
                other = (want, way) if want and way and way != want.asked else None
                answer = self._ask(request, kwargs, other, config, stream=stream)
                async with aclosing(answer) as chunks:
                    async for chunk in chunks:
                        begun = True
                        yield chunk
            except Exception as error:
                scrub(error, _secrets(self._runnable))
                if begun:
                    raise
                if refused := refused_parameters(error, kwargs.keys() & _OPTIONAL):
                    self._drop(refused)
                elif not want or not way or not (way := self._ways.after(error, want, way)):
                    raise
            else:
                return

    def _messages(self, request: ChatRequest) -> list[BaseMessage]:
        """The conversation, without what only other providers could read in it."""
        own = provider_of(self._runnable)
        return without_foreign_blocks(request.source, own) if own else list(request.source)

    def _first_way(self, want: Wanted) -> Way:
        return self._ways.first(want) if knows_tools(self._runnable) else "prompt"

    async def _ask(
        self,
        request: ChatRequest,
        kwargs: dict[str, Any],
        other: tuple[Wanted, Way] | None,
        config: RunnableConfig,
        *,
        stream: bool,
    ) -> AsyncGenerator[Chunk, None]:
        """Run the model, for JSON in another way than was asked where that is given."""
        messages = self._messages(request)
        if other is not None:
            messages, kwargs = reshaped(messages, kwargs, *other)
        async with aclosing(self._run(messages, kwargs, config, stream=stream)) as values:
            if other is not None:
                async for chunk in turned(values, *other):
                    yield chunk
                return
            async for value in values:
                yield as_chunk(value)

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


def provider_of(runnable: Any) -> str | None:
    """Whose messages a LangChain model reads, as they name it; None if it does not say."""
    model = getattr(runnable, "bound", runnable)
    if not isinstance(model, BaseChatModel):
        return None
    return model._get_ls_params().get("ls_provider")  # noqa: SLF001  # LangChain's own name for it


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

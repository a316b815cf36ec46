"""Any LangChain chat model (or any Runnable that takes messages) as a target."""

from __future__ import annotations

import json
import warnings
from contextlib import aclosing
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from pydantic import SecretStr

from langchain_resilient.errors import DroppedParameterWarning
from langchain_resilient.providers.errors import refused_parameters, scrub
from langchain_resilient.providers.json_modes import JSONModes
from langchain_resilient.wire import passthrough
from langchain_resilient.wire.json_modes import (
    JSONModeConverter,
    instruction,
    requested_json,
    reshape,
)
from langchain_resilient.wire.passthrough import without_foreign_blocks

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence

    from langchain_core.runnables import RunnableConfig

    from langchain_resilient.exchange import ChatRequest, Chunk
    from langchain_resilient.options import Target
    from langchain_resilient.wire.json_modes import JSONMode, RequestedJSON


def knows_tools(model: Any) -> bool:
    """Whether it binds tools: every chat model has the method, not all of them mean it."""
    bind = getattr(model, "bind_tools", None)
    return bind is not None and getattr(bind, "__func__", bind) is not BaseChatModel.bind_tools


def reshape_messages(
    messages: Sequence[BaseMessage], kwargs: dict[str, Any], want: RequestedJSON, way: JSONMode
) -> tuple[list[BaseMessage], dict[str, Any]]:
    """Ask a LangChain model for the same in another way; see `wire.ways.reshape`."""
    new = reshape({**kwargs, "messages": []}, want, way)
    new.pop("messages", None)
    said = instruction(want, way)
    return (_with_instruction_message(messages, said) if said else list(messages)), new


def _with_instruction_message(messages: Sequence[BaseMessage], said: str) -> list[BaseMessage]:
    last = messages[-1] if messages else None
    if isinstance(last, HumanMessage) and isinstance(last.content, str):
        text = f"{last.content}\n\n{said}"
        return [*messages[:-1], last.model_copy(update={"content": text})]
    return [*messages, HumanMessage(said)]


async def convert_chunks(
    values: AsyncIterator[Any], want: RequestedJSON, way: JSONMode
) -> AsyncGenerator[Chunk, None]:
    """Turn what a model says in one way into chunks of an answer in the other."""
    turn = JSONModeConverter(want, way).turn
    messages: list[AIMessage] = []
    async for value in values:
        if isinstance(value, AIMessage):
            messages.append(value)
        yield turn(_as_wire_chunk(value))
    last: Chunk = {"choices": [_as_wire_choice({}, passthrough.finish_reason(messages) or "stop")]}
    if usage := passthrough.usage_of(messages):
        last["usage"] = usage
    yield turn(last)


def _as_wire_chunk(value: Any) -> Chunk:
    if not isinstance(value, AIMessage):
        text = value.content if isinstance(value, BaseMessage) else value
        return {"choices": [_as_wire_choice({"content": text})]}
    delta: dict[str, Any] = {"content": value.text}
    if calls := _calls(value):
        delta["tool_calls"] = calls
    chunk: Chunk = {"choices": [_as_wire_choice(delta)]}
    if name := value.response_metadata.get("model_name"):
        chunk["model"] = name
    return chunk


def _calls(message: AIMessage) -> list[dict[str, Any]]:
    if isinstance(message, AIMessageChunk):
        return [
            {"index": c.get("index"), "function": {"arguments": c.get("args")}}
            for c in message.tool_call_chunks
        ]

    return [
        {"index": n, "function": {"arguments": json.dumps(call["args"])}}
        for n, call in enumerate(message.tool_calls)
    ]


def _as_wire_choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}


# Most chat models of LangChain take these by call; what else is special to one belongs to it.
_OPTIONAL = frozenset({"stop", "temperature", "max_tokens", "top_p", "parallel_tool_calls", "seed"})


_PORTABLE = _OPTIONAL | {"tools", "tool_choice", "response_format"}


# The call that the user made is the run that callbacks hear of: of two, tokens would show twice.
_SILENT: RunnableConfig = {"callbacks": []}


OUTER: ContextVar[RunnableConfig] = ContextVar("langchain_resilient_outer", default=_SILENT)
"""What the model of the next answer in this task is run with: the tracers of the call, if any."""


class LangChainProvider:
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
        self._ways = JSONModes(id(self))

    async def open(self, request: ChatRequest, *, stream: bool) -> AsyncGenerator[Chunk, None]:
        """Start; the model runs when the first chunk is asked for."""
        return self._answer(request, stream=stream)

    async def _answer(self, request: ChatRequest, *, stream: bool) -> AsyncGenerator[Chunk, None]:
        given = {**self._params, **request.overrides}
        begun, want = False, requested_json(given)
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

    def _first_way(self, want: RequestedJSON) -> JSONMode:
        return self._ways.first(want) if knows_tools(self._runnable) else "prompt"

    async def _ask(
        self,
        request: ChatRequest,
        kwargs: dict[str, Any],
        other: tuple[RequestedJSON, JSONMode] | None,
        config: RunnableConfig,
        *,
        stream: bool,
    ) -> AsyncGenerator[Chunk, None]:
        """Run the model, for JSON in another way than was asked where that is given."""
        messages = self._messages(request)
        if other is not None:
            messages, kwargs = reshape_messages(messages, kwargs, *other)
        async with aclosing(self._run(messages, kwargs, config, stream=stream)) as values:
            if other is not None:
                async for chunk in convert_chunks(values, *other):
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

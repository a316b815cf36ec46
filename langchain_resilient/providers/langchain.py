"""Any LangChain chat model (or any Runnable that takes messages) as a target."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import LLM, BaseChatModel, BaseLLM, SimpleChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.messages.ai import add_usage
from langchain_core.runnables import (
    RunnableLambda,
    RunnableParallel,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.config import var_child_runnable_config
from pydantic import SecretStr

from langchain_resilient import notices
from langchain_resilient.errors import DroppedParameterWarning
from langchain_resilient.faults import is_callers_business
from langchain_resilient.providers.error_details import error_details, error_status, error_text
from langchain_resilient.providers.errors import refused_parameters
from langchain_resilient.providers.json_fallback import JSONFallback
from langchain_resilient.providers.redaction import redact_error
from langchain_resilient.providers.refusals import Refusals
from langchain_resilient.threads import Threads
from langchain_resilient.wire import passthrough
from langchain_resilient.wire.json_modes import (
    JSONModeConverter,
    instruction,
    requested_json,
    reshape,
)
from langchain_resilient.wire.json_values import writable
from langchain_resilient.wire.refused_messages import outlines, rename_source_calls
from langchain_resilient.wire.stop_words import MessageStop
from langchain_resilient.wire.tool_calls import function_name, has_odd_names, renamed_tools

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Collection,
        Coroutine,
        Mapping,
        Sequence,
    )

    from langchain_core.runnables import RunnableConfig

    from langchain_resilient.exchange import ChatRequest, Chunk
    from langchain_resilient.options import Target
    from langchain_resilient.wire.json_modes import JSONMode, RequestedJSON


def chat_model_of(runnable: Any) -> BaseChatModel | None:
    """Find the chat model in its wrappings: bound arguments, retries, fallbacks (their first)."""
    while not isinstance(runnable, BaseChatModel):
        if isinstance(runnable, RunnableBindingBase):
            runnable = runnable.bound
        elif isinstance(runnable, RunnableWithFallbacks):
            runnable = runnable.runnable
        else:
            return None
    return runnable


def bind_tools(model: Any, tools: Sequence[Any], options: Mapping[str, Any]) -> Any:
    """Bind tools to a model in its wrappings, which all stay."""
    if isinstance(model, RunnableBindingBase):
        return model.model_copy(update={"bound": bind_tools(model.bound, tools, options)})
    return model.bind_tools(tools, **options)


def blocks(runnable: Any, *, stream: bool) -> bool:
    """Whether LangChain would run it in the event loop's own executor, for want of async methods.

    Args:
        runnable: A model or a Runnable; its wrappings and the steps of a chain are looked into.
        stream: Whether its stream is meant, or its whole answer.
    """
    parts = _parts(runnable)
    if parts:
        own = any(blocks(part, stream=stream) for part in parts)
        return own and all(map(_has_sync, _leaves(runnable)))
    if isinstance(runnable, RunnableLambda):
        return hasattr(runnable, "func") and not hasattr(runnable, "afunc")
    if not isinstance(runnable, BaseChatModel | BaseLLM):
        return False
    if stream and (_defines(runnable, "_astream") or _defines(runnable, "_stream")):
        return not _defines(runnable, "_astream")
    return not (_defines(runnable, "_agenerate") or _defines(runnable, "_acall"))


def _defines(model: Any, name: str) -> bool:
    """Whether a model has a method of its own: LangChain's run the synchronous ones in threads."""
    method = getattr(type(model), name, None)
    bases = (BaseChatModel, SimpleChatModel, BaseLLM, LLM)
    return method is not None and all(method is not getattr(base, name, None) for base in bases)


def _parts(runnable: Any) -> list[Any]:
    """The Runnables that another is made of; none for what is no composition."""
    if isinstance(runnable, RunnableBindingBase):
        return [runnable.bound]
    if isinstance(runnable, RunnableWithFallbacks):
        return list(runnable.runnables)
    if isinstance(runnable, RunnableSequence):
        return list(runnable.steps)
    return list(runnable.steps__.values()) if isinstance(runnable, RunnableParallel) else []


def _leaves(runnable: Any) -> list[Any]:
    parts = _parts(runnable)
    return [leaf for part in parts for leaf in _leaves(part)] if parts else [runnable]


def _has_sync(runnable: Any) -> bool:
    return not isinstance(runnable, RunnableLambda) or hasattr(runnable, "func")


def supports_tools(model: Any) -> bool:
    """Whether a model binds tools: every chat model has the method, not all implement it."""
    bind = getattr(chat_model_of(model) or model, "bind_tools", None)
    return bind is not None and getattr(bind, "__func__", bind) is not BaseChatModel.bind_tools


def reshape_messages(
    messages: Sequence[BaseMessage],
    kwargs: dict[str, Any],
    requested: RequestedJSON,
    mode: JSONMode,
) -> tuple[list[BaseMessage], dict[str, Any]]:
    """Ask a LangChain model for the same JSON in another mode; see `wire.json_modes.reshape`."""
    new = reshape({**kwargs, "messages": []}, requested, mode)
    new.pop("messages", None)
    text = instruction(requested, mode)
    return (_with_instruction_message(messages, text) if text else list(messages)), new


def _with_instruction_message(messages: Sequence[BaseMessage], text: str) -> list[BaseMessage]:
    last_message = messages[-1] if messages else None
    if isinstance(last_message, HumanMessage) and isinstance(last_message.content, str):
        text = f"{last_message.content}\n\n{text}"
        return [*messages[:-1], last_message.model_copy(update={"content": text})]
    return [*messages, HumanMessage(text)]


async def convert_chunks(
    values: AsyncIterator[Any], requested: RequestedJSON, mode: JSONMode
) -> AsyncGenerator[Chunk, None]:
    """Convert a model's answer in one JSON mode into chunks of an answer in another."""
    convert = JSONModeConverter(requested, mode).convert
    messages: list[AIMessage] = []
    async for value in values:
        if isinstance(value, AIMessage):
            messages.append(value)
        yield convert(_as_wire_chunk(value))
    last_message: Chunk = {
        "choices": [_as_wire_choice({}, passthrough.finish_reason(messages) or "stop")]
    }
    if usage := passthrough.usage_of(messages):
        last_message["usage"] = usage
    yield convert(last_message)


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
            {"index": c.get("index"), "id": c.get("id"), "function": _function(c, c.get("args"))}
            for c in message.tool_call_chunks
        ]
    return [
        {"index": n, "id": c.get("id"), "function": _function(c, json.dumps(c["args"]))}
        for n, c in enumerate(message.tool_calls)
    ]


def _function(call: Mapping[str, Any], arguments: str | None) -> dict[str, Any]:
    return {"name": call.get("name"), "arguments": arguments}


def _as_wire_choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}


_USAGE = frozenset({"stream_usage", "stream_options", "include_usage"})
"""How the wish for token counts in a stream is called on its way to the server."""

_INDISPENSABLE = frozenset({"messages", "tools", "tool_choice", "response_format"})
"""What the answer depends on: a model that refuses it cannot be asked at all."""

_REFUSED_SCHEMA = re.compile(
    r"invalid schema for function|invalid_function_parameters|missing items|"
    r"\btools?\b\W*\d*.{0,40}(?:parameters|schema|properties|items)|function_declarations",
    re.IGNORECASE,
)
"""What is said of a tool's parameters that a model's own conversion has not completed."""


# Callbacks only hear of the run that the user started: a second would show its tokens twice.
_SILENT: RunnableConfig = {"callbacks": []}

RUN_CONFIG: ContextVar[RunnableConfig] = ContextVar("langchain_resilient_outer", default=_SILENT)
"""The config for the next model run in this task: the tracers of the call, if there are any."""


class LangChainProvider:
    """Serves `Target(ChatAnthropic(...))`. Its own retries should be off: ours would multiply them.

    The model keeps its own parameters. Those of the call are passed on to it, whatever they are
    called; what it refuses of them, or of the form of its messages, is mended from then on. Else
    its messages pass through unchanged, so that nothing of another vendor's format is lost.
    """

    def __init__(self, target: Target) -> None:
        self._name = target.name
        self._runnable = target.runnable
        self._takes_params = hasattr(chat_model_of(self._runnable) or self._runnable, "bind_tools")
        # At an address of its own LangChain's OpenAI model does not ask, since some servers refuse.
        self._asks_for_usage = getattr(chat_model_of(self._runnable), "stream_usage", False) is None
        self._blocks = (blocks(self._runnable, stream=False), blocks(self._runnable, stream=True))
        self._threads = Threads(f"langchain-resilient-{self._name}")
        self._params = target.sampling_params()
        self._dropped: set[str] = set()
        self._refusals = Refusals(self._name)
        self._plain_tools = False
        self._formats: set[Any] = set()
        self._json_fallback = JSONFallback(id(self))

    async def open(self, request: ChatRequest, *, stream: bool) -> AsyncGenerator[Chunk, None]:
        """Return the answer's generator; the model starts when the first chunk is read."""
        return self._answer(request, stream=stream)

    async def _answer(self, request: ChatRequest, *, stream: bool) -> AsyncGenerator[Chunk, None]:
        params = self._params_for(request)
        has_begun, mended, requested = False, False, requested_json(params)
        mode = self._first_mode(requested) if requested else None
        config = RUN_CONFIG.get()
        RUN_CONFIG.set(_SILENT)  # models that this one runs are not the call's own
        # What is bound to arguments would take up the callbacks of the run around it.
        around = var_child_runnable_config.get() or {}
        var_child_runnable_config.set({**around, **config})
        while True:
            kwargs = self._mended(params, stream=stream)
            try:
                fallback = (
                    (requested, mode)
                    if requested and mode and mode != requested.original_mode
                    else None
                )
                answer = self._ask(request, kwargs, fallback, config, stream=stream)
                async with aclosing(answer) as chunks:
                    async for chunk in chunks:
                        has_begun = True
                        yield chunk
            except Exception as error:
                if is_callers_business(error):
                    raise
                redact_error(error, _secrets(self._runnable))
                if has_begun:
                    raise
                if isinstance(error, UnicodeEncodeError) and not mended:
                    request, mended = _writable(request), True
                elif not self._learn(error, kwargs, request) and (
                    not requested
                    or not mode
                    or not (mode := self._json_fallback.next_after(error, requested, mode))
                ):
                    raise
            else:
                return

    def _mended(self, params: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
        """Take out what the model is known to refuse."""
        kwargs = dict(params)
        if self._refusals.learned:
            self._refusals.mend(kwargs)
        if stream and self._asks_for_usage:
            kwargs.setdefault("stream_usage", True)
        return kwargs

    def _params_for(self, request: ChatRequest) -> dict[str, Any]:
        params = {**self._params, **request.overrides}
        if not request.delivered:
            return params
        # Its own limit is the model's to keep; of the rest of an answer only we know how long the
        # beginning was.
        own = {"max_tokens": getattr(self._runnable, "max_tokens", None)}
        return request.shortened({**own, **params} if own["max_tokens"] else params)

    def _messages(self, request: ChatRequest) -> list[BaseMessage]:
        """Return the conversation without blocks that only other providers can read."""
        own_provider = provider_of(self._runnable)
        messages: list[BaseMessage] = list(request.source)
        if own_provider is not None:
            formats = passthrough.formats_of(own_provider) | self._formats
            messages = passthrough.without_foreign_blocks(messages, formats, self._name)
        if has_odd_names(messages):
            messages = rename_source_calls(messages, function_name)
        return self._refusals.mend_source(messages) if self._refusals.learned else messages

    def _learn(self, error: Exception, kwargs: Mapping[str, Any], request: ChatRequest) -> bool:
        """Learn from an error what to mend; False if the request would be the same again."""
        if self._asks_for_usage and refused_parameters(error, _USAGE):
            self._asks_for_usage = False
            return True
        tools = kwargs.get("tools") or ()
        if not self._plain_tools and passthrough.are_given(tools) and _refuses_schema(error):
            self._plain_tools = True
            return True
        body = {**kwargs, "messages": outlines(request.source)}
        return self._refusals.learn(error, body, _INDISPENSABLE)

    def _first_mode(self, requested: RequestedJSON) -> JSONMode:
        return self._json_fallback.first(requested) if supports_tools(self._runnable) else "prompt"

    async def _ask(
        self,
        request: ChatRequest,
        kwargs: dict[str, Any],
        fallback: tuple[RequestedJSON, JSONMode] | None,
        config: RunnableConfig,
        *,
        stream: bool,
    ) -> AsyncGenerator[Chunk, None]:
        """Run the model, in another JSON mode than the caller's where `fallback` is given."""
        messages = self._messages(request)
        request_stop = {**self._params, **request.overrides}.get("stop")
        if fallback is not None:
            messages, kwargs = reshape_messages(messages, kwargs, *fallback)
        elif (count := {**self._params, **request.overrides}.get("n") or 1) > 1:
            answers = await self._several(messages, kwargs, config, count)
            yield _several_chunk(answers, request_stop, renamed_tools(kwargs.get("tools") or ()))
            return
        renamed = renamed_tools(kwargs.get("tools") or ())
        async with aclosing(self._run(messages, kwargs, config, stream=stream)) as values:
            if fallback is not None:
                async for chunk in convert_chunks(values, *fallback):
                    yield chunk
                return
            stop = MessageStop(request_stop) if request_stop else None
            async for value in values:
                if isinstance(value, AIMessage):
                    self._formats.add(value.response_metadata.get("model_provider"))
                    (value,) = _named_back([value], renamed)  # noqa: PLW2901  # the same
                if stop is None:
                    yield as_chunk(value)
                    continue
                chunk = as_chunk(stop.cut(value))
                yield {**chunk, "stopped": True} if stop.stopped else chunk
                if stop.stopped:
                    return
            if stop is not None and (rest := stop.rest()):
                yield as_chunk(AIMessageChunk(content=rest))

    async def _several(
        self,
        messages: list[BaseMessage],
        kwargs: dict[str, Any],
        config: RunnableConfig,
        count: int,
    ) -> list[AIMessage]:
        """Get several answers: of one request, where the model has a field for that, else of many.

        The usage is all on the first.
        """
        wanted = kwargs.get("n")
        kwargs = {name: value for name, value in kwargs.items() if name != "n"}
        answers: list[AIMessage] = []
        if wanted is not None and "n" in getattr(type(self._runnable), "model_fields", ()):
            first, *others = await self._generated(messages, {**kwargs, "n": wanted}, config)
            answers = [first, *[m.model_copy(update={"usage_metadata": None}) for m in others]]
        missing = range(count - len(answers))
        alone = [self._whole(messages, dict(kwargs), config) for _ in missing]
        answers += await _all_of(alone)
        usage = reduce(add_usage, [answer.usage_metadata for answer in answers])
        first, *others = answers
        return [
            first.model_copy(update={"usage_metadata": usage}),
            *[other.model_copy(update={"usage_metadata": None}) for other in others],
        ]

    async def _generated(
        self, messages: list[BaseMessage], kwargs: dict[str, Any], config: RunnableConfig
    ) -> list[AIMessage]:
        """Run a chat model once; gives all its answers, of which `ainvoke` would give the first."""
        bound = self._bound(kwargs)
        model: Any = bound[0]
        kwargs = bound[1]
        if isinstance(model, RunnableBindingBase):  # by that
            model, kwargs = model.bound, {**model.kwargs, **kwargs}
        ask = partial(
            model.generate if self._blocks[False] else model.agenerate,
            [messages],
            kwargs.pop("stop", None),
            config.get("callbacks"),
            tags=config.get("tags"),
            metadata=config.get("metadata"),
            run_name=config.get("run_name"),
            **kwargs,
        )
        result = await (self._threads.run(ask) if self._blocks[False] else ask())
        return [passthrough.as_message(one.message) for one in result.generations[0]]

    async def _whole(
        self, messages: list[BaseMessage], kwargs: dict[str, Any], config: RunnableConfig
    ) -> AIMessage:
        """Run the model once; gives a whole answer."""
        async with aclosing(self._run(messages, kwargs, config, stream=False)) as values:
            value: Any = await anext(values)
        return value if isinstance(value, AIMessage) else AIMessage(text_of(value))

    def _bound(self, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The model with its tools, and the other parameters of a call."""
        model, kwargs = self._runnable, dict(kwargs)
        if not (tools := kwargs.pop("tools", None)):
            return model, kwargs
        choice = _choice(kwargs.pop("tool_choice", None))
        if isinstance(choice, str):
            choice = function_name(choice)
        options = {} if choice is None else {"tool_choice": choice}
        if renamed_tools(tools):
            tools = [_renamed(tool) for tool in tools]
        return self._bind_tools(tools, options), kwargs

    def _run(
        self,
        messages: list[BaseMessage],
        kwargs: dict[str, Any],
        config: RunnableConfig,
        *,
        stream: bool,
    ) -> AsyncGenerator[Any, None]:
        if not self._takes_params:
            self._drop(kwargs.keys())
            kwargs = {}
            stream = False
        model, kwargs = self._bound(kwargs)
        if self._blocks[stream]:
            if not stream:
                return _once(self._threads.run(partial(model.invoke, messages, config, **kwargs)))
            return self._threads.iterate(partial(model.stream, messages, config, **kwargs))
        if not stream:
            return _once(model.ainvoke(messages, config, **kwargs))
        answers: AsyncGenerator[Any, None] = model.astream(messages, config, **kwargs)
        return answers

    def _bind_tools(self, tools: Sequence[Any], options: dict[str, Any]) -> Any:
        """Bind the tools as they were given; as parameters where the model takes no `strict`."""
        given, strict = passthrough.given_tools(tools)
        if self._plain_tools:
            return bind_tools(self._runnable, [dict(tool) for tool in tools], options)
        if strict is None:
            return bind_tools(self._runnable, given, options)
        try:
            return bind_tools(self._runnable, given, {**options, "strict": strict})
        except TypeError:  # the parameters say it too
            return bind_tools(self._runnable, [dict(tool) for tool in tools], options)

    def _drop(self, names: Collection[str]) -> None:
        for name in sorted(set(names) - self._dropped):
            self._dropped.add(name)
            if name == "n":
                continue  # several answers can be had one by one
            msg = f"{self._name} does not take {name!r}: left out for this target"
            notices.warn(msg, DroppedParameterWarning)


def _writable(request: ChatRequest) -> ChatRequest:
    """Replace what cannot be sent in the messages: half of a surrogate pair."""
    mended = [message.model_copy(update=writable(dict(message))) for message in request.source]
    return replace(request, source=mended)


async def _once(answer: Awaitable[Any]) -> AsyncGenerator[Any, None]:
    yield await answer


def _refuses_schema(error: BaseException) -> bool:
    """Whether an error is about the parameters of a tool."""
    details = error_details(error)
    text = f"{details.get('code')} {details.get('param')} {error_text(error, details)}"
    return error_status(error, details) in (400, 422) and bool(_REFUSED_SCHEMA.search(text))


def _renamed(tool: dict[str, Any]) -> dict[str, Any]:
    """Give a tool a name that every API takes."""
    renamed = renamed_tools([tool])
    if not renamed:
        return tool
    (name,) = renamed
    if isinstance(tool, passthrough.GivenTool):
        return tool.under(name)
    return {**tool, "function": {**tool["function"], "name": name}}


def _named_back(answers: list[Any], renamed: Mapping[str, str]) -> list[Any]:
    """Give the calls in a model's answers the names that the caller's tools have."""
    if not renamed:
        return answers
    return rename_source_calls(answers, lambda name: renamed.get(name, name))


def _several_chunk(
    answers: Sequence[Any], stop: Sequence[str] | None, renamed: Mapping[str, str]
) -> Chunk:
    answers = _named_back([*answers], renamed)
    first, *others = [MessageStop(stop).cut(one) for one in answers] if stop else answers
    return {"message_chunk": first, "other_answers": others}


async def _all_of(asking: Sequence[Coroutine[Any, Any, AIMessage]]) -> list[AIMessage]:
    """Run them beside each other; where one fails, the others are ended."""
    tasks = [asyncio.ensure_future(one) for one in asking]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _choice(choice: Any) -> Any:
    """Convert a tool choice to LangChain's terms: "any", or a tool's name."""
    if isinstance(choice, dict) and isinstance(choice.get("function"), dict):
        return choice["function"].get("name")
    return "any" if choice == "required" else choice


def provider_of(runnable: Any) -> str | None:
    """Return the provider whose message format a LangChain model reads; None if unknown."""
    model = chat_model_of(runnable)
    if model is None:
        return None
    return model._get_ls_params().get("ls_provider")  # noqa: SLF001  # LangChain's own name for it


def _secrets(runnable: Any) -> list[str]:
    """List the API keys of a LangChain model, bound to arguments or not."""
    models = [getattr(model, "__dict__", {}) for model in (runnable, getattr(runnable, "bound", 0))]
    return [
        value.get_secret_value()
        for fields in models
        for value in fields.values()
        if isinstance(value, SecretStr)
    ]


def as_chunk(value: Any) -> Chunk:
    """Wrap the output of a Runnable: a message, a chunk of one, or text."""
    if isinstance(value, AIMessage):
        return {"message_chunk": value}
    delta = {"role": "assistant", "content": text_of(value)}
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}]}


def text_of(value: Any) -> str:
    """The output of a Runnable as text.

    Raises:
        TypeError: If it is neither a message nor a text.
    """
    text = value.content if isinstance(value, BaseMessage) else value
    if not isinstance(text, str):
        msg = f"a target must answer with a message or a str, not {type(value).__name__}"
        raise TypeError(msg)
    return text

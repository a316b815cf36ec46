"""JSON from a LangChain model that cannot give it as asked: its messages in another way's dress."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage

from langchain_resilient.wire import native
from langchain_resilient.wire.ways import Turn, instruction, reshape

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from langchain_resilient.request import Chunk
    from langchain_resilient.wire.ways import Wanted, Way


def knows_tools(model: Any) -> bool:
    """Whether it binds tools: every chat model has the method, not all of them mean it."""
    bind = getattr(model, "bind_tools", None)
    return bind is not None and getattr(bind, "__func__", bind) is not BaseChatModel.bind_tools


def reshaped(
    messages: Sequence[BaseMessage], kwargs: dict[str, Any], want: Wanted, way: Way
) -> tuple[list[BaseMessage], dict[str, Any]]:
    """Ask a LangChain model for the same in another way; see `wire.ways.reshape`."""
    new = reshape({**kwargs, "messages": []}, want, way)
    new.pop("messages", None)
    said = instruction(want, way)
    return (_instructed(messages, said) if said else list(messages)), new


def _instructed(messages: Sequence[BaseMessage], said: str) -> list[BaseMessage]:
    last = messages[-1] if messages else None
    if isinstance(last, HumanMessage) and isinstance(last.content, str):
        text = f"{last.content}\n\n{said}"
        return [*messages[:-1], last.model_copy(update={"content": text})]
    return [*messages, HumanMessage(said)]


async def turned(values: AsyncIterator[Any], want: Wanted, way: Way) -> AsyncGenerator[Chunk, None]:
    """Turn what a model says in one way into chunks of an answer in the other."""
    turn = Turn(want, way).turn
    messages: list[AIMessage] = []
    async for value in values:
        if isinstance(value, AIMessage):
            messages.append(value)
        yield turn(_chunk(value))
    last: Chunk = {"choices": [_choice({}, native.finish_reason(messages) or "stop")]}
    if usage := native.usage(messages):
        last["usage"] = usage
    yield turn(last)


def _chunk(value: Any) -> Chunk:
    if not isinstance(value, AIMessage):
        text = value.content if isinstance(value, BaseMessage) else value
        return {"choices": [_choice({"content": text})]}
    delta: dict[str, Any] = {"content": value.text}
    if calls := _calls(value):
        delta["tool_calls"] = calls
    chunk: Chunk = {"choices": [_choice(delta)]}
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


def _choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}

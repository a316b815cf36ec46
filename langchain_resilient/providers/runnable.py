"""Any LangChain chat model (or any Runnable that takes messages) as a target."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call_chunk

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from langchain_resilient.request import ChatRequest, Chunk
    from langchain_resilient.target import Target

# Every chat model of LangChain takes these by call; what else is special to one model belongs to
# it.
_PORTABLE = frozenset({"stop", "temperature", "max_tokens", "top_p", "tools", "tool_choice",
                       "response_format", "parallel_tool_calls", "seed"})  # fmt: skip


class RunnableProvider:
    """Serves `Target(ChatAnthropic(...))`. Its own retries should be off: ours would multiply them.

    The model keeps its own parameters; those of the call (`stop`, tools) are handed to it. Its
    messages pass through unchanged, so that nothing of another vendor's format is lost.
    """

    def __init__(self, target: Target) -> None:
        self._runnable = target.runnable
        self._params = target.sampling_params()

    async def open(self, request: ChatRequest, *, stream: bool) -> AsyncGenerator[Chunk, None]:
        """Start; the model runs when the first chunk is asked for."""
        wanted = {**self._params, **request.overrides}
        kwargs = {k: v for k, v in wanted.items() if k in _PORTABLE}
        if hasattr(self._runnable, "bind_tools"):
            return self._chat(list(request.source), kwargs, stream=stream)
        return self._plain(list(request.source))

    async def _chat(
        self, messages: list[BaseMessage], kwargs: dict[str, Any], *, stream: bool
    ) -> AsyncGenerator[Chunk, None]:
        model = self._runnable
        if tools := kwargs.pop("tools", None):
            choice = kwargs.pop("tool_choice", None)
            more = {} if choice is None else {"tool_choice": choice}
            model = model.bind_tools(tools, **more)
        if not stream:
            yield as_chunk(await model.ainvoke(messages, **kwargs))
            return
        answers = model.astream(messages, **kwargs)
        try:
            async for chunk in answers:
                yield as_chunk(chunk)
        finally:
            await answers.aclose()

    async def _plain(self, messages: list[BaseMessage]) -> AsyncGenerator[Chunk, None]:
        yield as_chunk(await self._runnable.ainvoke(messages))


def as_chunk(value: Any) -> Chunk:
    """Wrap whatever a Runnable gave: a message, or text."""
    if isinstance(value, AIMessageChunk):
        return {"message_chunk": value}
    if isinstance(value, AIMessage):
        return {"message_chunk": as_message_chunk(value)}
    text = value.content if isinstance(value, BaseMessage) else value
    if not isinstance(text, str):
        msg = f"a target must answer with a message or a str, not {type(value).__name__}"
        raise TypeError(msg)
    delta = {"role": "assistant", "content": text}
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}]}


def as_message_chunk(message: AIMessage) -> AIMessageChunk:
    """Make one whole message the only chunk of its stream."""
    fields = message.model_dump(exclude={"type", "tool_calls", "invalid_tool_calls"})
    calls = [
        tool_call_chunk(name=c["name"], args=json.dumps(c["args"]), id=c["id"], index=n)
        for n, c in enumerate(message.tool_calls)
    ]
    return AIMessageChunk(
        **fields,
        tool_call_chunks=calls,
        invalid_tool_calls=list(message.invalid_tool_calls),
        chunk_position="last",
    )

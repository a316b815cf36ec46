"""The other side of the stage: LangChain's own retry and fallbacks over the same providers."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, convert_to_openai_messages
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import Runnable

TIMEOUT = 10.0
"""Seconds for a request, where the SDK's default is ten minutes."""

ATTEMPTS = 2
"""At each model, before the next is asked."""


def recipe() -> str:
    """Tell what it is made of, in one line."""
    model = "ChatOpenAI" if find_spec("langchain_openai") else "the OpenAI SDK as a chat model"
    return (
        f"{model}, timeout {TIMEOUT:g} s, .with_retry(stop_after_attempt={ATTEMPTS})"
        ".with_fallbacks(the others)"
    )


@asynccontextmanager
async def fallbacks(places: Sequence[tuple[str, str]]) -> AsyncIterator[Runnable[Any, Any]]:
    """Build the chain, and close its connections at the end.

    SDK retries are off, lest they multiply with LangChain's.

    Args:
        places: The base URL and the model of each.
    """
    async with AsyncExitStack() as stack:
        chain = []
        for base_url, model in places:
            llm, client = _chat_model(base_url, model)
            stack.push_async_callback(client.close)
            chain.append(llm.with_retry(stop_after_attempt=ATTEMPTS))
        yield chain[0].with_fallbacks(chain[1:])


def _chat_model(base_url: str, model: str) -> tuple[BaseChatModel, Any]:
    try:
        from langchain_openai import ChatOpenAI  # noqa: PLC0415  # an optional guest
    except ImportError:
        from openai import AsyncOpenAI  # noqa: PLC0415  # keeps import light

        client = AsyncOpenAI(base_url=base_url, api_key="demo", timeout=TIMEOUT, max_retries=0)
        return PlainChatModel(client=client, model=model), client
    settings: dict[str, Any] = {"base_url": base_url, "model": model, "api_key": "demo"}
    llm = ChatOpenAI(**settings, timeout=TIMEOUT, max_retries=0)
    return llm, llm.root_async_client


class PlainChatModel(BaseChatModel):
    """The least chat model over the OpenAI SDK, for where `langchain-openai` is not installed.

    Example:
        ```python
        PlainChatModel(client=AsyncOpenAI(), model="gpt-6.1-sol")
        ```
    """

    client: Any
    """An `openai.AsyncOpenAI`."""
    model: str

    @property
    def _llm_type(self) -> str:
        return "plain-openai"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError("the demo asks asynchronously")

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        answer = await self.client.chat.completions.create(
            model=self.model, messages=convert_to_openai_messages(messages)
        )
        message = AIMessage(content=answer.choices[0].message.content or "")
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _astream(
        self, messages: list[BaseMessage], *_: Any, **__: Any
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
        stream = await self.client.chat.completions.create(
            model=self.model, messages=convert_to_openai_messages(messages), stream=True
        )
        async with stream:
            async for chunk in stream:
                for choice in chunk.choices:
                    message_chunk = AIMessageChunk(content=choice.delta.content or "")
                    yield ChatGenerationChunk(message=message_chunk)

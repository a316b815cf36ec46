"""Streams that go well, or break and go on elsewhere; and a LangChain model to be a target."""

from __future__ import annotations

import asyncio
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from langchain_resilient import ResilientChatModel
from langchain_resilient.testing import Cut, Reply, answer_to
from verification.kit.scripted_targets import target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from langchain_core.messages import BaseMessage

    from langchain_resilient import Target
    from langchain_resilient.testing import ProviderSimulator

PROMPT = "hello"
WHOLE = answer_to(PROMPT)
GAP = 0.02
"""Seconds between the pieces of what breaks: what comes in one with its end nobody gets to see."""

ORDERS = [("openai", "together"), ("together", "openai")]


def cut(after: int = 8, **reply: Any) -> Cut:
    """An answer that breaks off after so many pieces, all of which can be seen."""
    return Cut(after, reply=Reply(chunk_gap=GAP, **reply))


def model(sim: ProviderSimulator, *targets: Any, **fields: Any) -> ResilientChatModel:
    """A model that asks one target after the other, and has heard nothing of them yet."""
    chain: list[Target | BaseChatModel] = [
        target(sim, one) if isinstance(one, str) else one for one in targets
    ]
    return ResilientChatModel(targets=chain, **{"hedge": None, "share_learning": False, **fields})


class Speaker(BaseChatModel):
    """A LangChain model that says `WHOLE`, or goes on with it.

    As Anthropic's, it names itself in its first chunk, and counts tokens in the first and the last.
    """

    dies_after: int | None = None
    blocks: bool = False
    """Whether its content is a list of blocks."""

    @property
    def _llm_type(self) -> str:
        return "speaker"

    def _generate(self, messages: Sequence[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        message = AIMessage(
            _left(messages),
            usage_metadata=_usage(7, 9),
            response_metadata={"model_name": "speaker-1", "finish_reason": "stop"},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _astream(
        self, messages: Sequence[BaseMessage], *_: Any, **__: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        first: dict[str, Any] = {
            "response_metadata": {"model_name": "speaker-1"},
            "usage_metadata": _usage(7, 0),
        }
        yield self._chunk("", **first)
        for number, word in enumerate(_left(messages).split(" ")):
            if number == self.dies_after:
                msg = "the line is dead"
                raise ConnectionError(msg)
            if self.dies_after is not None:
                await asyncio.sleep(GAP)
            yield self._chunk(f" {word}" if number else word)
        end = {"finish_reason": "stop"}
        yield self._chunk("", response_metadata=end, usage_metadata=_usage(0, 9))

    def _chunk(self, text: str, **fields: Any) -> ChatGenerationChunk:
        content: Any = [{"type": "text", "text": text, "index": 0}] if self.blocks else text
        return ChatGenerationChunk(message=AIMessageChunk(content=content, **fields))


def _left(messages: Sequence[BaseMessage]) -> str:
    text = "".join(m.text for m in messages if isinstance(m, AIMessage))
    # As most models do, it repeats a little of what it is to go on with.
    return WHOLE[max(0, len(text) - 12) :] if text else WHOLE


def _usage(read: int, position: int) -> Any:
    return {"input_tokens": read, "output_tokens": position, "total_tokens": read + position}


async def until(true: Callable[[], object]) -> None:
    """Wait for something that other tasks or threads do."""
    async with asyncio.timeout(5.0):
        while not true():  # noqa: ASYNC110  # a thread's doing sets no event of ours
            await asyncio.sleep(0.002)


Way = Literal["astream", "stream"]


async def read(llm: Any, way: Way = "astream", prompt: Any = PROMPT, **own: Any) -> list[Any]:
    """Read a stream to its end."""
    if way == "stream":
        return await asyncio.to_thread(lambda: list(llm.stream(prompt, **own)))
    return [chunk async for chunk in llm.astream(prompt, **own)]


async def read_on(stream: AsyncIterator[Any]) -> tuple[list[Any], Exception | None]:
    """Read until it ends or fails: what came before an error counts."""
    results: list[Any] = []
    try:
        async for one in stream:
            results.append(one)  # noqa: PERF401  # else it would be lost
    except Exception as error:  # noqa: BLE001  # whatever it is, it is told
        return results, error
    return results, None


def added(chunks: Sequence[Any]) -> Any:
    """Add chunks up as LangChain's users do."""
    return reduce(add, chunks)

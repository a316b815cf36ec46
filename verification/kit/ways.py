"""The ways to ask a model, and what each gave."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from langchain_resilient.testing import answer_to

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from langchain_core.messages import BaseMessage

    from langchain_resilient import ResilientChatModel


@dataclass
class Got:
    """What came of one call, filled while it comes.

    Attributes:
        right: The text that would be whole.
        text: What was given.
        messages: The answers, or the one that was added up from chunks so far.
        error: What was raised.
        first: Seconds to the first text; 0.0 where none came, or came in one piece.
        seconds: To the end.
    """

    right: str
    text: str = ""
    messages: list[BaseMessage] = field(default_factory=list)
    error: BaseException | None = None
    first: float = 0.0
    seconds: float = 0.0
    _began: float = field(default_factory=time.perf_counter)

    def add(self, piece: AIMessageChunk | str) -> None:
        """Take a piece of a stream."""
        text = piece if isinstance(piece, str) else piece.text
        if text and not self.text:
            self.first = self.elapsed()
        self.text += text
        if isinstance(piece, AIMessageChunk):
            before = self.messages[0] if self.messages else None
            self.messages = [before + piece if isinstance(before, AIMessageChunk) else piece]

    def elapsed(self) -> float:
        """Seconds since the call began."""
        return time.perf_counter() - self._began

    @property
    def receipts(self) -> list[dict[str, Any]]:
        """The receipts of the answers and of the error; none where a parser threw them away."""
        results = [m.response_metadata.get("resilience") for m in self.messages]
        receipt = getattr(self.error, "receipt", None)
        return [r for r in results if r] + ([receipt.as_dict()] if receipt is not None else [])


async def _astream(llm: ResilientChatModel, prompt: str, got: Got) -> None:
    async for chunk in llm.astream(prompt):
        got.add(chunk)


async def _stream(llm: ResilientChatModel, prompt: str, got: Got) -> None:
    def read() -> None:
        for chunk in llm.stream(prompt):
            got.add(chunk)

    await asyncio.to_thread(read)


async def _ainvoke(llm: ResilientChatModel, prompt: str, got: Got) -> None:
    got.messages = [await llm.ainvoke(prompt)]
    got.text = got.messages[0].text


async def _chain(llm: ResilientChatModel, prompt: str, got: Got) -> None:
    chain = ChatPromptTemplate.from_template("{question}") | llm | StrOutputParser()
    async for piece in chain.astream({"question": prompt}):
        got.add(piece)


async def _agent(llm: ResilientChatModel, prompt: str, got: Got) -> None:
    """Let an agent use a tool; the simulator then repeats what the tool said."""
    agent = create_agent(llm, tools=[look_up])
    question = f'Use look_up("{prompt}") now.'
    answer = await agent.ainvoke({"messages": [HumanMessage(question)]})
    tool_results = [m.text for m in answer["messages"] if isinstance(m, ToolMessage)]
    got.messages = [m for m in answer["messages"] if isinstance(m, AIMessage)]
    got.text = got.messages[-1].text
    if tool_results != [answer_to(prompt)]:
        got.text = f"[the tool was asked otherwise: {tool_results}] {got.text}"


def look_up(topic: str) -> str:
    """Look a topic up."""
    return answer_to(topic)


WAYS: dict[str, Callable[[ResilientChatModel, str, Got], Awaitable[None]]] = {
    "astream": _astream,
    "stream": _stream,
    "ainvoke": _ainvoke,
    "chain": _chain,
    "agent": _agent,
}
"""Each fills a `Got`."""

TURNS = {"agent": 2}
"""How many calls of the model a way makes, where it is not one."""


async def ask(llm: ResilientChatModel, way: str, prompt: str, limit: float) -> Got:
    """Ask in one way.

    Args:
        llm: The model.
        way: A key of `WAYS`.
        prompt: The question.
        limit: Seconds after which the asynchronous ways are cancelled: they hang.

    Returns:
        What came of it; whatever was raised is in it.
    """
    right = answer_to(prompt)
    got = Got(f"look_up says: {right}" if way == "agent" else right)
    return await fill(got, WAYS[way](llm, prompt, got), limit)


async def fill(got: Got, work: Awaitable[None], limit: float) -> Got:
    """Wait for what fills a `Got`, at most so many seconds, and note what it raised."""
    try:
        async with asyncio.timeout(limit):
            await work
    except Exception as error:  # noqa: BLE001  # every error is a result
        got.error = error
    got.seconds = got.elapsed()
    return got

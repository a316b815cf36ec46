"""Models for batch tests: their one target answers in process, and tells what it was asked."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

from langchain_resilient import ResilientChatModel, Target
from langchain_resilient.batch.report import Money

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_resilient.batch.journal_keys import RequestKeys


@dataclass
class EchoModel:
    """Answers `re: <prompt>` after a while."""

    seconds: Callable[[str], float] = lambda _prompt: 0.01
    fails: Callable[[str], bool] = lambda _prompt: False
    asked: list[str] = field(default_factory=list)
    running: int = 0
    max_running: int = 0

    async def answer(self, messages: Any) -> AIMessage:
        prompt = str(messages[-1].content)
        self.asked.append(prompt)
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        try:
            await asyncio.sleep(self.seconds(prompt))
        finally:
            self.running -= 1
        if self.fails(prompt):
            msg = f"cannot answer {prompt}"
            raise ValueError(msg)
        usage: Any = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
        return AIMessage(f"re: {prompt}", usage_metadata=usage)

    def target(self, name: str = "echo", **fields: Any) -> Target:
        return Target(RunnableLambda(self.answer), name=name, **fields)

    def model(self, **fields: Any) -> ResilientChatModel:
        fields = {"hedge": None, "max_retries": 0, "share_learning": False, **fields}
        return ResilientChatModel(targets=[self.target()], **fields)


def prompts(count: int) -> list[Any]:
    return [f"q{i}" for i in range(count)]


def answers(count: int) -> list[str]:
    return [f"re: q{i}" for i in range(count)]


@dataclass
class MemoryJournal:
    """A journal in memory."""

    answers: dict[tuple[int, str], AIMessage] = field(default_factory=dict)
    failures: dict[tuple[int, str], BaseException] = field(default_factory=dict)
    cancelled: dict[tuple[int, str], Money] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    full: bool = False
    complete: bool = False
    earlier: Money = field(default_factory=Money)

    async def open(self) -> None:
        self.events.append("open")

    def look_up(self, index: int, keys: RequestKeys) -> AIMessage | None:
        return self.answers.get((index, keys.exact))

    async def record(
        self, index: int, keys: RequestKeys, message: AIMessage, _: Money | None = None
    ) -> None:
        await asyncio.sleep(0)
        if self.full:
            raise OSError(28, "disk full")
        self.answers[index, keys.exact] = message

    async def record_failure(
        self, index: int, keys: RequestKeys, error: BaseException, _: Money | None = None
    ) -> None:
        self.failures[index, keys.exact] = error

    def record_cancelled(self, index: int, keys: RequestKeys, money: Money) -> None:
        self.cancelled[index, keys.exact] = money

    async def aclose(self) -> None:
        self.events.append("close")

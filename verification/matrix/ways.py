"""The seven ways to ask a model, and what each gave."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from langchain_resilient.testing import answer_to
from verification.kit import ways as streams
from verification.kit.ways import Got, fill

if TYPE_CHECKING:
    from langchain_resilient import ResilientChatModel

BATCH = 3
"""The inputs of a batch."""


class Fact(BaseModel):
    """A fact to note."""

    topic: str
    number: int


async def ask(llm: ResilientChatModel, way: str, number: int, limit: float) -> list[Got]:
    """Ask in one way.

    Args:
        llm: The model.
        way: One of `WAYS`.
        number: Makes the question unlike all others.
        limit: Seconds after which it is taken for hung.

    Returns:
        What came of it, one for each input; whatever was raised is in it.
    """
    if way == "structured":
        return [await _structured(llm, number, limit)]
    if way == "abatch":
        return await _abatch(llm, [prompt(number, part) for part in range(BATCH)], limit)
    if way == "invoke":
        return [await _invoke(llm, prompt(number), limit)]
    return [await streams.ask(llm, way, prompt(number), limit)]


def prompt(number: int, part: int = 0) -> str:
    """Ask for something that nobody else asks for."""
    return f"Tell the story of number {number}.{part}, please."


def fact_text(topic: str, number: int) -> str:
    """Write a fact as JSON, as the last resort has to."""
    return Fact(topic=topic, number=number).model_dump_json()


async def _invoke(llm: ResilientChatModel, question: str, limit: float) -> Got:
    got = Got(answer_to(question))

    async def run() -> None:
        _take(got, await asyncio.to_thread(llm.invoke, question))

    return await fill(got, run(), limit)


async def _structured(llm: ResilientChatModel, number: int, limit: float) -> Got:
    topic = f"story {number}"
    got = Got(fact_text(topic, number))

    async def run() -> None:
        noting: Any = llm.with_structured_output(Fact)
        got.text = (await noting.ainvoke(f'Note the topic "{topic}".')).model_dump_json()

    return await fill(got, run(), limit)


async def _abatch(llm: ResilientChatModel, questions: list[str], limit: float) -> list[Got]:
    gots = [Got(answer_to(question)) for question in questions]
    whole = Got("")

    async def run() -> None:
        answers: list[Any] = await llm.abatch([*questions], return_exceptions=True)
        for got, one in zip(gots, answers, strict=True):
            if isinstance(one, Exception):
                got.error = one
            else:
                _take(got, one)

    await fill(whole, run(), limit)
    for got in gots:
        got.seconds = whole.seconds
        got.error = got.error or whole.error
    return gots


def _take(got: Got, message: Any) -> None:
    got.messages = [message]
    got.text = message.text

"""At a rate limit a batch lets calls go first that somebody waits for."""

from __future__ import annotations

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

from langchain_resilient import ResilientChatModel, Target
from langchain_resilient.runtime.call import PRIORITY


def spying() -> tuple[ResilientChatModel, list[str]]:
    """A model whose target tells in whose name it is asked."""
    seen: list[str] = []

    async def answer(_: object) -> AIMessage:
        seen.append(PRIORITY.get())
        return AIMessage("yes")

    target = Target(RunnableLambda(answer), name="spy")
    return ResilientChatModel(targets=[target], hedge=None, share_learning=False), seen


def test_the_calls_of_a_batch_are_of_the_second_row():
    """Each of them."""
    llm, seen = spying()
    llm.batch(["one", "two"])
    assert seen == ["batch", "batch"]


def test_a_call_after_a_batch_is_of_the_first_row_again():
    """The priority is of the workers' contexts alone."""
    llm, seen = spying()
    llm.batch(["one"])
    llm.invoke("two")
    assert seen == ["batch", "interactive"]


async def test_so_is_a_call_beside_a_batch():
    """In the very task that reads the batch."""
    llm, seen = spying()
    async for _ in llm.amap(["one"]):
        await llm.ainvoke("two")
    assert seen == ["batch", "interactive"]

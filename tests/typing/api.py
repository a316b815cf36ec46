"""The public API as users write it: checked by mypy and pyright, never run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from pydantic import BaseModel
from tenacity import stop_after_attempt, wait_fixed

from langchain_resilient import (
    BatchReport,
    CallDetails,
    FaultKind,
    Health,
    Hedge,
    Receipt,
    ResilientChatModel,
    ResilientError,
    Retry,
    SpendCap,
    Target,
    Timeouts,
)

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage
    from langchain_core.runnables import Runnable


class Joke(BaseModel):
    """A schema."""

    setup: str
    punchline: str


class Slow:
    """An observer."""

    def on_receipt(self, receipt: Receipt, *, call: CallDetails) -> None:
        """Say which call was slow."""
        if receipt.seconds > 10:
            print(receipt, call.end)  # noqa: T201


def build() -> ResilientChatModel:
    """Every way to say what the chain is."""
    return ResilientChatModel(
        targets=[
            "openai:gpt-4o",
            Target("together:maker/model", temperature=0.2, max_concurrency=8),
            Target("openai:mine", price=(1.5, 2), context_window=8192, spend_cap=SpendCap(1)),
        ],
        timeout=30,
        hedge=Hedge(delay=1.0, max_extra_cost=0.01),
        health=Health(trip_after=8),
        order="fastest",
        affinity=True,
        share_learning=False,
        retry=Retry(stop=stop_after_attempt(3), wait=wait_fixed(1)),
        timeouts=Timeouts(first_text=5),
        fallback_on={FaultKind.SERVER},
        last_resort="sorry",
        spend_cap=SpendCap(5, per="hour"),
        temperature=0.5,
        stop=["\n"],
        observers=[Slow()],
    )


async def use(llm: ResilientChatModel) -> str:
    """Every way to call it."""
    answer: AIMessage = await llm.ainvoke("hello")
    async for chunk in llm.astream("hello"):
        print(chunk.text)  # noqa: T201
    answers: list[AIMessage] = await llm.abatch(["a", "b"])
    chain: Runnable[dict[str, str], str] = (
        ChatPromptTemplate.from_template("{x}") | llm | StrOutputParser()
    )
    await llm.with_structured_output(Joke).ainvoke("a joke")
    await llm.bind_tools([Joke], tool_choice="any").ainvoke("a joke")
    try:
        llm.invoke("hello")
    except ResilientError as error:
        receipt: Receipt | None = error.receipt
        if receipt is not None:
            print(receipt.winner, receipt.attempts[0].kind)  # noqa: T201
    return f"{answer.text}{len(answers)}{await chain.ainvoke({'x': 'y'})}"


async def batches(llm: ResilientChatModel) -> None:
    """Answers are messages; with `return_exceptions` they may be exceptions."""
    answers: list[AIMessage] = await llm.abatch(["a", "b"], {"max_concurrency": 2}, progress=True)
    answers = llm.batch(["a"], journal="run.db", report=print)
    print(answers[0].text)  # noqa: T201
    async for _, answer in llm.amap(["a"], max_concurrency=2):
        print(answer.text)  # noqa: T201
    async for _, result in llm.abatch_as_completed(["a"], return_exceptions=True):
        print(result if isinstance(result, Exception) else result.text)  # noqa: T201
    for index, answer in llm.batch_as_completed(str(n) for n in range(9)):
        print(index, answer.text)  # noqa: T201
    report: BatchReport = llm.batch_report()
    print(report.rate)  # noqa: T201

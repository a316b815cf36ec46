"""What a judge is asked, what came of it, and the table that says so."""

from __future__ import annotations

import asyncio
import textwrap
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from langchain.agents import create_agent
from langchain_core.messages import ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from langchain_resilient import Hedge, ResilientChatModel, Target, sum_chunks
from verification.kit.leftovers import remaining

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence


_WIDTH = 110


@dataclass(frozen=True)
class Check:
    """One thing to ask of a judge.

    Attributes:
        asked: What, in a few words.
        work: Does it, and returns what that proved; raises what it did not.
    """

    asked: str
    work: Callable[[], Awaitable[str]]


@dataclass(frozen=True)
class Row:
    """What came of a check.

    Attributes:
        asked: What was asked.
        proved: What that proved; of a failure, what was wrong.
        ok: Whether it did.
        seconds: How long it took.
        requests: How many requests the judge saw.
    """

    asked: str
    proved: str
    ok: bool
    seconds: float
    requests: int

    def __str__(self) -> str:
        """Two lines or more of the table."""
        mark = "ok" if self.ok else "NOT OK"
        head = f"{self.asked:<72}{self.requests:>9}{self.seconds:>9.2f} s  {mark}"
        proved = textwrap.wrap(self.proved, _WIDTH, initial_indent="    ", subsequent_indent="    ")
        return "\n".join((head, *proved))


async def examine(check: Check, seen: Callable[[], int]) -> Row:
    """Do a check and count what the judge saw of it.

    Args:
        check: What to do.
        seen: How many requests the judge has seen since it started.
    """
    before, began = await asyncio.to_thread(seen), time.monotonic()
    try:
        proved, ok = await check.work(), True
    except Exception as error:  # noqa: BLE001  # whatever happened, it is told in the table
        proved, ok = f"{type(error).__name__}: {error}", False
    seconds = time.monotonic() - began
    return Row(check.asked, proved, ok, seconds, await asyncio.to_thread(seen) - before)


async def hear(
    checks: Sequence[Check], seen: Callable[[], int], ours: Collection[int] = ()
) -> list[Row]:
    """Do all checks of a judge, print the table as it grows, and then look what was left behind.

    Args:
        checks: What to do.
        seen: How many requests the judge has seen since it started.
        ours: Ports on which this process itself serves.
    """
    rows = []
    for check in (*checks, Check("afterwards", lambda: _nothing_left(ours))):
        rows.append(await examine(check, seen))
        print(rows[-1], flush=True)
    return rows


async def _nothing_left(ours: Collection[int]) -> str:
    leftovers = await remaining(ours)
    assert not leftovers, "; ".join(leftovers)
    return "no task, no loser and no socket of ours was left, and nobody complained"


DIALECTS = ("openai", "together")
BATCH = 20


class Judge(Protocol):
    """A judge's server that speaks both dialects."""

    def base_url(self, dialect: str) -> str:
        """Where the SDK of a dialect finds it."""
        ...

    def say(self, *calls: tuple[str, dict[str, Any]]) -> str:
        """Have it call tools in its next answer, and return the prompt that brings it to it."""
        ...

    def refuse(self, status: int, message: str, code: str | None) -> str:
        """Have it refuse what comes next, and return the prompt that brings it to it."""
        ...


@tool
def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"sunny in {city}"


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


def model(judge: Judge, dialect: str, **fields: Any) -> ResilientChatModel:
    """A model whose only target is the judge; it learns for itself alone."""
    target = Target(f"{dialect}:gpt-4o", base_url=judge.base_url(dialect), api_key="sk-judge")
    return ResilientChatModel(
        targets=[target], **{"share_learning": False, "timeout": 20, **fields}
    )


def manners(judge: Judge) -> list[Check]:
    """Make the checks of good behaviour, for both dialects."""
    return [
        Check(f"{dialect}: {asked}", _bound(work, judge, dialect))
        for dialect in DIALECTS
        for asked, work in _ASKED.items()
    ]


def _bound(
    work: Callable[[Judge, str], Awaitable[str]], judge: Judge, dialect: str
) -> Callable[[], Awaitable[str]]:
    return lambda: work(judge, dialect)


async def _plain(judge: Judge, dialect: str) -> str:
    llm = model(judge, dialect, hedge=Hedge(on="response"))  # asks for whole answers upstream too
    answer = await llm.ainvoke("Why is the sky blue?")
    again = await asyncio.to_thread(llm.invoke, "Why is the sky blue?")
    assert answer.text
    assert answer.text == again.text, (answer.text, again.text)
    usage = answer.usage_metadata
    assert usage
    assert usage["output_tokens"] > 0
    return f"the same text both times, usage {usage['total_tokens']} tokens"


async def _streamed(judge: Judge, dialect: str) -> str:
    llm = model(judge, dialect)
    whole = await llm.ainvoke("Why is the sky blue?")
    chunks = [chunk async for chunk in llm.astream("Why is the sky blue?")]
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert sum_chunks(chunks).response_metadata["finish_reason"] in ("stop", "eos")
    usage = sum_chunks(chunks).usage_metadata
    if dialect == "openai":
        assert usage
        assert usage["output_tokens"] > 0
    text = f"usage {usage['total_tokens']}" if usage else "it sends no usage unasked, as Together"
    return f"{len(chunks)} chunks add up to the text of ainvoke; {text}"


async def _batched(judge: Judge, dialect: str) -> str:
    answers = await model(judge, dialect).abatch([f"Question {n}" for n in range(BATCH)])
    assert all(answer.text for answer in answers)
    return f"{BATCH} prompts, {BATCH} answers"


async def _called(judge: Judge, dialect: str) -> str:
    prompt = judge.say(("weather", {"city": "Paris"}))
    answer = await model(judge, dialect).bind_tools([weather]).ainvoke(prompt)
    assert _calls(answer) == [("weather", {"city": "Paris"})], answer.tool_calls
    return "name and arguments arrive whole"


async def _called_in_a_stream(judge: Judge, dialect: str) -> str:
    prompt = judge.say(("weather", {"city": "Paris"}), ("weather", {"city": "Rome"}))
    llm = model(judge, dialect).bind_tools([weather])
    chunks: list[Any] = [chunk async for chunk in llm.astream(prompt)]
    calls = _calls(sum_chunks(chunks))
    assert calls == [("weather", {"city": "Paris"}), ("weather", {"city": "Rome"})], calls
    return "two parallel calls, put together from their fragments"


async def _structured(judge: Judge, dialect: str) -> str:
    answer = await model(judge, dialect).with_structured_output(Joke).ainvoke("A joke, please")
    assert isinstance(answer, Joke)
    return f"a valid {answer!r}"


async def _agent(judge: Judge, dialect: str) -> str:
    prompt = judge.say(("weather", {"city": "Paris"}))
    question: Any = {"messages": [("human", prompt)]}
    answer = await create_agent(model(judge, dialect), tools=[weather]).ainvoke(question)
    results = [m.content for m in answer["messages"] if isinstance(m, ToolMessage)]
    assert results == ["sunny in Paris"], results
    assert answer["messages"][-1].text
    return "LangChain's agent called the tool, gave the result back and got a last answer"


_REFUSALS = (
    (400, "Invalid value", None, "bad_request"),
    (401, "Incorrect API key provided", "invalid_api_key", "auth"),
    (404, "The model does not exist", "model_not_found", "not_found"),
    (400, "This model's maximum context length is 10 tokens", "context_length_exceeded",
     "context_length"),
    (429, "You exceeded your current quota", "insufficient_quota", "quota"),
    (500, "Internal error", None, "server"),
    (503, "Overloaded", None, "server"),
)  # fmt: skip


async def _refused(judge: Judge, dialect: str) -> str:
    for status, message, code, kind in _REFUSALS:
        prompt = judge.refuse(status, message, code)
        llm = model(judge, dialect, max_retries=0, last_resort="sorry")
        receipt = (await llm.ainvoke(prompt)).response_metadata["resilience"]
        value = receipt["attempts"][0]["fault"]
        assert value == kind, f"{status} {code} is taken for {value}, not for {kind}"
    return ", ".join(f"{s} {c or ''}".strip() + f" = {k}" for s, _, c, k in _REFUSALS)


def _calls(answer: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(call["name"], call["args"]) for call in answer.tool_calls]


_ASKED: dict[str, Callable[[Judge, str], Awaitable[str]]] = {
    "a plain answer, by ainvoke and by invoke": _plain,
    "a stream": _streamed,
    "a batch": _batched,
    "a tool call": _called,
    "parallel tool calls in a stream": _called_in_a_stream,
    "structured output": _structured,
    "an agent's loop": _agent,
    "refusals, classified from its own bodies": _refused,
}

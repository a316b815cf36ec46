"""The public API as users write it: checked by mypy and pyright, never run."""
# pyright: strict

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypedDict, assert_type

from langchain_core.language_models import FakeListChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableConfig
from matplotlib.figure import Figure
from pydantic import BaseModel, SecretStr
from tenacity import stop_after_attempt, stop_after_delay, wait_fixed

from langchain_resilient import (
    AllTargetsFailedError,
    AttemptKind,
    AttemptRecord,
    BatchProgress,
    BatchReport,
    CallDetails,
    DeadlineExceededError,
    DroppedParameterWarning,
    Fault,
    FaultKind,
    Health,
    Hedge,
    InsecureConnectionWarning,
    InvalidAnswersError,
    JournalError,
    NoTargetsError,
    Outcome,
    RateLimitedError,
    Receipt,
    RequestRejectedError,
    ResilientChatModel,
    ResilientError,
    Retry,
    SkippedTargetWarning,
    SpendCap,
    SpendCapError,
    Stats,
    StreamBrokenError,
    Target,
    TimeLimits,
)
from langchain_resilient.batch.journal import Journal
from langchain_resilient.testing import (
    Cut,
    Lacks,
    ProviderSimulator,
    RecordedRequest,
    Reply,
    Status,
    answer_to,
)


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


def is_long(message: AIMessage) -> bool:
    """A check of answers; may be a coroutine function."""
    return len(message.text) > 1


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
        time_limits=TimeLimits(first_text=5),
        fallback_on={FaultKind.SERVER},
        last_resort="sorry",
        spend_cap=SpendCap(5, per="hour"),
        check=is_long,
        temperature=0.5,
        stop=["\n"],
        observers=[Slow()],
    )


def keys_and_kinds() -> None:
    """As users write them: text where a secret or a kind of fault is kept."""
    ResilientChatModel(api_key="x")
    ResilientChatModel(api_key=SecretStr("x"))
    ResilientChatModel(api_key={"openai": "x", "together": "y"})
    ResilientChatModel(api_key={"openai": SecretStr("x")})
    ResilientChatModel(fallback_on={"auth"}, stop="END", logit_bias={50256: -100})
    ResilientChatModel(fallback_on=["auth", FaultKind.SERVER], extra_headers={"X-Team": "a"})
    ResilientChatModel(fallback_on=lambda fault: fault.kind is FaultKind.AUTH)
    ResilientChatModel(targets=[{"provider": "openai", "model": "m"}], hedge=0.5, spend_cap=5)
    ResilientChatModel(targets=["openai:m"], hedge=None, timeout=None, health=None)
    Target("openai:m", api_key=["x", "y"], default_headers={"X-Team": "a"}, stop="END")
    chain = FakeListChatModel(responses=["a"]).with_fallbacks([])
    assert_type(ResilientChatModel.from_fallbacks(chain, timeout=30), ResilientChatModel)


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
    assert_type(await llm.abatch(["a", "b"], RunnableConfig(max_concurrency=2)), list[AIMessage])
    assert_type(llm.batch(["a"], journal="run.db", report=print), list[AIMessage])
    assert_type(llm.batch(["a"], journal=Journal("run.db"), tail_hedge=False), list[AIMessage])
    async for answer in llm.amap(["a"], max_concurrency=2):
        assert_type(answer, tuple[int, AIMessage])
    async for tried in llm.amap(prompts(), return_exceptions=True, journal="run.db"):
        assert_type(tried, tuple[int, AIMessage | Exception])
    async for both in llm.abatch_as_completed(["a"], journal="run.db", progress=True):
        assert_type(both, tuple[int, AIMessage])
    async for either in llm.abatch_as_completed(["a"], return_exceptions=True):
        assert_type(either, tuple[int, AIMessage | Exception])
    for late in llm.batch_as_completed(["a"], return_exceptions=True):
        assert_type(late, tuple[int, AIMessage | Exception])
    for one in llm.batch_as_completed(str(n) for n in range(9)):
        assert_type(one, tuple[int, AIMessage])
    report = llm.batch_report()
    assert_type(report, BatchReport)
    assert_type(report.rate, float)
    assert_type(report.errors, Mapping[str, int])
    await llm.abatch(["a"], progress=watch)


async def prompts() -> AsyncIterator[LanguageModelInput]:
    """They may come one by one."""
    yield "a"
    yield [HumanMessage("b")]


def watch(progress: BatchProgress) -> None:
    """A progress callback."""
    assert_type(progress.total, int | None)
    assert_type(progress.seconds_left, float | None)


class Pun(TypedDict):
    """A schema, too."""

    line: str


def structured(llm: ResilientChatModel, whole: bool) -> None:  # a plain flag
    """What comes out depends on the schema."""
    reader = llm.with_structured_output(Joke, method="function_calling", repair=True)
    assert_type(reader, Runnable[LanguageModelInput, Joke])
    assert_type(reader.invoke("a joke").setup, str)
    assert_type(llm.with_structured_output(Pun).invoke("a pun"), Pun)
    as_dict = llm.with_structured_output({"title": "Joke", "type": "object"}, strict=True)
    assert_type(as_dict.invoke("a joke"), dict[str, Any])
    assert_type(llm.with_structured_output(method="json_mode").invoke("{}"), Any)
    raw = llm.with_structured_output(Joke, include_raw=True)
    assert_type(raw.invoke("a joke"), dict[str, Any])
    assert_type(llm.with_structured_output(Joke, include_raw=whole).invoke("a joke"), Any)


def streams(llm: ResilientChatModel) -> None:
    """Chunks are message chunks."""
    for chunk in llm.stream("hello"):
        assert_type(chunk, AIMessageChunk)
    assert_type(llm.invoke("hello"), AIMessage)
    assert_type(llm.bind_tools([Joke]), Runnable[LanguageModelInput, AIMessage])
    ResilientChatModel(targets=["openai:m"], on_break="replace")
    ResilientChatModel(targets=["openai:m"], on_break="raise")


async def closing() -> None:
    """The connections go with the block."""
    async with ResilientChatModel(targets=["openai:m"]) as llm:
        assert_type(llm, ResilientChatModel)
    with ResilientChatModel(targets=["openai:m"]) as llm:
        assert_type(llm, ResilientChatModel)
    llm.close()
    await llm.aclose()


def statistics(llm: ResilientChatModel) -> None:
    """What was counted."""
    stats = llm.stats()
    assert_type(stats, Stats)
    assert_type(stats.as_dict(), dict[str, Any])
    assert_type(stats["openai:gpt-4o"].wins, int)
    assert_type(stats.plot(width=6), Figure)


def policies() -> None:
    """Frozen, with the units that their docstrings name."""
    assert_type(Hedge(delay=1.0), Hedge)
    assert_type(TimeLimits(connect=2, first_text=5), TimeLimits)
    assert_type(Retry(stop=stop_after_attempt(3) | stop_after_delay(9)), Retry)
    assert_type(Health(trip_after=8), Health)
    assert_type(SpendCap(5).window, float)
    target = Target("openai:gpt-4o", api_key="secret", base_url="http://localhost/v1")
    assert_type(target.name, str)
    assert_type((target.provider, target.model), tuple[str, str])
    assert_type(target.base_url, str | None)
    assert_type(target.price, tuple[float, float] | None)
    assert_type(target.identity(), dict[str, Any])
    Target(FakeListChatModel(responses=["a model of LangChain's"]), name="theirs")
    assert_type(target.api_key, SecretStr | tuple[SecretStr, ...] | Callable[[], Any] | None)


def receipts(receipt: Receipt) -> None:
    """What happened to one answer."""
    assert_type(receipt.winner, str | None)
    assert_type(receipt.as_dict(), dict[str, Any])
    for attempt in receipt.attempts:
        assert_type(attempt, AttemptRecord)
        assert_type(attempt.kind, AttemptKind)
        assert_type(attempt.outcome, Outcome)
        assert_type(attempt.fault, Fault | None)


def errors(llm: ResilientChatModel) -> None:
    """One tree, whose every error has a receipt."""
    try:
        llm.invoke("hello")
    except StreamBrokenError as error:
        assert_type(error.partial, str)
    except InvalidAnswersError as error:
        assert_type(error.causes, tuple[BaseException, ...])
    except (RateLimitedError, DeadlineExceededError, AllTargetsFailedError) as error:
        assert_type(error.receipt, Receipt | None)
        assert_type(error.is_retryable, bool)
        for name, fault in error.receipt.faults if error.receipt else ():
            assert_type((name, fault.kind), tuple[str, FaultKind])
            assert_type((fault.status, fault.retry_after), tuple[int | None, float | None])
    except SpendCapError as error:
        assert_type((error.spent, error.opens_in), tuple[float, float | None])
    except JournalError as error:
        assert_type(error.path, str)
    except (NoTargetsError, RequestRejectedError) as error:
        root: ResilientError = error
        assert_type(root.receipt, Receipt | None)


def warned() -> None:
    """Each kind of warning can be silenced, or made an error, by its class."""
    warnings.simplefilter("error", InsecureConnectionWarning)
    for category in (SkippedTargetWarning, DroppedParameterWarning):
        warnings.simplefilter("ignore", category)


def simulated() -> None:
    """The provider that tests may break."""
    with ProviderSimulator(seed=1) as sim:
        assert_type(sim, ProviderSimulator)
        assert_type(sim.base_url("openai"), str)
        sim.script(
            "openai:*", Status(500), Cut(after=3), Lacks("tools"), then=Reply(first_text=0.3)
        )
        assert_type(sim.count("openai:*", status=500), int)
        assert_type(sim.requests[0], RecordedRequest)
        assert_type(answer_to("hello"), str)

"""Exceptions that are the caller's business go through at once, wherever they are raised."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatResult
from langchain_core.runnables import RunnableLambda
from langgraph.errors import GraphInterrupt, ParentCommand
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt
from pydantic import BaseModel, Field, field_validator
from tenacity import retry_if_exception, wait_fixed

from langchain_resilient import Fault, ResilientChatModel, Retry


class UserAbortError(BaseException):
    """A program's own, which no `except Exception` is to stop."""


ERRORS = [
    GraphInterrupt(),
    ParentCommand(Command(goto="elsewhere")),
    KeyboardInterrupt(),
    SystemExit(3),
    UserAbortError(),
]


class Raising(BaseChatModel):
    """Raises what it is told, and counts how often it was asked."""

    error: Any
    asked: list[int] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "raising"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise self.error

    async def _agenerate(self, *_: Any, **__: Any) -> ChatResult:
        self.asked.append(1)
        raise self.error

    async def _astream(self, *_: Any, **__: Any) -> Any:
        self.asked.append(1)
        raise self.error
        yield


def says(*answers: str) -> FakeListChatModel:
    return FakeListChatModel(responses=list(answers))


async def _ainvoke(llm: ResilientChatModel) -> None:
    await llm.ainvoke("hi")


async def _astream(llm: ResilientChatModel) -> None:
    async for _ in llm.astream("hi"):
        pass


WAYS = {
    "invoke": lambda llm: llm.invoke("hi"),
    "stream": lambda llm: list(llm.stream("hi")),
    "ainvoke": _ainvoke,
    "astream": _astream,
}


PAIRS = [
    pytest.param(error, way, id=f"{type(error).__name__}-{way}") for error in ERRORS for way in WAYS
]


def raised(llm: ResilientChatModel, way: str) -> BaseException | None:
    """What a call raises."""
    try:
        outcome = WAYS[way](llm)
        if way.startswith("a"):
            asyncio.run(outcome)
    except BaseException as error:  # noqa: BLE001  # it is what the test is about
        return error
    return None


@pytest.mark.parametrize(("error", "way"), PAIRS)
def test_from_a_wrapped_target(error, way):
    """It is asked once, nobody else is, and the same exception arrives."""
    target = Raising(error=error)
    began = time.monotonic()
    assert raised(ResilientChatModel(targets=[target, says("no")], timeout=9), way) is error
    assert len(target.asked) == 1
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(("error", "way"), PAIRS)
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_from_a_check(error, way, asynchronous):
    """Which judged nothing: the call does not wait for its deadline."""

    def check(_: AIMessage) -> bool:
        raise error

    async def acheck(_: AIMessage) -> bool:
        raise error

    llm = ResilientChatModel(targets=[says("a")], check=acheck if asynchronous else check)
    began = time.monotonic()
    assert raised(llm, way) is error
    assert time.monotonic() - began < 5


class Watching:
    """An observer that raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_receipt(self, receipt: Any, *, call: Any) -> None:
        raise self.error


@pytest.mark.parametrize(("error", "way"), PAIRS)
def test_from_an_observer(error, way):
    """Its other exceptions are logged, as ever."""
    llm = ResilientChatModel(targets=[says("a")], observers=[Watching(error)])
    assert raised(llm, way) is error
    for other in (ValueError("no"), asyncio.CancelledError()):
        llm = ResilientChatModel(targets=[says("a")], observers=[Watching(other)])
        assert raised(llm, way) is None


class Retrying(BaseCallbackHandler):
    """A handler that raises when a target is asked again."""

    raise_error = True

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_retry(self, *_: Any, **__: Any) -> None:
        raise self.error


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_from_a_callback(error):
    """Here the one for retries, which runs inside an attempt."""
    llm = ResilientChatModel(
        targets=[Raising(error=ConnectionError("down"))],
        timeout=9,
        callbacks=[Retrying(error)],
        retry=Retry(wait=wait_fixed(0)),
    )
    assert raised(llm, "astream") is error


@pytest.mark.parametrize("error", [*ERRORS, ZeroDivisionError()], ids=lambda e: type(e).__name__)
def test_from_a_policy(error):
    """A policy that fails ends the call with its own error; nothing waits for the deadline."""

    def predicate(_: BaseException) -> bool:
        raise error

    def wanted(_: Fault) -> bool:
        raise error

    down = Raising(error=ConnectionError("down"))
    policies = ({"retry": Retry(retry=retry_if_exception(predicate))}, {"fallback_on": wanted})
    for policy in policies:
        llm = ResilientChatModel(targets=[down, says("b")], timeout=9, **policy)
        began = time.monotonic()
        assert raised(llm, "astream") is error
        assert time.monotonic() - began < 5


def test_from_a_schemas_validator():
    """The user's code too."""

    class Form(BaseModel):
        name: str

        @field_validator("name")
        @classmethod
        def _stop(cls, value: str) -> str:
            raise GraphInterrupt

    llm = ResilientChatModel(targets=[says('{"name": "x"}')]).with_structured_output(Form)
    with pytest.raises(GraphInterrupt):
        llm.invoke("hi")


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
async def test_the_callers_loop_goes_on(error):
    """LangChain's `agenerate` stumbles over what is no `Exception`, or ends the loop by it."""
    target = Raising(error=error)
    llm = ResilientChatModel(targets=[target], timeout=9)
    with pytest.raises(type(error)) as caught:
        await llm.agenerate([[HumanMessage("hi")], [HumanMessage("ho")]])
    assert caught.value is error
    with pytest.raises(type(error)):
        await llm.ainvoke("hi")
    await asyncio.sleep(0)


def test_handlers_hear_of_it():
    """As of any error, with its name."""
    heard: list[BaseException] = []

    class Hears(BaseCallbackHandler):
        def on_llm_error(self, error: BaseException, **_: Any) -> None:
            heard.append(error)

    llm = ResilientChatModel(targets=[Raising(error=UserAbortError("stop"))], callbacks=[Hears()])
    assert isinstance(raised(llm, "ainvoke"), UserAbortError)
    assert [str(one) for one in heard] == ["UserAbortError: stop"]


def test_the_background_loop_survives():
    """`SystemExit` in one call leaves those of other threads, and later ones, alone."""
    raised(ResilientChatModel(targets=[Raising(error=SystemExit())]), "invoke")
    assert ResilientChatModel(targets=[says("yes")], timeout=9).invoke("hi").text == "yes"


def test_a_graph_is_interrupted_once_and_resumed():
    """A node below the model asks a person: LangGraph stops there, and goes on with the answer."""
    asked = []

    def person(_: Any) -> AIMessage:
        asked.append(1)
        return AIMessage(f"the person said {interrupt('may I?')}")

    llm = ResilientChatModel(targets=[RunnableLambda(person), says("nobody asked")])

    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await llm.ainvoke(state["messages"])]}

    async def run() -> tuple[Any, Any]:
        from langgraph.checkpoint.memory import InMemorySaver

        graph = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node")
        app = graph.compile(checkpointer=InMemorySaver())
        config = {"configurable": {"thread_id": "1"}}
        first = await app.ainvoke({"messages": [HumanMessage("hi")]}, config)
        return first, await app.ainvoke(Command(resume="yes"), config)

    first, second = asyncio.run(run())
    assert first["__interrupt__"][0].value == "may I?"
    assert second["messages"][-1].text == "the person said yes"
    assert len(asked) == 2  # once, and once more to go on

"""`ainvoke` and `astream` pass LangChain's own by where nobody could see it, and give the same."""

from __future__ import annotations

import re
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core import globals as settings
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import (
    BaseCallbackHandler,
    BaseCallbackManager,
    get_usage_metadata_callback,
)
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompt_values import ChatPromptValue
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers import context as tracing

from langchain_resilient import AllTargetsFailedError, Hedge, ResilientChatModel, chat_model
from langchain_resilient.observability import run_context
from langchain_resilient.testing import BadRequest, ProviderSimulator, Reply, ToolCall
from tests.streaming.stories import until
from verification.kit.scripted_targets import chain

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(
    chat_model._PASSED_OVER is None, reason="this langchain-core is not passed by"
)

FILE = {
    "type": "file",
    "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,QQ=="},
}
INPUTS = {
    "text": "hi",
    "messages": [SystemMessage("Be brief."), HumanMessage("hi"), AIMessage("yes?"), ("user", "so")],
    "prompt": ChatPromptValue(messages=[HumanMessage("hi")]),
    "blocks": [HumanMessage([{"type": "text", "text": "hi"}, FILE])],
}


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as simulator:
        yield simulator


def told(message: AIMessage) -> dict[str, Any]:
    """All of a message but what differs between two calls: its id, and times."""
    fields = message.model_dump()
    fields["id"] = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", fields["id"])
    changing = {"resilience": None, "id": None}
    return {**fields, "response_metadata": {**fields["response_metadata"], **changing}}


@pytest.mark.parametrize("on", ["first_text", "response"])
@pytest.mark.parametrize("given", INPUTS)
async def test_it_gives_what_langchains_own_gives(sim, given, on):
    """Content, metadata, usage, the form of the id; and sends the same."""
    llm = chain(sim, "openai:m", hedge=Hedge(on=on), temperature=0.5)
    assert llm._goes_straight({})
    straight = await llm.ainvoke(INPUTS[given], stop=["END"])
    theirs = await BaseChatModel.ainvoke(llm, INPUTS[given], stop=["END"])
    assert told(straight) == told(theirs)
    assert straight.usage_metadata
    assert told(straight)["id"] == "lc_run--UUID-0"
    assert straight.response_metadata["resilience"]["winner"] == "openai:m"
    assert list(straight.response_metadata) == list(theirs.response_metadata)
    first, second = [request.body for request in sim.requests]
    assert first == second
    await llm.aclose()


@pytest.mark.parametrize("given", INPUTS)
async def test_it_streams_what_langchains_own_streams(sim, given):
    """Piece by piece, their sum, and what is sent."""
    llm = chain(sim, "openai:m", temperature=0.5)
    straight = [told(piece) async for piece in llm.astream(INPUTS[given], stop=["END"])]
    theirs = [
        told(piece) async for piece in BaseChatModel.astream(llm, INPUTS[given], stop=["END"])
    ]
    assert straight == theirs
    assert len(straight) > 2
    assert {piece["id"] for piece in straight} == {"lc_run--UUID"}
    assert [piece["chunk_position"] for piece in straight][-2:] == [None, "last"]
    first, second = [request.body for request in sim.requests]
    assert first == second
    await llm.aclose()


async def test_streamed_calls_of_tools_are_the_same(sim):
    """But for the ids that the provider made up."""
    sim.script("openai:m", then=Reply(tool_calls=[ToolCall("add", {"a": 1})]))
    llm = chain(sim, "openai:m")
    schema = {"type": "function", "function": {"name": "add", "parameters": {}}}
    both = []
    for ask in (ResilientChatModel.astream, BaseChatModel.astream):
        pieces = [piece async for piece in ask(llm, "hi", tools=[schema])]
        both.append([[call["args"] for call in piece.tool_call_chunks] for piece in pieces])
        whole = pieces[0]
        for piece in pieces[1:]:
            whole += piece
        assert [(call["name"], call["args"]) for call in whole.tool_calls] == [("add", {"a": 1})]
    assert both[0] == both[1]
    await llm.aclose()


async def test_a_thread_that_imports_langchains_tracers_disturbs_no_call(sim, monkeypatch):
    """The first calls of a process may come from several threads, one of them through a chain."""
    llm = chain(sim, "openai:m")
    monkeypatch.setattr(tracing.__spec__, "_initializing", True)
    for name in ("tracing_v2_callback_var", "_configure_hooks"):
        monkeypatch.delattr(tracing, name)
    assert run_context.is_unwatched()
    assert run_context.choose_run(None, None) == (None, None)
    assert (await llm.ainvoke("hi")).text
    await llm.aclose()


async def test_a_stream_that_is_left_early_stops_its_request(sim):
    """As through LangChain: whoever closes the generator, or is cancelled, frees the connection."""
    sim.script("openai:m", then=Reply("word " * 200, rate=100))
    llm = chain(sim, "openai:m")
    pieces = llm.astream("hi")
    assert (await anext(pieces)).text
    await pieces.aclose()
    await until(lambda: sim.aborted)
    await llm.aclose()


async def test_calls_of_tools_are_the_same(sim):
    """But for the ids that the provider made up."""
    sim.script("openai:m", then=Reply(tool_calls=[ToolCall("add", {"a": 1})]))
    llm = chain(sim, "openai:m", hedge=Hedge(on="response"))
    schema = {"type": "function", "function": {"name": "add", "parameters": {}}}
    straight = told(await llm.ainvoke("hi", tools=[schema]))
    theirs = told(await BaseChatModel.ainvoke(llm, "hi", tools=[schema]))
    for message in (straight, theirs):
        message["tool_calls"] = [{**call, "id": None} for call in message["tool_calls"]]
        message["additional_kwargs"].pop("tool_calls", None)
    assert straight == theirs
    assert straight["tool_calls"][0]["name"] == "add"
    await llm.aclose()


async def test_errors_are_the_same(sim):
    """Of the targets, and of the caller."""
    sim.script("openai:m", then=BadRequest())
    llm = chain(sim, "openai:m")
    for given, kwargs in (("hi", {}), (7, {}), ([], {}), ("hi", {"temperature": -9})):
        errors = []
        for ask in (ResilientChatModel.ainvoke, BaseChatModel.ainvoke):
            with pytest.raises(Exception) as caught:  # noqa: PT011  # compared below
                await ask(llm, given, **kwargs)
            errors.append((type(caught.value), re.sub(r"[\d.]+ m?s", "", str(caught.value))))
        assert errors[0] == errors[1]
        streamed = []
        for ask in (ResilientChatModel.astream, BaseChatModel.astream):
            with pytest.raises(Exception) as caught:  # noqa: PT011  # compared below
                _ = [piece async for piece in ask(llm, given, **kwargs)]
            streamed.append((type(caught.value), re.sub(r"[\d.]+ m?s", "", str(caught.value))))
        assert streamed[0] == streamed[1] == errors[0]
    await llm.aclose()


class Watcher(BaseCallbackHandler):
    """Counts the runs that it is told of."""

    def __init__(self) -> None:
        self.runs = 0

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        self.runs += 1


async def test_handlers_are_told():
    """Given with the call, with the model, or by the chain around it."""
    watcher = Watcher()
    plain = ResilientChatModel(targets=["text:x"])
    await plain.ainvoke("hi", {"callbacks": [watcher]})
    assert watcher.runs == 1
    await ResilientChatModel(targets=["text:x"], callbacks=[watcher]).ainvoke("hi")
    assert watcher.runs == 2

    async def inside(_: object) -> AIMessage:
        return await plain.ainvoke("hi")

    await RunnableLambda(inside).ainvoke("hi", {"callbacks": [watcher]})
    assert watcher.runs == 3

    _ = [piece async for piece in plain.astream("hi", {"callbacks": [watcher]})]
    assert watcher.runs == 4

    async def streams(_: object) -> str:
        return "".join([piece.text async for piece in plain.astream("hi")])

    await RunnableLambda(streams).ainvoke("hi", {"callbacks": [watcher]})
    assert watcher.runs == 5


async def test_usage_is_counted_by_langchains_context(sim):
    """Its handler comes by a hook."""
    llm = chain(sim, "openai:m")
    with get_usage_metadata_callback() as usage:
        answer = await llm.ainvoke("hi")
    assert usage.usage_metadata == {"m": answer.usage_metadata}
    await llm.aclose()


async def test_a_tracer_in_every_manager_is_told(monkeypatch):
    """Some put themselves into the manager's constructor."""
    watcher, real = Watcher(), BaseCallbackManager.__init__

    def init(self, *args, **kwargs):
        real(self, *args, **kwargs)
        self.add_handler(watcher, True)

    llm = ResilientChatModel(targets=["text:x"])
    monkeypatch.setattr(BaseCallbackManager, "__init__", init)
    await llm.ainvoke("hi")
    assert watcher.runs == 1


@pytest.mark.parametrize(
    "name", ["ainvoke", "agenerate_prompt", "agenerate", "_agenerate_with_cache"]
)
async def test_a_method_that_is_wrapped_is_called(monkeypatch, name):
    """Others wrap LangChain's own methods."""
    real, calls = getattr(BaseChatModel, name), []

    async def wrapped(self, *args, **kwargs):
        calls.append(name)
        return await real(self, *args, **kwargs)

    monkeypatch.setattr(BaseChatModel, name, wrapped)
    await ResilientChatModel(targets=["text:x"]).ainvoke("hi")
    assert calls == [name]


async def test_a_stream_method_that_is_wrapped_is_called(monkeypatch):
    """The same of `astream`, which is a generator."""
    real, calls = BaseChatModel.astream, []

    def wrapped(self, *args, **kwargs):
        calls.append("astream")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(BaseChatModel, "astream", wrapped)
    assert [piece async for piece in ResilientChatModel(targets=["text:x"]).astream("hi")]
    assert calls == ["astream"]


async def test_streaming_that_is_disabled_is_left_to_langchain(sim):
    """It then gives the whole answer as one piece."""
    llm = chain(sim, "openai:m", disable_streaming=True)
    assert len([piece async for piece in llm.astream("hi")]) == 1
    await llm.aclose()


class Mine(ResilientChatModel):
    """A model of a user's own, which may override anything."""


@contextmanager
def set_to(setter, value, before):
    setter(value)
    try:
        yield
    finally:
        setter(before)


def test_nothing_is_passed_by_where_it_could_be_seen(monkeypatch):
    """Fields, globals, environment variables, keywords, classes of a user's own."""

    def straight(model: ResilientChatModel | None = None, **kwargs: Any) -> bool:
        return (model or ResilientChatModel(targets=["text:x"]))._goes_straight(kwargs)

    def of(**fields: Any) -> ResilientChatModel:
        return ResilientChatModel(targets=["text:x"], **fields)

    assert straight()
    assert straight(temperature=0.5)
    assert straight(of(cache=False))
    limiter = InMemoryRateLimiter()
    for fields in (
        {"cache": InMemoryCache()}, {"cache": True}, {"rate_limiter": limiter}, {"verbose": True},
        {"callbacks": [Watcher()]}, {"output_version": "v1"}, {"streaming": True},
    ):  # fmt: skip
        assert not straight(of(**fields)), fields
    assert not straight(Mine(targets=["text:x"]))
    assert not straight(stream=True)
    assert not straight(ls_structured_output_format={})
    with set_to(settings.set_llm_cache, InMemoryCache(), None):
        assert not straight()
    with set_to(settings.set_debug, True, False):
        assert not straight()
    hook: ContextVar[Any] = ContextVar("hook", default=None)
    monkeypatch.setattr(tracing, "_configure_hooks", hooks := list(tracing._configure_hooks))
    hooks.append((hook, True, Watcher, "WATCH_ME"))
    assert straight()
    for variable in ("WATCH_ME", "LANGCHAIN_TRACING", "LANGCHAIN_HANDLER"):
        with monkeypatch.context() as patched:
            patched.setenv(variable, "true")
            assert not straight()
    token = hook.set(Watcher())
    assert not straight()
    hook.reset(token)
    assert straight()


async def test_a_failing_target_fails_the_call(sim):
    """And the next call goes on."""
    sim.script("openai:m", BadRequest(), then=Reply())
    llm = chain(sim, "openai:m")
    with pytest.raises(AllTargetsFailedError):
        await llm.ainvoke("hi")
    assert (await llm.ainvoke("hi")).text
    await llm.aclose()

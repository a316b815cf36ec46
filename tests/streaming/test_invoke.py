"""`invoke` while handlers look on: they see the stream, its caller gets the answer whole."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from pydantic import BaseModel

from langchain_resilient import ResilientChatModel, StreamBrokenError, sum_chunks
from langchain_resilient.testing import Reply, ToolCall
from tests.streaming.stories import GAP, ORDERS, PROMPT, WHOLE, cut, model
from tests.streaming.test_events import Ear

if TYPE_CHECKING:
    from langchain_resilient.testing import ProviderSimulator

pytestmark = pytest.mark.usefixtures("loop_is_left_empty")

KEY = "resilience_replaced"
ANEW = "Quite another answer."
CITY = "Saint-Rémy-de-Provence and all around it"
HOWS = ["ainvoke", "invoke"]


class Person(BaseModel):
    """A person."""

    name: str
    age: int


async def ask(llm: Any, how: str, **own: Any) -> Any:
    """Ask in one way or the other."""
    if how == "ainvoke":
        return await llm.ainvoke(PROMPT, **own)
    return await asyncio.to_thread(llm.invoke, PROMPT, **own)


def breaking(sim: ProviderSimulator, **fields: Any) -> ResilientChatModel:
    """A model whose first target breaks off, and whose second says something else."""
    sim.script("openai:one", then=cut())
    sim.script("together:two", then=Reply(ANEW))
    return model(sim, "openai:one", "together:two", **fields)


# -- the message ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", HOWS)
async def test_what_was_replaced_is_not_in_the_message(sim: ProviderSimulator, how: str):
    """Though handlers saw it, with the marker behind it."""
    ear = Ear()
    llm = breaking(sim, streaming=True, on_break="replace")
    message = await ask(llm, how, config={"callbacks": [ear]})
    assert message.content == ANEW
    assert message.usage_metadata
    assert message.response_metadata["resilience"]["breaks"][0]["action"] == "replaced"
    assert "".join(ear.tokens) == WHOLE[: len("".join(ear.tokens)) - len(ANEW)] + ANEW
    assert sum_chunks(ear.chunks).text == ANEW
    assert ear.heard == ["start", "end"]
    assert ear.end.content == ANEW


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(("first", "second"), ORDERS)
async def test_what_was_continued_is(sim: ProviderSimulator, how: str, first: str, second: str):
    """By default the handlers see one text, and it is the message's."""
    ear = Ear()
    sim.script(f"{first}:one", then=cut())
    llm = model(sim, f"{first}:one", f"{second}:two", streaming=True)
    message = await ask(llm, how, config={"callbacks": [ear]})
    assert message.content == "".join(ear.tokens) == WHOLE
    assert message.response_metadata["resilience"]["breaks"][0]["action"] == "continued"


@pytest.mark.parametrize("how", HOWS)
async def test_it_is_the_same_message_as_without_handlers(sim: ProviderSimulator, how: str):
    """Streaming under `invoke` is LangChain's affair, not the caller's."""
    plain, watched = (model(sim, "openai:one", streaming=s) for s in (False, True))
    one, other = await ask(plain, how), await ask(watched, how)
    for message in one, other:
        response_metadata = message.response_metadata
        for key in ("id", "resilience", "token_usage"):
            response_metadata.pop(key, None)
    assert type(one) is type(other)
    assert one.model_copy(update={"id": None}) == other.model_copy(update={"id": None})


@pytest.mark.parametrize("how", HOWS)
async def test_with_output_version_v1_handlers_and_message_have_blocks(
    sim: ProviderSimulator, how: str
):
    """Blocks of one kind that follow each other are one."""
    ear = Ear()
    sim.script("together:m", then=Reply(reasoning="Let me think."))
    llm = model(sim, "together:m", streaming=True, output_version="v1")
    message = await ask(llm, how, config={"callbacks": [ear]})
    assert [(b["type"], b["index"]) for b in message.content] == [("reasoning", 0), ("text", 1)]
    assert all(isinstance(chunk.content, list) for chunk in ear.chunks)
    assert message.text == WHOLE


async def test_what_goes_into_the_cache_is_the_message(sim: ProviderSimulator):
    """Not what was replaced."""
    llm = breaking(sim, streaming=True, on_break="replace", cache=InMemoryCache())
    assert [(await llm.ainvoke(PROMPT)).text for _ in range(2)] == [ANEW, ANEW]
    assert sim.count() == 2


async def test_raise_raises_since_handlers_saw_the_beginning(sim: ProviderSimulator):
    """Whoever asks for that gets it under `invoke` too."""
    with pytest.raises(StreamBrokenError):
        await breaking(sim, streaming=True, on_break="raise").ainvoke(PROMPT)


async def test_several_answers_are_not_streamed_under_invoke(sim: ProviderSimulator):
    """There is no stream of several; they are given whole."""
    ear = Ear()
    result = await model(sim, "openai:one", streaming=True, n=2).agenerate(
        [[HumanMessage(PROMPT)]], callbacks=[ear]
    )
    assert len(result.generations[0]) == 2
    assert ear.tokens == []


# -- what cannot be continued ---------------------------------------------------------------------


@pytest.mark.parametrize("how", HOWS)
async def test_json_that_broke_is_answered_anew(sim: ProviderSimulator, how: str):
    """The caller wants an answer that fits, so it is judged whole; handlers see none of it."""
    ear = Ear()
    sim.script("openai:one", then=cut(3))
    llm = model(sim, "openai:one", "together:two", streaming=True)
    parser = llm.with_structured_output(Person)
    answer: Any = await ask(parser, how, config={"callbacks": [ear]})
    assert isinstance(answer, Person)
    assert ear.chunks == []
    assert sim.count() == 2


async def test_a_tool_call_that_broke_is_made_anew(sim: ProviderSimulator):
    """An agent whose tokens are shown does not fail where it would not fail unseen."""
    call = ToolCall("weather", {"city": CITY})
    sim.script("openai:one", cut(3, tool_calls=[call]), then=Reply("Sunny."))
    sim.script("together:two", Reply(tool_calls=[call], chunk_gap=GAP), then=Reply("Sunny."))
    agent = create_agent(model(sim, "openai:one", "together:two"), tools=[weather])
    seen: list[Any] = []
    value: Any = None
    question: Any = {"messages": [("human", "What is the weather?")]}
    async for mode, what in agent.astream(question, stream_mode=["messages", "values"]):
        if mode == "messages":
            seen.append(what[0])
        else:
            value = what
    asking = value["messages"][1]
    assert [c["args"] for c in asking.tool_calls] == [{"city": CITY}]
    assert asking.invalid_tool_calls == []
    assert asking.response_metadata["resilience"]["breaks"][0]["action"] == "replaced"
    assert any(KEY in m.response_metadata for m in seen)
    assert value["messages"][-1].text == "Sunny."


def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"sunny in {city}"


async def test_after_a_new_answer_the_next_break_is_continued(sim: ProviderSimulator):
    """What broke in a tool call is made anew; what then breaks in text goes on from that text."""
    call = ToolCall("weather", {"city": CITY})
    sim.script("openai:one", then=cut(3, tool_calls=[call]))
    sim.script("together:two", then=cut(8))
    llm = model(sim, "openai:one", "together:two", "openai:three", streaming=True)
    message = await llm.ainvoke(PROMPT)
    assert message.content == WHOLE
    assert message.tool_calls == []
    actions = [b["action"] for b in message.response_metadata["resilience"]["breaks"]]
    assert actions == ["replaced", "continued"]


# -- who looks on ---------------------------------------------------------------------------------


@pytest.mark.parametrize("on_break", ["continue", "replace"])
async def test_events_of_a_chain_that_invokes_the_model(sim: ProviderSimulator, on_break: str):
    """`astream_events` shows the stream, and its end the answer."""
    llm = breaking(sim, on_break=on_break)
    chain = RunnableLambda(lambda prompt: prompt) | RunnableLambda(llm.ainvoke)
    events: list[Any] = [e async for e in chain.astream_events(PROMPT, version="v2")]
    pieces = [e["data"]["chunk"] for e in events if e["event"] == "on_chat_model_stream"]
    (end,) = [e["data"]["output"] for e in events if e["event"] == "on_chat_model_end"]
    text = sum_chunks(pieces).text
    assert end.text == text
    assert text == ANEW if on_break == "replace" else text.endswith(ANEW)
    assert len(pieces) > 3

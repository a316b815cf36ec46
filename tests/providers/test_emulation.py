"""`stop` holds, whatever the provider makes of it: nothing behind a stop word is shown."""

from __future__ import annotations

import warnings

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda

from langchain_resilient import DroppedParameterWarning, ResilientChatModel, Target
from langchain_resilient.exchange import ChatRequest
from langchain_resilient.providers import create_provider
from langchain_resilient.testing import Cut, Reply, UnsupportedParameter
from tests.providers.asking import ask, provider_at, request

TEXT = "The quick brown fox jumps over the lazy dog."
WORDS = ["brown fox", "jumps", "own", "The", "dog.", "nowhere", "lazy cat"]


def before(word):
    return TEXT.partition(word)[0]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("dialect", ["openai", "together"])
async def test_it_holds_where_it_is_ignored(sim, dialect, stream, word):
    """Also where the word lies across the borders of chunks, and where only its beginning comes."""
    sim.script(f"{dialect}:m", then=Reply(TEXT, chunk_gap=0.0))
    response = await ask(provider_at(sim, f"{dialect}:m"), request(stop=[word]), stream=stream)
    assert response.text == before(word)
    assert response.finish_reason == "stop"
    assert response.fault() is None
    assert sim.requests[-1].body["stop"] == [word]


@pytest.mark.parametrize("stream", [True, False])
async def test_it_holds_where_it_is_refused_and_nobody_need_be_warned(sim, stream):
    """Today's models of OpenAI refuse it."""
    sim.script("openai:m", UnsupportedParameter("stop"), then=Reply(TEXT, chunk_gap=0.0))
    provider = provider_at(sim, "openai:m")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(2):
            response = await ask(provider, request(stop=["jumps"]), stream=stream)
            assert response.text == before("jumps")
    assert [w for w in seen if w.category is DroppedParameterWarning] == []
    assert ["stop" in record.body for record in sim.requests] == [True, False, False]


async def test_more_words_than_openai_takes_hold_all(sim):
    """Four are sent."""
    sim.script("openai:m", then=Reply(TEXT))
    words = ["a1", "b2", "c3", "d4", "fox"]
    response = await ask(provider_at(sim, "openai:m"), request(stop=words))
    assert response.text == before("fox")
    assert sim.requests[-1].body["stop"] == words[:4]


@pytest.mark.parametrize("stop", ["fox", ["fox"], ["", "fox"]])
async def test_one_word_may_be_given_alone(sim, stop):
    """As in the API; an empty one stops nothing."""
    sim.script("openai:m", then=Reply(TEXT))
    assert (await ask(provider_at(sim, "openai:m"), request(stop=stop))).text == before("fox")


async def test_each_of_several_answers_ends_for_itself(sim):
    """With their own log probabilities."""
    sim.script("openai:m", then=Reply(TEXT))
    provider = provider_at(sim, "openai:m")
    asked = request(stop=["fox"], n=2, logprobs=True)
    answer = await provider.open(asked, stream=False)
    (chunk,) = [chunk async for chunk in answer]
    for choice in chunk["choices"]:
        assert choice["message"]["content"] == before("fox")
        assert "".join(token["token"] for token in choice["logprobs"]["content"]) in before("fox")


async def test_what_follows_is_not_waited_for(sim):
    """A long answer is closed at once."""
    sim.script("openai:m", then=Reply(TEXT + " more" * 1000, chunk_gap=0.01))
    response = await ask(provider_at(sim, "openai:m"), request(stop=["fox"]))
    assert response.text == before("fox")
    await sim.await_idle()
    assert len(sim.requests[-1].pieces) < 1000


async def test_it_holds_across_a_break(sim):
    """The beginning of the word came from one target and its end from another."""
    sim.script("openai:a", then=Cut(4, reply=Reply(TEXT, chunk_gap=0.0)))
    sim.script("openai:b", then=Reply("fox jumps over the dog."))
    base_url = sim.base_url("openai")
    targets = [Target(f"openai:{m}", base_url=base_url, api_key="k") for m in "ab"]
    llm = ResilientChatModel(targets=targets, stop=["fox jumps"])
    text = "".join([chunk.text async for chunk in llm.astream("hi")])
    assert text.rstrip() == before("fox jumps").rstrip()
    assert sim.count("openai:b") == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_that_begins_with_the_word_is_empty_and_no_fault(sim, stream):
    """Another target would say the same: nobody is asked twice."""
    sim.script("openai:m", then=Reply(TEXT))
    llm = ResilientChatModel(
        targets=[Target("openai:m", base_url=sim.base_url("openai"), api_key="k")], timeout=5
    )
    if stream:
        text = "".join([chunk.text async for chunk in llm.astream("hi", stop=["The"])])
    else:
        text = (await llm.ainvoke("hi", stop=["The"])).text
    assert text == ""
    assert sim.count("openai:m") == 1


# -- LangChain models ------------------------------------------------------------------------------


def native(stream_word):
    return ChatRequest([], overrides={"stop": [stream_word]}, source=[HumanMessage("hi")])


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("word", WORDS)
async def test_it_holds_for_a_langchain_model_that_ignores_it(word, stream):
    """Its chunks are cut."""
    model = GenericFakeChatModel(messages=iter([AIMessage(TEXT)]))
    provider = create_provider(Target(model))
    response = await ask(provider, native(word), stream=stream)
    assert (response.text, response.fault()) == (before(word), None)


@pytest.mark.parametrize("word", WORDS)
async def test_it_holds_for_blocks_and_for_plain_text(word):
    """A list of blocks, and a Runnable that answers with a string."""
    blocks = [{"type": "text", "text": TEXT[:12]}, {"type": "text", "text": TEXT[12:]}]
    model = GenericFakeChatModel(messages=iter([AIMessage(blocks)]))
    whole = (await ask(create_provider(Target(model)), native(word), stream=False)).text
    assert whole == before(word)
    plain = create_provider(Target(RunnableLambda(lambda _: TEXT)))
    assert (await ask(plain, native(word), stream=False)).text == before(word)


async def test_an_answer_without_the_word_is_the_models_own_object(sim):
    """Nothing is copied for nothing."""
    message = AIMessage("nothing here", id="1")
    provider = create_provider(Target(GenericFakeChatModel(messages=iter([message]))))
    answer = await provider.open(native("jumps"), stream=False)
    (chunk,) = [chunk async for chunk in answer]
    assert chunk["message_chunk"].content == "nothing here"

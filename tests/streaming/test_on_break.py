"""`on_break`: where it is set, and what each of its values gives the reader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from langchain_resilient import StreamBrokenError, sum_chunks
from langchain_resilient.providers.connection import close_clients
from langchain_resilient.testing import Cut, Empty, ProviderSimulator, Reply
from tests.streaming.stories import ORDERS, PROMPT, WHOLE, Speaker, added, cut, model, read, read_on
from verification.kit.scripted_targets import chain
from verification.kit.virtual_time import run_virtual

if TYPE_CHECKING:
    from langchain_resilient import ResilientChatModel

pytestmark = pytest.mark.usefixtures("loop_is_left_empty")

WAYS = ["astream", "stream"]
KEY = "resilience_replaced"
ANEW = "Quite another answer."


@pytest.fixture(params=[*ORDERS, ("speaker", "openai")], ids="-".join)
def llm(request: pytest.FixtureRequest, sim: ProviderSimulator) -> ResilientChatModel:
    """A model whose first target breaks, and whose second answers otherwise."""
    first, second = request.param
    sim.script(f"{second}:two", then=Reply(ANEW))
    if first != "speaker":
        sim.script(f"{first}:one", then=cut())
    begins = Speaker(dies_after=4) if first == "speaker" else f"{first}:one"
    return model(sim, begins, f"{second}:two")


# -- where it is set ------------------------------------------------------------------------------


async def test_it_is_a_field_of_the_model(sim: ProviderSimulator):
    """For all its streams."""
    sim.script("openai:one", then=cut())
    with pytest.raises(StreamBrokenError):
        await read(model(sim, "openai:one", "together:two", on_break="raise"))


@pytest.mark.parametrize("way", WAYS)
async def test_a_call_may_set_it(llm: ResilientChatModel, way: Any):
    """And go before the model."""
    with pytest.raises(StreamBrokenError):
        await read(llm, way, on_break="raise")


async def test_it_may_be_bound(llm: ResilientChatModel):
    """As any argument of a call; the call still goes before it."""
    bound = llm.bind(on_break="raise")
    with pytest.raises(StreamBrokenError):
        await read(bound)
    assert await read(bound, on_break="continue")


async def test_another_value_is_refused_clearly(sim: ProviderSimulator):
    """On the model and in the call, before anything is sent."""
    with pytest.raises(ValidationError, match="on_break"):
        model(sim, "openai:one", on_break="panic")
    with pytest.raises(ValueError, match=r"on_break\s+Input should be 'continue', 'replace' or 'r"):
        await read(model(sim, "openai:one"), on_break="panic")
    assert sim.count() == 0


# -- replace --------------------------------------------------------------------------------------


def marker_of(chunks: list[Any]) -> int:
    """Which chunk says that all before it is void."""
    (position,) = [n for n, chunk in enumerate(chunks) if KEY in chunk.response_metadata]
    return position


@pytest.mark.parametrize("way", WAYS)
async def test_a_marker_stands_before_the_new_answer(llm: ResilientChatModel, way: Any):
    """It says who broke, how, and after how many characters; the whole new answer follows."""
    chunks = await read(llm, way, on_break="replace")
    position = marker_of(chunks)
    (text,) = chunks[position].response_metadata[KEY]
    before = added(chunks[:position]).text
    assert WHOLE.startswith(before)
    assert text["characters"] == len(before)
    assert text["fault"]
    assert added(chunks[position:]).text == ANEW
    (broke,) = chunks[-1].response_metadata["resilience"]["breaks"]
    assert (broke["action"], broke["target"]) == ("replaced", text["target"])


async def test_events_and_handlers_see_the_marker(llm: ResilientChatModel):
    """In the chunk that they get, as the reader does."""
    events: list[Any] = [
        e async for e in llm.astream_events(PROMPT, version="v2", on_break="replace")
    ]
    chunks = [e["data"]["chunk"] for e in events if e["event"] == "on_chat_model_stream"]
    assert added(chunks[marker_of(chunks) :]).text == ANEW


async def test_chunks_that_keep_to_langchains_rules_though_replaced(llm: ResilientChatModel):
    """One id, one count of tokens, one last chunk."""
    chunks = await read(llm, on_break="replace")
    assert len({chunk.id for chunk in chunks}) == 1
    assert sum(chunk.usage_metadata is not None for chunk in chunks) == 1
    assert [c.chunk_position for c in chunks] == [None] * (len(chunks) - 1) + ["last"]
    assert added(chunks).response_metadata["finish_reason"] == "stop"


async def test_sum_chunks_gives_the_new_answer(llm: ResilientChatModel):
    """Also when they are added up one by one."""
    chunks = await read(llm, on_break="replace")
    assert sum_chunks(chunks).text == ANEW
    total = chunks[0]
    for chunk in chunks[1:]:
        total = sum_chunks([total, chunk])
    assert total.text == ANEW
    assert total.response_metadata["resilience"]["breaks"]


async def test_sum_chunks_is_langchains_sum_where_nothing_is_replaced(sim: ProviderSimulator):
    """Of any stream, continued ones too."""
    sim.script("openai:one", then=cut())
    chunks = await read(model(sim, "openai:one", "together:two"))
    assert sum_chunks(chunks) == added(chunks)
    assert sum_chunks(chunks[:1]) == chunks[0]


def test_sum_chunks_of_nothing_is_an_error():
    """There is no empty message to give."""
    with pytest.raises(ValueError, match="no chunks"):
        sum_chunks([])


async def test_an_answer_may_be_replaced_more_than_once(sim: ProviderSimulator):
    """The last marker counts, and the receipt tells of both."""
    sim.script("openai:one", then=cut(8))
    sim.script("together:two", then=cut(5))
    sim.script("openai:three", then=Reply(ANEW))
    llm = model(sim, "openai:one", "together:two", "openai:three", on_break="replace")
    message = sum_chunks(await read(llm))
    assert message.text == ANEW
    breaks = message.response_metadata["resilience"]["breaks"]
    assert [(b["target"], b["action"]) for b in breaks] == [
        ("openai:one", "replaced"),
        ("together:two", "replaced"),
    ]


async def test_an_error_after_a_replacement_holds_the_new_text_only(sim: ProviderSimulator):
    """What was void stays void."""
    sim.script("openai:one", then=cut(8))
    sim.script("together:two", then=cut(5, text="other words, and some more of them"))
    llm = model(sim, "openai:one", "together:two", on_break="replace", timeout=1.5, max_retries=0)
    chunks, error = await read_on(llm.astream(PROMPT))
    assert isinstance(error, StreamBrokenError)
    assert error.partial == sum_chunks(chunks).text
    assert error.partial.startswith("other words")


async def test_a_chain_inside_the_chain_may_replace(sim: ProviderSimulator):
    """A resilient model as a target: its marker goes through, and what it voids does not count."""
    sim.script("openai:one", then=cut())
    sim.script("together:two", then=Reply(ANEW))
    inner = model(sim, "openai:one", "together:two", on_break="replace")
    outer = model(sim, inner)
    chunks = await read(outer)
    assert sum_chunks(chunks).text == ANEW
    assert added(chunks[marker_of(chunks) :]).text == ANEW
    assert (await outer.ainvoke(PROMPT)).text == ANEW


def test_a_whole_answer_that_broke_off_is_confirmed_without_a_pause():
    """Two answers that add nothing: the reader waits for no backoff to be told that it is whole."""

    async def read_all(_: object) -> None:
        async with ProviderSimulator() as sim:
            sim.script("openai:one", Cut(2000, reply=Reply("All is said.")), then=Empty())
            sim.script("together:two", then=Empty())
            llm = chain(sim, "openai:one", "together:two")
            pieces = [piece async for piece in llm.astream("hi")]
            receipt = pieces[-1].response_metadata["resilience"]
            assert "".join(piece.text for piece in pieces) == "All is said."
            assert 3 <= len(receipt["attempts"]) <= 4
            assert receipt["attempts"][-1]["ended"] - receipt["breaks"][0]["seconds"] < 0.05
            await close_clients()

    run_virtual(read_all)

"""Streamed tool calls: they add up to the right calls, and half a call is never mended."""

from __future__ import annotations

import json
from typing import Any

import pytest

from langchain_resilient import StreamBrokenError
from langchain_resilient.testing import ProviderSimulator, Reply, SseError, ToolCall
from tests.streaming.stories import ORDERS, PROMPT, added, cut, model, read

pytestmark = pytest.mark.usefixtures("loop_is_left_empty")

WAYS = ["astream", "stream"]
CITIES = ["Paris", "Saint-Rémy-de-Provence"]
CALLS = [ToolCall("weather", {"city": city}) for city in CITIES]
WANTED = [("weather", {"city": city}) for city in CITIES]


def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"sunny in {city}"


def made(message: Any) -> list[tuple[str, Any]]:
    """The calls of a message; none of them may be in pieces."""
    assert message.invalid_tool_calls == []
    assert all(call["id"] for call in message.tool_calls)
    return [(call["name"], call["args"]) for call in message.tool_calls]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dialect", ["openai", "together"])
async def test_pieces_add_up_to_the_calls(sim: ProviderSimulator, dialect: str, way: Any):
    """Several calls, each in many pieces."""
    sim.script(f"{dialect}:m", then=Reply(tool_calls=CALLS, chunk_gap=0.0))
    llm = model(sim, f"{dialect}:m").bind_tools([weather])
    chunks = await read(llm, way)
    assert made(added(chunks)) == WANTED == made(await llm.ainvoke(PROMPT))
    assert sum(bool(chunk.tool_call_chunks) for chunk in chunks) > len(CALLS)


@pytest.mark.parametrize("version", [None, "v1"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("first", "second"), ORDERS)
async def test_text_of_one_target_may_be_followed_by_calls_of_the_next(
    sim: ProviderSimulator, first: str, second: str, way: Any, version: Any
):
    """The text broke off, and whoever went on decided to call tools."""
    sim.script(f"{first}:one", then=cut(text="Let me look that up in the"))
    sim.script(f"{second}:two", then=Reply(tool_calls=CALLS, chunk_gap=0.001))
    llm = model(sim, f"{first}:one", f"{second}:two", output_version=version)
    message = added(await read(llm.bind_tools([weather]), way))
    assert made(message) == WANTED
    assert message.text.startswith("Let me look")
    assert message.response_metadata["finish_reason"] == "tool_calls"
    assert message.response_metadata["resilience"]["breaks"][0]["action"] == "continued"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dialect", ["openai", "together"])
async def test_a_break_inside_a_delivered_call_raises(
    sim: ProviderSimulator, dialect: str, way: Any
):
    """Nobody can go on with half a call; the error says where it broke."""
    sim.script(f"{dialect}:one", then=cut(4, tool_calls=CALLS))
    llm = model(sim, f"{dialect}:one", "openai:two").bind_tools([weather])
    with pytest.raises(StreamBrokenError) as caught:
        await read(llm, way)
    assert caught.value.partial == ""
    assert caught.value.receipt is not None
    (broke,) = caught.value.receipt.breaks
    assert (broke.target, broke.action) == (f"{dialect}:one", "raised")
    assert sim.count() == 1


async def test_the_error_holds_the_text_before_the_call(sim: ProviderSimulator):
    """The reader has seen it."""
    sim.script("openai:one", then=cut(9, text="Let me see.", tool_calls=CALLS))
    llm = model(sim, "openai:one", "together:two").bind_tools([weather])
    with pytest.raises(StreamBrokenError) as caught:
        await read(llm)
    assert caught.value.partial == "Let me see."


@pytest.mark.parametrize("dialect", ["openai", "together"])
async def test_a_break_inside_a_call_that_nobody_saw_is_mended(dialect: str):
    """It came in one burst with its end: the next target makes the calls anew."""
    # On our own loop the simulator has written all of it before anybody can read.
    async with ProviderSimulator() as sim:
        sim.script(f"{dialect}:one", then=SseError(4, reply=Reply(tool_calls=CALLS)))
        sim.script("openai:two", then=Reply(tool_calls=CALLS, chunk_gap=0.001))
        message = added(await read(model(sim, f"{dialect}:one", "openai:two")))
    assert made(message) == WANTED
    receipt = message.response_metadata["resilience"]
    assert [attempt["target"] for attempt in receipt["attempts"]] == [
        f"{dialect}:one",
        "openai:two",
    ]
    assert "breaks" not in receipt


async def test_calls_that_replace_calls_are_not_joined_to_them(sim: ProviderSimulator):
    """Even for a reader who only adds up, the new ones are whole."""
    sim.script("openai:one", then=cut(4, tool_calls=CALLS))
    sim.script("together:two", then=Reply(tool_calls=CALLS))
    llm = model(sim, "openai:one", "together:two", on_break="replace")
    calls = added(await read(llm)).tool_calls
    assert [(call["name"], call["args"]) for call in calls[-2:]] == WANTED


async def test_pieces_of_arguments_are_passed_on_as_they_come(sim: ProviderSimulator):
    """Joined they are the JSON that the model wrote."""
    sim.script("openai:m", then=Reply(tool_calls=CALLS[:1], chunk_gap=0.0))
    chunks = await read(model(sim, "openai:m").bind_tools([weather]))
    pieces = [call for chunk in chunks for call in chunk.tool_call_chunks]
    assert json.loads("".join(piece["args"] or "" for piece in pieces)) == {"city": "Paris"}
    assert [piece["name"] for piece in pieces if piece["name"]] == ["weather"]

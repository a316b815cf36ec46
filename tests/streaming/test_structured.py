"""`with_structured_output(...)` as a stream: JSON comes whole or not at all, never glued."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from langchain_resilient import StreamBrokenError
from langchain_resilient.testing import ProviderSimulator, Reply, SseError
from tests.streaming.stories import ORDERS, cut, model

if TYPE_CHECKING:
    from langchain_resilient import ResilientChatModel

pytestmark = pytest.mark.usefixtures("loop_is_left_empty")

METHODS = ["json_schema", "json_mode", "function_calling"]
QUESTION = "Tell a joke as JSON."


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


def joker(llm: ResilientChatModel, method: Any, *, as_dict: bool = False) -> Any:
    """Bind a schema; dicts are streamed as they grow, models come whole."""
    schema = Joke.model_json_schema() if as_dict else Joke
    if method == "json_mode":
        return llm.with_structured_output(None, method=method)
    return llm.with_structured_output(schema, method=method)


async def read(parser: Any, way: str) -> list[Any]:
    """Read all that is parsed on the way."""
    if way == "stream":
        return list(parser.stream(QUESTION))
    return [chunk async for chunk in parser.astream(QUESTION)]


def is_whole(result: Any, method: str) -> bool:
    """In JSON mode the simulator makes up the fields."""
    if method == "json_mode":
        return isinstance(result, dict) and bool(result)
    return bool(Joke.model_validate(result if isinstance(result, dict) else result.model_dump()))


@pytest.mark.parametrize("way", ["astream", "stream"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dialect", ["openai", "together"])
async def test_the_last_that_is_streamed_is_the_answer(
    sim: ProviderSimulator, dialect: str, method: str, way: str
):
    """By every method, in both dialects."""
    parser = joker(model(sim, f"{dialect}:m"), method)
    content = await read(parser, way)
    assert is_whole(content[-1], method)
    assert content[-1] == await parser.ainvoke(QUESTION)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
async def test_a_dict_grows(sim: ProviderSimulator, method: str):
    """As LangChain's parsers do it: what there is, parsed as far as it goes."""
    sim.script("openai:m", then=Reply(chunk_gap=0.0))
    content = await read(joker(model(sim, "openai:m"), method, as_dict=True), "astream")
    assert len(content) > 2
    assert set(content[0]) < set(content[-1]) or len(str(content[0])) < len(str(content[-1]))
    assert is_whole(content[-1], method)


@pytest.mark.parametrize("way", ["astream", "stream"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("first", "second"), ORDERS)
async def test_a_break_in_delivered_json_raises(
    sim: ProviderSimulator, first: str, second: str, method: str, way: str
):
    """Nobody is asked to go on with half of it."""
    sim.script(f"{first}:one", then=cut(4))
    with pytest.raises(StreamBrokenError) as caught:
        await read(joker(model(sim, f"{first}:one", f"{second}:two"), method), way)
    assert caught.value.receipt is not None
    assert caught.value.receipt.breaks[0].action == "raised"
    assert sim.count() == 1


@pytest.mark.parametrize("method", METHODS)
async def test_a_break_in_json_that_nobody_saw_is_mended(method: str):
    """It came in one burst with its end: the next target answers anew."""
    # On our own loop the simulator has written all of it before anybody can read.
    async with ProviderSimulator() as sim:
        sim.script("openai:one", then=SseError(4))
        content = await read(joker(model(sim, "openai:one", "together:two"), method), "astream")
    assert is_whole(content[-1], method)
    assert [sim.count("openai:one"), sim.count("together:two")] == [1, 1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("first", "second"), ORDERS)
async def test_under_invoke_it_is_answered_whole(
    sim: ProviderSimulator, first: str, second: str, method: str
):
    """However it broke: nothing of it was delivered."""
    sim.script(f"{first}:one", then=cut(4))
    parser = joker(model(sim, f"{first}:one", f"{second}:two"), method)
    assert is_whole(await parser.ainvoke(QUESTION), method)

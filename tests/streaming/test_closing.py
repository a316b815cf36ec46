"""Whoever stops reading stops the provider: nothing is left running, at any moment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.output_parsers import StrOutputParser

from langchain_resilient.runtime.background_loop import background_loop
from langchain_resilient.testing import NoAnswer, Reply, Step
from tests.streaming.stories import GAP, ORDERS, PROMPT, cut, model, until

if TYPE_CHECKING:
    from langchain_resilient import ResilientChatModel
    from langchain_resilient.testing import ProviderSimulator

pytestmark = pytest.mark.usefixtures("loop_is_left_empty")

SLOWLY = Reply(chunk_gap=GAP)
FOR_EVER = Reply(first_text=60.0)

SCENES: dict[str, tuple[Step, Step, int]] = {
    "before the first text": (NoAnswer(), SLOWLY, 0),
    "in the first part": (SLOWLY, SLOWLY, 3),
    "at the break": (cut(), FOR_EVER, 8),
    "in the continuation": (cut(), SLOWLY, 14),
}
"""What the first target does, and the second; and how many chunks the reader has by then."""


def scene(sim: ProviderSimulator, first: str, second: str, moment: str) -> ResilientChatModel:
    """A model that comes to a moment in which its reader leaves."""
    begins, ends, _ = SCENES[moment]
    sim.script(f"{first}:one", then=begins)
    sim.script(f"{second}:two", then=ends)
    return model(sim, f"{first}:one", f"{second}:two")


async def comes(sim: ProviderSimulator, moment: str, seen: list[Any]) -> None:
    """Wait for the moment."""
    asked = 1 if moment in ("before the first text", "in the first part") else 2
    await until(lambda: sim.count() == asked and len(seen) >= SCENES[moment][2])


async def upstream_is_left(sim: ProviderSimulator, *, aborted: int = 1) -> None:
    """The provider sees that it is left, and nothing stays open."""
    await until(lambda: not sim.in_flight and not sim.open_sockets)
    assert sim.aborted == aborted


@pytest.mark.parametrize("moment", SCENES)
@pytest.mark.parametrize(("first", "second"), ORDERS)
async def test_cancelling_the_reader(sim: ProviderSimulator, first: str, second: str, moment: str):
    """A task that reads is cancelled."""
    llm, seen = scene(sim, first, second, moment), []

    async def read() -> None:
        async for chunk in llm.astream(PROMPT):
            seen.append(chunk)  # noqa: PERF401  # another task looks at it meanwhile

    reader = asyncio.create_task(read())
    await comes(sim, moment, seen)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await upstream_is_left(sim)


@pytest.mark.parametrize("moment", list(SCENES)[1:])
@pytest.mark.parametrize("chained", [False, True], ids=["model", "chain"])
async def test_closing_the_iterator(sim: ProviderSimulator, moment: str, chained: bool):
    """`aclose`, of the model's own stream and of a chain's."""
    llm = scene(sim, "openai", "together", moment)
    stream: Any = (llm | StrOutputParser() if chained else llm).astream(PROMPT)
    seen = [await anext(stream) for _ in range(SCENES[moment][2])]
    await comes(sim, moment, seen)
    await stream.aclose()
    del stream
    await upstream_is_left(sim)


@pytest.mark.parametrize("moment", list(SCENES)[1:])
async def test_breaking_out_of_a_loop(sim: ProviderSimulator, moment: str):
    """A `for` over `stream`: its thread goes on at once, and the background loop cleans up."""
    llm = scene(sim, "openai", "together", moment)

    def read() -> None:
        seen = []
        for chunk in llm.stream(PROMPT):
            seen.append(chunk)
            if len(seen) >= SCENES[moment][2]:
                break

    await asyncio.to_thread(read)
    if moment == "at the break":
        await until(lambda: not sim.in_flight)
    else:
        await upstream_is_left(sim)
    await until(lambda: not asyncio.all_tasks(background_loop()._loop))


async def test_an_iterator_that_is_never_read_sends_nothing(sim: ProviderSimulator):
    """And can be closed."""
    llm: Any = model(sim, "openai:one")
    await llm.astream(PROMPT).aclose()
    llm.stream(PROMPT).close()
    assert sim.count() == 0


async def test_cancelling_an_invoke_that_handlers_watch(sim: ProviderSimulator):
    """It streams beneath, and is closed as a stream is."""
    sim.script("openai:one", then=SLOWLY)
    asking = asyncio.create_task(model(sim, "openai:one", streaming=True).ainvoke(PROMPT))
    await until(lambda: sim.requests and len(sim.requests[0].pieces) > 3)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await upstream_is_left(sim)


async def test_leaving_events_in_the_middle(sim: ProviderSimulator):
    """`astream_events` that nobody reads on."""
    sim.script("openai:one", then=SLOWLY)
    events: Any = model(sim, "openai:one").astream_events(PROMPT, version="v2")
    for _ in range(5):
        await anext(events)
    await events.aclose()
    await upstream_is_left(sim)

"""A reader that takes its time: the provider waits, and nobody is blamed for that."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler

from langchain_resilient import TimeLimits
from langchain_resilient.testing import Reply, answer_to
from tests.streaming.stories import PROMPT, model, until
from tests.streaming.test_closing import upstream_is_left

if TYPE_CHECKING:
    from langchain_resilient import ResilientChatModel
    from langchain_resilient.testing import ProviderSimulator

pytestmark = pytest.mark.usefixtures("loop_is_left_empty")

WORDS = 1200
LONG = answer_to(PROMPT, words=WORDS)
BULKY = "m" * 16_000
"""A model's name, which stands in every chunk: far more than the sockets between us can hold."""

MOST = 0.6
"""The share of the answer that may be on its way before the reader has taken any of it: what we
read ahead (256 chunks, 512 in a thread) and what fits into the sockets' buffers."""


def long_answer(sim: ProviderSimulator, **fields: Any) -> ResilientChatModel:
    """A model whose answer comes as fast as it is read."""
    sim.script("openai:*", then=Reply(words=WORDS, chunk_gap=0.0))
    return model(sim, f"openai:{BULKY}", **fields)


def sent(sim: ProviderSimulator) -> float:
    """The share of the answer that the provider could send so far."""
    return len(sim.requests[0].text) / len(LONG)


async def pause_limits(sim: ProviderSimulator) -> None:
    """Wait until the provider sends nothing any more."""
    before = -1.0
    async with asyncio.timeout(10.0):
        while before != (before := sent(sim)):  # noqa: ASYNC110  # nothing tells of nothing
            await asyncio.sleep(0.2)


class Waiting(AsyncCallbackHandler):
    """Takes no token before it may go on."""

    def __init__(self, go_on: asyncio.Event) -> None:
        self._go_on = go_on

    async def on_llm_new_token(self, *_: Any, **__: Any) -> None:
        await self._go_on.wait()


async def test_the_provider_is_read_ahead_only_within_a_bound(sim: ProviderSimulator):
    """Then it waits; when the reader comes back, not a word is missing."""
    stream = long_answer(sim).astream(PROMPT)
    text = (await anext(stream)).text
    await pause_limits(sim)
    assert sent(sim) < MOST
    text += "".join([chunk.text async for chunk in stream])
    assert text == LONG


@pytest.mark.parametrize(
    ("limits", "pause"),
    [({"timeout": 2.0}, 2.2), ({"time_limits": TimeLimits(chunk_gap=0.5)}, 0.8)],
    ids=["deadline", "gap"],
)
async def test_no_limit_runs_while_the_reader_holds_the_stream_up(
    sim: ProviderSimulator, limits: dict[str, Any], pause: float
):
    """Neither the deadline nor the longest gap: it is not the provider that is slow."""
    stream = long_answer(sim, **limits).astream(PROMPT)
    chunks = [await anext(stream)]
    await pause_limits(sim)
    await asyncio.sleep(pause)
    chunks += [chunk async for chunk in stream]
    assert "".join([chunk.text for chunk in chunks]) == LONG
    assert len(chunks[-1].response_metadata["resilience"]["attempts"]) == 1


async def test_a_reader_may_leave_while_the_provider_waits(sim: ProviderSimulator):
    """The one is told of the other."""
    stream: Any = long_answer(sim).astream(PROMPT)
    await anext(stream)
    await pause_limits(sim)
    await stream.aclose()
    del stream
    await upstream_is_left(sim)


def test_a_synchronous_stream_has_a_bound_too(sim: ProviderSimulator):
    """Though a background loop reads for it."""
    stream = long_answer(sim).stream(PROMPT)
    text = next(stream).text
    asyncio.run(pause_limits(sim))
    assert sent(sim) < MOST
    assert text + "".join([chunk.text for chunk in stream]) == LONG


def test_a_synchronous_stream_takes_no_thread_a_token(sim: ProviderSimulator):
    """Nor a thread a stream: one background loop serves all."""
    sim.script("openai:m", then=Reply(chunk_gap=0.001))
    llm = model(sim, "openai:m")
    llm.invoke(PROMPT)
    before = set(threading.enumerate())
    started = {thread for _ in llm.stream(PROMPT) for thread in threading.enumerate()} - before
    assert started == set()


async def test_a_slow_handler_holds_the_provider_up_as_a_slow_reader_does(sim: ProviderSimulator):
    """Under `invoke`, what handlers take is what is read."""
    llm = long_answer(sim, streaming=True)
    go_on = asyncio.Event()

    asking = asyncio.create_task(llm.ainvoke(PROMPT, {"callbacks": [Waiting(go_on)]}))
    await until(lambda: sim.requests and sent(sim))
    await pause_limits(sim)
    assert sent(sim) < MOST
    go_on.set()
    assert (await asking).text == LONG

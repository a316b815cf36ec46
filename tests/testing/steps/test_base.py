"""Steps that depend on the time, and how steps are shown."""

from __future__ import annotations

import asyncio

from langchain_resilient.testing import (
    Delayed,
    NoAnswer,
    NoStreaming,
    ProviderSimulator,
    Reply,
    Status,
    Timeline,
    answer_to,
)
from tests.testing.wire_client import ask, chat
from verification.kit.virtual_time import virtual_time


@virtual_time
async def test_a_timeline_changes_with_time() -> None:
    """An outage of ten minutes, in virtual time."""
    async with ProviderSimulator() as sim:
        sim.script("*", then=Timeline((60, NoAnswer()), (660, Status(503)), (700, Reply("back"))))
        assert (await ask(sim)).text == answer_to("Hello")
        assert (await ask(sim, patience=60)).status == 200
        wire = await ask(sim, patience=100)
        assert wire.status == 200
        await _until(60)
        assert (await ask(sim, patience=500)).end == "open"
        await _until(660)
        assert (await ask(sim)).status == 503
        await _until(700)
        assert (await ask(sim)).text == "back"


async def _until(time: float) -> None:
    await asyncio.sleep(time - asyncio.get_running_loop().time())


def test_steps_show_only_what_is_unusual() -> None:
    """Test ids and failures stay readable."""
    assert repr(Reply()) == "Reply()"
    assert repr(Status(429, retry_after=2)) == "Status(code=429, retry_after=2)"
    assert repr(Timeline((5, NoAnswer()))) == "Timeline(phases=((5, NoAnswer()),))"
    assert repr(Reply("a", tool_calls=[])) == "Reply(text='a')"


async def test_any_step_can_be_delayed(sim: ProviderSimulator) -> None:
    """Those that depend on the request too."""
    sim.script("*", then=Delayed(NoStreaming(), 0.03))
    loop = asyncio.get_running_loop()
    start = loop.time()
    assert (await ask(sim, chat(stream=True))).status == 400
    assert (await ask(sim)).status == 200
    assert loop.time() - start >= 0.06

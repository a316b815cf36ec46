"""A call frees its memory at its end, and leaves nothing for the garbage collector.

Circles of a call's objects cost far more than their memory: the collector's full passes walk over
all that was ever imported.
"""

from __future__ import annotations

import asyncio
import gc

import pytest

from langchain_resilient import Hedge, ResilientChatModel
from langchain_resilient.runtime.shared_state import loop_reaper
from langchain_resilient.testing import ProviderSimulator, Status
from verification.kit.scripted_targets import target

CALLS = 10


async def settled() -> None:
    """Let losers, streams and callbacks end, without waiting for the clock."""
    await loop_reaper().drain()
    for _ in range(10):
        await asyncio.sleep(0)


async def ours_left_by(once) -> dict[str, int]:
    """Which objects of the product only the collector can free after some calls, when warm."""
    for _ in range(3):
        await once()
    await settled()
    gc.collect()
    gc.disable()
    gc.freeze()  # what an earlier test's model leaves, when its last thread lets go of it
    gc.set_debug(gc.DEBUG_SAVEALL)
    left: dict[str, int] = {}
    try:
        for _ in range(CALLS):
            await once()
        await settled()
        gc.collect()
        for each in gc.garbage:
            module = type(each).__module__
            if module.startswith("langchain_resilient.") and ".testing" not in module:
                left[type(each).__name__] = left.get(type(each).__name__, 0) + 1
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.unfreeze()
        gc.enable()
    return left


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("on", ["first_text", "response"])
@pytest.mark.parametrize("way", ["ainvoke", "astream", "fallback", "batch"])
async def test_a_call_leaves_no_circles(way, on, api):
    """Whole or streamed, answered by the first or the second, alone or in a paced batch."""
    async with ProviderSimulator() as sim:
        if way == "fallback":
            sim.script("openai:first", then=Status(500))
        first = target(sim, "openai:first", api=api, requests_per_minute=60_000)
        second = target(sim, "together:second")
        model = ResilientChatModel(targets=[first, second], hedge=Hedge(on=on))

        async def once() -> None:
            if way == "astream":
                assert [chunk async for chunk in model.astream("hi")]
            elif way == "batch":
                assert len(await model.abatch(["hi", "ho"])) == 2
            else:
                assert (await model.ainvoke("hi")).text

        assert await ours_left_by(once) == {}
        await model.aclose()

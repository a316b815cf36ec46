"""What calls leave for the garbage collector."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

from langchain_resilient.runtime.shared_state import loop_reaper

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def _settled() -> None:
    """Let losers, streams and callbacks end, without waiting for the clock."""
    await loop_reaper().drain()
    for _ in range(10):
        await asyncio.sleep(0)


async def ours_left_by(once: Callable[[], Awaitable[object]]) -> dict[str, int]:
    """Which objects of the product only the collector can free after some calls, when warm."""
    for _ in range(3):
        await once()
    await _settled()
    gc.collect()
    gc.disable()
    gc.freeze()  # what an earlier test's model leaves, when its last thread lets go of it
    gc.set_debug(gc.DEBUG_SAVEALL)
    left: dict[str, int] = {}
    try:
        for _ in range(10):
            await once()
        await _settled()
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

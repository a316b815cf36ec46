"""The driver's edges: slow readers, deaf providers, and what came too late."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from langchain_resilient.engine.events import End
from langchain_resilient.engine.race import READ_AHEAD
from langchain_resilient.policy import Timeouts
from tests.engine.scripted import Hang, Say, Scripted, Step, World, world
from tests.virtual_time import virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

MANY = " ".join("x" for _ in range(READ_AHEAD + 20))
"""More words than are read ahead."""


def now() -> float:
    return asyncio.get_running_loop().time()


async def read_slowly(w: World, pause: float) -> tuple[End | None, float]:
    """Read a stream with one long pause early in it; returns how it ended, and when."""
    race, began, count = w.race(), now(), 0
    async for _ in race.chunks():
        count += 1
        if count == 10:
            await asyncio.sleep(pause)
    return race.end, now() - began


@virtual_time
async def test_the_deadline_may_pass_while_the_provider_waits_for_a_slow_reader():
    """Then the stream ends with it, once the reader has read what was there."""
    assert await read_slowly(world(Say(MANY), deadline=10.0), 20.0) == (End.DEADLINE, 20.0)


@virtual_time
async def test_a_stall_after_a_slow_reader_is_noticed_in_time():
    """The gap counts from the moment in which the provider was read again."""
    w = world(Say(MANY, then="hang"), deadline=None, timeouts=Timeouts(chunk_gap=10.0, answer=None))
    assert await read_slowly(w, 50.0) == (End.BROKEN, pytest.approx(60.0))


class Deaf(Scripted):
    """A provider that swallows a cancel and goes on speaking."""

    async def _run(self, step: Step) -> AsyncGenerator[dict[str, Any], None]:
        try:
            await asyncio.sleep(100.0)
        except asyncio.CancelledError:
            yield {"word": "deaf "}
            yield {"finish": True}
        finally:
            self.closed += 1


@pytest.mark.parametrize("judged", [False, True])
def test_a_loser_that_does_not_stop_speaking_is_not_heard(judged):
    """Its text is no part of the winner's stream, whether that is shown as it comes or whole."""

    @virtual_time
    async def run():
        w = world(Hang(), Say("fast one", gap=1.0))
        w.targets["p0:m"] = Deaf([Hang()])
        race = w.race(validate=(lambda _: None) if judged else None)
        words = [chunk["word"] async for chunk in race.chunks() if chunk.get("word")]
        assert words == ["fast ", "one "]

    run()


@virtual_time
async def test_a_provider_that_swallows_the_callers_cancel_is_closed_all_the_same():
    """Nothing is sent for a caller that has gone away."""
    w = world(Hang(), Say("never"))
    deaf = w.targets["p0:m"] = Deaf([Hang()])
    caller = asyncio.create_task(w.race().answer())
    await asyncio.sleep(1.0)
    caller.cancel()
    await asyncio.wait({caller})
    await asyncio.sleep(100.0)
    assert (deaf.closed, w.sends()) == (1, 1)

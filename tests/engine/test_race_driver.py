"""The driver's edges: slow readers, deaf providers, and what came too late."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import pytest

from langchain_resilient import TimeLimits
from langchain_resilient.engine.interfaces import CallEnd
from langchain_resilient.engine.stream_buffer import MAX_READ_AHEAD
from verification.kit.scripted_engine import Hang, Say, Scripted, Step, World, shown, world
from verification.kit.virtual_time import virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

MANY = " ".join("x" for _ in range(MAX_READ_AHEAD + 20))
"""More words than are read ahead."""


def now() -> float:
    return asyncio.get_running_loop().time()


async def read_slowly(w: World, pause: float) -> tuple[CallEnd | None, float]:
    """Read a stream with one long pause early in it; returns how it ended, and when."""
    race, began, count = w.stream(), now(), 0
    async for _ in shown(race):
        count += 1
        if count == 10:
            await asyncio.sleep(pause)
    return race.end, now() - began


@virtual_time
async def test_the_time_in_which_a_slow_reader_held_the_provider_up_does_not_count():
    """Neither against the deadline nor against the limit for the whole answer."""
    w = world(Say(MANY), deadline=10.0, time_limits=TimeLimits(answer=10.0))
    assert await read_slowly(w, 20.0) == (CallEnd.ANSWERED, 20.0)


@virtual_time
async def test_the_time_after_a_slow_reader_counts_again():
    """What was left of the deadline is left."""
    w = world(
        Say(MANY, then="hang"), deadline=10.0, hedge=None, time_limits=TimeLimits(chunk_gap=None)
    )
    assert await read_slowly(w, 20.0) == (CallEnd.DEADLINE, pytest.approx(30.0))


@virtual_time
async def test_a_stall_after_a_slow_reader_is_noticed_in_time():
    """The gap counts from the moment in which the provider was read again."""
    w = world(
        Say(MANY, then="hang"), deadline=None, time_limits=TimeLimits(chunk_gap=10.0, answer=None)
    )
    assert await read_slowly(w, 50.0) == (CallEnd.BROKEN, pytest.approx(60.0))


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
        race = w.stream(validate=(lambda *_: None) if judged else None)
        words = [chunk["word"] async for chunk in shown(race) if chunk.get("word")]
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


class AtOnce:
    """A provider that answers without waiting for anything."""

    async def open(self, request, *, stream):
        async def answer():
            yield {"word": "done "}
            yield {"finish": True}

        return answer()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there are no eager tasks yet")
@virtual_time
async def test_eager_tasks_change_nothing():
    """They would begin, and with such a provider end, before the race knows them."""
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]  # 3.12
    w = world(Say("no"))
    w.targets["p0:m"] = AtOnce()
    assert (await w.race().answer()).text == "done "

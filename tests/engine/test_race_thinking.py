"""Thinking is not hanging: reasoning holds the limits back, and not for ever."""

from __future__ import annotations

import asyncio

import pytest

from langchain_resilient import TimeLimits
from langchain_resilient.engine.time_model import RequestProfile
from verification.kit.scripted_engine import Hang, Say, World, world
from verification.kit.virtual_time import virtual_time

LIMITS = TimeLimits(first_text=2.0, thinking=30.0, chunk_gap=3.0)


class Thinks:
    """Reasons aloud, then speaks, or falls silent."""

    def __init__(self, pieces: int, *, gap: float = 1.0, then: str | None = "at last") -> None:
        self.pieces, self.gap, self.then = pieces, gap, then
        self.sent = 0

    async def open(self, request, *, stream):
        self.sent += 1
        return self._chunks()

    async def _chunks(self):
        for _ in range(self.pieces):
            await asyncio.sleep(self.gap)
            yield {"thought": True}
        if self.then is None:
            await asyncio.Event().wait()
        for word in self.then.split():
            yield {"word": word + " "}
        yield {"finish": True}


def chain(first: Thinks, **fields) -> World:
    """A thinker, and a fast fallback that no hedge goes to."""
    w = world(Say(), Say("the other"), hedge=None, **({"time_limits": LIMITS} | fields))
    w.targets["p0:m"] = first
    return w


async def ask(w: World) -> tuple[str, float]:
    """What was answered, and after how many seconds."""
    race, began = w.race(), asyncio.get_running_loop().time()
    answer = await race.answer()
    return answer.text.strip(), asyncio.get_running_loop().time() - began


@virtual_time
async def test_reasoning_holds_the_limit_of_the_first_text_back():
    """Twenty seconds of it, where two seconds of silence are the limit; nobody else is asked."""
    w = chain(Thinks(20))
    assert await ask(w) == ("at last", pytest.approx(20.0))
    assert w.targets["p1:m"].sent == []


@virtual_time
async def test_it_is_no_mark_against_the_target():
    """Five calls that were late by their silence would trip it."""
    w = chain(Thinks(20))
    for _ in range(6):
        await ask(w)
    assert w.states["p0:m"].circuit_breaker.score == 0.0


@virtual_time
async def test_endless_reasoning_is_cut():
    """At its own limit, and then the next is asked."""
    w = chain(Thinks(1_000))
    assert await ask(w) == ("the other", pytest.approx(30.0))
    await w.reaper.drain()


@virtual_time
async def test_who_falls_silent_after_it_is_left():
    """After as long a pause as is allowed within an answer."""
    w = chain(Thinks(5, then=None))
    assert await ask(w) == ("the other", pytest.approx(8.0))
    await w.reaper.drain()


@virtual_time
async def test_what_proves_nothing_holds_nothing_back():
    """Role chunks and the like are no reasoning."""
    w = chain(Thinks(0, then=None))
    w.targets["p0:m"] = world(Hang()).targets["p0:m"]
    assert await ask(w) == ("the other", pytest.approx(2.0))
    await w.reaper.drain()


@virtual_time
async def test_a_silent_thinker_alone_is_asked_once():
    """For three minutes less ten seconds, by a first call that has learned nothing."""
    w = world(Say("thought through", after=170.0), deadline=600.0)
    w.states["p0:m"].speed.thinks = True
    race = w.race(profile=RequestProfile(300, "medium"))
    assert (await race.answer()).text.split() == ["thought", "through"]
    assert w.sends() == 1

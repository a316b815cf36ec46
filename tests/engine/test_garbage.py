"""A call frees its memory at its end, and leaves nothing for the garbage collector.

Circles of a call's objects cost far more than their memory: the collector's full passes walk over
all that was ever imported.
"""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from langchain_core.messages import HumanMessage

from langchain_resilient import Health, Hedge, ResilientChatModel, ResilientError
from langchain_resilient.testing import Cut, NoAnswer, ProviderSimulator, Stall, Status
from tests.garbage import ours_left_by
from verification.kit.scripted_targets import target


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("on", ["first_text", "response"])
@pytest.mark.parametrize(
    "way", ["ainvoke", "astream", "fallback", "batch", "dead", "check", "break"]
)
async def test_a_call_leaves_no_circles(way, on, api):
    """Whole or streamed, answered by the first, the second or none, alone or in a paced batch."""

    def check(_: object) -> None:
        if way == "check":
            raise ValueError

    async with ProviderSimulator() as sim:
        if way == "break":
            sim.script("openai:first", then=Cut(after=2))
        if way in {"fallback", "dead"}:
            sim.script("openai:first" if way == "fallback" else "*", then=Status(500))
        first = target(sim, "openai:first", api=api, requests_per_minute=60_000)
        # A refusal by httpx, which Together's SDK uses, is in a circle of its own making.
        second = target(sim, "openai:second" if way == "dead" else "together:second")
        health = Health(trip_after=1000)  # or the first would soon not be asked any more
        model = ResilientChatModel(
            targets=[first, second],
            hedge=Hedge(on=on),
            health=health,
            max_retries=0,
            check=check if way == "check" else None,
        )

        async def once() -> None:
            if way in {"astream", "break"}:
                assert [chunk async for chunk in model.astream("hi")]
            elif way == "batch":
                assert len(await model.abatch(["hi", "ho"])) == 2
            elif way in {"dead", "check"}:
                # Below LangChain, whose own `agenerate` keeps an error in a circle.
                with pytest.raises(ResilientError):
                    await model._agenerate([HumanMessage("hi")])
            else:
                answer = await model.ainvoke("hi")
                used = [
                    each["target"] for each in answer.response_metadata["resilience"]["attempts"]
                ]
                assert ("together:second" in used) == (way == "fallback")

        assert await ours_left_by(once) == {}
        await model.aclose()


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("silent", [NoAnswer(), Stall(after=0), Stall(after=2)], ids=str)
@pytest.mark.parametrize("way", ["hedge", "cancel", "leave"])
async def test_what_is_stopped_leaves_no_circles(way, silent, api):
    """A task keeps the error that cancelled it, and that the frames it went through."""
    async with ProviderSimulator() as sim:
        sim.script("openai:first", then=silent)
        hedge = Hedge(delay=0.01, budget=1, burst=1000, on="response")
        targets = [target(sim, "openai:first", api=api)]
        if way == "hedge":
            targets.append(target(sim, "together:second"))
        model = ResilientChatModel(targets=targets, hedge=hedge if way == "hedge" else False)
        calls = 0

        async def leave() -> None:
            stream = model.astream("hi")
            if silent == Stall(after=2):
                await anext(stream)
                await stream.aclose()
            else:
                await cancel(anext(stream))

        async def cancel(call) -> None:
            task = asyncio.ensure_future(call)
            await sim.await_requests(calls)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        async def once() -> None:
            nonlocal calls
            calls += 1
            if way == "hedge":
                answer = await model.ainvoke("hi")
                assert answer.response_metadata["resilience"]["winner"] == "together:second"
            elif way == "leave":
                await leave()
            else:
                await cancel(model.ainvoke("hi"))

        assert await ours_left_by(once) == {}
        await model.aclose()

"""CPU of the engine per request: a race beside a bare read of the same stream, in virtual time."""

from __future__ import annotations

import asyncio
import time
from statistics import median
from typing import TYPE_CHECKING

from langchain_resilient.exchange import ChatRequest
from langchain_resilient.simulation.clock import run_virtual
from langchain_resilient.simulation.engine import Engine, Rules
from langchain_resilient.simulation.latency import Recorded
from langchain_resilient.simulation.targets import Script, ScriptedSource
from langchain_resilient.simulation.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

IN_FLIGHT = 64


def measure(requests: int = 5_000, rounds: int = 7) -> float:
    """Seconds of CPU that the engine adds to a request; the median of interleaved rounds."""
    return median(
        run_virtual(_cpu(_raced, requests)) - run_virtual(_cpu(_bare, requests))
        for _ in range(rounds)
    )


async def _cpu(
    make: Callable[[list[ScriptedSource]], Callable[[int], Awaitable[object]]], requests: int
) -> float:
    script = Recorded([0.5])
    trace = Trace()
    sources = [
        ScriptedSource(Script(f"p{i}:m", script), position=i, seed=0, trace=trace) for i in range(3)
    ]
    one, numbers = make(sources), iter(range(requests))

    async def worker() -> None:
        for number in numbers:
            await one(number)

    began = time.process_time()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return (time.process_time() - began) / requests


def _raced(sources: list[ScriptedSource]) -> Callable[[int], Awaitable[object]]:
    engine = Engine(Rules(), sources, seed=0)
    return lambda number: engine.race(number).answer()


def _bare(sources: list[ScriptedSource]) -> Callable[[int], Awaitable[object]]:
    async def one(number: int) -> None:
        stream = await sources[0].open(
            ChatRequest([{"role": "user", "content": number}]), stream=True
        )
        async for _ in stream:
            pass
        await stream.aclose()

    return one

"""What all runs share: the simulator, names that nobody else has, and models over them."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from langchain_resilient.chat_model import ResilientChatModel
from langchain_resilient.testing.simulator import ProviderSimulator
from tests.helpers import target
from tests.streams.census import Census, settled
from tests.streams.ways import WAYS, ask

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from langchain_resilient.testing.request_log import RecordedRequest
    from langchain_resilient.testing.steps.base import Step

DIALECTS = ("openai", "together")

_THREADS = 64
"""Enough that a synchronous stream never waits for a thread, which would be taken for slowness."""

_WARM_UP = 20.0


class Bench:
    """One simulator, and models over targets of their own.

    What is learned of a target is the process's: names that were never used before keep the runs
    apart, and so they can go at the same time.

    Args:
        sim: It runs in a thread of its own.
        census: Knows what the runs leave.
    """

    def __init__(self, sim: ProviderSimulator, census: Census) -> None:
        self.sim = sim
        self.census = census
        self._numbers = 0
        self._began = time.monotonic()

    def number(self) -> int:
        """Give a number that no run had before."""
        self._numbers += 1
        return self._numbers

    def now(self) -> float:
        """Seconds since the simulator's start, as its `Timeline` counts them."""
        return time.monotonic() - self._began

    def name(self, dialect: str, role: str, number: int, steps: Sequence[Step]) -> str:
        """Name a target, and say what it does: step after step, the last for ever."""
        spec = f"{dialect}:{role}-{number}"
        self.sim.script(spec, *steps[:-1], then=steps[-1])
        return spec

    def model(self, *specs: str, **fields: Any) -> ResilientChatModel:
        """Make a model over named targets."""
        return ResilientChatModel(targets=[target(self.sim, s) for s in specs], **fields)

    def seen(self, spec: str) -> list[RecordedRequest]:
        """Return the requests to a target, in the order of coming."""
        return [seen for seen in self.sim.requests if seen.target == spec]

    async def left(self, number: int, specs: Sequence[str]) -> list[str]:
        """Wait for what a run made to be gone, and list what is still there."""

        def at_server() -> list[str]:
            seen = (one for spec in specs for one in self.seen(spec) if one.ended_at is None)
            return [f"request left open: {one.target} {one.step}" for one in seen]

        return await self.census.left(number) + await settled(at_server)


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    """Start the simulator and warm everything up: imports are no part of any answer's time."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
    with ProviderSimulator(remember=100_000) as sim, Census() as census:
        made = Bench(sim, census)
        for way in WAYS:
            specs = [f"{dialect}:warm-{way}" for dialect in DIALECTS]
            for order in (specs, specs[::-1]):
                await ask(made.model(*order), way, "Warm up.", _WARM_UP)
        yield made

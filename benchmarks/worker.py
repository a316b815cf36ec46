"""One contender in a process of its own: reads orders from standard input, prints what it found.

    python benchmarks/worker.py NAME

Orders and findings are JSON, a line each; an order's `do` is a method of `Worker`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import resource
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # environments of rivals do not know this place

from benchmarks.contenders import CONTENDERS, UNDER_FAULTS, Contender, Endpoint
from benchmarks.instant_server import LONG, SHORT, TEXT
from benchmarks.trial import Trials

PACKAGES = ("openai", "aiohttp", "langchain-core", "langchain-openai", "litellm")
PACKAGES += ("pydantic-ai-slim", "pydantic", "liter-llm", "langchain-resilient")
CALL_TIMEOUT = 60.0


def memory() -> float:
    """Return the most memory this process ever had, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def versions() -> dict[str, str]:
    """Return what of interest is installed here."""
    fields = {}
    for name in PACKAGES:
        try:
            fields[name] = version(name)
        except PackageNotFoundError:
            continue
    return fields


class Worker:
    """Carries out orders for one contender.

    Args:
        name: Which.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._contender: Contender | None = None
        self._trials: Trials | None = None

    async def build(self, url: str) -> dict[str, Any]:
        """Set the contender up and let it answer once."""
        endpoint, other = Endpoint(url, "gpt-4o-mini"), Endpoint(url, "gpt-4o")
        self._contender = CONTENDERS[self._name](endpoint, other, CALL_TIMEOUT)
        loaded = memory()
        answer = await self._contender.ask(SHORT)
        assert answer == TEXT, answer
        return {"memory": loaded, "first_answer": time.process_time(), "versions": versions()}

    async def calls(self, count: int, at_once: int) -> dict[str, float]:
        """Ask so often, so many at a time."""
        assert self._contender is not None
        return await measured(lambda _: self._contender.ask(SHORT), count, at_once)

    async def streams(self, count: int, at_once: int, pieces: int) -> dict[str, float]:
        """Stream so often, and see that each had all its pieces."""
        assert self._contender is not None
        stream = self._contender.stream

        async def one(_: int) -> None:
            seen = 0
            async for text in stream(LONG):
                seen += bool(text)
            assert seen == pieces, f"{seen} pieces, not {pieces}"

        return await measured(one, count, at_once)

    async def prepare(self, **order: Any) -> None:
        """Make ready to meet a fault; see `benchmarks.trial`."""
        self._trials = Trials(UNDER_FAULTS[self._name], **order)

    async def meet(self, prompt: str, says: str) -> dict[str, Any]:
        """Meet the fault."""
        assert self._trials is not None
        return await self._trials.meet(prompt, says)


async def measured(one: Any, count: int, at_once: int) -> dict[str, float]:
    """Run so many, so many at a time; CPU and wall seconds of each, and the peak memory in MB."""
    numbers = itertools.count()

    async def work() -> None:
        while (number := next(numbers)) < count:
            await one(number)

    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu": cpu / count, "wall": wall / count, "memory": memory()}


async def main(name: str) -> None:
    """Carry out orders until there are no more."""
    worker, loop = Worker(name), asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        result = await getattr(worker, order.pop("do"))(**order)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

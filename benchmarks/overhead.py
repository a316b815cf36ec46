"""CPU per call and per chunk beside the bare openai SDK, as ratios within one run.

The server is the simulator in its own process. Rounds are interleaved and medians taken, since the
machine is shared; the figures are CPU seconds of this process alone (`time.process_time`).

    python benchmarks/overhead.py [--calls 1000] [--rounds 7]
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from langchain_resilient import Hedge, ResilientChatModel, Target

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "gpt-4o-mini"
PROMPT = "Say exactly: The sky is blue because of Rayleigh scattering."
IN_FLIGHT = 64


@contextmanager
def server() -> Iterator[str]:
    """Start the simulator in a process of its own; yields the openai base URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "langchain_resilient.testing", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://\S+/openai/v1", line):
                yield found[0]
                break
    finally:
        process.terminate()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


async def crowd(one: Callable[[], Awaitable[Any]], calls: int) -> None:
    """Run so many calls, `IN_FLIGHT` at a time."""
    left = iter(range(calls))

    async def worker() -> None:
        for _ in left:
            await one()

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))


def contestants(url: str) -> dict[str, tuple[Callable[[], Awaitable[Any]], str]]:
    """Name, one call, and what it is measured per."""
    import openai

    bare = openai.AsyncOpenAI(api_key="k", base_url=url, max_retries=0)
    messages: Any = [{"role": "user", "content": PROMPT}]
    long: Any = [{"role": "user", "content": "Tell a long story."}]
    target = Target(f"openai:{MODEL}", base_url=url, api_key="k")
    ours = ResilientChatModel(targets=[target])
    plain = ResilientChatModel(targets=[target], hedge=Hedge(on="response"))

    async def bare_call() -> None:
        await bare.chat.completions.create(model=MODEL, messages=messages)

    async def bare_stream() -> None:
        async for _ in await bare.chat.completions.create(
            model=MODEL, messages=long, stream=True, stream_options={"include_usage": True}
        ):
            pass

    async def our_stream() -> None:
        async for _ in ours.astream("Tell a long story."):
            pass

    return {
        "openai create()": (bare_call, "call"),
        "ours, plain": (lambda: plain.ainvoke(PROMPT), "call"),
        "ours, streaming upstream": (lambda: ours.ainvoke(PROMPT), "call"),
        "openai stream": (bare_stream, "stream"),
        "ours, astream": (our_stream, "stream"),
    }


async def measure(url: str, calls: int, rounds: int) -> dict[str, list[float]]:
    """CPU seconds per call, by contestant, one figure a round."""
    found: dict[str, list[float]] = {}
    for turn in range(rounds + 1):
        for name, (one, per) in contestants(url).items():
            count = calls if per == "call" else max(64, calls // 10)
            await crowd(one, 64)
            began = time.process_time()
            await crowd(one, count)
            if turn:
                found.setdefault(name, []).append((time.process_time() - began) / count)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with server() as url:
        found = asyncio.run(measure(url, args.calls, args.rounds))
    for base, names in (
        ("openai create()", ("ours, plain", "ours, streaming upstream")),
        ("openai stream", ("ours, astream",)),
    ):
        for name in (base, *names):
            ratios = [a / b for a, b in zip(found[name], found[base], strict=True)]
            print(
                f"{name:28} {statistics.median(found[name]) * 1e3:8.3f} ms CPU"
                f"   ratio {statistics.median(ratios):.2f}"
            )


if __name__ == "__main__":
    main()

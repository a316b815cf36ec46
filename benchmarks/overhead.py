"""CPU per call and per chunk beside the bare openai SDK, as ratios within one run.

The server is the simulator in its own process. Rounds are interleaved and medians taken, since the
machine is shared; the figures are CPU seconds of this process alone (`time.process_time`).

    python benchmarks/overhead.py [--calls 1000] [--rounds 5]
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
LONG = "Say exactly: " + " ".join(f"word {number}" for number in range(200))
IN_FLIGHT = 64
STREAMS_IN_FLIGHT = 8


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
            if match := re.search(r"http://\S+/openai/v1", line):
                yield match[0]
                break
    finally:
        process.terminate()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


async def crowd(one: Callable[[], Awaitable[Any]], calls: int, at_once: int) -> None:
    """Run so many calls, so many at a time."""
    left = iter(range(calls))

    async def worker() -> None:
        for _ in left:
            await one()

    await asyncio.gather(*(worker() for _ in range(at_once)))


def contestants(  # noqa: C901  # one function each
    url: str,
) -> dict[str, tuple[Callable[[], Awaitable[Any]], str]]:
    """Name, one call, and what it is measured per."""
    import openai

    bare = openai.AsyncOpenAI(api_key="k", base_url=url, max_retries=0, timeout=600)
    messages: Any = [{"role": "user", "content": PROMPT}]
    long: Any = [{"role": "user", "content": LONG}]
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
        async for _ in ours.astream(LONG):
            pass

    there = ResilientChatModel(targets=[target.model_copy(update={"api": "responses"})])

    async def bare_response() -> None:
        await bare.responses.create(model=MODEL, input=PROMPT, store=False)

    there_plain = ResilientChatModel(targets=there.targets, hedge=Hedge(on="response"))

    async def bare_short_stream() -> None:
        async for _ in await bare.chat.completions.create(
            model=MODEL, messages=messages, stream=True, stream_options={"include_usage": True}
        ):
            pass

    async def bare_short_response_stream() -> None:
        async for _ in await bare.responses.create(
            model=MODEL, input=PROMPT, store=False, stream=True
        ):
            pass

    async def bare_response_stream() -> None:
        async for _ in await bare.responses.create(
            model=MODEL, input=LONG, store=False, stream=True
        ):
            pass

    async def our_response_stream() -> None:
        async for _ in there.astream(LONG):
            pass

    async def bare_long() -> None:
        await bare.chat.completions.create(model=MODEL, messages=long)

    return {
        "openai create()": (bare_call, "call"),
        "ours, plain": (lambda: plain.ainvoke(PROMPT), "call"),
        "ours, streaming upstream": (lambda: ours.ainvoke(PROMPT), "call"),
        "openai stream": (bare_stream, "stream"),
        "ours, astream": (our_stream, "stream"),
        "ours, ainvoke, long": (lambda: ours.ainvoke(LONG), "stream"),
        "openai create(), long": (bare_long, "stream"),
        "openai short stream": (bare_short_stream, "call"),
        "openai responses": (bare_response, "call"),
        "ours, responses, plain": (lambda: there_plain.ainvoke(PROMPT), "call"),
        "ours, responses": (lambda: there.ainvoke(PROMPT), "call"),
        "openai responses short": (bare_short_response_stream, "call"),
        "openai responses stream": (bare_response_stream, "stream"),
        "ours, responses, astream": (our_response_stream, "stream"),
        "ours, responses, ainvoke": (lambda: there.ainvoke(LONG), "stream"),
    }


async def chunks_of(url: str) -> int:
    """How many chunks of text the long answer has."""
    model = ResilientChatModel(targets=[Target(f"openai:{MODEL}", base_url=url, api_key="k")])
    return sum([bool(chunk.text) async for chunk in model.astream(LONG)])


async def measure(url: str, calls: int, rounds: int) -> dict[str, list[float]]:
    """CPU seconds per call, by contestant, one figure a round; the first warms up."""
    fields: dict[str, list[float]] = {}
    racing = contestants(url)
    for turn in range(rounds + 1):
        for name, (one, per) in racing.items():
            if per == "call":
                count, at_once = calls, IN_FLIGHT
            else:
                count, at_once = max(STREAMS_IN_FLIGHT, calls // 40), STREAMS_IN_FLIGHT
            # Whoever comes after a heavy one finds cold caches.
            await crowd(one, at_once, at_once)
            began = time.process_time()
            await crowd(one, count, at_once)
            if turn:
                fields.setdefault(name, []).append((time.process_time() - began) / count)
    return fields


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with server() as url:
        outcome = asyncio.run(measure(url, args.calls, args.rounds))
        chunks = asyncio.run(chunks_of(url))
    for base, names in (
        ("openai create()", ("ours, plain", "ours, streaming upstream")),
        ("openai short stream", ("ours, streaming upstream",)),
        ("openai stream", ("ours, astream", "ours, ainvoke, long", "openai create(), long")),
        ("openai responses", ("ours, responses, plain", "ours, responses")),
        ("openai responses short", ("ours, responses",)),
        ("openai responses stream", ("ours, responses, astream", "ours, responses, ainvoke")),
    ):
        for name in (base, *names):
            ratios = [a / b for a, b in zip(outcome[name], outcome[base], strict=True)]
            each = statistics.median(outcome[name])
            long = base.endswith(" stream") and "short" not in base
            per_chunk = f"   {each / chunks * 1e6:6.1f} us a chunk" if long else ""
            print(
                f"{name:26}{each * 1e3:8.3f} ms CPU   ratio {statistics.median(ratios):.2f} "
                f"({min(ratios):.2f} to {max(ratios):.2f}){per_chunk}"
            )
    print(f"{chunks} chunks in the long answer; {args.rounds} rounds")


if __name__ == "__main__":
    main()

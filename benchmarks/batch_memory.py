"""`amap` over a million generated prompts: memory must stay flat.

The provider answers in process, so that nothing but the package and LangChain is measured. Prints
the resident memory every 100,000 prompts; exits with 1 if the peak is above 200 MB, or if it grew
by more than 10 % from the first tenth to the end.

    python -m benchmarks.batch_memory [--prompts 1000000] [--workers 64]
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import time
from contextlib import aclosing
from pathlib import Path

from langchain_resilient import ResilientChatModel

MEGABYTE = 1024 * 1024
MOST = 200.0
MOST_GROWTH = 1.10


def resident() -> float:
    """Megabytes that this process holds in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MEGABYTE


def peak() -> float:
    """The most megabytes that it ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def run(count: int, workers: int) -> tuple[float, float]:
    """Run the batch; the memory after a tenth, and at the end."""
    llm = ResilientChatModel(targets=["text:The sky is blue."])
    prompts = (f"Prompt number {i}: why is the sky blue?" for i in range(count))
    step = max(1, count // 10)
    began, done, first = time.perf_counter(), 0, 0.0
    async with aclosing(llm.amap(prompts, max_concurrency=workers)) as answers:
        async for _, answer in answers:
            assert answer.text == "The sky is blue."
            done += 1
            if done % step == 0:
                first = first or resident()
                rate = done / (time.perf_counter() - began)
                print(f"{done:>9,} prompts  {resident():6.1f} MB  {rate:7.0f}/s", flush=True)
    print(llm.batch_report())
    return first, resident()


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=64)
    args = parser.parse_args()
    print(f"{0:>9,} prompts  {resident():6.1f} MB")
    first, last = asyncio.run(run(args.prompts, args.workers))
    flat = last <= first * MOST_GROWTH
    good = peak() <= MOST and flat
    print(f"peak {peak():.1f} MB (<= {MOST:.0f}), {first:.1f} -> {last:.1f} MB: {good}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

"""`make soak`: an hour of prompts with faults and cancellations in one process; is all of it flat?

Prints a row a window, then which objects are more, where Python's memory grew, and what was not
flat, if anything was: then the exit code is 1. Needs Linux (`/proc`).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from verification.soak.callers import Callers
from verification.soak.providers import Providers
from verification.soak.windows import (
    HEAD,
    Bounds,
    Soak,
    complaints,
    counted,
    growth,
    line,
    plot,
    write_windows,
)

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Sequence

    from verification.soak.windows import Window

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
THREADS = 8
"""For synchronous callers. All are started at once, so that their number says something."""

_SHOWN = 10
"""How many of what grew are told."""

TRACED = 0.05
"""The share of the prompts that is asked once more, with tracemalloc looking on."""


async def soak(
    prompts: int,
    windows: int,
    in_flight: int,
    *,
    seed: int = 0,
    at_least: float = 0.0,
    on_window: Callable[[Sequence[Window]], None] = len,
    traced: bool = True,
) -> list[Window]:
    """Run it.

    Args:
        prompts: How many, in all windows together.
        windows: In how many windows.
        in_flight: How many callers at a time.
        seed: Of what the callers do.
        at_least: How many seconds the windows must take: until then there are more of them.
        on_window: Gets the windows so far, after each one.
        traced: Whether to look on with tracemalloc afterwards, and tell.

    Returns:
        The windows, in order.
    """
    _start_threads()
    each = prompts // windows
    results = []
    with Providers() as providers:
        callers = Callers(providers.urls, Random(seed))
        run = Soak(callers, providers, in_flight=in_flight, weather_every=max(1, each // 20))
        while len(results) < windows or sum(one.seconds for one in results) < at_least:
            results.append(await run.window(each))
            on_window(results)
        if traced:
            _tell_kinds(run.kinds[-len(counted(results)) :])
            await _trace(run, int(prompts * TRACED) // 2)
    return results


def _tell_kinds(kinds: Sequence[Counter[str]]) -> None:
    """Tell which objects are more than after the windows that are for warming up."""
    ends = {name: growth([one[name] for one in kinds]) for name in set().union(*kinds)}
    grown = [(last - first, first, last, name) for name, (first, last) in ends.items()]
    _say("\nobjects that are more at the end:")
    for more, first, last, name in sorted(grown, reverse=True)[:_SHOWN]:
        if more > 0:
            _say(f"  {more:+8.0f}  {first:9,.0f} {last:9,.0f}  {name}")


async def _trace(run: Soak, prompts: int) -> None:
    """Tell where memory grows: tracemalloc costs too much to look on all the time."""
    tracemalloc.start()
    await run.window(prompts)  # what is only renewed has its new place then
    before = tracemalloc.take_snapshot()
    await run.window(prompts)
    after = tracemalloc.take_snapshot()
    tracemalloc.stop()
    grown = [one for one in after.compare_to(before, "lineno") if one.size_diff > 0]
    total = sum(one.size_diff for one in after.compare_to(before, "lineno"))
    _say(f"\ntracemalloc, over {prompts:,} more prompts: {total / 1024:+.1f} kB in all; the most:")
    for one in grown[:_SHOWN]:
        frame = one.traceback[0]
        text = "/".join(Path(frame.filename).parts[-3:])
        _say(f"  {one.size_diff / 1024:+8.1f} kB {one.count_diff:+6} {text}:{frame.lineno}")


def _start_threads() -> None:
    pool = ThreadPoolExecutor(THREADS)
    asyncio.get_running_loop().set_default_executor(pool)
    barrier = threading.Barrier(THREADS)
    for _ in range(THREADS):
        pool.submit(barrier.wait)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Soak, write the results down, and judge them."""
    parser = argparse.ArgumentParser(prog="python -m verification.soak", description=__doc__)
    parser.add_argument("--prompts", type=int, default=200_000)
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=0.0, help="at least; adds windows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="a folder for soak.csv, .png")
    options = parser.parse_args(arguments)
    logging.getLogger("langchain_resilient").setLevel(logging.CRITICAL)
    gc.collect()

    def on_window(windows: Sequence[Window]) -> None:
        _say(line(len(windows), windows[-1]))
        write_windows(windows, options.results / "soak.csv")

    _say(HEAD)
    outcome = asyncio.run(
        soak(
            options.prompts,
            options.windows,
            options.in_flight,
            seed=options.seed,
            at_least=options.minutes * 60,
            on_window=on_window,
        )
    )
    plot(options.results / "soak.csv", options.results / "soak.png")
    wrong = complaints(outcome, Bounds())
    _say("\n" + ("\n".join(f"NOT FLAT: {one}" for one in wrong) or "flat"))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.streams`: break streams in every way, and print what the user got.

Example:
    ```sh
    python -m tests.streams --csv streams.csv
    python -m tests.streams --table faults --only "in text" --real-limits
    python -m tests.streams --table failover --rounds 3
    ```
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.streams import failover, faulty, flapping, limits, report
from tests.streams.bench import bench
from tests.streams.faults import faults
from tests.streams.scenarios import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.streams.bench import Bench
    from tests.streams.cell import Result
    from tests.streams.failover import Verdict


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 1 if an answer was not whole, came too late, or left something behind.
    """
    options = _parser().parse_args(arguments)
    return int(not asyncio.run(_run(options)))


async def _run(options: argparse.Namespace) -> bool:
    """Print what was chosen, and return whether all is well."""
    results: list[Result] = []
    verdicts: list[Verdict] = []
    began = time.perf_counter()
    async with bench() as made:
        if options.table in {"faults", "both"}:
            results = await _faults(made, options)
            print(*report.faults(results), "", sep="\n", flush=True)
        if options.table in {"failover", "both"}:
            verdicts = await _failover(made, options)
            print(*report.failover(verdicts), "", sep="\n", flush=True)
        leaks = await made.census.close(made.sim)
    print(f"left behind at the end: {'; '.join(leaks) or 'nothing'}")
    print(f"{time.perf_counter() - began:.0f} s")
    if options.csv is not None:
        report.write_csv(options.csv, results, verdicts)
    return all(r.good for r in results) and not any(v.problems for v in verdicts) and not leaks


async def _faults(made: Bench, options: argparse.Namespace) -> list[Result]:
    bounds = limits.real() if options.real_limits else limits.small()
    rows = [fault for fault in faults(bounds) if options.only in fault.name]
    return await faulty.run(made, faulty.cells(rows), bounds, at_once=options.at_once)


async def _failover(made: Bench, options: argparse.Namespace) -> list[Verdict]:
    scenarios, flaps = failover.chosen(SCENARIOS, options.only)
    at_once = max(1, options.at_once // 2)
    runs = [failover.run(made, scenarios, rounds=options.rounds, at_once=at_once)]
    if flaps:
        runs.append(flapping.run(made))
    found = [verdict for verdicts in await asyncio.gather(*runs) for verdict in verdicts]
    return sorted(found, key=lambda verdict: verdict.title)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.streams", description=__doc__)
    parser.add_argument("--table", choices=("faults", "failover", "both"), default="both")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows that have this in them")
    parser.add_argument("--real-limits", action="store_true", help="faults under default limits")
    parser.add_argument("--at-once", type=int, default=8, metavar="N", help="cells at a time")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="of a scenario")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every cell as a line")
    return parser


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # faults are what this is about
    raise SystemExit(main())

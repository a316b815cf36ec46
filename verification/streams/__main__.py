"""`python -m verification.streams`: break streams in every way, and print what the user got.

Example:
    ```sh
    python -m verification.streams --csv streams.csv
    python -m verification.streams --table faults --only "in text" --real-limits
    python -m verification.streams --table failover --rounds 3
    ```
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verification.kit.report import Table, error_line, grid_header, shorten, write_csv
from verification.kit.scripted_targets import DIALECTS, real_limits, small_limits
from verification.streams import failover, fault_table
from verification.streams.fault_table import Mark, bench
from verification.streams.faults import faults

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from verification.kit.scripted_targets import Bench
    from verification.streams.failover import Verdict
    from verification.streams.fault_table import Result


LEGEND = """\
W whole answer of one target, C whole and continued by the next, P part and an error, X wrong text,
E error alone, ? the fault did not happen; then the requests made; s too slow, l something leaked.
o: the target that fails speaks OpenAI's dialect, t: Together's. s: the slowest cell's seconds."""

_NAME = 43
_CELL = 5

_FAILOVER = Table(
    ("scenario, with default settings", "<42"),
    ("way", "<9"),
    ("got", "<5"),
    ("first", ">6.2f"),
    ("s", ">7.2f"),
    ("alone", ">7.2f"),
    ("bound", ">7.2f"),
    ("attempts", ">9"),
    ("  verdict", "<9"),
)


def fault_lines(results: Sequence[Result]) -> Iterator[str]:
    """Write the table of faults."""
    ways = list(dict.fromkeys(result.cell.way for result in results))
    over, initials = grid_header(ways, DIALECTS, _CELL)
    yield f"{'':<{_NAME}}{over}"
    yield f"{'the first target':<{_NAME}}{initials}{'s':>5}"
    for name in dict.fromkeys(result.cell.fault.name for result in results):
        row = [result for result in results if result.cell.fault.name == name]
        marks = "".join(f"{_brief(result):<{_CELL}}" for result in row)
        yield f"{name:<{_NAME}}{marks}{max(r.got.seconds for r in row):>5.2f}"
    yield LEGEND
    counts = Counter(result.mark for result in results)
    kinds = ", ".join(f"{counts[mark]} {mark.name.lower()}" for mark in Mark if counts[mark])
    yield (
        f"{len(results)} cells: {kinds}; {sum(r.slow for r in results)} too slow, "
        f"{sum(bool(r.leaks) for r in results)} leaking; {sum(r.attempts for r in results)} "
        f"requests; {sum(r.again for r in results)} tried again alone, since they were too slow"
    )
    for result in results:
        if not result.good:
            yield _detail(result)


def _brief(result: Result) -> str:
    return f"{result.mark}{result.attempts}{'s' * result.slow}{'l' * bool(result.leaks)}"


def _detail(result: Result) -> str:
    got = result.got
    what = f"{got.seconds:.2f} s (bound {result.bound:.2f}), {result.attempts} requests"
    if got.error is not None:
        what += f", {error_line(got.error)}"
    if result.mark in {Mark.PARTIAL, Mark.WRONG}:
        what += f", got {shorten(got.text)!r}"
    return f"  {_brief(result)} {result.cell}: {'; '.join([what, *result.leaks])}"


def failover_lines(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Write the table of public failover scenarios."""
    yield _FAILOVER.header()
    for verdict in verdicts:
        problems = f"  {'; '.join(verdict.problems) or 'ok'}"
        yield _FAILOVER.line(
            verdict.title, verdict.way, verdict.mark, verdict.first or "-",
            verdict.seconds, verdict.alone, verdict.bound, verdict.attempts, problems,
        )  # fmt: skip
    yield "s: median seconds to the end; alone: of the fallback by itself, in between."
    yield f"{len(verdicts)} verdicts: {sum(not verdict.problems for verdict in verdicts)} ok"


def _csv_rows(results: Sequence[Result], verdicts: Sequence[Verdict]) -> Iterator[dict[str, Any]]:
    """Make a row for every cell and verdict."""
    for r in results:
        problems = [*([error_line(r.got.error)] if r.got.error is not None else []), *r.leaks]
        yield {
            "table": "faults", "row": r.cell.fault.name, "way": r.cell.way,
            "dialect": r.cell.dialect, "got": r.mark.name.lower(), "seconds": r.got.seconds,
            "bound": r.bound, "attempts": r.attempts, "problems": "; ".join(problems),
        }  # fmt: skip
    for v in verdicts:
        yield {
            "table": "failover", "row": v.title, "way": v.way, "dialect": "",
            "got": v.mark.name.lower(), "seconds": v.seconds, "bound": v.bound,
            "attempts": v.attempts, "problems": "; ".join(v.problems),
        }  # fmt: skip


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
            print(*fault_lines(results), "", sep="\n", flush=True)
        if options.table in {"failover", "both"}:
            verdicts = await _failover(made, options)
            print(*failover_lines(verdicts), "", sep="\n", flush=True)
        leaks = await made.census.close(made.sim)
    print(f"left behind at the end: {'; '.join(leaks) or 'nothing'}")
    print(f"{time.perf_counter() - began:.0f} s")
    if options.csv is not None:
        write_csv(options.csv, _csv_rows(results, verdicts))
    return all(r.good for r in results) and not any(v.problems for v in verdicts) and not leaks


async def _faults(made: Bench, options: argparse.Namespace) -> list[Result]:
    bounds = real_limits() if options.real_limits else small_limits()
    rows = [fault for fault in faults(bounds) if options.only in fault.name]
    return await fault_table.run(made, fault_table.cells(rows), bounds, at_once=options.at_once)


async def _failover(made: Bench, options: argparse.Namespace) -> list[Verdict]:
    scenarios, flaps = failover.chosen(failover.SCENARIOS, options.only)
    at_once = max(1, options.at_once // 2)
    runs = [failover.run(made, scenarios, rounds=options.rounds, at_once=at_once)]
    if flaps:
        runs.append(failover.run_flapping(made))
    results = [verdict for verdicts in await asyncio.gather(*runs) for verdict in verdicts]
    return sorted(results, key=lambda verdict: verdict.title)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m verification.streams", description=__doc__)
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

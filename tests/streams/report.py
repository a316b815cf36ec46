"""How the results are printed: a line a row, totals, and every cell that fell short."""

from __future__ import annotations

import csv
from collections import Counter
from typing import TYPE_CHECKING

from tests.streams.bench import DIALECTS
from tests.streams.cell import Mark

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.streams.cell import Result
    from tests.streams.failover import Verdict

LEGEND = """\
W whole answer of one target, C whole and continued by the next, P part and an error, X wrong text,
E error alone, ? the fault did not happen; then the requests made; s too slow, l something leaked.
o: the target that fails speaks OpenAI's dialect, t: Together's. s: the slowest cell's seconds."""

_NAME = 43
_CELL = 5


def faults(results: Sequence[Result]) -> Iterator[str]:
    """Write the table of faults."""
    ways = list(dict.fromkeys(result.cell.way for result in results))
    yield f"{'':<{_NAME}}" + "".join(f"{way:<{_CELL * len(DIALECTS)}}" for way in ways)
    short = "".join(f"{dialect[0]:<{_CELL}}" for dialect in DIALECTS)
    yield f"{'the first target':<{_NAME}}{short * len(ways)}{'s':>5}"
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
        what += f", {_line(got.error)}"
    if result.mark in {Mark.PARTIAL, Mark.WRONG}:
        what += f", got {_cut(got.text)!r}"
    return f"  {_brief(result)} {result.cell}: {'; '.join([what, *result.leaks])}"


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {_cut(str(error).partition(chr(10))[0])}"


def _cut(text: str, most: int = 110) -> str:
    return text if len(text) <= most else f"{text[:70]} ... {text[-35:]}"


def failover(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Write the table of public failover scenarios."""
    yield (
        f"{'scenario, with default settings':<42}{'way':<9}{'got':<5}{'first':>6}{'s':>7}"
        f"{'alone':>7}{'bound':>7}{'attempts':>9}  verdict"
    )
    for it in verdicts:
        first = f"{it.first:.2f}" if it.first else "-"
        yield (
            f"{it.title:<42}{it.way:<9}{it.mark:<5}{first:>6}{it.seconds:>7.2f}{it.alone:>7.2f}"
            f"{it.bound:>7.2f}{it.attempts:>9}  {'; '.join(it.problems) or 'ok'}"
        )
    yield "s: median seconds to the end; alone: of the fallback by itself, in between."
    yield f"{len(verdicts)} verdicts: {sum(not it.problems for it in verdicts)} ok"


def write_csv(path: Path, results: Sequence[Result], verdicts: Sequence[Verdict]) -> None:
    """Write every cell and verdict as a line."""
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(
            ["table", "row", "way", "dialect", "got", "seconds", "bound", "attempts", "problems"]
        )
        for r in results:
            cell, error = r.cell, r.got.error
            problems = [*([_line(error)] if error is not None else []), *r.leaks]
            out.writerow(
                ["faults", cell.fault.name, cell.way, cell.dialect, r.mark.name.lower(),
                 f"{r.got.seconds:.3f}", f"{r.bound:.3f}", r.attempts, "; ".join(problems)]
            )  # fmt: skip
        for v in verdicts:
            out.writerow(
                ["failover", v.title, v.way, "", v.mark.name.lower(), f"{v.seconds:.3f}",
                 f"{v.bound:.3f}", v.attempts, "; ".join(v.problems)]
            )  # fmt: skip

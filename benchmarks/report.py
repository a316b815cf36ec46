"""The tables, as text and as CSV."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from benchmarks.contenders import BASE
from benchmarks.figures import MEASURES, Measure, Rounds, Spread, ratios

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from benchmarks.behaviour import Cells


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Align columns, the first to the left."""
    lines = [head, *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def figures_table(rounds: Rounds) -> str:
    """Return all figures, a row each: the median, and how many times the base's (least to most)."""
    names = list(dict.fromkeys(name for by_name in rounds.values() for name in by_name))
    head = ["", *(str(number) for number in range(1, len(MEASURES) + 1))]
    rows = [[name, *(_cell(rounds, each, name) for each in MEASURES)] for name in names]
    legend = "\n".join(f"{number:3} {each.title}" for number, each in enumerate(MEASURES, 1))
    return f"{table(head, rows)}\n\n{legend}"


def _cell(rounds: Rounds, measure: Measure, name: str) -> str:
    by_name = rounds.get(measure.key, {})
    if name not in by_name:
        return "-"
    median = Spread.of(by_name[name]).median
    ratio = ratios(by_name, name, BASE)
    return f"{median:,.{measure.digits}f}" + (f" {ratio.median:.2f}x" if ratio else "")


def spreads_table(rounds: Rounds) -> str:
    """Return how far the ratios of the rounds lie apart."""
    timed = [each for each in MEASURES if len(rounds.get(each.key, {}).get(BASE, ())) > 1]
    head = ["ratio, least..most", *(each.key for each in timed)]
    names = list(dict.fromkeys(name for by_name in rounds.values() for name in by_name))
    return table(head, [[name, *(_spread(rounds, each, name) for each in timed)] for name in names])


def _spread(rounds: Rounds, measure: Measure, name: str) -> str:
    ratio = ratios(rounds.get(measure.key, {}), name, BASE)
    return f"{ratio.least:.2f}..{ratio.most:.2f}" if ratio else "-"


def behaviour_table(cells: Cells, way: str) -> str:
    """Return what became of each fault; a stream's cell tells the first text and all of it."""
    names = list(dict.fromkeys(name for by_name in cells.values() for name in by_name))
    rows = []
    for fault, by_name in cells.items():
        results = [by_name[name][way] for name in names]
        rows.append(
            [
                fault,
                *(
                    f"{cell.first:.2f} / {cell}"
                    if way == "stream" and cell.first is not None
                    else str(cell)
                    for cell in results
                ),
            ]
        )
    return table([f"seconds, {way}", *names], rows)


def write_figures(rounds: Rounds, path: Path) -> None:
    """Write a line for each figure: median and extremes, and the same of the ratio."""
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(
            [
                "measure",
                "contender",
                "median",
                "least",
                "most",
                "ratio",
                "ratio_least",
                "ratio_most",
            ]
        )
        for measure in MEASURES:
            by_name = rounds.get(measure.key, {})
            for name, values in by_name.items():
                own, ratio = Spread.of(values), ratios(by_name, name, BASE)
                spreads = (own, *([ratio] if ratio else []))
                cells = [n for each in spreads for n in (each.median, each.least, each.most)]
                out.writerow([measure.title, name, *(f"{number:.6g}" for number in cells)])


def write_behaviour(cells: Cells, path: Path) -> None:
    """Write a line for each fault, contender and way."""
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["fault", "contender", "way", "verdict", "first_text_s", "end_s"])
        for fault, by_name in cells.items():
            for name, ways in by_name.items():
                for way, cell in ways.items():
                    first = "" if cell.first is None else f"{cell.first:.3f}"
                    out.writerow([fault, name, way, cell.verdict, first, f"{cell.whole:.3f}"])

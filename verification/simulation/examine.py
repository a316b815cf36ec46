"""Runs rows over seeds, in as many processes as wanted, and gathers what was found."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import zip_longest
from math import isinf, isnan
from multiprocessing import get_context
from typing import TYPE_CHECKING

from langchain_resilient.simulation.run import run
from verification.kit.report import Table
from verification.simulation.bounds import Findings, Slack, Verdict, always
from verification.simulation.figures import ALWAYS, Figures, Sheet, average, hedge_excess
from verification.simulation.rows import ROWS, SHOWN, Row, Size

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from verification.simulation.figures import Figures


@dataclass(slots=True)
class Found:
    """One row with one seed."""

    row: str
    seed: int
    parts: dict[str, Figures]
    excess: float
    leaks: dict[str, int]
    complaints: list[str]
    digest: str


@dataclass(slots=True)
class Examined:
    """A row over all its seeds, with the verdicts on its own bounds and on the general ones."""

    row: Row
    findings: Findings
    verdicts: list[Verdict]
    general: list[Verdict]
    digests: list[str]

    @property
    def passed(self) -> bool:
        """Whether every bound holds."""
        return all(v.holds for v in [*self.verdicts, *self.general])


def examine(name: str, seed: int, size: Size, *, best: Collection[str] = SHOWN) -> Found:
    """Run one row with one seed.

    Args:
        name: Of the row.
        seed: Of the run.
        size: Of the row.
        best: The parts for which to compute the best possible.
    """
    row = ROWS[name](size)
    done = run(row.scenario, seed)
    sheet = Sheet(done, in_order=row.in_order)
    windows = {"whole": ALWAYS, **row.parts}
    parts = {part: sheet.figures(x, best=part in best) for part, x in windows.items()}
    for label in row.classes:
        parts[label] = sheet.figures(best=bool(best), label=label)
    if row.classes:
        parts["scaled"] = sheet.figures(best=bool(best), scaled=True)
    unknown = sum(done.sends.values()) - sum(len(call.attempts) for call in done.calls)
    return Found(
        name,
        seed,
        {part: figures for part, figures in parts.items() if figures is not None},
        hedge_excess(done),
        {**done.leaks, "sends without a receipt": unknown},
        done.complaints,
        done.trace.digest,
    )


def judge(
    name: str, observed: Sequence[Found], healthy: Figures, size: Size, slack: Slack
) -> Examined:
    """Hold what was found of a row, over its seeds, against its bounds."""
    row = ROWS[name](size)
    rules = row.scenario.rules
    findings = Findings(
        {part: average([f.parts[part] for f in observed]) for part in observed[0].parts},
        healthy,
        rules.budget,
        rules.burst,
        max(f.excess for f in observed),
        {what: sum(f.leaks[what] for f in observed) for what in observed[0].leaks},
        [text for f in observed for text in f.complaints],
        slack,
    )
    verdicts = [bound(findings) for bound in row.bounds]
    return Examined(row, findings, verdicts, always(findings), [f.digest for f in observed])


def examine_all(
    names: Sequence[str], seeds: Sequence[int], size: Size, processes: int
) -> Iterator[Examined]:
    """Run rows over seeds; yields each row once its last seed is there, in the given order."""
    wanted = list(dict.fromkeys(["stationary", *names]))
    jobs = [(name, seed, size) for name in wanted for seed in seeds]
    fields: dict[str, list[Found]] = {name: [] for name in wanted}
    with get_context("spawn").Pool(processes) as pool:
        for one in pool.imap(_job, jobs):
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{one.row} seed {one.seed}".ljust(60) + "\r")
            fields[one.row].append(one)
            if len(fields[one.row]) == len(seeds) and one.row in names:
                healthy = average([f.parts["whole"] for f in fields["stationary"]])
                yield judge(one.row, fields[one.row], healthy, size, Slack())


def _job(job: tuple[str, int, Size]) -> Found:
    return examine(*job)


_TABLE = Table(
    ("row", "<19"),
    ("part", "<10"),
    ("p50", ">6"),
    ("p95", ">7"),
    ("p99", ">7"),
    ("p99.9", ">7"),
    ("best99", ">8"),
    ("x", ">6"),
    ("best99.9", ">9"),
    ("x", ">6"),
    ("alone99", ">8"),
    ("plain99", ">8"),
    ("extra%", ">7.2f"),
    ("hedge", ">6.2f"),
    ("fallb", ">6.2f"),
    ("rescu", ">6.2f"),
    ("retry", ">6.2f"),
    ("shado", ">6.2f"),
    ("avail%", ">9.4f"),
    ("waste%", ">7.3f"),
)

_WIDTH = len(_TABLE.header()) + 2

HEADER = f"{_TABLE.header():<{_WIDTH}}bound"
LEGEND = """\
Seconds; "never" means unanswered within the deadline. best: the least possible at the load used, if
all faults were known beforehand (oracle.py). alone: the first target only. plain: each target in
turn, 60 s each. extra: sends beyond one a request. avail: answered, of what an oracle could answer.
waste: sends that failed while a caller waited. Parts are requests that arrived in a window."""


def lines(examined: Examined) -> list[str]:
    """The lines of one row: its parts on the left, its bounds on the right."""
    left = [
        _figures(examined.row.name if part == "whole" else "", part, figures)
        for part, figures in examined.findings.parts.items()
        if part in (*SHOWN, *examined.row.classes, "scaled")
    ]
    right = [f"{'ok  ' if v.holds else 'FAIL'} {v}" for v in examined.verdicts]
    if all(v.holds for v in examined.general):
        right.append("ok   " + ", ".join(str(v) for v in examined.general))
    else:
        right += [f"{'ok  ' if v.holds else 'FAIL'} {v}" for v in examined.general]
    return [f"{a:<{_WIDTH}}{b}" for a, b in zip_longest(left, right, fillvalue="")]


def _figures(row: str, part: str, figures: Figures) -> str:
    shares = (figures.extra, figures.hedges, figures.fallbacks, figures.rescues, figures.retries,
              figures.shadows, figures.availability, figures.wasted)  # fmt: skip
    return _TABLE.line(
        row, part, _s(figures.p50), _s(figures.p95), _s(figures.p99), _s(figures.p999),
        _s(figures.best99), _s(figures.p99 / figures.best99),
        _s(figures.best999), _s(figures.p999 / figures.best999),
        _s(figures.alone99), _s(figures.plain99), *(100 * share for share in shares),
    )  # fmt: skip


def _s(value: float) -> str:
    if isnan(value):
        return "-"
    return "never" if isinf(value) else f"{value:.2f}"

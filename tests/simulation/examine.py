"""Runs rows over seeds, in as many processes as wanted, and gathers what was found."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING

from langchain_resilient.simulation.run import run
from tests.simulation.bounds import Findings, Slack, Verdict, always
from tests.simulation.figures import ALWAYS, Figures, Sheet, average, hedge_excess
from tests.simulation.rows import ROWS, SHOWN, Row, Size

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence


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
    name: str, found: Sequence[Found], healthy: Figures, size: Size, slack: Slack
) -> Examined:
    """Hold what was found of a row, over its seeds, against its bounds."""
    row = ROWS[name](size)
    rules = row.scenario.rules
    findings = Findings(
        {part: average([f.parts[part] for f in found]) for part in found[0].parts},
        healthy,
        rules.budget,
        rules.burst,
        max(f.excess for f in found),
        {what: sum(f.leaks[what] for f in found) for what in found[0].leaks},
        [text for f in found for text in f.complaints],
        slack,
    )
    verdicts = [bound(findings) for bound in row.bounds]
    return Examined(row, findings, verdicts, always(findings), [f.digest for f in found])


def examine_all(
    names: Sequence[str], seeds: Sequence[int], size: Size, processes: int
) -> Iterator[Examined]:
    """Run rows over seeds; yields each row once its last seed is there, in the given order."""
    wanted = list(dict.fromkeys(["stationary", *names]))
    jobs = [(name, seed, size) for name in wanted for seed in seeds]
    found: dict[str, list[Found]] = {name: [] for name in wanted}
    with get_context("spawn").Pool(processes) as pool:
        for one in pool.imap(_job, jobs):
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{one.row} seed {one.seed}".ljust(60) + "\r")
            found[one.row].append(one)
            if len(found[one.row]) == len(seeds) and one.row in names:
                healthy = average([f.parts["whole"] for f in found["stationary"]])
                yield judge(one.row, found[one.row], healthy, size, Slack())


def _job(job: tuple[str, int, Size]) -> Found:
    return examine(*job)

"""The table that `make simulate` prints."""

from __future__ import annotations

from itertools import zip_longest
from math import isinf, isnan
from typing import TYPE_CHECKING

from tests.simulation.rows import SHOWN

if TYPE_CHECKING:
    from tests.simulation.examine import Examined
    from tests.simulation.figures import Figures

HEADER = (
    f"{'row':<19}{'part':<10}{'p50':>6}{'p95':>7}{'p99':>7}{'p99.9':>7}"
    f"{'best99':>8}{'x':>6}{'best99.9':>9}{'x':>6}{'alone99':>8}{'plain99':>8}"
    f"{'extra%':>7}{'hedge':>6}{'fallb':>6}{'rescu':>6}{'retry':>6}{'shado':>6}"
    f"{'avail%':>9}{'waste%':>7}  bound"
)
LEGEND = """\
Seconds; "never" means unanswered within the deadline. best: the least possible at the load used, if
all faults were known beforehand (oracle.py). alone: the first target only. plain: each target in
turn, 60 s each. extra: sends beyond one a request. avail: answered, of what an oracle could answer.
waste: sends that failed while a caller waited. Parts are requests that arrived in a window."""


def lines(examined: Examined) -> list[str]:
    """The lines of one row: its parts on the left, its bounds on the right."""
    left = [
        f"{examined.row.name:<19}" * (part == "whole") + " " * 19 * (part != "whole")
        + _figures(part, figures)
        for part, figures in examined.findings.parts.items()
        if part in SHOWN
    ]  # fmt: skip
    right = [f"{'ok  ' if v.holds else 'FAIL'} {v}" for v in examined.verdicts]
    if all(v.holds for v in examined.general):
        right.append("ok   " + ", ".join(str(v) for v in examined.general))
    else:
        right += [f"{'ok  ' if v.holds else 'FAIL'} {v}" for v in examined.general]
    width = len(HEADER) - len("bound")
    return [f"{a:<{width}}{b}" for a, b in zip_longest(left, right, fillvalue="")]


def _figures(part: str, it: Figures) -> str:
    return (
        f"{part:<10}{_s(it.p50):>6}{_s(it.p95):>7}{_s(it.p99):>7}{_s(it.p999):>7}"
        f"{_s(it.best99):>8}{_s(it.p99 / it.best99):>6}"
        f"{_s(it.best999):>9}{_s(it.p999 / it.best999):>6}"
        f"{_s(it.alone99):>8}{_s(it.plain99):>8}"
        f"{it.extra * 100:>7.2f}{it.hedges * 100:>6.2f}{it.fallbacks * 100:>6.2f}"
        f"{it.rescues * 100:>6.2f}{it.retries * 100:>6.2f}{it.shadows * 100:>6.2f}"
        f"{it.availability * 100:>9.4f}{it.wasted * 100:>7.3f}"
    )


def _s(value: float) -> str:
    if isnan(value):
        return "-"
    return "never" if isinf(value) else f"{value:.2f}"

"""How a soak is told: a table of windows as they end, a CSV, and a plot."""

from __future__ import annotations

import csv
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.soak.windows import Window

HEAD = (
    f"{'window':>6} {'prompts':>8} {'sends':>8} {'/s':>5} {'p50 s':>6} {'p99 s':>6} "
    f"{'CPU ms':>6} {'RSS MB':>7} {'objects':>8} {'tasks':>5} {'threads':>7} {'files':>5} "
    f"{'sockets':>7} {'busy':>4} {'answered':>8} {'cancelled':>9} {'late':>4}  errors"
)


def line(number: int, one: Window) -> str:
    """A row of the table."""
    errors = ", ".join(f"{count} {name}" for name, count in one.errors.items()) or "none"
    return (
        f"{number:6} {one.prompts:8,} {one.sends:8,} {one.prompts / one.seconds:5.0f} "
        f"{one.p50:6.3f} {one.p99:6.3f} {one.cpu_ms:6.2f} {one.rss:7.1f} {one.objects:8,} "
        f"{one.tasks:5} {one.threads:7} {one.files:5} {one.sockets:7} {one.busy:4} "
        f"{one.answered:8,} {one.cancelled:9,} {one.late:4}  {errors}"
    )


def write_csv(windows: Sequence[Window], path: Path) -> None:
    """One line a window."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"window": number, **one.as_row()} for number, one in enumerate(windows, start=1)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)


def plot(results: Path, path: Path) -> None:
    """Draw memory, latency and CPU over the run.

    Args:
        results: The CSV; of a run that was interrupted too.
        path: Where the PNG goes.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with results.open(newline="") as file:
        windows = list(csv.DictReader(file))
    asked = list(accumulate(float(one["prompts"]) for one in windows))
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.2))
    drawn = (
        ("resident memory", "MB", {"rss": ""}),
        ("latency", "seconds", {"p50": "p50", "p99": "p99"}),
        ("CPU per prompt", "milliseconds", {"cpu_ms": ""}),
    )
    for axes, (title, unit, names) in zip(panels, drawn, strict=True):
        for name, label in names.items():
            axes.plot(asked, [float(one[name]) for one in windows], marker=".", label=label)
        axes.set(title=title, ylabel=unit, xlabel="prompts so far", ylim=(0, None))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.tick_params(axis="x", labelsize=7)
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)

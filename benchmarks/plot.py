"""The plot: how many times the bare SDK's cost, with the spread over the rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.contenders import BASE, CONTENDERS
from benchmarks.figures import MEASURES, ratios

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from benchmarks.figures import Rounds

SHOWN = ("call_64", "chunk", "import", "memory_calls")

INK = "#7d8590"
"""Of text and lines, on no ground: it can be read on a white page and on a dark one."""

_INKS = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color",
         "ytick.color")  # fmt: skip


def draw(rounds: Rounds, path: Path) -> None:
    """Draw a panel for each of the costs that matter most.

    Args:
        rounds: The figures.
        path: The PNG file.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(dict.fromkeys(_INKS, INK)):
        figure = _figure(Figure, rounds)
        figure.savefig(path, dpi=110, transparent=True)


def _figure(figure_class: type[Figure], rounds: Rounds) -> Figure:
    figure = figure_class(figsize=(13, 4), layout="constrained")
    panels = figure.subplots(1, len(SHOWN), sharey=True)
    titles = {each.key: each.title for each in MEASURES}
    names = list(CONTENDERS)[::-1]
    for panel, key in zip(panels, SHOWN, strict=True):
        for name in names:
            ratio = ratios(rounds.get(key, {}), name, BASE)
            if ratio is None:
                continue
            error = [[ratio.median - ratio.least], [ratio.most - ratio.median]]
            color = "#2ca02c" if name.startswith("ours") else "#9aa5b1"
            panel.barh(name, ratio.median, xerr=error, color=color, ecolor=INK)
            panel.annotate(f" {ratio.median:.2f}x", (ratio.most, name), va="center", fontsize=8)
        panel.axvline(1, color=INK, linewidth=0.8)
        panel.margins(x=0.25)
        panel.set_title(titles[key], fontsize=9)
    figure.suptitle(f"Times the {BASE}'s cost; less is better", fontsize=11)
    return figure

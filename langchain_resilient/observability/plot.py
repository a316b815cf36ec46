"""The latency of each target as a picture: how soon it speaks, and when it would be hedged.

Needs `pip install "langchain-resilient[plot]"`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_resilient.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from langchain_resilient.observability.stats import Stats, TargetStats

try:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter
except ImportError as error:
    msg = 'a plot needs an extra: pip install "langchain-resilient[plot]"'
    raise MissingExtraError(msg) from error

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which all eyes can tell apart (https://jfly.uni-koeln.de/color/)."""

_GREY = "#666666"
_SHARES = (0.5, 0.95, 0.99)


def plot(stats: Stats, width: float = 8.0, height: float = 4.5) -> Figure:
    """Draw, for each target, which share of its requests has spoken by when.

    The curve is the Kaplan-Meier estimate over all requests, losers that were closed early
    included; it stops where nobody waited longer. A dashed line stands where the target would be
    hedged now. The figure belongs to no window and to no pyplot state: a notebook shows it, and
    `figure.savefig("latency.png")` writes it.

    Args:
        stats: What `llm.stats()` returned.
        width: Inches.
        height: Inches.

    Example:
        ```python
        llm.stats().plot().savefig("latency.png")
        ```
    """
    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    axes = figure.add_subplot()
    shown = [target for target in stats.targets if target.curve]
    for number, target in enumerate(shown):
        _draw(axes, target, _COLOURS[number % len(_COLOURS)])
    _furnish(axes, shown)
    axes.set_title("Time to first text", loc="left", fontsize=12, fontweight="bold")
    if shown:
        axes.legend(loc="lower right", fontsize=9, framealpha=0.95, edgecolor="white")
    else:
        axes.text(0.5, 0.5, "no target has spoken yet", ha="center", transform=axes.transAxes)
    return figure


def _draw(axes: Axes, target: TargetStats, colour: str) -> None:
    """One staircase, and the line at which another target is asked."""
    times, shares = zip(*target.curve, strict=True)
    head = f"{target.name}  ({target.requests:,} requests)"
    axes.step(
        [times[0], *times], [0.0, *shares], where="post", color=colour, linewidth=2, label=head
    )
    if target.hedge_delay is not None:
        label = f"    hedged after {_seconds(target.hedge_delay)}"
        axes.axvline(target.hedge_delay, color=colour, linewidth=1.2, linestyle="--", label=label)


def _furnish(axes: Axes, shown: list[TargetStats]) -> None:
    axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    axes.set_xlim(*_range(shown))
    axes.set_ylabel("requests that have spoken")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _seconds(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    for share in _SHARES:
        axes.axhline(share, color="#bbbbbb", linewidth=0.6, linestyle=":")
        axes.annotate(
            f"p{share * 100:g}",
            (1.005, share),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=7,
            color=_GREY,
        )


def _range(shown: list[TargetStats]) -> tuple[float, float]:
    """Leave room on both sides: a log scale of one point is no scale."""
    times = [time for target in shown for time in (target.curve[0][0], target.curve[-1][0])]
    times += [target.hedge_delay for target in shown if target.hedge_delay is not None]
    return (min(times) / 1.5, max(times) * 1.5) if times else (0.01, 10.0)


def _seconds(value: float) -> str:
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"

"""A plot of each target's latency: how soon it shows text, and what the prompt's length costs.

A module of its own because matplotlib is an extra, and heavy: it is imported by `Stats.plot` alone.
"""

from __future__ import annotations

from io import BytesIO
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from langchain_resilient.errors import MissingExtraError

try:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter
except ImportError as error:
    msg = 'a plot needs an extra: pip install "langchain-resilient[plot]"'
    raise MissingExtraError(msg) from error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which all eyes can tell apart (https://jfly.uni-koeln.de/color/)."""

_GREY = "#666666"

_SHARES = (0.5, 0.95, 0.99)


class LatencyCurve(NamedTuple):
    """What is drawn of one target.

    Attributes:
        name: As in the legend.
        requests: How many the curve stands for.
        points: The share that had shown text by each time, as `(seconds, share)`; not empty.
        hedge_delay: Seconds of silence after which it would be hedged; None for never.
        lengths: Prompt tokens and seconds of recent requests, where they differ in length.
        doubling_tokens: Prompt tokens that double the time, as fitted.
    """

    name: str
    requests: int
    points: Sequence[tuple[float, float]]
    hedge_delay: float | None
    lengths: Sequence[tuple[int, float]] = ()
    doubling_tokens: int | None = None


class NotebookFigure(Figure):
    """A figure that a notebook shows by itself, without `%matplotlib` or pyplot."""

    def _repr_png_(self) -> bytes:
        picture = BytesIO()
        self.savefig(picture, format="png")
        return picture.getvalue()


_NARROW = 34
"""Characters of a target's name that leave room for a second column of the legend."""


def plot(curves: Sequence[LatencyCurve], width: float = 8.0, height: float = 5.2) -> Figure:
    """Draw the curves on one logarithmic time axis.

    They are Kaplan-Meier estimates over all requests, including losers that were closed early, and
    stop where nobody waited longer. The figure belongs to no window and to no pyplot state: a
    notebook shows it, and `figure.savefig("latency.png")` writes it.

    Args:
        curves: One for each target that has shown text.
        width: Inches.
        height: Inches.
    """
    figure = NotebookFigure(figsize=(width, height), layout="constrained", dpi=120)
    sized = [curve for curve in curves if curve.lengths and curve.doubling_tokens]
    axes, *right = figure.subplots(1, 2 if sized else 1, squeeze=False)[0]
    for number, curve in enumerate(curves):
        _draw_curve(axes, curve, _COLOURS[number % len(_COLOURS)])
    _set_up_axes(axes, curves)
    axes.set_title("Time to first text", loc="left", fontsize=12, fontweight="bold")
    if curves:
        # Below: inside it would lie on the curves, or on the axis where names are long.
        handles, labels = axes.get_legend_handles_labels()
        columns = 2 if max(len(curve.name) for curve in curves) <= _NARROW else 1
        figure.legend(
            handles, labels, loc="outside lower left", ncols=columns, fontsize=9, frameon=False
        )
    else:
        axes.text(0.5, 0.5, "no target has spoken yet", ha="center", transform=axes.transAxes)
    if sized:
        _draw_lengths(right[0], curves)
    return figure


def _draw_lengths(axes: Axes, curves: Sequence[LatencyCurve]) -> None:
    """Draw each request by its length, and what was fitted to them."""
    for number, curve in enumerate(curves):
        if not curve.lengths or not curve.doubling_tokens:
            continue
        colour, doubling = _COLOURS[number % len(_COLOURS)], curve.doubling_tokens
        tokens, seconds = zip(*curve.lengths, strict=True)
        axes.scatter(tokens, seconds, s=6, color=colour, alpha=0.35, linewidths=0)
        typical = median(time / (1 + n / doubling) for n, time in curve.lengths)
        shown = sorted(set(tokens))
        fitted = [typical * (1 + n / doubling) for n in shown]
        label = f"{doubling:,} tokens double it"
        axes.plot(shown, fitted, color=colour, linewidth=2, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("tokens of the prompt")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    for axis in (axes.xaxis, axes.yaxis):  # prompts may be nearly of one length
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _axis_label(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title("By the prompt's length", loc="left", fontsize=12, fontweight="bold")
    axes.legend(loc="best", fontsize=9, framealpha=0.95, edgecolor="white")


def _draw_curve(axes: Axes, curve: LatencyCurve, colour: str) -> None:
    """Draw one staircase, and a dashed line at the hedge delay."""
    times, shares = zip(*curve.points, strict=True)
    label = f"{curve.name}  ({curve.requests:,} requests)"
    axes.step(
        [times[0], *times], [0.0, *shares], where="post", color=colour, linewidth=2, label=label
    )
    if curve.hedge_delay is not None:
        label = f"    hedged after {_axis_label(curve.hedge_delay)}"
        axes.axvline(curve.hedge_delay, color=colour, linewidth=1.2, linestyle="--", label=label)


def _set_up_axes(axes: Axes, curves: Sequence[LatencyCurve]) -> None:
    axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    axes.set_xlim(*_time_range(curves))
    axes.set_ylabel("requests that have spoken")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _axis_label(value)))
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


def _time_range(curves: Sequence[LatencyCurve]) -> tuple[float, float]:
    """Leave room on both sides: a log scale needs more than one point."""
    times = [time for curve in curves for time in (curve.points[0][0], curve.points[-1][0])]
    times += [curve.hedge_delay for curve in curves if curve.hedge_delay is not None]
    return (min(times) / 1.5, max(times) * 1.5) if times else (0.01, 10.0)


def _axis_label(value: float) -> str:
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"

"""`Stats` and batch reports as HTML, for notebooks: no script, and fit for light and dark pages.

Text has the page's own colour; only marks are coloured, in tones that show on both. All style is
inline, since some notebooks remove style sheets.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_resilient.options import money

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TargetStats = Any
"""`stats.TargetStats`, which is in the module that imports this one."""

Quantiles = Any
"""`stats.Quantiles`, likewise."""


_CELL = "padding: 0.25em 0.8em; white-space: nowrap; font-variant-numeric: tabular-nums"
_RULE = "border-bottom: 1px solid rgba(128, 128, 128, 0.4)"
_BAR = "#3b82c4"
_GREEN, _AMBER, _RED = "#2da44e", "#bf8700", "#cf4a4a"
_HEALTH = {"ok": _GREEN, "limited": _AMBER}


class _Column(NamedTuple):
    """One column: its heading, what it says of a target, and whether it is words."""

    head: str
    cell: Callable[[TargetStats], str]
    words: bool = False
    always: bool = False


def _times(name: str, of: Callable[[TargetStats], Quantiles]) -> tuple[_Column, ...]:
    return tuple(
        _Column(f"{name} {share}", lambda t, share=share: _seconds(getattr(of(t), share)))  # type: ignore[misc]
        for share in ("p50", "p95", "p99")
    )


_COLUMNS = (
    _Column("target", lambda t: escape(t.name), words=True, always=True),
    _Column("health", lambda t: _health(t.health), words=True),
    _Column("requests", lambda t: f"{t.requests:,}", always=True),
    _Column("wins", lambda t: f"{t.wins:,}", always=True),
    _Column("hedges", lambda t: _count(t.hedges)),
    _Column("hedge wins", lambda t: _count(t.hedge_wins)),
    *_times("first text", lambda t: t.first_text),
    *_times("whole", lambda t: t.whole),
    _Column("hedged after", lambda t: _seconds(t.hedge_delay)),
    _Column("doubled by tokens", lambda t: _count(t.doubling_tokens or 0)),
    _Column("tokens in", lambda t: _count(t.input_tokens)),
    _Column("tokens out", lambda t: _count(t.output_tokens)),
    _Column("spent", lambda t: _money(t.spent)),
    _Column("wasted", lambda t: _money(t.wasted)),
    _Column("broken", lambda t: _count(t.breaks)),
    _Column(
        "faults",
        lambda t: escape(", ".join(f"{k} {n}" for k, n in t.faults.items())),
        words=True,
    ),
)

_BAR_BEHIND = "first text p99"
"""The column behind which a bar shows the times."""


def html_table(head: str, targets: Sequence[TargetStats]) -> str:
    """A head and a table of targets; a wide one scrolls, the head does not.

    Args:
        head: Lines of text.
        targets: A row each; a column that nobody has a figure for is left out.
    """
    shown = [c for c in _COLUMNS if c.always or any(map(c.cell, targets))]
    slowest = max((t.first_text.p99 or t.first_text.p50 or 0.0 for t in targets), default=0.0)
    heads = "".join(_th(c) + (_th_of_bar() if c.head == _BAR_BEHIND else "") for c in shown)
    rows = "".join(f"<tr>{_row(shown, t, slowest)}</tr>" for t in targets)
    lines = "<br>".join(map(escape, head.splitlines()))
    return (
        f"<div>{lines}<br><small>in seconds; a bar reaches from the median to p99</small></div>"
        f'<div style="overflow-x: auto"><table style="border-collapse: collapse">'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(columns: Sequence[_Column], target: TargetStats, slowest: float) -> str:
    cells = []
    for column in columns:
        cells.append(_td(column.cell(target), words=column.words))
        if column.head == _BAR_BEHIND:
            cells.append(_td(_bar(target.first_text, slowest), words=True))
    return "".join(cells)


def _th(column: _Column) -> str:
    side = "left" if column.words else "right"
    return f'<th style="{_CELL}; {_RULE}; text-align: {side}">{escape(column.head)}</th>'


def _th_of_bar() -> str:
    return f'<th style="{_CELL}; {_RULE}"></th>'


def _td(cell: str, *, words: bool) -> str:
    return f'<td style="{_CELL}; text-align: {"left" if words else "right"}">{cell}</td>'


def _bar(times: Quantiles, slowest: float) -> str:
    """Draw the time to the first text: full up to the median, pale from there to p99."""
    if times.p50 is None or not slowest:
        return ""
    median = 100 * times.p50 / slowest
    rest = 100 * (times.p99 or times.p50) / slowest - median
    piece = '<span style="display: inline-block; height: 0.7em; width: {:.1f}%; {}"></span>'
    full = piece.format(median, f"background: {_BAR}")
    pale = piece.format(rest, f"background: {_BAR}; opacity: 0.4")
    return f'<span style="display: inline-block; width: 8em; font-size: 1em">{full}{pale}</span>'


def _health(health: str | None) -> str:
    """Say how a target is, behind a dot in a colour: the word alone is enough."""
    if health is None:
        return ""
    return f'<span style="color: {_HEALTH.get(health, _RED)}">●</span> {escape(health)}'


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _money(value: float | None) -> str:
    return money(value) if value else ""

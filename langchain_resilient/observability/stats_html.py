"""`Stats` and batch reports as HTML, for notebooks: no script, and fit for light and dark pages.

Text has the page's own colour; only marks are coloured, in tones that show on both. All style is
inline, since some notebooks remove style sheets, and says what their own style of tables would
change.
"""

from __future__ import annotations

from html import escape
from itertools import groupby
from math import log
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_resilient.policies import money

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

TargetStats = Any
"""`stats.TargetStats`, which is in the module that imports this one."""

Quantiles = Any
"""`stats.Quantiles`, likewise."""

GREEN, AMBER, RED, GREY = "#2da44e", "#bf8700", "#cf4a4a", "#8c959f"
"""Well; careful; not well; nothing to say. Each shows on white and on black."""

_BLUE = "#3b82c4"
_LINE = "rgba(128, 128, 128, {})"
_HEALTH = {"ok": GREEN, "limited": AMBER}
_MUTED = "opacity: 0.65"


class Tile(NamedTuple):
    """One figure at the head of a report.

    Attributes:
        name: What it is.
        figure: Its value, as text.
        note: What belongs to it.
        colour: Of a mark before it; empty for none.
    """

    name: str
    figure: str
    note: str = ""
    colour: str = ""


class Share(NamedTuple):
    """One part of the bar below them.

    Attributes:
        name: What is counted.
        number: How many.
        colour: Its own.
    """

    name: str
    number: int
    colour: str


class _Column(NamedTuple):
    """One column: its heading, what it says of a target, and the group that it belongs to."""

    head: str
    cell: Callable[[TargetStats], str]
    group: str = ""
    words: bool = False
    always: bool = False


def _times(group: str, of: Callable[[TargetStats], Quantiles]) -> tuple[_Column, ...]:
    return tuple(
        _Column(share, lambda t, share=share: _seconds(getattr(of(t), share)), group)  # type: ignore[misc]
        for share in ("p50", "p95", "p99")
    )


_FIRST = "first text, s"

_COLUMNS = (
    _Column("target", lambda t: f"{escape(t.name)}{_faults(t.faults)}", words=True, always=True),
    _Column("health", lambda t: _health(t.health), words=True),
    _Column("sent", lambda t: f"{t.requests:,}", "requests", always=True),
    _Column("won", lambda t: f"{t.wins:,}", "requests", always=True),
    *_times(_FIRST, lambda t: t.first_text),
    *_times("whole answer, s", lambda t: t.whole),
    _Column("doubled by tokens", lambda t: _count(t.doubling_tokens or 0), "prompt"),
    _Column("sent", lambda t: _count(t.hedges), "hedges"),
    _Column("won", lambda t: _count(t.hedge_wins), "hedges"),
    _Column("after s", lambda t: _seconds(t.hedge_delay), "hedges"),
    _Column("in", lambda t: _count(t.input_tokens), "tokens"),
    _Column("out", lambda t: _count(t.output_tokens), "tokens"),
    _Column("double it", lambda t: _count(t.doubling_tokens or 0), "tokens"),
    _Column("spent", lambda t: _money(t.spent), "money"),
    _Column("wasted", lambda t: _money(t.wasted), "money"),
    _Column("broken", lambda t: _count(t.breaks), "streams"),
)


def html_report(
    tiles: Iterable[Tile], shares: Iterable[Share], targets: Sequence[TargetStats]
) -> str:
    """Figures, a bar of what became of everything, and a table; a wide one scrolls by itself.

    Args:
        tiles: The totals.
        shares: The parts of the whole; those of nothing are left out.
        targets: A row each; a column that nobody has a figure for is left out.
    """
    head = "".join(map(_tile, tiles))
    return (
        '<div style="line-height: 1.35">'
        f'<div style="display: flex; flex-wrap: wrap; gap: 0.5em 1.9em">{head}</div>'
        f"{_shares([share for share in shares if share.number])}"
        f"{_table(targets) if targets else ''}</div>"
    )


def _tile(tile: Tile) -> str:
    mark = _dot(tile.colour) if tile.colour else ""
    note = f' <span style="font-size: 0.85em; {_MUTED}">{escape(tile.note)}</span>'
    return (
        f'<div style="white-space: nowrap"><div style="font-size: 0.8em; {_MUTED}">'
        f"{escape(tile.name)}</div>"
        f'<div><b style="font-size: 1.25em; font-variant-numeric: tabular-nums">'
        f"{mark}{escape(tile.figure)}</b>{note if tile.note else ''}</div></div>"
    )


def _shares(shares: Sequence[Share]) -> str:
    """Draw the parts of a whole beside each other; the smallest can still be seen."""
    if not shares:
        return ""
    parts = "".join(
        f'<span title="{escape(part.name)}: {part.number:,}" style="flex: {part.number} 1 3px; '
        f'background: {part.colour}"></span>'
        for part in shares
    )
    return (
        '<div style="display: flex; gap: 1px; height: 5px; max-width: 60em; margin: 0.7em 0 0.2em; '
        f'border-radius: 3px; overflow: hidden">{parts}</div>'
    )


# -- the table ------------------------------------------------------------------------------------

_CELL = (
    "padding: 0.3em 0.55em; white-space: nowrap; font-variant-numeric: tabular-nums; border: 0; "
    "background: none; max-width: none; vertical-align: top"
)
_STRONG = f"border-bottom: 1px solid {_LINE.format(0.45)}"
_FAINT = f"border-bottom: 1px solid {_LINE.format(0.16)}"
_APART = "padding-left: 1.7em"


def _table(targets: Sequence[TargetStats]) -> str:
    shown = [c for c in _COLUMNS if c.always or any(map(c.cell, targets))]
    scale = _Scale(targets)
    rows = "".join(
        f'<tr style="background: none">{_row(shown, target, scale)}</tr>' for target in targets
    )
    heads = f"<tr>{_groups(shown)}</tr><tr>{_heads(shown)}</tr>"
    note = "bars: median to p95, pale to p99, on a logarithmic scale" if scale.known else ""
    return (
        '<div style="overflow-x: auto; margin-top: 0.6em">'
        f'<table style="border-collapse: collapse; font-size: 0.95em; margin: 0">'
        f"<thead>{heads}</thead><tbody>{rows}</tbody></table></div>"
        f'<div style="font-size: 0.8em; margin-top: 0.4em; {_MUTED}">{note}</div>'
    )


def _groups(columns: Sequence[_Column]) -> str:
    cells = []
    for group, members in groupby(columns, key=lambda column: column.group):
        width = len(list(members)) + (group == _FIRST)
        apart = f"; {_APART}" if group else ""
        style = f"{_CELL}; padding-bottom: 0; text-align: left; font-weight: 600{apart}"
        cells.append(f'<th colspan="{width}" style="{style}">{escape(group)}</th>')
    return "".join(cells)


def _heads(columns: Sequence[_Column]) -> str:
    cells = []
    for column, apart in _with_gaps(columns):
        style = f"{_CELL}; {_STRONG}; {_side(column)}{apart}; font-weight: 400; {_MUTED}"
        cells.append(f'<th style="{style}">{escape(column.head)}</th>')
        if _has_bar_behind(column):
            cells.append(f'<th style="{_CELL}; {_STRONG}"></th>')
    return "".join(cells)


def _row(columns: Sequence[_Column], target: TargetStats, scale: _Scale) -> str:
    cells = []
    for column, apart in _with_gaps(columns):
        style = f"{_CELL}; {_FAINT}; {_side(column)}{apart}"
        cells.append(f'<td style="{style}">{column.cell(target)}</td>')
        if _has_bar_behind(column):
            cells.append(f'<td style="{_CELL}; {_FAINT}">{scale.bar(target.first_text)}</td>')
    return "".join(cells)


def _with_gaps(columns: Sequence[_Column]) -> list[tuple[_Column, str]]:
    """Each column with the room that the first of a group has before it."""
    before = ["", *[column.group for column in columns]]
    return [
        (column, f"; {_APART}" if column.group not in ("", last) else "")
        for column, last in zip(columns, before, strict=False)
    ]


def _side(column: _Column) -> str:
    return f"text-align: {'left' if column.words else 'right'}"


def _has_bar_behind(column: _Column) -> bool:
    return column.group == _FIRST and column.head == "p99"


class _Scale:
    """Draws times as bars on one logarithmic scale, so that fast and slow targets both show.

    Attributes:
        known: Whether there is any time to draw.
    """

    def __init__(self, targets: Sequence[TargetStats]) -> None:
        times = [t.first_text for t in targets if t.first_text.p50]
        self.known = bool(times)
        self._low = min((t.p50 for t in times), default=1.0) / 1.3
        self._high = max((_slowest(t) for t in times), default=1.0) * 1.05

    def bar(self, times: Quantiles) -> str:
        """Draw from the median on: full to p95, pale from there to p99."""
        if not times.p50:
            return ""
        start, middle, end = map(self._place, (times.p50, times.p95 or times.p50, _slowest(times)))
        box = "display: inline-block; height: 100%"
        pieces = "".join(
            f'<span style="{box}; width: {width:.1f}%; {paint}"></span>'
            for width, paint in (
                (start, ""),
                (max(2.0, middle - start), f"background: {_BLUE}"),
                (end - middle, f"background: {_BLUE}; opacity: 0.35"),
            )
        )
        return (
            '<span style="display: block; width: 7.5em; height: 0.6em; margin-top: 0.35em; '
            f"line-height: 0; background: {_LINE.format(0.12)}; border-radius: 2px; "
            'white-space: nowrap; overflow: hidden">'
            f"{pieces}</span>"
        )

    def _place(self, seconds: float) -> float:
        return 100 * log(max(seconds, self._low) / self._low) / log(self._high / self._low)


def _slowest(times: Quantiles) -> float:
    return float(times.p99 or times.p95 or times.p50)


def _dot(colour: str) -> str:
    return f'<span style="color: {colour}; font-size: 0.8em">●</span> '


def _health(health: str | None) -> str:
    """Say how a target is, behind a dot in a colour: the word alone is enough."""
    return "" if health is None else f"{_dot(_HEALTH.get(health, RED))}{escape(health)}"


def _faults(faults: Any) -> str:
    """Say what went wrong, in a line below the target's name."""
    if not faults:
        return ""
    text = ", ".join(f"{number:,} {kind.replace('_', ' ')}" for kind, number in faults.items())
    return f'<div style="font-size: 0.85em; {_MUTED}; white-space: normal">{escape(text)}</div>'


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _money(value: float | None) -> str:
    return money(value) if value else ""

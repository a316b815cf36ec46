"""Statistics as people read them: a line, a table in a terminal, a table in a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, NamedTuple

from langchain_resilient.policy import money

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_resilient.observability.stats import Stats, TargetStats
    from langchain_resilient.observability.times import Quantiles

_WIDEST_NAME = 32
"""Characters of a target's name in a terminal."""


class _Column(NamedTuple):
    """One column: its head, and what stands under it.

    Attributes:
        words: It holds words, and stands to the left; numbers stand to the right.
        everywhere: Whether a terminal has room for it too.
    """

    head: str
    cell: Callable[[TargetStats], str]
    words: bool = False
    everywhere: bool = True


_COLUMNS = (
    _Column("target", lambda t: t.name, words=True),
    _Column("health", lambda t: t.health or "", words=True),
    _Column("requests", lambda t: str(t.requests)),
    _Column("wins", lambda t: str(t.wins)),
    _Column("hedges", lambda t: str(t.hedges), everywhere=False),
    _Column("hedge wins", lambda t: str(t.hedge_wins), everywhere=False),
    _Column("first text s", lambda t: _three(t.first_text)),
    _Column("whole s", lambda t: _three(t.whole)),
    _Column("hedged after s", lambda t: _seconds(t.hedge_delay), everywhere=False),
    _Column("tokens in", lambda t: f"{t.input_tokens:,}", everywhere=False),
    _Column("tokens out", lambda t: f"{t.output_tokens:,}", everywhere=False),
    _Column("spent", lambda t: _money(t.spent)),
    _Column("wasted", lambda t: _money(t.wasted), everywhere=False),
    _Column("broken", lambda t: str(t.breaks), everywhere=False),
    _Column("faults", lambda t: ", ".join(f"{k} {n}" for k, n in t.faults.items()), words=True),
)
_NOTE = "times: p50/p95/p99"


def summary(stats: Stats) -> str:
    """The totals in one line."""
    rare = (("failed", stats.failed), ("cancelled", stats.cancelled))
    parts = [
        f"{stats.calls} calls, {stats.answered} answered",
        f"{stats.last_resort} by the last resort" if stats.last_resort else "",
        *(f"{n} {name}" for name, n in rare if n),
        spread("", stats.seconds),
        f"hedges {stats.hedge_share:.1%}, extra sends {stats.extra_sends}",
        *(f"{n} broken streams {action}" for action, n in stats.breaks.items()),
        f"{money(stats.spent)} spent, {money(stats.wasted)} of it wasted" if stats.spent else "",
    ]
    return ", ".join(filter(None, parts))


def line(target: TargetStats) -> str:
    """One target in one line."""
    faults = sum(target.faults.values())
    parts = [
        f"{target.requests} requests, {target.wins} wins",
        f"{faults} faults" if faults else "",
        f"{target.breaks} broken streams" if target.breaks else "",
        spread("first text ", target.first_text),
        f"{money(target.spent)} spent" if target.spent else "",
    ]
    health = f" ({target.health})" if target.health else ""
    return f"{target.name}{health}: {', '.join(filter(None, parts))}"


def text(stats: Stats) -> str:
    """The totals and a table for a terminal."""
    return text_table(summary(stats), stats.targets)


def text_table(head: str, targets: Sequence[TargetStats]) -> str:
    """A head and a table of targets for a terminal."""
    columns = [column for column in _COLUMNS if column.everywhere]
    rows = [[c.head for c in columns]]
    rows += [[_elided(c.cell(t), _WIDEST_NAME) for c in columns] for t in targets]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_row(row, columns, widths) for row in rows]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([head, "", lines[0], rule, *lines[1:], "", _NOTE])


def html(stats: Stats) -> str:
    """The totals and a table for a notebook."""
    return html_table(summary(stats), stats.targets)


def html_table(head: str, targets: Sequence[TargetStats]) -> str:
    """A head and a table of targets for a notebook; a wide one scrolls, the head does not."""
    columns = [c for c in _COLUMNS if c.everywhere or _says_something(c, targets)]
    heads = "".join(f"<th>{escape(c.head)}</th>" for c in columns)
    rows = "".join(
        f"<tr>{''.join(_td(c.cell(t), words=c.words) for c in columns)}</tr>" for t in targets
    )
    lines = "<br>".join(map(escape, head.splitlines()))
    return (
        f'<div>{lines}<br><small>{_NOTE}</small></div><div style="overflow-x: auto">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _says_something(column: _Column, targets: Sequence[TargetStats]) -> bool:
    return any(column.cell(target).strip("$0.") for target in targets)


def _td(cell: str, *, words: bool) -> str:
    return f'<td style="text-align: {"left" if words else "right"}">{escape(cell)}</td>'


def _row(cells: Sequence[str], columns: Sequence[_Column], widths: Sequence[int]) -> str:
    placed = (
        cell.ljust(width) if column.words else cell.rjust(width)
        for cell, column, width in zip(cells, columns, widths, strict=True)
    )
    return "  ".join(placed).rstrip()


def _elided(cell: str, most: int) -> str:
    half = most // 2
    return cell if len(cell) <= most else f"{cell[: half - 1]}…{cell[-half:]}"


def _three(times: Quantiles) -> str:
    if times.p50 is None:
        return ""
    return "/".join(_seconds(t) or "?" for t in (times.p50, times.p95, times.p99))


def spread(name: str, times: Quantiles) -> str:
    """Half of a line: `first text p50 0.41 s p99 1.20 s`."""
    told = (("p50", times.p50), ("p99", times.p99))
    known = " ".join(f"{q} {_seconds(t)} s" for q, t in told if t is not None)
    return f"{name}{known}" if known else ""


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _money(value: float | None) -> str:
    return "" if value is None else money(value)

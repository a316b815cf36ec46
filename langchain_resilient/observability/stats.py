"""`Stats`: what `llm.stats()` returns. Frozen records that print well and turn into plain JSON.

First the records, then the histogram behind their quantiles, then how they are written for people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import exp, log
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_resilient.errors import MissingExtraError
from langchain_resilient.policies import money

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any  # matplotlib is optional, and loads when a plot is made


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Quantiles of a duration in seconds, within one per cent; None where one is not known.

    Attributes:
        p50: Half of the times are shorter.
        p95: 95 % are shorter.
        p99: 99 % are shorter.
    """

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        values = {"p50": self.p50, "p95": self.p95, "p99": self.p99}
        return {name: None if v is None else round(v, 4) for name, v in values.items()}


UNKNOWN_QUANTILES = Quantiles()


@dataclass(frozen=True, slots=True, repr=False)
class TargetStats:
    """What one target did for a model, since the model was made. Times are seconds.

    Attributes:
        name: As in receipts.
        health: `"ok"`, `"limited"`, `"tripped"`, `"account out"` or `"gone"`; None if not known.
        learned_delay: The time by which 95 % of its requests have shown text; None until learned.
        hedge_delay: The silence after which it would be hedged now; None for never.
        requests: Requests sent to it, of every kind.
        wins: How many of them gave the answer that counted.
        hedges: Requests sent to it because another target was late.
        hedge_wins: How many of those gave the answer that counted.
        kinds: Requests by `AttemptKind`.
        faults: Failures by `FaultKind`, the most frequent first.
        breaks: Its streams that died after some of their text was delivered.
        first_text: From sending to the first text.
        whole: From sending to the end of the answer.
        input_tokens: Of prompts, as reported; a loser's prompt counts as the winner's.
        output_tokens: Of answers, as far as reported or received.
        spent: Dollars, losers included; None where its price is not known. Without a spend cap,
            surcharges for long prompts are left out.
        wasted: Dollars of that for answers that did not count.
        doubling_tokens: Prompt tokens that double the time to its first text; None until learned.
        efforts: How many times longer it takes with each reasoning effort than with the one that
            was asked for most; empty until learned.
        lengths: Prompt tokens and seconds to the first text of its recent requests, for plots; left
            out of `as_dict()` and of the repr.
        curve: The share of its requests that had shown text by each time, as `(seconds, share)`,
            for plots; left out of `as_dict()` and of the repr.
    """

    name: str
    health: str | None = None
    learned_delay: float | None = None
    hedge_delay: float | None = None
    requests: int = 0
    wins: int = 0
    hedges: int = 0
    hedge_wins: int = 0
    kinds: Mapping[str, int] = field(default_factory=dict)
    faults: Mapping[str, int] = field(default_factory=dict)
    breaks: int = 0
    first_text: Quantiles = UNKNOWN_QUANTILES
    whole: Quantiles = UNKNOWN_QUANTILES
    input_tokens: int = 0
    output_tokens: int = 0
    spent: float | None = None
    wasted: float | None = None
    doubling_tokens: int | None = None
    efforts: Mapping[str, float] = field(default_factory=dict)
    lengths: tuple[tuple[int, float], ...] = ()
    curve: tuple[tuple[float, float], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        names = [each.name for each in fields(self) if each.name not in {"curve", "lengths"}]
        return {name: _as_plain_data(getattr(self, name)) for name in names}

    def __repr__(self) -> str:
        """One line: `openai:gpt-6 (ok): 12 requests, 11 wins, first text p50 0.41 s p99 1.20 s`."""
        return target_line(self)


@dataclass(frozen=True, slots=True, repr=False)
class Stats:
    """What a model has done since it was made, and the state of its targets now.

    Attributes:
        calls: Calls that have ended, in whatever way.
        answered: By a target, the last resort, or LangChain's cache.
        failed: With an error.
        cancelled: By the caller.
        cached: Answers out of LangChain's cache: nothing was sent for them.
        last_resort: Answers of the last resort.
        seconds: From the call to the end of its answer, where there was one.
        hedge_share: Hedges as a share of calls.
        extra_sends: Requests beyond the first of each call.
        breaks: Streams that died after some of their text was delivered, by what was done:
            `"continued"` or `"replaced"` by another target, or `"raised"`.
        spent: Dollars, on all targets whose price is known.
        wasted: Dollars of that for answers that did not count.
        targets: Each target, in the order of the chain.

    Example:
        ```python
        stats = llm.stats()
        print(stats)  # a table; in a notebook, `stats` alone shows one
        stats["openai:gpt-6-luna"].first_text.p99
        ```
    """

    calls: int = 0
    answered: int = 0
    failed: int = 0
    cancelled: int = 0
    cached: int = 0
    last_resort: int = 0
    seconds: Quantiles = UNKNOWN_QUANTILES
    hedge_share: float = 0.0
    extra_sends: int = 0
    breaks: Mapping[str, int] = field(default_factory=dict)
    spent: float = 0.0
    wasted: float = 0.0
    targets: tuple[TargetStats, ...] = ()

    def __getitem__(self, name: str) -> TargetStats:
        """Find a target by name.

        Raises:
            KeyError: If there is none; names those there are.
        """
        for target in self.targets:
            if target.name == name:
                return target
        msg = f"no target {name!r}; there are {', '.join(t.name for t in self.targets)}"
        raise KeyError(msg)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {each.name: _as_plain_data(getattr(self, each.name)) for each in fields(self)}

    def to_pandas(self) -> Any:
        """The targets as a table of pandas: one row a target, and each nested figure a column.

        The totals are in its `attrs`.

        Raises:
            MissingExtraError: Without pandas.

        Example:
            ```python
            llm.stats().to_pandas()[["requests", "wins", "first_text.p50"]]
            ```
        """
        table = targets_table(self.targets)
        table.attrs = {name: x for name, x in self.as_dict().items() if name != "targets"}
        return table

    def plot(self, width: float = 8.0, height: float = 4.5) -> Figure:
        """Draw how soon each target shows text, and when it would be hedged.

        A curve gives the share of a target's requests that had shown text by each time, including
        those that were closed early (Kaplan-Meier); a dashed line marks its hedge delay. Where
        prompts differ in length, a second part shows what their tokens cost.

        Args:
            width: Inches.
            height: Inches.

        Raises:
            MissingExtraError: Without matplotlib; says how to install it.

        Example:
            ```python
            llm.stats().plot().savefig("latency.png")
            ```
        """
        from langchain_resilient.observability.plot import LatencyCurve, plot  # noqa: PLC0415

        curves = [
            LatencyCurve(
                target.name,
                target.requests,
                target.curve,
                target.hedge_delay,
                target.lengths,
                target.doubling_tokens,
            )
            for target in self.targets
            if target.curve
        ]
        return plot(curves, width, height)

    def __repr__(self) -> str:
        """The totals in one line."""
        return summary_line(self)

    def __str__(self) -> str:
        """A table for terminals."""
        return render_text(self)

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        return render_html(self)


def _as_plain_data(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, tuple):
        return [each.as_dict() for each in value]
    if isinstance(value, Quantiles):
        return value.as_dict()
    return dict(value) if isinstance(value, dict) else value


# -- the histogram behind the quantiles -----------------------------------------------------------

_PER_STEP = 50.0
"""Steps in a factor of e: each is 2 % wide."""

_SMALLEST = 0.001
"""Seconds; anything faster counts as this fast."""


class DurationHistogram:
    """A log-scaled histogram of durations, some of which were cut short.

    A loser that was closed after a second did not take a second: it would have taken longer. Such
    times count as right-censored (Kaplan & Meier, "Nonparametric Estimation from Incomplete
    Observations", JASA 1958); left out, they would make a slow target look fast. Unlike the
    engine's histogram it never fades, and adding costs half a microsecond. No lock: its owner has
    one.

    Example:
        ```python
        durations = DurationHistogram()
        durations.add(0.42)
        durations.add(1.20, cut=True)  # closed after 1.2 s, since another was faster
        durations.quantiles().p50
        ```
    """

    __slots__ = ("_cut", "_ended")

    def __init__(self) -> None:
        self._ended: dict[int, int] = {}
        self._cut: dict[int, int] = {}

    def add(self, seconds: float, *, cut: bool = False) -> None:
        """Count one; `cut` if it was ended early and would have taken longer."""
        step = int(log(seconds / _SMALLEST) * _PER_STEP) + 1 if seconds > _SMALLEST else 0
        counts = self._cut if cut else self._ended
        counts[step] = counts.get(step, 0) + 1

    def as_dict(self) -> list[dict[int, int]]:
        """Plain JSON, for `from_dict`."""
        return [self._ended, self._cut]

    @classmethod
    def from_dict(cls, told: Sequence[Mapping[str, int]]) -> DurationHistogram:
        """What `as_dict` wrote; the steps are texts in JSON."""
        histogram = cls()
        histogram._ended, histogram._cut = (
            {int(step): int(count) for step, count in counts.items()} for counts in told
        )
        return histogram

    def merge(self, other: DurationHistogram) -> None:
        """Add what another one was given."""
        for ours, theirs in ((self._ended, other._ended), (self._cut, other._cut)):
            for step, count in theirs.items():
                ours[step] = ours.get(step, 0) + count

    @property
    def count(self) -> int:
        """The number that were not cut short."""
        return sum(self._ended.values())

    def quantiles(self) -> Quantiles:
        """Estimate the quantiles of everything that was added."""
        return Quantiles(*self._quantiles((0.5, 0.95, 0.99)))

    def curve(self) -> tuple[tuple[float, float], ...]:
        """Return the share that had ended by each time, as `(seconds, share)`, both growing."""
        return tuple((_middle_of(step), 1.0 - left) for step, left in self._survival())

    def _quantiles(self, shares: Sequence[float]) -> list[float | None]:
        values: list[float | None] = []
        for step, surviving in self._survival():
            while len(values) < len(shares) and surviving <= 1.0 - shares[len(values)] + 1e-12:
                values.append(_middle_of(step))
        return values + [None] * (len(shares) - len(values))

    def _survival(self) -> Iterator[tuple[int, float]]:
        """Yield each step at which some ended, with the share that takes longer (Kaplan-Meier)."""
        at_risk = sum(self._ended.values()) + sum(self._cut.values())
        surviving = 1.0
        for step in sorted(self._ended.keys() | self._cut.keys()):
            ended = self._ended.get(step, 0)
            surviving *= 1.0 - ended / at_risk
            if ended:
                yield step, surviving
            at_risk -= ended + self._cut.get(step, 0)


def _middle_of(step: int) -> float:
    return _SMALLEST * exp((step - 0.5) / _PER_STEP) if step else _SMALLEST


# -- for people: a line, a table for terminals, a table for notebooks -----------------------------

_MAX_NAME_WIDTH = 32
"""Characters of a target's name in a terminal."""


class _Column(NamedTuple):
    """One column of the table of targets.

    Attributes:
        head: Its heading.
        cell: Writes a target's cell.
        words: Aligned to the left, as words are; numbers go to the right.
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


def summary_line(stats: Stats) -> str:
    """The totals in one line."""
    rare = (
        ("from the cache", stats.cached),
        ("failed", stats.failed),
        ("cancelled", stats.cancelled),
    )
    parts = [
        f"{stats.calls} calls, {stats.answered} answered",
        f"{stats.last_resort} by the last resort" if stats.last_resort else "",
        *(f"{n} {name}" for name, n in rare if n),
        duration_line("", stats.seconds),
        f"hedges {stats.hedge_share:.1%}, extra sends {stats.extra_sends}",
        *(f"{n} broken streams {action}" for action, n in stats.breaks.items()),
        f"{money(stats.spent)} spent, {money(stats.wasted)} of it wasted" if stats.spent else "",
    ]
    return ", ".join(filter(None, parts))


def target_line(target: TargetStats) -> str:
    """One target in one line."""
    faults = sum(target.faults.values())
    parts = [
        f"{target.requests} requests, {target.wins} wins",
        f"{faults} faults" if faults else "",
        f"{target.breaks} broken streams" if target.breaks else "",
        duration_line("first text ", target.first_text),
        f"{money(target.spent)} spent" if target.spent else "",
    ]
    health = f" ({target.health})" if target.health else ""
    return f"{target.name}{health}: {', '.join(filter(None, parts))}"


def size_line(target: TargetStats) -> str:
    """Say what a request's size does to its time, where that is known; else nothing."""
    parts = []
    if target.doubling_tokens is not None:
        parts.append(f"a prompt of {target.doubling_tokens:,} tokens takes twice as long")
    parts += [f"{effort} effort {factor:.1f}x" for effort, factor in target.efforts.items()]
    return f"{target.name}: {', '.join(parts)}" if parts else ""


def duration_line(name: str, times: Quantiles) -> str:
    """Write the median and the 99th percentile: `first text p50 0.41 s p99 1.20 s`."""
    quantiles = (("p50", times.p50), ("p99", times.p99))
    known = " ".join(
        f"{name} {_seconds(value)} s" for name, value in quantiles if value is not None
    )
    return f"{name}{known}" if known else ""


def render_text(stats: Stats) -> str:
    """Write the totals and a table for a terminal."""
    return text_table(summary_line(stats), stats.targets)


def text_table(head: str, targets: Sequence[TargetStats]) -> str:
    """A head and a table of targets for a terminal."""
    columns = [column for column in _COLUMNS if column.everywhere]
    rows = [[c.head for c in columns]]
    rows += [[_elided(c.cell(t), _MAX_NAME_WIDTH) for c in columns] for t in targets]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_row(row, columns, widths) for row in rows]
    rule = "  ".join("-" * width for width in widths)
    sizes = [line for target in targets if (line := size_line(target))]
    return "\n".join([head, "", lines[0], rule, *lines[1:], "", _NOTE, *sizes])


def render_html(stats: Stats) -> str:
    """The totals and a table for a notebook."""
    from langchain_resilient.observability import stats_html as html  # noqa: PLC0415  # for notebooks

    share = f"{stats.answered / stats.calls:.1%}" if stats.calls else ""
    rare = (
        ("failed", stats.failed, html.RED),
        ("cancelled", stats.cancelled, html.GREY),
        ("from the cache", stats.cached, ""),
        ("by the last resort", stats.last_resort, html.AMBER),
        *((f"streams {action}", n, html.AMBER) for action, n in stats.breaks.items()),
    )
    tiles = [
        html.Tile("calls", f"{stats.calls:,}"),
        html.Tile("answered", f"{stats.answered:,}", share),
        *(html.Tile(name, f"{n:,}", colour=colour) for name, n, colour in rare if n),
        *time_tiles(html.Tile, ("time to the answer", stats.seconds)),
        html.Tile("hedges", f"{stats.hedge_share:.1%}", f"{stats.extra_sends:,} extra sends"),
    ]
    if stats.spent:
        tiles.append(html.Tile("spent", money(stats.spent), f"{money(stats.wasted)} wasted"))
    shares = (
        html.Share("answered", stats.answered, html.GREEN),
        html.Share("failed", stats.failed, html.RED),
        html.Share("cancelled", stats.cancelled, html.GREY),
    )
    return html.html_report(tiles, shares, stats.targets)


def time_tiles(tile: Callable[..., Any], *named: tuple[str, Quantiles]) -> list[Any]:
    """Make a tile of each duration that is known: its median, and beside it the 99th percentile."""
    return [
        tile(name, f"{_seconds(t.p50)} s", f"p99 {_seconds(t.p99)} s" if t.p99 else "")
        for name, t in named
        if t.p50 is not None
    ]


def _row(cells: Sequence[str], columns: Sequence[_Column], widths: Sequence[int]) -> str:
    aligned = (
        cell.ljust(width) if column.words else cell.rjust(width)
        for cell, column, width in zip(cells, columns, widths, strict=True)
    )
    return "  ".join(aligned).rstrip()


def _elided(cell: str, max_width: int) -> str:
    half = max_width // 2
    return cell if len(cell) <= max_width else f"{cell[: half - 1]}…{cell[-half:]}"


def _three(times: Quantiles) -> str:
    if times.p50 is None:
        return ""
    return "/".join(_seconds(t) or "?" for t in (times.p50, times.p95, times.p99))


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _money(value: float | None) -> str:
    return "" if value is None else money(value)


def targets_table(targets: Sequence[TargetStats]) -> Any:
    """Make a table of pandas of them; see `Stats.to_pandas`."""
    try:
        from pandas import json_normalize  # noqa: PLC0415  # heavy, and the user's own
    except ImportError as error:
        msg = "to_pandas() needs pandas: pip install pandas"
        raise MissingExtraError(msg) from error
    rows = [{k: v for k, v in target.as_dict().items() if k != "curve"} for target in targets]
    if not rows:
        return json_normalize(rows)
    table = json_normalize(rows).set_index("name")
    for column in table.columns:
        if column.startswith(("kinds.", "faults.")):
            table[column] = table[column].fillna(0).astype(int)  # what was not counted is none
        elif table[column].dtype == object and column != "health":
            table[column] = table[column].astype(float)  # None is not known: NaN
    return table

"""The live picture: what each provider does, and both sides next to each other."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from langchain_resilient.demo.baseline import recipe
from langchain_resilient.demo.charts import bar, columns, height
from langchain_resilient.demo.schedule import PROVIDERS, doing
from langchain_resilient.demo.score import USUAL
from langchain_resilient.demo.traffic import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from langchain_resilient.demo.score import Score
    from langchain_resilient.demo.stage import Show
    from langchain_resilient.observability.stats import Stats, TargetStats

_EDGES = (1.0, 2.0, 5.0, 10.0)
_LOWEST = 0.25  # seconds, at the foot of the chart
_HEALTH_COLOURS = {"ok": "green", "limited": "yellow"}


@contextmanager
def stage_lights(show: Show, console: Console | None = None) -> Iterator[Callable[[], None]]:
    """Take over the terminal, and give it back at the end.

    Args:
        show: What is drawn.
        console: Where to; the process's own terminal unless given.

    Yields:
        A function that draws the picture of this moment.
    """
    console = console or Console()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        yield lambda: live.update(picture(show, console.width, console.height), refresh=True)


def picture(show: Show, width: int, lines: int) -> Layout:
    """Compose the picture of this moment.

    Args:
        show: What is drawn.
        width: Of the terminal, in characters.
        lines: Of the terminal.
    """
    layout = Layout()
    layout.split_column(
        Layout(_head(show, width), size=1),
        Layout(_providers(show), size=len(PROVIDERS) + 3),
        Layout(name="sides"),
        Layout(_foot(), size=2),
    )
    inner = (width // 2 - 4, lines - len(PROVIDERS) - 8)
    panels = [_side(show, side.score, *inner) for side in show.sides]
    if panels:
        layout["sides"].split_row(*map(Layout, panels))
    else:
        layout["sides"].update(Panel(Text("the curtain rises ...", "dim"), border_style="dim"))
    return layout


def _head(show: Show, width: int) -> Text:
    now = show.clock()
    room = max(10, width - 74)
    head = Text(no_wrap=True, overflow="ellipsis")
    head.append(" langchain-resilient demo ", "bold white on blue")
    head.append(f"  {show.rate:g} requests/s to each side  ", "dim")
    head.append(bar(min(1.0, now / show.length), room), "blue on grey23")
    head.append(f" {min(now, show.length):3.0f} of {show.length:g} s")
    return head


def _foot() -> Text:
    foot = Text(style="dim", no_wrap=True, overflow="ellipsis")
    foot.append(
        f" lost: beyond {USUAL:g} s a call, all of a failed one. Deadline {DEADLINE:g} s. "
        "Every other call streams. Ctrl-C ends.\n"
    )
    foot.append(f" LangChain's: {recipe()}")
    return foot


# -- the providers --------------------------------------------------------------------------------


def _providers(show: Show) -> Panel:
    table = Table(expand=True, box=None, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("provider", "does now", "health"):
        table.add_column(head, no_wrap=True)
    for head in ("asked", "won", "hedges", "p50 s", "p95 s"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("faults", no_wrap=True, overflow="ellipsis", ratio=1)
    stats = show.stats()
    for index, provider in enumerate(PROVIDERS):
        act = doing(index, show.clock(), show.length)
        does = Text(act, "green" if act == "well" else "bold red")
        table.add_row(provider.name, does, *_measured(stats, index))
    return Panel(table, title="the providers, as langchain-resilient sees them", border_style="dim")


def _measured(stats: Stats | None, index: int) -> list[Text]:
    if stats is None or index >= len(stats.targets):
        return []
    target: TargetStats = stats.targets[index]
    health = target.health or ""
    cells = (
        str(target.requests), str(target.wins), str(target.hedges),
        _figure(target.whole.p50), _figure(target.whole.p95),
    )  # fmt: skip
    faults = ", ".join(f"{count} {kind}" for kind, count in target.faults.items())
    return [
        Text(health, _HEALTH_COLOURS.get(health, "red")),
        *map(Text, cells),
        Text(faults, "yellow"),
    ]


# -- a side ---------------------------------------------------------------------------------------


def _side(show: Show, score: Score, width: int, lines: int) -> Panel:
    ours = score is show.ours.score
    chart_rows = 3 if lines < 26 else 6  # noqa: PLR2004  # a tall terminal shows more
    parts = [
        *_figures(show, score),
        Text(),
        *_chart(show, score, width, chart_rows),
        Text(),
        *_histogram(show, score, width),
        Text(),
    ]
    room = max(0, lines - len(parts))
    parts += _lines(score, room)
    return Panel(
        Group(*parts), title=f"[bold]{score.name}[/]", border_style="green" if ours else "yellow"
    )


def _figures(show: Show, score: Score) -> list[Text]:
    failed = score.count("failed", "wrong")
    first = Text(no_wrap=True)
    first.append(f"{score.count('answered')} answered", "bold green")
    first.append("   ")
    first.append(f"{failed} failed", "bold red" if failed else "dim")
    first.append(f"   {score.count('waiting')} waiting")
    second = Text(no_wrap=True)
    for name, share in (("p50", 0.5), ("p95", 0.95), ("max", 1.0)):
        second.append(f"{name} ", "dim")
        second.append(f"{_short(score.quantile(share))}  ", "bold")
    lost = score.lost(show.clock())
    second.append("lost ", "dim")
    second.append(f"{lost:.0f} s", "bold")
    return [first, second]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _chart(show: Show, score: Score, width: int, rows: int) -> list[Text]:
    """Draw the longest wait over time; red where a call failed, yellow where it was slow."""
    slices = score.worst(width, show.length, show.clock())
    heights = [height(wait, _LOWEST, DEADLINE) for wait, _ in slices]
    styles = [_colour(wait, failed=failed) for wait, failed in slices]
    caption = Text(f"longest wait by time of asking (log, to {DEADLINE:g} s)", "dim")
    drawn = [caption]
    for line in columns(heights, rows):
        text = Text(no_wrap=True)
        for character, style in zip(line, styles, strict=True):
            text.append(character, style)
        drawn.append(text)
    return drawn


def _colour(wait: float, *, failed: bool) -> str:
    if failed:
        return "red"
    return "green" if wait <= _EDGES[1] else "yellow"


def _histogram(show: Show, score: Score, width: int) -> list[Text]:
    counts = score.histogram(_EDGES, show.clock())
    names = [f"≤ {edge:g} s" for edge in _EDGES] + [f"> {_EDGES[-1]:g} s"]
    colours = ["green", "green", "yellow", "yellow", "yellow"]
    rows = [*zip(names, counts, colours, strict=True)]
    rows.append(("failed", score.count("failed", "wrong"), "red"))
    most = max(1, len(score.calls))
    drawn = []
    for name, count, colour in rows:
        text = Text(no_wrap=True)
        text.append(f"{name:>6} ", "dim")
        text.append(bar(count / most, width - 13), colour)
        text.append(f" {count:>4}")
        drawn.append(text)
    return drawn


def _lines(score: Score, room: int) -> list[Text]:
    last = list(score.lines)[-room:] if room else []
    return [
        Text(line, "red" if bad else "grey70", no_wrap=True, overflow="ellipsis")
        for line, bad in last
    ]

"""The demo in plain lines, for logs and pipes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_resilient.demo.baseline import recipe
from langchain_resilient.demo.schedule import PROVIDERS, doing
from langchain_resilient.demo.score import USUAL
from langchain_resilient.demo.traffic import DEADLINE

if TYPE_CHECKING:
    from langchain_resilient.demo.score import Score
    from langchain_resilient.demo.stage import Show


def seconds(value: float | None) -> str:
    """Write a time: `0.42 s`."""
    return "-" if value is None else f"{value:.2f} s"


def conditions(show: Show) -> str:
    """Tell what is compared, in two lines."""
    return (
        f"The same requests to the same simulated providers on loopback, each side with its own "
        f"copy (seed {show.seed}); every other one is streamed; deadline {DEADLINE:g} s.\n"
        f"LangChain's side: {recipe()}."
    )


def line(show: Show) -> str:
    """Tell how it stands, in one line."""
    now = show.clock()
    acts = ", ".join(
        f"{provider.name.partition(':')[0]} {doing(i, now, show.length)}"
        for i, provider in enumerate(PROVIDERS)
    )
    sides = "; ".join(_standing(side.score) for side in show.sides)
    return f"{now:5.1f} s  [{acts}]  {sides}"


def _standing(score: Score) -> str:
    return (
        f"{score.name}: {score.count('answered')} answered, {score.count('failed', 'wrong')} "
        f"failed, {score.count('waiting')} waiting, p95 {seconds(score.quantile(0.95))}"
    )


def summary(show: Show) -> str:
    """Compare both sides at the end."""
    now = show.clock()
    rows = [("", *(side.score.name for side in show.sides))]
    rows += [(name, *cells) for name, *cells in _figures(show, now)]
    first = max(len(row[0]) for row in rows)
    table = [f"{row[0]:<{first}}" + "".join(f"  {cell:>27}" for cell in row[1:]) for row in rows]
    return "\n".join([
        *table,
        "",
        f"seconds lost: what calls took beyond {USUAL:g} s, and all that failed calls took.",
        conditions(show),
    ])  # fmt: skip


def _figures(show: Show, now: float) -> list[tuple[str, ...]]:
    scores = [side.score for side in show.sides]
    return [
        ("requests", *(str(len(s.calls)) for s in scores)),
        ("answered, whole", *(str(s.count("answered")) for s in scores)),
        ("failed or not whole", *(str(s.count("failed", "wrong")) for s in scores)),
        ("p50", *(seconds(s.quantile(0.5)) for s in scores)),
        ("p95", *(seconds(s.quantile(0.95)) for s in scores)),
        ("longest", *(seconds(s.quantile(1.0)) for s in scores)),
        ("seconds lost", *(f"{s.lost(now):.0f} s" for s in scores)),
    ]

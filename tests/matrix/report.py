"""How the matrix is printed: a line a row and place, totals, and every cell that fell short."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING

from tests.matrix.row import WAYS
from tests.streams.bench import DIALECTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.matrix.cell import Verdict
    from tests.matrix.runs import Outcome

LEGEND = """\
W whole answer of one target, C put together from several, O the odd target's own, R the last
resort, E an error, P part of it and an error; then the requests made (+: over 9). Amiss: x text,
e error, c cause, l leak, s too slow, n requests, ? the fault did not happen.
o: the first target speaks OpenAI's dialect, t: Together's. s: the slowest cell's seconds."""

_NAME, _PLACE, _CELL = 38, 8, 4
_SLOWEST = 5


def table(outcome: Outcome) -> Iterator[str]:
    """Write the table."""
    ways = "".join(f"{way:<{_CELL * len(DIALECTS)}.{_CELL * len(DIALECTS) - 1}}" for way in WAYS)
    yield f"{'':<{_NAME + _PLACE}}{ways}"
    short = "".join(f"{dialect[0]:<{_CELL}}" for dialect in DIALECTS)
    yield f"{'fault':<{_NAME}}{'place':<{_PLACE}}{short * len(WAYS)}{'s':>5}"
    by_line = groupby(outcome.verdicts, key=lambda r: (r.row, r.place))
    for (name, place), results in by_line:
        yield _line(name, place, results)
    yield LEGEND


def _line(name: str, place: str, results: Iterable[Verdict]) -> str:
    found = {(r.way, r.dialect): r for r in results}
    cells = [found.get((way, dialect)) for way in WAYS for dialect in DIALECTS]
    marks = "".join(f"{'' if one is None else _brief(one):<{_CELL}}" for one in cells)
    slowest = max(one.seconds for one in found.values())
    return f"{name:<{_NAME}.{_NAME - 1}}{place:<{_PLACE}}{marks}{slowest:>5.2f}"


def _brief(result: Verdict) -> str:
    number = result.attempts if result.attempts < 10 else "+"
    about = {problem.about.value: None for problem in result.problems}
    return f"{result.mark}{number}{''.join(about)}"


def totals(outcome: Outcome) -> Iterator[str]:
    """Write what there is in all, and what is amiss."""
    results = outcome.verdicts
    marks = Counter(result.mark for result in results)
    bad = [result for result in results if result.problems]
    yield (
        f"{len(results)} cells, {len(results) - len(bad)} as they must be: "
        f"{', '.join(f'{number} {mark}' for mark, number in sorted(marks.items()))}; "
        f"{sum(r.attempts for r in results)} requests; {sum(r.again > 0 for r in results)} tried "
        "again alone, since the machine was busy"
    )
    yield "slowest:"
    for result in sorted(results, key=lambda r: -r.seconds)[:_SLOWEST]:
        yield f"  {result.seconds:.2f} s {result}"
    for result in bad:
        yield from _detail(result)
    yield f"left behind in the process: {'; '.join(outcome.leaks) or 'nothing'}"


def _detail(result: Verdict) -> Iterator[str]:
    yield f"FAILED {result} ({_brief(result)}, {result.seconds:.2f} s)"
    yield from (f"    {problem.what}" for problem in result.problems)
    yield f"    replay: {result.replay}"

"""What a cell has to give: text, time, attempts, causes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_resilient import (
    AllTargetsFailedError,
    DeadlineExceededError,
    FaultKind,
    RateLimitedError,
    RequestRejectedError,
    StreamBrokenError,
)
from langchain_resilient.engine.candidates import MAX_REFUSALS
from langchain_resilient.engine.rate_limiter import BATCH_PATIENCE
from verification.kit.ways import TURNS
from verification.matrix.cells import LATE, About, Problem, resort_text
from verification.matrix.rows import STREAMS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_resilient.testing import RecordedRequest
    from verification.kit.ways import Got
    from verification.matrix.cells import Cell, Result
    from verification.matrix.rows import Row

NOISE = 0.8
"""Seconds that the machine may take from each call of the model."""

MOST = 40
"""The most requests that a call may send to a target that fails for 1.2 s: retries have a budget of
20, and five more each second."""

_HANGS = {FaultKind.TIMEOUT, FaultKind.STALL}


def judge(result: Result, noise: float = NOISE) -> None:
    """Fill in what is wrong with a result.

    Args:
        result: What came of a cell.
        noise: Seconds that the machine may take from each call of the model.
    """
    result.problems = [
        *(Problem(About.TEXT, what) for got in result.gots for what in _text(result.cell, got)),
        *(Problem(About.ERROR, what) for got in result.gots for what in _raised(result.cell, got)),
        *(Problem(About.CAUSE, what) for got in result.gots for what in _cause(result.cell, got)),
        *(Problem(About.LEAK, what) for what in result.leaks),
        *(Problem(About.TIME, what) for what in _time(result, noise)),
        *(Problem(About.ATTEMPTS, what) for what in _attempts(result)),
        *(Problem(About.UNPLAYED, what) for what in _unplayed(result)),
    ]


# -- text -----------------------------------------------------------------------------------------


def _text(cell: Cell, got: Got) -> Iterator[str]:
    """The right text to the letter; or the error that fits, or the last resort."""
    if not cell.fails:
        if got.error is None and _said(cell, got) not in _allowed(cell, got) | _resorts(cell):
            yield f"said {got.text[:200]!r}"
    elif got.error is None and got.text == got.right and cell.row.says and cell.way in STREAMS:
        return  # each said a part of it, and all said it all
    elif _last_resort(cell):
        yield from _resort(cell, got)
    elif got.error is None:
        if _said(cell, got) not in _resorts(cell):
            yield f"said {got.text[:200]!r}, where nobody could answer"
    elif isinstance(got.error, StreamBrokenError):
        if got.error.partial != got.text or not got.right.startswith(got.text):
            yield f"the partial is {got.error.partial[:200]!r}, shown was {got.text[:200]!r}"
    elif got.text:
        yield f"said {got.text[:200]!r} before {type(got.error).__name__}"


def _last_resort(cell: Cell) -> bool:
    """Whether the last resort must answer: a request that is wrong everywhere is refused."""
    return cell.fails and cell.place.resort and cell.row.error is not RequestRejectedError


def _said(cell: Cell, got: Got) -> str:
    """Return the text; an agent whose model called no tool said nothing else."""
    text = got.messages[-1].text if got.messages else got.text
    short = cell.way == "agent" and text in {cell.row.own, resort_text(cell.way)}
    return text if short else got.text


def _resorts(cell: Cell) -> set[str]:
    """Return what a last resort may say too early, where time ran out: that is no wrong text."""
    return {resort_text(cell.way)} if cell.place.resort else set()


def _allowed(cell: Cell, got: Got) -> set[str]:
    """Return what may be said: the faulty target's own answer counts only where it may win."""
    own = cell.row.own
    if own is None or cell.row.breaks(cell.way) or cell.place.name == "last":
        return {got.right}
    return {own, got.right} if cell.place.name == "hedged" else {own}


def _resort(cell: Cell, got: Got) -> Iterator[str]:
    """The fixed text alone; or, in a paragraph of its own, after what others had begun."""
    last = resort_text(cell.way)
    before = got.text.removesuffix(f"\n\n{last}")
    begun = cell.row.says and cell.way in STREAMS and got.right.startswith(before)
    whole = got.error is None or isinstance(got.error, StreamBrokenError)
    if whole and _said(cell, got) != last and not begun:
        yield f"said {got.text[:200]!r}, not the last resort"


# -- errors ---------------------------------------------------------------------------------------


def _raised(cell: Cell, got: Got) -> Iterator[str]:
    """The error that fits, and none where somebody could answer."""
    if got.error is None:
        if not _last_resort(cell) and _said(cell, got) in _resorts(cell):
            yield "the last resort answered, whom nobody should have asked"
        return
    allowed = errors(cell.row) if cell.fails and not _last_resort(cell) else set()
    if cell.fails and cell.row.says and cell.way in STREAMS:
        # The deadline may cut one off that is shown; then even a last resort has no say.
        allowed = allowed | {StreamBrokenError}
    if not isinstance(got.error, tuple(allowed)):  # errors of some causes are of their families too
        yield f"raised {got.error!r:.300}"


def errors(row: Row) -> set[type[Exception]]:
    """Return what may be raised: what may pass is given up where it cannot by the deadline."""
    if not row.passes:
        return {row.error}
    limited = {RateLimitedError} if row.kinds == {FaultKind.RATE_LIMIT} else set()
    return {DeadlineExceededError, AllTargetsFailedError} | limited


# -- causes ---------------------------------------------------------------------------------------


def _cause(cell: Cell, got: Got) -> Iterator[str]:
    """Each failure is taken for what it is."""
    attempts = [a for receipt in got.receipts for a in receipt["attempts"]]
    faults = [a["fault"] for a in attempts if "fault" in a and ":bad-" in a["target"]]
    kinds = set(cell.row.kinds)
    if cell.row.waits != "nothing":
        kinds |= _HANGS
    if cell.row.says and cell.way in STREAMS:
        kinds.add(FaultKind.EMPTY)  # asked to go on with what is complete, it says nothing
    wrong = {kind for kind in faults if kind not in kinds} if cell.row.breaks(cell.way) else ()
    if wrong:
        yield f"taken for {', '.join(sorted(wrong))}"
    # A drip goes on until the deadline, for slow is better than none; so does reasoning, which is
    # still coming then.
    goes_on = cell.row.waits == "pace" or cell.row.name == "reasoning, then dead"
    if cell.fails and got.receipts and not faults and not goes_on:
        yield "the receipt tells no fault"


# -- time -----------------------------------------------------------------------------------------


def bound(cell: Cell, noise: float = NOISE) -> float:
    """Return the seconds that a cell may take, noise included."""
    limits, turns = cell.place.limits, TURNS.get(cell.way, 1)
    wait = limits.of(cell.row.waits) if cell.row.breaks(cell.way) else 0.0
    if _stays(cell):
        noise += BATCH_PATIENCE
    if cell.fails:
        # Between two draws at one target there is a backoff; and nothing but the deadline ends it.
        return noise + (limits.deadline if cell.row.passes or cell.row.draws > 1 else wait)
    if cell.place.name == "hedged":
        # The one that is late is asked again to go on, where the other began and broke off.
        wait += limits.hedge + (4 if cell.row.says else 2) * LATE
    return turns * (noise + (0.0 if cell.place.name == "last" else wait))


def _stays(cell: Cell) -> bool:
    """Whether it is a batch at a rate limit: it stays with who may have room in a moment."""
    return cell.way == "abatch" and FaultKind.RATE_LIMIT in cell.row.kinds


def _time(result: Result, noise: float) -> Iterator[str]:
    most = bound(result.cell, noise)
    if result.seconds > most:
        yield f"took {result.seconds:.2f} s, at most {most:.2f}"


# -- attempts -------------------------------------------------------------------------------------


def allowed_attempts(cell: Cell) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the fewest and the most requests that the first target may see, and the second."""
    row, calls, breaks = cell.row, cell.calls, cell.row.breaks(cell.way)
    # Who refuses the request may have refused its schema: it is asked for JSON in other words.
    reworded = cell.way == "structured" and FaultKind.BAD_REQUEST in row.kinds
    several = calls * (row.asks + reworded)
    if cell.place.name == "last":
        return (calls, calls), (0, 0)
    if cell.place.name == "hedged":
        return (1, 4 * calls), (0 if calls > 1 else 1, 4 * several)
    if not breaks:
        # Of several that are refused at once only one is asked again at once: the rest spread.
        spread = several if cell.way == "abatch" and row.asks > 1 else 0
        return (1 if row.asks > 1 else calls, several), (0, spread)
    if not cell.place.everywhere:
        # What a target is known for, the second turn of an agent does not ask it again.
        most = row.asks if row.known and cell.way == "agent" else several
        if _stays(cell):
            most *= 1 + MAX_REFUSALS
        return (1, most), (calls, calls + 2 if row.says and cell.way in STREAMS else calls)
    if row.passes:
        return (1, MOST * calls), (1, MOST * calls)
    one = row.draws if calls == 1 or cell.way == "agent" else calls * row.draws
    one += reworded
    return (row.draws, one), (row.draws, one)


def _attempts(result: Result) -> Iterator[str]:
    pairs = zip(("first", "second"), result.seen, allowed_attempts(result.cell), strict=True)
    for which, seen, (least, most) in pairs:
        if not least <= len(seen) <= most:
            yield f"the {which} target saw {len(seen)} requests, not {least} to {most}"
    sent = sum(len(receipt["attempts"]) for got in result.gots for receipt in got.receipts)
    simple = result.cell.row.asks == 1 and result.cell.way != "structured"
    if sent and simple and result.attempts > sent:
        yield f"the server saw {result.attempts} requests, the receipts tell of {sent}"


# -- whether it was tried -------------------------------------------------------------------------


def _unplayed(result: Result) -> Iterator[str]:
    """A fault that did not happen is no success."""
    cell = result.cell
    if not cell.row.breaks(cell.way) or cell.place.name == "last":
        return
    roles = zip(cell.place.roles, result.seen, strict=True)
    played = [one for role, seen in roles if role == "bad" for one in seen if _plays(cell, one)]
    if cell.place.name == "hedged":
        if not played and cell.calls == 1:
            yield "nobody was asked beside the late target"
    elif not played:
        yield "the fault did not happen"
    elif (
        cell.row.says
        and cell.way != "agent"
        and not any(len(one.pieces) >= cell.row.says for one in played)
    ):
        yield "it said too little before the fault"


def _plays(cell: Cell, one: RecordedRequest) -> bool:
    if cell.row.door is not None:
        return one.step.startswith("Refused")
    phases = getattr(cell.row.step, "phases", ((0.0, cell.row.step),))
    return one.step in {step.name for _, step in phases}

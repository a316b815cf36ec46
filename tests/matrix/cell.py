"""One cell of the matrix: what is tried, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from langchain_resilient.errors import DeadlineExceededError
from tests.matrix.places import healthy, resort_text
from tests.matrix.ways import BATCH, ask
from tests.streams.bench import DIALECTS
from tests.streams.ways import TURNS, Got

if TYPE_CHECKING:
    from langchain_resilient.testing.request_log import RecordedRequest
    from tests.matrix.places import Place, Role
    from tests.matrix.row import Row
    from tests.matrix.stand import Stand

_GRACE = 5.0
"""Seconds over the deadline at which a call is taken for hung."""


@dataclass(frozen=True)
class Cell:
    """What is tried.

    Attributes:
        row: The fault.
        way: How the model is asked.
        place: Where the fault is.
        dialect: Of the first target; the second speaks the other one.
    """

    row: Row
    way: str
    place: Place
    dialect: str

    @property
    def calls(self) -> int:
        """How many calls of the model it makes: an agent that gets a text for an answer, one."""
        if self.way == "agent" and self.row.own is not None and self.place.name != "last":
            return 1
        return BATCH if self.way == "abatch" else TURNS.get(self.way, 1)

    @property
    def fails(self) -> bool:
        """Whether nobody's own answer counts."""
        return self.place.everywhere and self.row.breaks(self.way)

    def replay(self) -> str:
        """Return the command that plays it alone."""
        return (
            f"python -m tests.matrix --row {str(self.row)!r} --way {self.way} "
            f"--place {self.place.name} --dialect {self.dialect}"
        )

    def __str__(self) -> str:
        return f"{self.row} / {self.way} / {self.place.name} / {self.dialect}"


class About(StrEnum):
    """What a problem is about."""

    TEXT = "x"
    ERROR = "e"
    CAUSE = "c"
    LEAK = "l"
    TIME = "s"
    ATTEMPTS = "n"
    UNPLAYED = "?"


NOISY = {About.TIME, About.ATTEMPTS, About.UNPLAYED, About.CAUSE}
"""What a busy machine may do to a cell, for limits pass there: it is tried again, alone."""


@dataclass(frozen=True)
class Problem:
    """Something that is not as it must be."""

    about: About
    what: str


@dataclass
class Result:
    """What came of a cell.

    Attributes:
        cell: What was tried.
        gots: What the caller got, one for each input.
        seen: The requests that the server saw, of the first target and of the second.
        leaks: What was left behind.
        problems: What is wrong with it.
        again: How often it was tried again, alone.
    """

    cell: Cell
    gots: list[Got]
    seen: tuple[list[RecordedRequest], list[RecordedRequest]]
    leaks: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    again: int = 0

    @property
    def seconds(self) -> float:
        """To the end of all."""
        return max(got.seconds for got in self.gots)

    @property
    def attempts(self) -> int:
        """The requests that the server saw."""
        return sum(map(len, self.seen))

    @property
    def noisy(self) -> bool:
        """Whether all that is wrong may come from a busy machine."""
        about = {problem.about for problem in self.problems}
        late = About.TIME in about
        if not self.cell.place.resort:
            # A last resort answers on a busy machine too: no deadline is an excuse there.
            late |= any(isinstance(got.error, DeadlineExceededError) for got in self.gots)
        return bool(about) and about <= NOISY | ({About.ERROR} if late else set())

    @property
    def mark(self) -> str:
        """Tell in a letter what the caller got; see the legend of the report."""
        got = self.gots[0]
        if got.error is not None:
            return "P" if got.text else "E"
        last = got.messages[-1].text if got.messages else got.text
        if got.text.endswith(resort_text(self.cell.way)) or last == resort_text(self.cell.way):
            return "R"
        if got.text != got.right:
            return "O" if last == self.cell.row.own else "X"
        every = [*self.seen[0], *self.seen[1]]
        return "C" if self.cell.way in {"astream", "stream"} and _joined(got, every) else "W"


def _joined(got: Got, every: list[RecordedRequest]) -> bool:
    return all(one.text != got.right for one in every)


@dataclass(frozen=True)
class Verdict:
    """What a result comes down to: light enough to be sent between processes.

    Attributes:
        row: The fault's name.
        place: The place's name.
        way: How the model was asked.
        dialect: Of the first target.
        mark: What the caller got.
        attempts: The requests that the server saw.
        seconds: To the end of all.
        problems: What is wrong with it.
        again: How often it was tried again, alone.
        replay: The command that plays it alone.
    """

    row: str
    place: str
    way: str
    dialect: str
    mark: str
    attempts: int
    seconds: float
    problems: tuple[Problem, ...]
    again: int
    replay: str

    @classmethod
    def of(cls, result: Result) -> Verdict:
        """Sum a result up."""
        cell = result.cell
        return cls(
            row=cell.row.name,
            place=cell.place.name,
            way=cell.way,
            dialect=cell.dialect,
            mark=result.mark,
            attempts=result.attempts,
            seconds=result.seconds,
            problems=tuple(dict.fromkeys(result.problems)),
            again=result.again,
            replay=cell.replay(),
        )

    def __str__(self) -> str:
        return f"{self.row} / {self.way} / {self.place} / {self.dialect}"


async def play(stand: Stand, cell: Cell) -> Result:
    """Try a cell; what is wrong with it `expect.judge` tells."""
    number = stand.number()
    other = DIALECTS[1 - DIALECTS.index(cell.dialect)]
    specs = [
        _name(stand, cell, dialect, role, number)
        for dialect, role in zip((cell.dialect, other), cell.place.roles, strict=True)
    ]
    model = stand.model(*specs, **cell.place.fields(cell.way))
    work = ask(model, cell.way, number, cell.place.limits.deadline + _GRACE)
    gots = await stand.census.run(number, work)
    leaks = await stand.behind(number, model, specs)
    return Result(cell, gots, (stand.seen(specs[0]), stand.seen(specs[1])), leaks)


def _name(stand: Stand, cell: Cell, dialect: str, role: Role, number: int) -> str:
    """Name a target, and say what it does."""
    if role != "bad":
        return stand.name(dialect, role, number, [healthy(role)])
    spec = stand.name(dialect, role, number, [cell.row.step])
    if cell.row.door is not None:
        cell.row.door(stand.sim, spec)
    return spec

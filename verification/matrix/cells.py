"""The cells of the matrix: which there are, what one tries, and what came of it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from langchain_resilient import DeadlineExceededError, Hedge, ResilientChatModel, TimeLimits
from langchain_resilient.configuration import chain_of
from langchain_resilient.faults import FaultKind
from langchain_resilient.runtime import shared_state
from langchain_resilient.testing import ProviderSimulator, Reply
from verification.kit.leftovers import WORKER_THREADS, Census, busy_connections, settled
from verification.kit.scripted_targets import CANARY, DIALECTS, Bench, Limits, small_limits, target
from verification.kit.ways import TURNS, Got
from verification.matrix.rows import ROWS, WAYS
from verification.matrix.ways import BATCH, ask, fact_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from langchain_resilient.testing import RecordedRequest, Step
    from verification.matrix.rows import Row


Role = Literal["bad", "good", "late"]

LATE = 0.6
"""Seconds to the first text of a target that is well, but so late that the other is asked too."""

RESORT = "Please ask again later."


@dataclass(frozen=True, eq=False)
class Place:
    """Where the fault is.

    Attributes:
        name: As the table and the command line call it.
        roles: What the two targets do, in order.
        limits: What the fault may cost.
        resort: Whether there is a last resort.
    """

    name: str
    roles: tuple[Role, Role]
    limits: Limits
    resort: bool = False

    @property
    def everywhere(self) -> bool:
        """Whether nobody is well."""
        return "good" not in self.roles and "late" not in self.roles

    def fields(self, way: str) -> dict[str, Any]:
        """Return what the model is made with."""
        last = resort_text(way) if self.resort else None
        return {**self.limits.fields, "last_resort": last}


def resort_text(way: str) -> str:
    """Return what the last resort says: even a fixed text has to fit a schema."""
    return fact_text(RESORT, 0) if way == "structured" else RESORT


def healthy(role: Role) -> Step:
    """Return what a target does that is well."""
    return Reply(first_text=LATE) if role == "late" else Reply()


def _tight() -> Limits:
    """Where nobody is well the deadline ends it, so all else has to fit into it twice."""
    time_limits = TimeLimits(
        first_text=0.4, chunk_gap=0.4, min_tokens_per_second=5.0, throughput_window=0.4
    )
    fields = {"hedge": Hedge(cold=0.15, pause=0.2), "time_limits": time_limits, "timeout": 1.2}
    return Limits(0.15, 0.2, 0.4, pace=0.4, drip=small_limits().drip, deadline=1.2, fields=fields)


PLACES = {
    place.name: place
    for place in (
        Place("first", ("bad", "good"), small_limits()),
        Place("last", ("good", "bad"), small_limits()),
        Place("hedged", ("late", "bad"), small_limits()),
        Place("all", ("bad", "bad"), _tight()),
        Place("resort", ("bad", "bad"), _tight(), resort=True),
    )
}


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
            f"python -m verification.matrix --row {str(self.row)!r} --way {self.way} "
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
        hung = any(type(got.error) is TimeoutError for got in self.gots)
        if hung and not self._unsent:
            return False  # no machine is as busy as that
        about = {problem.about for problem in self.problems}
        late = About.TIME in about
        if not self.cell.place.resort:
            # A last resort answers on a busy machine too: no deadline is an excuse there.
            late |= any(isinstance(got.error, DeadlineExceededError) for got in self.gots)
        return bool(about) and about <= NOISY | ({About.ERROR} if late else set())

    @property
    def _unsent(self) -> bool:
        """Whether a call of a batch came when others were refused: it waits for its turn."""
        limited = self.cell.way == "abatch" and FaultKind.RATE_LIMIT in self.cell.row.kinds
        return limited and self.attempts < len(self.cell.place.roles) * self.cell.calls

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


_THREADS = 64
"""Enough that a synchronous call never waits for a thread, which would be taken for slowness."""


class Stand(Bench):
    """A bench on which no cell shares a key: what blocks an account must not be another's loss."""

    def __init__(self, sim: ProviderSimulator, census: Census) -> None:
        super().__init__(sim, census)
        self._seen: dict[str, list[RecordedRequest]] = defaultdict(list)
        self._read = 0

    def model(self, *specs: str, **fields: Any) -> ResilientChatModel:
        """Make a model over named targets."""
        keyed = [target(self.sim, spec, api_key=f"{CANARY}-{spec}") for spec in specs]
        return ResilientChatModel(targets=keyed, **fields)

    def seen(self, spec: str) -> list[RecordedRequest]:
        """Return the requests to a target; each is looked through once, for there are many."""
        requests = self.sim.requests
        for one in requests[self._read :]:
            self._seen[one.target].append(one)
        self._read = len(requests)
        return self._seen[spec]

    async def behind(
        self, number: int, model: ResilientChatModel, specs: Sequence[str]
    ) -> list[str]:
        """Wait for what a call made to be gone, and list what is still there."""
        left = await self.left(number, specs)
        keys = [target.api_key.get_secret_value() for target in chain_of(model)]
        return left + await settled(lambda: busy_connections(keys=keys))


@asynccontextmanager
async def stand() -> AsyncIterator[Stand]:
    """Start a simulator that nobody knows yet."""
    shared_state.reset()
    with ProviderSimulator(remember=1_000_000) as sim, Census() as census:
        yield Stand(sim, census)


def hire() -> None:
    """Give the running loop the threads in which synchronous calls are made."""
    workers = ThreadPoolExecutor(_THREADS, thread_name_prefix=WORKER_THREADS)
    asyncio.get_running_loop().set_default_executor(workers)


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


DAILY = 2
"""Cells of each row that are run every day."""


def every_cell() -> list[Cell]:
    """List all cells there are."""
    return [
        Cell(row, way, endpoint, dialect)
        for row in ROWS.values()
        for endpoint in PLACES.values()
        for way in WAYS
        for dialect in DIALECTS
    ]


def matrix() -> list[Cell]:
    """List the cells of the matrix: of the rows that are variants of others every way once."""
    some = cover([row for row in ROWS.values() if row.variant], each=len(WAYS))
    chosen = {str(cell) for cell in some}
    return [cell for cell in every_cell() if not cell.row.variant or str(cell) in chosen]


def cover(rows: Iterable[Row] = tuple(ROWS.values()), each: int = DAILY) -> list[Cell]:
    """Choose some cells of each row.

    The numbers of ways, places and dialects share no factor, so that counting through all three at
    once meets each combination of them.
    """
    places = tuple(PLACES.values())
    return [
        Cell(row, WAYS[n % len(WAYS)], places[n % len(places)], DIALECTS[n % len(DIALECTS)])
        for at, row in enumerate(rows)
        for n in range(at * each, (at + 1) * each)
    ]

"""A row of the matrix: one fault, and what it must be taken for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from langchain_resilient.errors import AllTargetsFailedError, DeadlineExceededError
from langchain_resilient.faults import FaultKind
from langchain_resilient.testing.simulator import ProviderSimulator
from langchain_resilient.testing.steps.base import Reply

if TYPE_CHECKING:
    from langchain_resilient.testing.steps.base import Step
    from tests.streams.limits import Wait

WAYS = ("ainvoke", "invoke", "astream", "stream", "abatch", "structured", "agent")
STREAMS = ("astream", "stream")

FIRST = 5
"""Pieces of text that come through before an answer breaks in its text."""

PACED = Reply(chunk_gap=0.01)
"""An answer slow enough that what comes before a fault is shown before it."""

BRISK = Reply(chunk_gap=0.0)
"""The same, for answers that come through to their end."""

Door = Callable[[ProviderSimulator, str], None]


@dataclass(frozen=True, eq=False)
class Row:
    """One fault.

    Attributes:
        name: As the table and the command line call it.
        step: What a target does with every request.
        kinds: What its failures are to be taken for; none where its own answer counts.
        fails: The ways of asking in which it is a failure; in the others its own answer counts.
        own: The text of its own answer, where that is not the usual one.
        error: What is raised where all targets do it.
        waits: What must pass before it shows.
        says: The pieces of text that come before it; 0 for none.
        asks: How often it may be asked in one call of the model while another target is well.
        draws: How often it is asked in one call where all targets do it, if it does not pass.
        known: Whether later calls leave it out.
        door: Sets a rule of the simulator for a target.
        variant: Whether another row does the same in other words: then some of its cells will do.
    """

    name: str
    step: Step
    kinds: frozenset[FaultKind] = frozenset()
    fails: tuple[str, ...] = WAYS
    own: str | None = None
    error: type[Exception] = DeadlineExceededError
    waits: Wait = "nothing"
    says: int = 0
    asks: int = 1
    draws: int = 1
    known: bool = False
    door: Door | None = None
    variant: bool = False

    def breaks(self, way: str) -> bool:
        """Whether the target's own answer does not count in this way of asking."""
        return bool(self.kinds) and way in self.fails

    @property
    def passes(self) -> bool:
        """Whether it may pass, so that the targets are asked again until the deadline."""
        return self.error is DeadlineExceededError

    def __str__(self) -> str:
        return self.name


def fault(name: str, step: Step, *kinds: FaultKind, **fields: Any) -> Row:
    """Make a row for what may pass."""
    return Row(name, step, frozenset(kinds), **fields)


def final(name: str, step: Step, *kinds: FaultKind, **fields: Any) -> Row:
    """Make a row for what does not pass within a call."""
    return Row(name, step, frozenset(kinds), **{"error": AllTargetsFailedError, **fields})


def sound(name: str, step: Step, **fields: Any) -> Row:
    """Make a row for a blemish that an answer survives."""
    return Row(name, step, **fields)


def variants(*rows: Row) -> tuple[Row, ...]:
    """Mark rows that differ from another one in bytes that only the classifier reads."""
    return tuple(replace(row, variant=True) for row in rows)

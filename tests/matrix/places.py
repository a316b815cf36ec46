"""Where in the chain the fault is, and the limits that it is held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from langchain_resilient.options import Hedge, TimeLimits
from langchain_resilient.testing.steps.base import Reply
from tests.matrix.ways import fact_text
from tests.streams.limits import Limits, small

if TYPE_CHECKING:
    from langchain_resilient.testing.steps.base import Step

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
    timeouts = TimeLimits(
        first_text=0.4, chunk_gap=0.4, min_tokens_per_second=5.0, throughput_window=0.4
    )
    fields = {"hedge": Hedge(cold=0.15, pause=0.2), "timeouts": timeouts, "timeout": 1.2}
    return Limits(0.15, 0.2, 0.4, pace=0.4, drip=small().drip, deadline=1.2, fields=fields)


PLACES = {
    place.name: place
    for place in (
        Place("first", ("bad", "good"), small()),
        Place("last", ("good", "bad"), small()),
        Place("hedged", ("late", "bad"), small()),
        Place("all", ("bad", "bad"), _tight()),
        Place("resort", ("bad", "bad"), _tight(), resort=True),
    )
}

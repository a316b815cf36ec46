"""The limits that a fault may cost, for the rows of faults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from langchain_resilient import Hedge, ResilientChatModel, Timeouts

Wait = Literal["nothing", "hedge", "gap"]
"""What has to pass before a fault shows: nothing, the hedge delay, or the gap between chunks."""


@dataclass(frozen=True)
class Limits:
    """Seconds.

    Attributes:
        hedge: The hedge delay of a target that nothing is known of.
        gap: The longest pause inside an answer.
        deadline: For a whole call.
        fields: What makes a model keep these limits; empty for its defaults.
    """

    hedge: float
    gap: float
    deadline: float
    fields: dict[str, Any]

    def of(self, wait: Wait) -> float:
        """Return the seconds that a fault costs."""
        return {"nothing": 0.0, "hedge": self.hedge, "gap": self.gap}[wait]


def small() -> Limits:
    """The defaults in proportion, but so small that a table of them takes a minute."""
    timeouts = Timeouts(first_text=1.0, chunk_gap=0.8)
    fields = {"hedge": Hedge(cold=0.3), "timeouts": timeouts, "timeout": 10.0}
    return Limits(hedge=0.3, gap=0.8, deadline=10.0, fields=fields)


def real() -> Limits:
    """The defaults of the model."""
    deadline = ResilientChatModel.model_fields["timeout"].default
    return Limits(Hedge().cold, Timeouts().chunk_gap or deadline, deadline, fields={})

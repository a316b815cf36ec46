"""The limits that a fault may cost, for the rows of faults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from langchain_resilient.chat_model import ResilientChatModel
from langchain_resilient.options import Hedge, TimeLimits

if TYPE_CHECKING:
    from pydantic import BaseModel

Wait = Literal["nothing", "hedge", "pause", "gap", "pace"]
"""What has to pass before a fault shows: nothing, the hedge delay, a silence in the text, the limit
for such a silence, or the time in which the throughput is measured."""


@dataclass(frozen=True)
class Limits:
    """Seconds, but for the drip.

    Attributes:
        hedge: The hedge delay of a target that nothing is known of.
        pause: The silence in the text after which another target is asked.
        gap: The longest silence in the text.
        pace: Until the throughput of an answer can be judged.
        drip: Tokens a second that are too few, in pauses that are none too long.
        deadline: For a whole call.
        fields: What makes a model keep these limits; empty for its defaults.
    """

    hedge: float
    pause: float
    gap: float
    pace: float
    drip: float
    deadline: float
    fields: dict[str, Any]

    def of(self, wait: Wait) -> float:
        """Return the seconds that a fault costs."""
        return 0.0 if wait == "nothing" else float(getattr(self, wait))


def small() -> Limits:
    """The defaults in proportion, but so small that a table of them takes half a minute."""
    window = {"min_tokens_per_second": 5.0, "throughput_window": 0.9}
    timeouts = _made(TimeLimits, first_text=1.0, chunk_gap=0.8, **window)
    fields = {"hedge": _made(Hedge, cold=0.3, pause=0.4), "timeouts": timeouts, "timeout": 10.0}
    return Limits(0.3, 0.4, 0.8, pace=0.9, drip=3.0, deadline=10.0, fields=fields)


def real() -> Limits:
    """The defaults of the model."""
    hedge, timeouts = Hedge(), TimeLimits()
    gap = timeouts.chunk_gap or 0.0
    pause = getattr(hedge, "pause", gap)
    pace = getattr(timeouts, "throughput_window", gap)
    deadline = ResilientChatModel.model_fields["timeout"].default
    return Limits(hedge.cold, pause, gap, pace=pace, drip=0.9, deadline=deadline, fields={})


def _made(policy: type[BaseModel], **fields: float) -> BaseModel:
    """Make a policy of the fields that it has: a limit that it does not know is not kept."""
    return policy(**{name: value for name, value in fields.items() if name in policy.model_fields})

"""What the written scenarios share: two targets, an ordinary model, and how long things take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_resilient import Hedge, TimeLimits
from langchain_resilient.testing import Exchange, Step
from verification.whole_stack.scenario import HEALTHY

if TYPE_CHECKING:
    from verification.whole_stack.world import CallOutcome, Run

PRIMARY, SECOND = "openai:primary", "together:second"
CHAINS = {
    "openai first": (PRIMARY, SECOND),
    "together first": ("together:primary", "openai:second"),
}

OWN = 1.0
"""More than the seconds that a healthy target takes for a whole answer."""

HEDGE = 1.0
"""Seconds after which a silent target is hedged."""

GAP = 2.0
"""Seconds of silence in the midst of an answer that are too many."""

FIRST_TEXT = 5.0
"""Seconds after which the first text is no longer waited for."""

MODEL: dict[str, Any] = {
    "timeout": 60.0,
    "hedge": Hedge(delay=HEDGE, budget=1.0),
    "time_limits": TimeLimits(first_text=FIRST_TEXT, chunk_gap=GAP),
}


@dataclass(frozen=True, repr=False)
class Hangs(Step):
    """Requests wait until the target comes back; then they are answered.

    Attributes:
        until: When that is, in seconds from the simulator's start.
    """

    until: float

    async def play(self, exchange: Exchange) -> None:
        """Wait, then answer."""
        await exchange.sleep(self.until - exchange.elapsed)
        await HEALTHY.play(exchange)


def took(outcome: CallOutcome) -> float:
    """Return the seconds from a call to its end."""
    return outcome.ended - outcome.began


def slowest(run: Run) -> float:
    """Return the seconds that the slowest call took."""
    return max(map(took, run.outcomes))


def winners(run: Run, after: float, before: float) -> set[str]:
    """Return the targets that answered the calls that began in a time."""
    return {r["winner"] for x in run.outcomes if after <= x.began < before for r in x.receipts}

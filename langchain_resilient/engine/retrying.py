"""tenacity's view of a target's failures, so that any of its strategies can judge them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tenacity import Future as Outcome
from tenacity import RetryCallState

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from langchain_resilient.engine.events import Attempt, Lane


class TargetFailure(Exception):  # noqa: N818  # a failure that no exception stood behind
    """Stands for a fault that no exception caused: lateness, or an answer without text."""


def retry_state(attempts: Sequence[Attempt], lane: Lane, now: float, rng: Random) -> RetryCallState:
    """Describe the attempts on one target as tenacity would have counted them.

    Args:
        attempts: Of the whole request.
        lane: The target within it.
        now: The engine's clock.
        rng: The engine's generator, for waits that want to be replayable; read as `state.rng`.
    """
    mine = [a for a in attempts if a.lane is lane]
    # tenacity needs no Retrying object to ask a stop, wait or retry strategy.
    state: Any = RetryCallState(None, None, (), {})  # type: ignore[arg-type]
    state.attempt_number = lane.tries
    state.start_time = mine[0].started if mine else now
    state.outcome_timestamp = now
    state.idle_for = sum(b.started - (a.ended or b.started) for a, b in pairwise(mine))
    outcome = Outcome(lane.tries)
    fault = mine[-1].fault if mine else None
    outcome.set_exception((fault and fault.cause) or TargetFailure(str(fault)))
    state.outcome = outcome
    state.upcoming_sleep = max(0.0, lane.ready_at - now)
    state.rng = rng
    found: RetryCallState = state
    return found

"""From the engine's book-keeping to what a user may keep: the receipt's records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_resilient.receipt import AttemptKind, AttemptRecord, Outcome

if TYPE_CHECKING:
    from langchain_resilient.engine.events import Attempt


def record(a: Attempt, began: float, now: float) -> AttemptRecord:
    """Freeze one attempt.

    Args:
        a: The attempt.
        began: When the call began, by the engine's clock.
        now: The engine's clock.
    """
    unknown = Outcome.OPEN if a.kind is AttemptKind.SHADOW else Outcome.CANCELLED
    cached, written = a.draft.cache_tokens()
    return AttemptRecord(
        target=a.lane.state.name,
        kind=a.kind,
        started=a.started - began,
        first_text=None if a.first_text is None else a.first_text - began,
        ended=(now if a.ended is None else a.ended) - began,
        outcome=a.outcome or unknown,
        fault=a.fault,
        input_tokens=a.draft.input_tokens(),
        output_tokens=a.draft.output_tokens(),
        cached_tokens=cached,
        written_tokens=written,
    )

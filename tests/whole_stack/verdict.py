"""The conditions that hold after every run, whatever the providers did."""

from __future__ import annotations

from asyncio import CancelledError
from typing import TYPE_CHECKING

from langchain_resilient.errors import DeadlineExceededError, StreamBrokenError
from langchain_resilient.options import Hedge
from tests.whole_stack.scenario import HINT, prompt_of, right_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.whole_stack.callers import Told
    from tests.whole_stack.scenario import Scenario
    from tests.whole_stack.world import Run

GRACE = 0.05
"""Seconds that an answer may come after its deadline."""

_TICK = 1e-5
"""The clock's resolution, with room for rounding."""


def problems(run: Run) -> list[str]:
    """List what is wrong with a run in which every request has a healthy target.

    Every caller gets the right text for its own prompt, in time; nothing is left behind; nothing is
    sent for a caller that is gone, or before the moment that a server named; and hedges stay within
    their budget.
    """
    return [
        *(p for told in run.told for p in _wrong_answers(told)),
        *(p for told in run.told for p in _late(told, run.scenario)),
        *run.leaks,
        *_sent_too_late(run),
        *_before_the_hint(run),
        *_over_budget(run),
    ]


def _wrong_answers(told: Told) -> Iterator[str]:
    call, error = told.call, told.error
    whole = error is None and not told.left
    if error is not None and not _is_allowed(told):
        yield f"call {call.number} ({call.how}) failed: {error!r}"
    if whole and len(told.texts) != len(call.prompts):
        yield f"call {call.number} got {len(told.texts)} answers to {len(call.prompts)} prompts"
    for prompt, text in zip(call.prompts, told.texts, strict=False):
        right = right_text(prompt)
        if text != right and (whole or not right.startswith(text)):
            yield f"call {call.number} ({call.how}) was told {text!r} instead of {right!r}"
    if isinstance(error, StreamBrokenError) and error.partial != told.texts[0]:
        yield f"call {call.number} got {told.texts[0]!r}, but its error says {error.partial!r}"


def _is_allowed(told: Told) -> bool:
    """Whether a call may end with this error although a target is healthy."""
    call = told.call
    return (
        (isinstance(told.error, CancelledError) and call.cancel_after is not None)
        or (isinstance(told.error, DeadlineExceededError) and call.timeout is not None)
        or (isinstance(told.error, StreamBrokenError) and call.timeout is not None)
    )


def _late(told: Told, scenario: Scenario) -> Iterator[str]:
    """Find ends after the deadline; a reader that pauses has only itself to blame."""
    call, took = told.call, told.ended - told.began
    deadline = call.timeout or scenario.model.get("timeout")
    if deadline is not None and not call.pause and took > deadline + GRACE:
        yield f"call {call.number} took {took:.3f} s, its deadline was {deadline:g} s"
    if call.cancel_after is not None and took > call.cancel_after + _TICK:
        yield f"call {call.number} took {took:.3f} s, but was cancelled at {call.cancel_after:g} s"


def _sent_too_late(run: Run) -> Iterator[str]:
    """Find requests that were sent when their caller was gone already."""
    gone = {prompt: told.ended for told in run.told for prompt in told.call.prompts}
    for seen in run.seen:
        prompt = prompt_of(seen.body)
        if seen.at > gone[prompt] + _TICK:
            yield f"{seen.target} was asked {prompt} at {seen.at:.3f} s, over at {gone[prompt]:.3f}"


def _before_the_hint(run: Run) -> Iterator[str]:
    until: dict[str, float] = {}
    events = [(s.at, 1, s) for s in run.seen]
    events += [
        (s.ended_at, 0, s)
        for s in run.seen
        if s.ended_at is not None and s.status == 429 and s.step in {"Status 429", "RateLimited"}
    ]
    for at, comes, seen in sorted(events, key=lambda event: event[0]):
        if not comes:
            until[seen.target] = max(at + HINT, until.get(seen.target, 0.0))
        elif at < until.get(seen.target, 0.0) - _TICK and at > until[seen.target] - HINT:
            yield f"{seen.target} was asked at {at:.3f} s, not before {until[seen.target]:.3f} s"


def _over_budget(run: Run) -> Iterator[str]:
    hedge = run.scenario.model.get("hedge")
    if not isinstance(hedge, Hedge):
        return
    made = sum(
        attempt["kind"] == "hedge"
        for told in run.told
        for receipt in told.receipts
        for attempt in receipt["attempts"]
    )
    asked = sum(len(told.call.prompts) for told in run.told)
    allowed = hedge.burst + hedge.budget * asked
    if made > allowed:
        yield f"{made} hedges, where {allowed:g} are allowed for {asked} requests"

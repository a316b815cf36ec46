"""The conditions that hold after every run, whatever the providers did."""

from __future__ import annotations

from asyncio import CancelledError
from typing import TYPE_CHECKING

from langchain_resilient import DeadlineExceededError, Hedge, StreamBrokenError
from langchain_resilient.providers.request_template import STALE_SECONDS
from verification.whole_stack.scenario import HINT, prompt_of, right_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_resilient.testing import RecordedRequest
    from verification.whole_stack.world import CallOutcome, Run

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
        *(p for outcome in run.outcomes for p in _wrong_answers(outcome)),
        *(p for outcome in run.outcomes for p in _late(outcome, run)),
        *run.leaks,
        *_sent_too_late(run),
        *_before_the_hint(run),
        *_over_budget(run),
    ]


def _wrong_answers(outcome: CallOutcome) -> Iterator[str]:
    call, error = outcome.call, outcome.error
    whole = error is None and not outcome.left
    if error is not None and not _is_allowed(outcome):
        yield f"call {call.number} ({call.how}) failed: {error!r}"
    if whole and len(outcome.texts) != len(call.prompts):
        yield f"call {call.number} got {len(outcome.texts)} answers to {len(call.prompts)} prompts"
    for prompt, text in zip(call.prompts, outcome.texts, strict=False):
        right = right_text(prompt)
        if text != right and (whole or not right.startswith(text)):
            yield f"call {call.number} ({call.how}) was told {text!r} instead of {right!r}"
    if isinstance(error, StreamBrokenError) and error.partial != outcome.texts[0]:
        yield f"call {call.number} got {outcome.texts[0]!r}, but its error says {error.partial!r}"


def _is_allowed(outcome: CallOutcome) -> bool:
    """Whether a call may end with this error although a target is healthy."""
    call = outcome.call
    return (
        (isinstance(outcome.error, CancelledError) and call.cancel_after is not None)
        or (isinstance(outcome.error, DeadlineExceededError) and call.timeout is not None)
        or (isinstance(outcome.error, StreamBrokenError) and call.timeout is not None)
    )


def _late(outcome: CallOutcome, run: Run) -> Iterator[str]:
    """Find ends after the deadline; a reader that pauses has only itself to blame.

    A batch's prompts may wait for their turn: their deadline runs from when they are first sent.
    """
    call, took = outcome.call, outcome.ended - outcome.began
    deadline = call.timeout or run.scenario.model.get("timeout")
    began = outcome.began
    if call.how == "abatch":
        began = max(_first_sent(run, prompt, began) for prompt in call.prompts)
    if deadline is not None and not call.pause and outcome.ended - began > deadline + GRACE:
        yield f"call {call.number} took {took:.3f} s, its deadline was {deadline:g} s"
    if call.cancel_after is not None and took > call.cancel_after + _TICK:
        yield f"call {call.number} took {took:.3f} s, but was cancelled at {call.cancel_after:g} s"


def _first_sent(run: Run, prompt: str, unsent: float) -> float:
    return next((seen.at for seen in run.seen if prompt_of(seen.body) == prompt), unsent)


def _sent_too_late(run: Run) -> Iterator[str]:
    """Find requests that were sent when their caller was gone already.

    A shadow probe outlives its caller, and is repeated as any request is whose kept connection
    turns out to be closed.
    """
    gone = {prompt: outcome.ended for outcome in run.outcomes for prompt in outcome.call.prompts}
    for seen in run.seen:
        prompt = prompt_of(seen.body)
        if seen.at > gone[prompt] + _TICK and not _repeats(seen, run.seen):
            yield f"{seen.target} was asked {prompt} at {seen.at:.3f} s, over at {gone[prompt]:.3f}"


def _repeats(request: RecordedRequest, seen: Sequence[RecordedRequest]) -> bool:
    """Whether it repeats one whose connection was reset this very moment, soon after it began."""
    return any(
        (earlier.target, earlier.body, earlier.status) == (request.target, request.body, None)
        and earlier.ended_at is not None
        and abs(request.at - earlier.ended_at) <= _TICK
        and request.at - earlier.at < STALE_SECONDS
        for earlier in seen
        if earlier is not request
    )


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
        elif _repeats(seen, run.seen):
            continue  # it had been sent before the hint came
        elif at < until.get(seen.target, 0.0) - _TICK and at > until[seen.target] - HINT:
            yield f"{seen.target} was asked at {at:.3f} s, not before {until[seen.target]:.3f} s"


def _over_budget(run: Run) -> Iterator[str]:
    hedge = run.scenario.model.get("hedge")
    if not isinstance(hedge, Hedge):
        return
    made = sum(
        attempt["kind"] == "hedge"
        for outcome in run.outcomes
        for receipt in outcome.receipts
        for attempt in receipt["attempts"]
    )
    asked = sum(len(outcome.call.prompts) for outcome in run.outcomes)
    allowed = hedge.burst + hedge.budget * asked
    if made > allowed:
        yield f"{made} hedges, where {allowed:g} are allowed for {asked} requests"

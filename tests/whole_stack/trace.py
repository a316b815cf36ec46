"""What happened, line by line, in the order of virtual time; and a hash that proves a replay."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING

from tests.whole_stack.scenario import prompt_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_resilient.testing.request_log import RecordedRequest
    from tests.whole_stack.callers import Told
    from tests.whole_stack.world import Run

Event = tuple[float, str]
"""When, in virtual seconds, and what."""


def trace(run: Run) -> list[Event]:
    """Tell a run from both sides: what the callers were told, and what the server saw."""
    events = [event for told in run.told for event in _of_caller(told)]
    events += [
        event for number, seen in enumerate(run.seen, 1) for event in _of_server(number, seen)
    ]
    return sorted(((round(at, 6), what) for at, what in events), key=lambda event: event[0])


def digest(run: Run) -> str:
    """Hash a run: the same seed gives the same digest, in any process."""
    return sha256(repr(trace(run)).encode()).hexdigest()


def _of_caller(told: Told) -> Iterator[Event]:
    call = told.call
    name = f"call {call.number}"
    yield told.began, f"{name} {call.how} {' '.join(call.prompts)}"
    for at, text in told.pieces:
        yield at, f"{name} reads {text!r}"
    how = "leaves" if told.left else "has its answer"
    if told.error is not None:
        how = type(told.error).__name__
    yield told.ended, f"{name} {how}: {told.texts}"
    for receipt in told.receipts:
        yield told.ended, f"{name} receipt {_story(receipt)}"


def _story(receipt: dict) -> str:
    # Messages of failures may hold addresses of objects, which no seed decides.
    attempts = [{k: v for k, v in a.items() if k != "message"} for a in receipt["attempts"]]
    return json.dumps({**receipt, "attempts": attempts}, sort_keys=True)


def _of_server(number: int, seen: RecordedRequest) -> Iterator[Event]:
    name = f"server {number} {seen.target}"
    prompt = prompt_of(seen.body)
    yield seen.at, f"{name} {'streams' if seen.stream else 'answers'} {seen.step}: {prompt}"
    if seen.ended_at is not None:
        how = "is left" if seen.aborted else "has ended"
        yield seen.ended_at, f"{name} {how}: {seen.status} {len(seen.pieces)} pieces"

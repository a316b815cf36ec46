"""The verdict notices: each condition is broken on purpose, and found broken."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from dataclasses import replace

import pytest

from langchain_resilient import AllTargetsFailedError, Hedge, StreamBrokenError
from langchain_resilient.providers.sse import EventStream
from langchain_resilient.testing import Malformed, RateLimited, Reply
from tests.whole_stack.everyday import MODEL, PRIMARY, SECOND
from verification.whole_stack.scenario import HEALTHY, HINT, Scenario, every
from verification.whole_stack.verdict import problems
from verification.whole_stack.world import Run, play

QUIET = Scenario(
    targets=(PRIMARY, SECOND),
    script={PRIMARY: RateLimited(HINT), SECOND: HEALTHY},
    calls=tuple(every(2.0, 4)),
    model=MODEL,
)


@pytest.fixture(scope="module")
def quiet() -> Run:
    """A run in which nothing is wrong."""
    return play(QUIET)


@pytest.fixture
def run(quiet) -> Run:
    """A copy of it, to break."""
    assert problems(quiet) == []
    return replace(quiet, outcomes=deepcopy(quiet.outcomes), seen=deepcopy(quiet.seen))


def found(run: Run, text: str) -> bool:
    return len(problems(run)) == 1 and text in problems(run)[0]


def test_the_answer_to_another_prompt_is_found(run):
    """Of two callers who got each other's text, both count."""
    run.outcomes[0].texts, run.outcomes[1].texts = run.outcomes[1].texts, run.outcomes[0].texts
    assert sum("was told" in problem for problem in problems(run)) == 2


def test_a_text_that_ends_too_soon_is_found(run):
    """Unless its reader left, which it did not."""
    run.outcomes[1].texts[0] = run.outcomes[1].texts[0][:-1]
    assert found(run, "was told")


def test_an_error_is_found(run):
    """A target was healthy."""
    run.outcomes[2].error = AllTargetsFailedError("no")
    assert found(run, "failed")


def test_a_stream_that_broke_is_an_error_too(run):
    """Another target could have gone on from it; only its caller's own deadline excuses that."""
    outcome = run.outcomes[1]
    outcome.texts[0] = outcome.texts[0][:9]
    outcome.error = StreamBrokenError("no", partial=outcome.texts[0])
    assert found(run, "failed")
    outcome.call = replace(outcome.call, timeout=99.0)
    assert problems(run) == []


def test_an_answer_after_the_deadline_is_found(run):
    """By more than 50 ms."""
    run.outcomes[0].ended = run.outcomes[0].began + 60.04
    assert problems(run) == []
    run.outcomes[0].ended += 0.02
    assert found(run, "its deadline was 60 s")


def test_a_request_before_the_hint_is_found(run):
    """At the server, by its clock."""
    first = next(seen for seen in run.seen if seen.target == PRIMARY)
    run.seen.append(replace(first, at=first.at + HINT - 0.1, ended_at=None, status=200, step="R"))
    run.outcomes[0].ended = first.at + HINT
    assert found(run, "not before")


def test_a_request_for_nobody_is_found(run):
    """Its caller had its answer."""
    run.seen[0].at = run.outcomes[0].ended + 1
    assert any("over at" in problem for problem in problems(run))


def test_too_many_hedges_are_found(run):
    """More than the budget and its burst allow."""
    few = {**MODEL, "hedge": Hedge(budget=0.25, burst=1)}
    run.outcomes[0].receipts[0]["attempts"] = [{"kind": "hedge"}] * 3
    assert found(replace(run, scenario=replace(QUIET, model=few)), "3 hedges, where 2 are allowed")


def test_a_task_that_goes_on_is_found():
    """Here one that the caller's own `validate` starts."""
    tasks = []

    def start_a_task(_: object) -> None:
        tasks.append(asyncio.create_task(asyncio.sleep(100)))

    run = play(replace(QUIET, model={**MODEL, "check": start_a_task}))
    assert sum("a task is left" in problem for problem in problems(run)) == len(tasks) == 4


@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
def test_a_connection_that_is_not_given_back_is_found(monkeypatch, transport):
    """Here that of a stream that turned into nonsense, which is kept instead of closed."""
    kept = []

    async def keep(self: EventStream) -> None:
        kept.append(self)

    monkeypatch.setattr(EventStream, "aclose", keep)
    nonsense = Malformed(0, resume=True, replaces=True, reply=Reply(chunk_gap=10.0))
    script = {PRIMARY: nonsense, SECOND: HEALTHY}
    run = play(replace(QUIET, script=script, calls=QUIET.calls[:1]), transport)
    assert any("a pool holds" in problem for problem in problems(run))


def test_a_probe_may_be_repeated_on_a_fresh_connection(run):
    """What looks the same, but came a moment later, is found."""
    first = next(seen for seen in run.seen if seen.target == SECOND)
    ended = run.outcomes[0].ended
    probe = replace(first, at=ended - 0.2, ended_at=ended + 0.1, status=None, step="Reset")
    run.seen.extend([probe, replace(probe, at=ended + 0.1)])
    assert problems(run) == []
    run.seen[-1].at += 0.01
    assert found(run, "was asked")


def test_the_deadline_of_a_batch_counts_from_its_first_send(run):
    """That of a single call from its beginning."""
    first = next(seen for seen in run.seen if seen.target == SECOND)
    ended = run.outcomes[0].ended
    run.outcomes[0].call = replace(run.outcomes[0].call, timeout=0.1)
    assert found(run, "its deadline was 0.1 s")
    run.outcomes[0].call = replace(run.outcomes[0].call, how="abatch")
    assert found(run, "its deadline was 0.1 s")
    run.seen[:2] = [replace(first, at=ended - 0.1)]
    assert problems(run) == []

"""Callers who are cancelled, who leave, who are slow, and who come all at once."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from langchain_resilient import testing as t
from tests.whole_stack.everyday import GAP, MODEL, PRIMARY, SECOND
from verification.whole_stack.scenario import HEALTHY, Call, Scenario, every, poisson, prompts
from verification.whole_stack.verdict import problems
from verification.whole_stack.world import play


@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
def test_callers_cancelled_at_random_leave_nothing_and_harm_nobody(transport):
    """Some hundred callers, every second one of which goes away, over a shaky target."""
    random = Random("cancelled")
    calls = [
        replace(call, cancel_after=random.expovariate(2.0), cancel_twice=random.random() < 0.5)
        if random.random() < 0.5
        else call
        for call in poisson(10.0, 7, random, ("ainvoke", "astream", "abatch"))
    ]
    shaky = {t.Status(500): 0.1, t.NoAnswer(): 0.1, t.Cut(0): 0.1, HEALTHY: 0.7}
    run = play(
        Scenario((PRIMARY, SECOND), {PRIMARY: shaky, SECOND: HEALTHY}, tuple(calls), MODEL),
        transport,
    )
    assert problems(run) == []
    assert sum(x.error is not None for x in run.outcomes) > 15


def test_a_reader_that_leaves_stops_the_upstream():
    """After any number of pieces: the server sees it go within the second."""
    calls = [Call(n, 5.0 * n, "astream", prompts(n), leave_after=n + 1) for n in range(7)]
    run = play(Scenario((PRIMARY, SECOND), {"*": HEALTHY}, tuple(calls), MODEL))
    assert problems(run) == []
    assert [s.aborted for s in run.seen] == [True] * 7


def test_a_slow_reader_is_not_taken_for_a_stalled_provider():
    """It pauses for longer than the limit between chunks, and gets its whole text."""
    call = Call(0, 0.0, "astream", prompts(0), pause=GAP + 1)
    run = play(Scenario((PRIMARY, SECOND), {"*": HEALTHY}, (call,), {**MODEL, "timeout": 600.0}))
    assert problems(run) == []


def test_a_target_holds_no_more_requests_than_it_may():
    """Thirty callers at once, three places: the server never sees four together."""
    run = play(
        Scenario(
            targets=(PRIMARY,),
            script={PRIMARY: HEALTHY},
            calls=tuple(every(0.0, 30)),
            model={**MODEL, "hedge": None},
            fields={PRIMARY: {"max_concurrency": 3}},
        )
    )
    assert problems(run) == []
    at_work = [sum(o.at <= s.at < (o.ended_at or 1e9) for o in run.seen) for s in run.seen]
    assert max(at_work) == 3

"""Outages, storms and rate limits, played in virtual time over the whole stack."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from random import Random

import pytest

from langchain_resilient import DeadlineExceededError, Health, Hedge
from langchain_resilient import testing as t
from tests.whole_stack.everyday import (
    CHAINS,
    FIRST_TEXT,
    HEDGE,
    MODEL,
    OWN,
    PRIMARY,
    SECOND,
    Hangs,
    slowest,
    took,
    winners,
)
from verification.whole_stack.scenario import HEALTHY, HINT, Call, Scenario, every, poisson, prompts
from verification.whole_stack.verdict import GRACE, problems
from verification.whole_stack.world import Run, play


@pytest.fixture(scope="module")
def hang() -> Run:
    """The primary hangs from 20 s to 80 s, under some request a second."""
    outage = t.Timeline((0, HEALTHY), (20, Hangs(until=80)), (80, HEALTHY))
    return play(
        Scenario(
            targets=(PRIMARY, SECOND),
            script={PRIMARY: outage, SECOND: HEALTHY},
            calls=tuple(poisson(0.8, 170, Random("hang"))),
            model={**MODEL, "hedge": Hedge(delay=HEDGE, budget=0.05, burst=10)},
        )
    )


def test_a_hang_of_the_primary_is_survived(hang):
    """Every caller gets its text and nothing is left."""
    assert problems(hang) == []


def test_nobody_waits_longer_than_the_limit_for_the_first_text(hang):
    """With a hedge to spare or without, the second target is asked after 5 s at the latest."""
    assert slowest(hang) <= FIRST_TEXT + OWN


def test_the_primary_answers_until_the_hang_and_not_in_it(hang):
    """It is preferred, until it is sick."""
    assert winners(hang, 0, 19) == {PRIMARY}
    assert winners(hang, 22, 70) == {SECOND}


def test_the_primary_answers_again_a_minute_after_the_hang(hang):
    """It is forgiven."""
    assert winners(hang, 140, 1000) == {PRIMARY}


@pytest.mark.parametrize("health", [Health(), None], ids=["judged", "not judged"])
def test_failures_at_once_do_not_exile_a_target(health):
    """Six requests fail in the same second; four minutes later the target is asked first again."""
    fails = t.Timeline((0, t.Status(500, latency=0.5)), (5, HEALTHY))
    later = [Call(n, 5.0 * n, "ainvoke", prompts(n)) for n in range(10, 60)]
    run = play(
        Scenario(
            targets=(PRIMARY, SECOND),
            script={PRIMARY: fails, SECOND: HEALTHY},
            calls=(*every(0.0, 6), *later),
            model={**MODEL, "health": health},
        )
    )
    assert problems(run) == []
    assert winners(run, 240, 1000) == {PRIMARY}


def test_a_storm_of_503s_at_the_primary_costs_no_time():
    """Who fails at once is left at once."""
    run = play(
        Scenario(
            targets=(PRIMARY, SECOND),
            script={PRIMARY: t.Status(503), SECOND: HEALTHY},
            calls=tuple(poisson(2.0, 20, Random("storm"))),
            model=MODEL,
        )
    )
    assert problems(run) == []
    assert slowest(run) < OWN


def test_a_storm_of_503s_everywhere_is_sat_out():
    """For ten seconds nobody answers; all who asked then are answered after it."""
    outage = t.Timeline((0, t.Status(503)), (10, HEALTHY))
    run = play(
        Scenario(
            targets=(PRIMARY, SECOND),
            script={PRIMARY: outage, SECOND: outage},
            calls=tuple(every(0.25, 40)),
            model=MODEL,
        )
    )
    assert problems(run) == []
    assert max(x.ended for x in run.outcomes) < 10 + 8 + OWN  # the longest backoff is 8 s
    assert len(run.seen) < 40 * 12


def test_callers_are_told_at_their_deadline_when_nobody_answers():
    """Not earlier while there is hope, not later than 50 ms after it, and nothing is left."""
    run = play(
        Scenario(
            targets=(PRIMARY, SECOND),
            script={PRIMARY: t.NoAnswer(), SECOND: t.KeepAlives(0.5)},
            calls=tuple(every(0.3, 12, ("ainvoke", "astream", "abatch"))),
            model={**MODEL, "timeout": 12.0},
        )
    )
    assert {type(x.error) for x in run.outcomes} == {DeadlineExceededError}
    # A prompt of a batch may wait a moment for its turn at the first target: that is not counted.
    turns = [x.error.receipt.attempts[0].started for x in run.outcomes]
    waited = {x.call.how for turn, x in zip(turns, run.outcomes, strict=True) if turn}
    assert waited <= {"abatch"}
    assert max(turns) <= 1.0
    assert all(
        12.0 <= took(x) - turn <= 12.0 + GRACE for turn, x in zip(turns, run.outcomes, strict=True)
    )
    assert run.leaks == []


def test_a_refused_key_is_not_tried_again():
    """A minute of traffic asks that account once."""
    run = play(
        Scenario(
            targets=(PRIMARY, SECOND),
            script={PRIMARY: t.InvalidKey(), SECOND: HEALTHY},
            calls=tuple(every(2.0, 30)),
            model=MODEL,
        )
    )
    assert problems(run) == []
    assert sum(s.target == PRIMARY for s in run.seen) == 1


HINTS = [
    t.Status(429, retry_after=HINT),
    t.Status(429, retry_after_ms=HINT * 1000),
    t.Status(429, retry_after=t.HttpDate(HINT + 1)),  # dates have no fractions
    t.RateLimited(HINT),
]


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("limited", HINTS, ids=repr)
def test_a_target_is_never_asked_before_its_retry_after(limited, chain):
    """By the server's own clock; and it is asked again when the time has come."""
    run = play(
        Scenario(
            targets=chain,
            script={chain[0]: {limited: 0.4, HEALTHY: 0.6}, chain[1]: HEALTHY},
            calls=tuple(poisson(1.5, 18, Random("429"))),
            model=MODEL,
        )
    )
    assert problems(run) == []
    refused = [s for s in run.seen if s.status == 429]
    assert len(refused) >= 2
    assert max(s.at for s in run.seen if s.target == chain[0]) > refused[1].at + HINT


@dataclass(frozen=True, repr=False)
class OneSlot(t.Step):
    """A machine that answers one request after the other, 20 s to the first token of each."""

    slot: asyncio.Lock = field(default_factory=asyncio.Lock, compare=False)

    async def play(self, exchange: t.Exchange) -> None:
        """Wait for the slot, then think."""
        async with self.slot:
            await replace(HEALTHY, first_text=20).play(exchange)


@pytest.mark.parametrize("how", ["ainvoke", "astream"])
@pytest.mark.parametrize("apart", [0.0, 5.0])
def test_a_lone_slow_machine_is_asked_once_for_each_call(how, apart):
    """With the default settings, though the last of four calls waits for a minute and more."""
    calls = tuple(Call(n, n * apart, how, (f"Question {n}",)) for n in range(4))
    run = play(Scenario(targets=(PRIMARY,), script={PRIMARY: OneSlot()}, calls=calls, model={}))
    assert problems(run) == []
    assert len(run.seen) == 4
    assert [outcome.ended for outcome in run.outcomes] == pytest.approx([20, 40, 60, 80], abs=2)


def test_a_request_that_a_lone_machine_lost_is_sent_again():
    """Near the end of the deadline, for nobody else shows that it answers."""
    script = {PRIMARY: t.Timeline((0, Hangs(until=1000)), (60, HEALTHY))}
    call = Call(0, 0.0, "ainvoke", ("Hello",))
    run = play(Scenario(targets=(PRIMARY,), script=script, calls=(call,), model={}))
    assert problems(run) == []
    assert [round(request.at) for request in run.seen] == [0, pytest.approx(94, abs=3)]


@pytest.mark.parametrize("how", ["ainvoke", "astream"])
def test_a_lone_target_is_waited_for(how):
    """All its callers get their text right after the time that it named."""
    limited = t.Timeline((0, t.RateLimited(HINT)), (HINT, HEALTHY))
    run = play(
        Scenario(
            targets=(PRIMARY,),
            script={PRIMARY: limited},
            calls=tuple(every(0.2, 8, (how,))),
            model=MODEL,
        )
    )
    assert problems(run) == []
    assert all(HINT <= x.ended <= HINT * 1.1 + 8 * 0.2 + OWN for x in run.outcomes)

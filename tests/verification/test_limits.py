"""Small batches under rate limits, in virtual time: see `python -m verification.limits`."""

from __future__ import annotations

import itertools
import math

import pytest

from langchain_resilient import DeadlineExceededError, ResilientChatModel, Target
from langchain_resilient.providers import connection
from langchain_resilient.testing import ProviderSimulator, Reply
from verification.kit import virtual_time
from verification.limits.rows import Limits, Row, ideal
from verification.limits.runs import LowLimit, play, play_low, play_whole_stack

ROWS = [
    Row((Limits(),), requests=1500),
    Row((Limits(window="second"),), "configured", "capped", requests=500),
    Row((Limits(others=0.3),), sizes="mixed", requests=700),
    Row((Limits(window="second", others=0.3),), requests=500),
    Row((Limits(), Limits(300, 100_000, window="second")), sizes="mixed", requests=800, equal=True),
]


@pytest.mark.parametrize("row", ROWS)
def test_a_batch_takes_hardly_longer_than_its_limit_makes_it(row):
    """And is hardly ever refused."""
    assert play(row).broken() == []


def test_so_does_a_batch_through_the_real_sdk():
    """The limits are learned from the headers of HTTP answers."""
    assert play_whole_stack(Row((Limits(60),), requests=180)).broken() == []


def test_the_plain_way_is_refused_far_more_often():
    """A semaphore with the SDK's retries: else the bounds above would show nothing."""
    plain = play(Row((Limits(window="second"),), "plain", requests=150))
    assert plain.share_refused > 0.5


def test_the_ideal_counts_what_is_saved_up_at_first():
    """Six hundred go at once, ten a second after them."""
    assert ideal(Row((Limits(600, 1e9),), requests=1600)) == pytest.approx(100.5)
    assert ideal(Row((Limits(600, 1e9, "second"),), requests=1600)) == pytest.approx(159.5)


def test_the_ideal_keeps_a_stated_limit_in_every_minute():
    """600 in each of the first two minutes, and the rest at the beginning of the third."""
    stated = Row((Limits(600, 1e9),), "configured", requests=1600)
    assert ideal(stated) == pytest.approx(120.5)


def test_the_first_targets_allowance_is_spent_before_another_is_asked():
    """And then both work: it takes hardly longer than if both had worked from the beginning."""
    limits = (Limits(), Limits(300, 100_000, window="second"))
    result = play(Row(limits, sizes="mixed", requests=800))
    assert result.sends[0] > 550
    assert 50 < result.sends[1] < 250
    assert result.ratio < 1.1


def test_without_spread_the_preferred_target_does_the_work():
    """The other one has room, and is not asked but for hedges."""
    result = play(Row((Limits(), Limits()), requests=700, spread=False))
    assert result.sends[1] < 0.05 * result.sends[0]


LOW = [
    LowLimit(limit, how, batch, dialect)
    for limit, dialect in (
        (1, "openai"),
        (2, "together"),
        (3, "openai"),
        (6, "together"),
        (10, "openai"),
    )
    for how in ("configured", "learned")
    for batch in (False, True)
]


@pytest.mark.parametrize("low", LOW, ids=str)
def test_a_low_limit_is_used_and_kept(low):
    """Alone and in batches, over the real SDKs: nobody waits for ever, or much too long."""
    result = play_low(low)
    assert result.answered == low.calls()
    assert result.seconds <= 1.1 * low.fair() + 1.0 + 0.5 * low.calls()
    if low.how == "configured":
        assert result.refused == 0
        assert result.busiest <= low.limit


UNTOLD = [
    LowLimit(6, "learned", batch=False, dialect="together", minutes=3.0),
    LowLimit(6, "learned", batch=True, dialect="together", minutes=3.0),
    LowLimit(60, "learned", batch=True, dialect="together", minutes=1.5),
    LowLimit(60, "learned", True, "together", 1.0, "second"),
]


@pytest.mark.parametrize("low", UNTOLD, ids=str)
def test_a_limit_that_no_answer_tells_is_learned_with_few_refusals(low):
    """See `python -m verification.limits --untold`."""
    result = play_low(low)
    assert result.answered == low.calls()
    assert result.refused <= 4 + math.log2(low.calls())
    slower = 1.1 if low.window == "minute" else 1.35
    assert result.seconds <= slower * low.fair() + 3


def test_without_any_header_it_is_learned_too():
    """Only that it refuses is known of such a server."""
    low = LowLimit(10, "learned", batch=True, dialect="together", minutes=3.0, hints=False)
    result = play_low(low)
    assert result.answered == low.calls()
    assert result.refused <= 0.3 * low.calls()
    assert result.seconds <= 1.3 * low.fair()


@pytest.mark.parametrize(("deadline", "answered"), [(600, 3), (20, 1)])
def test_a_request_larger_than_a_minutes_tokens_is_sent_all_the_same(deadline, answered):
    """Each takes a minute's tokens and two thirds; where that is too long the error names them."""

    async def main(loop):
        async with ProviderSimulator(0, wall_clock=loop.calendar) as sim:
            sim.script("openai:m", then=Reply(words=3))
            url = sim.base_url("openai")
            target = Target("openai:m", base_url=url, api_key="k", tokens_per_minute=60)
            llm = ResilientChatModel(targets=[target], timeout=deadline, max_tokens=100)
            times, errors = [], []
            for _ in range(3):
                try:
                    await llm.ainvoke("word " * 20)
                except DeadlineExceededError as error:
                    errors.append(str(error))
                else:
                    times.append(loop.time())
            await connection.close_clients()
            assert sim.count() == len(times)
        return times, errors

    times, errors = virtual_time.run_virtual(main, seed=0)
    assert len(times) == answered
    assert [b - a for a, b in itertools.pairwise(times)] == pytest.approx(
        [100.0] * (answered - 1), rel=0.1
    )
    assert len(errors) == 3 - answered
    assert all("60 tokens a minute has no room for another" in error for error in errors)

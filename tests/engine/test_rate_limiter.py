"""The rate limiter: who may be sent when, and what refusals and answers teach."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from threading import Thread

import pytest

from langchain_resilient import AttemptKind, FaultKind, Hedge
from langchain_resilient.engine.candidates import LAST_TRY_SECONDS
from langchain_resilient.engine.interfaces import CallEnd
from langchain_resilient.engine.rate_limiter import (
    DECREASE,
    UNKNOWN_RATE,
    QueuedRequest,
    RateLimiter,
)
from langchain_resilient.exchange import RateLimitLevel, RateLimitStatus
from verification.kit.scripted_engine import Fail, Hang, Say, world
from verification.kit.virtual_time import virtual_time


@dataclass
class Asked:
    """The size and the priority of a call."""

    batch: bool = True
    max_tokens: int = 0
    prompt: int = 100

    def prompt_tokens(self) -> int:
        return self.prompt

    def max_tokens_at(self, _: str) -> int:
        return self.max_tokens


def queued(since: float = 0.0, wake=lambda: None, **load) -> QueuedRequest:
    return QueuedRequest(Asked(**load), since, wake)


def paced(requests: float | None = 60, tokens: float | None = None) -> RateLimiter:
    """A pacer that knows its limits and has seen an answer."""
    rate_limiter = RateLimiter()
    rate_limiter.configure(requests, tokens)
    rate_limiter.observe(None, None, 0.0)
    return rate_limiter


def spend(rate_limiter: RateLimiter, since: float = 0.0) -> float:
    """Send calls until the next has to wait, whatever its priority; return when its turn is."""
    for _ in range(10_000):
        at = rate_limiter.turn_at(queued(batch=False))
        if at > since:
            return at
        rate_limiter.reserve(queued(batch=False), since)
    raise AssertionError("nobody ever waits")


def status(requests: float, remaining: float, capacity: float | None = None) -> RateLimitStatus:
    return RateLimitStatus(
        RateLimitLevel(requests, remaining, requests if capacity is None else capacity), None
    )


def test_while_no_limit_is_known_nobody_waits():
    """An interactive call goes before the first answer, a batch call after it."""
    rate_limiter = RateLimiter()
    assert rate_limiter.turn_at(queued(batch=False)) == -inf
    rate_limiter.observe(None, None, 0.0)
    assert rate_limiter.turn_at(queued()) == -inf


def test_before_the_first_answer_a_batch_sends_scouts():
    """A few at once, then a few a second: a whole crowd could be over a limit nobody knows."""
    rate_limiter = RateLimiter()
    for _ in range(UNKNOWN_RATE):
        assert rate_limiter.turn_at(queued()) <= 10.0
        rate_limiter.reserve(queued(), 10.0)
    assert rate_limiter.turn_at(queued()) == pytest.approx(10.0 + 1 / UNKNOWN_RATE)


def test_sends_are_spread_evenly():
    """At sixty a minute one a second, once what was saved up is spent."""
    rate_limiter, now, sent = paced(60), 0.0, []
    while now < 120:
        rate_limiter.reserve(queued(), now)
        sent.append(now)
        now = max(now, rate_limiter.turn_at(queued()))
    late = [b - a for a, b in pairwise(sent) if a > 60]
    assert late == pytest.approx([1.0] * len(late), rel=0.02)


def test_a_large_request_takes_the_time_its_tokens_take():
    """Both buckets must have room: here the tokens decide."""
    rate_limiter = paced(600_000, 60_000)
    spend(rate_limiter)
    rate_limiter.reserve(queued(prompt=5_000, max_tokens=1), 0.0)
    assert rate_limiter.turn_at(queued(prompt=10, max_tokens=1)) > 2.0


def test_what_max_tokens_says_is_reserved_where_it_is_more_than_the_prompt():
    """OpenAI counts the larger of the two when a request is let in."""
    assert queued(prompt=100, max_tokens=500).tokens(7.0) == 500
    assert queued(prompt=900, max_tokens=500).tokens(7.0) == 900
    assert queued(prompt=100).tokens(7.0) == 107


def test_the_oldest_is_first_whenever_it_joins():
    """A call that has to stand in line again gets its old place."""
    rate_limiter = paced()
    spend(rate_limiter)
    young, old = queued(since=2.0), queued(since=1.0)
    rate_limiter.join(young, 3.0)
    rate_limiter.join(old, 3.0)
    assert rate_limiter.turn_at(old) < rate_limiter.turn_at(young)


def test_an_interactive_call_goes_before_all_batch_calls():
    """However long those have waited."""
    rate_limiter = paced()
    spend(rate_limiter)
    batch = queued(since=0.0)
    rate_limiter.join(batch, 0.0)
    before = rate_limiter.turn_at(batch)
    somebody = queued(since=50.0, batch=False)
    rate_limiter.join(somebody, 0.0)
    assert rate_limiter.turn_at(somebody) <= before < rate_limiter.turn_at(batch)


def test_who_leaves_tells_the_next():
    """Only the one that is first now."""
    rate_limiter, results = paced(), []
    asks = [queued(since=i, wake=lambda i=i: results.append(i)) for i in range(3)]
    for one in asks:
        rate_limiter.join(one, 0.0)
    rate_limiter.leave(asks[2])
    assert results == []
    rate_limiter.leave(asks[0])
    assert results == [1]


def test_refusals_cut_the_rate_once_a_second():
    """A crowd that was sent before the first refusal was known is one lesson."""
    rate_limiter = paced(6000)
    before = rate_limiter.requests._pace
    for _ in range(5):
        rate_limiter.record_refusal(1.0, 1.0)
    assert rate_limiter._factor == DECREASE
    assert rate_limiter.requests._pace < before
    rate_limiter.record_refusal(2.5, 2.5)
    assert rate_limiter._factor == pytest.approx((DECREASE + 1.5 * 0.02) * DECREASE)


def test_the_rate_comes_back():
    """Bit by bit, and no further than the limit."""
    rate_limiter = paced(600)
    rate_limiter.record_refusal(1.0, 1.0)
    rate_limiter.reserve(queued(), 4.0)
    assert DECREASE < rate_limiter._factor < 1.0
    rate_limiter.reserve(queued(), 60.0)
    assert rate_limiter._factor == 1.0


def test_nobody_is_sent_before_the_providers_hint():
    """The first in line, and the last."""
    rate_limiter = paced(6000)
    rate_limiter.record_refusal(1.0, 9.0)
    assert rate_limiter.turn_at(queued()) >= 9.0
    assert rate_limiter.turn_at(queued(batch=False)) >= 9.0


def test_limits_are_learned_from_an_answer():
    """As the provider says them."""
    rate_limiter = RateLimiter()
    reservation = rate_limiter.reserve(queued(), 0.0)
    rate_limiter.observe(status(600, 599), reservation, 0.1)
    assert rate_limiter.active
    assert rate_limiter.requests.rate == pytest.approx(10.0)


def test_the_lower_of_what_the_user_and_the_provider_say_counts():
    """A user may leave room for others; a provider may have lowered its limit."""
    for limit, expected in ((300, 5.0), (60, 1.0)):
        rate_limiter = paced(300)
        rate_limiter.observe(
            status(limit if limit < 300 else 6000, 50), rate_limiter.reserve(queued(), 1.0), 1.1
        )
        assert rate_limiter.requests.rate == pytest.approx(expected, rel=0.002)


def test_a_minutes_worth_is_spent_within_seconds_but_not_at_once():
    """What the provider's bucket has saved up counts, as far as it says so."""
    rate_limiter = RateLimiter()
    rate_limiter.observe(status(600, 599), rate_limiter.reserve(queued(), 0.0), 0.0)
    at_once = 0
    while rate_limiter.turn_at(queued()) <= 0.0:
        rate_limiter.reserve(queued(), 0.0)
        at_once += 1
    assert at_once < 10
    now, sent = 0.0, 0
    while now < 10.0:
        now = max(now, rate_limiter.turn_at(queued()))
        rate_limiter.reserve(queued(), now)
        sent += 1
    assert 400 < sent < 700


def test_others_use_is_seen_in_what_is_left():
    """The bucket fills up by seven a second instead of ten: that is what is sent from then on."""
    rate_limiter, now = RateLimiter(), 0.0
    server, filled = 600.0, 0.0
    sent: list[float] = []
    while now < 200:
        now = max(now, rate_limiter.turn_at(queued()))
        server = min(600.0, server + (now - filled) * 7.0) - 1
        filled = now
        assert server > -1, "it would have been refused"
        rate_limiter.observe(status(600, int(server)), rate_limiter.reserve(queued(), now), now)
        sent.append(now)
    assert sum(at > 150 for at in sent) / 50 == pytest.approx(7.0, rel=0.05)


def test_a_refusal_out_of_plenty_ends_the_trust_in_it():
    """The server says a minute's worth is left, but counts by the second."""
    rate_limiter = RateLimiter()
    rate_limiter.observe(status(600, 599), rate_limiter.reserve(queued(), 0.0), 0.1)
    rate_limiter.record_refusal(0.2, 0.2)
    rate_limiter.observe(status(600, 590), rate_limiter.reserve(queued(), 0.3), 0.4)
    assert rate_limiter.requests.capacity <= 10.0


def test_threads_lose_no_request():
    """All that is taken is counted, whoever takes it."""
    rate_limiter = paced(600)
    crowd = [
        Thread(target=lambda: [rate_limiter.reserve(queued(), 1.0) for _ in range(500)])
        for _ in range(4)
    ]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert rate_limiter.requests.sent == 2000


# -- in a race ----------------------------------------------------------------------------------


def configure(made, name: str, requests: float, spent: bool = True) -> RateLimiter:
    """Put a target under a limit that others of this process have used up."""
    rate_limiter = made.states[name].keys[0].rate_limiter
    now = asyncio.get_running_loop().time()
    rate_limiter.configure(requests)
    rate_limiter.observe(None, None, now)
    if spent:
        spend(rate_limiter, now)
    return rate_limiter


@virtual_time
async def test_a_crowd_is_sent_at_the_rate():
    """Thirty batch calls at once, sixty a minute: ten are saved up, the rest come one a second."""
    made = world(Say())
    configure(made, "p0:m", 60, spent=False)
    races = [made.race(size=Asked()) for _ in range(30)]
    assert all(await asyncio.gather(*[race.answer() for race in races]))
    sent = made.targets["p0:m"].sent
    assert 18 < sent[-1] - sent[0] < 32
    assert max(sum(a <= b < a + 1.0 for b in sent) for a in sent) <= 4


@virtual_time
async def test_work_goes_to_the_next_target_where_one_is_saturated():
    """At once: nobody waits for a turn while another target is free."""
    made = world(Say(), Say())
    configure(made, "p0:m", 60)
    race = made.race(size=Asked(batch=False))
    await race.answer()
    assert made.targets["p1:m"].sent == [0.0]


@virtual_time
async def test_without_spread_the_preferred_target_is_waited_for():
    """Its turn comes after a while, and it answers."""
    made = world(Say(), Say(), spread=False)
    configure(made, "p0:m", 60)
    race = made.race(size=Asked(batch=False))
    await race.answer()
    assert made.targets["p1:m"].sent == []
    assert 0 < made.targets["p0:m"].sent[0] < 10


@virtual_time
async def test_without_spread_a_dead_target_is_not_waited_for():
    """A failure is no lack of room."""
    made = world(Fail(FaultKind.SERVER), Say(), spread=False)
    configure(made, "p0:m", 60, spent=False)
    race = made.race(size=Asked(batch=False))
    await race.answer()
    assert race.winner.candidate.state.name == "p1:m"


@virtual_time
async def test_a_batch_calls_time_runs_from_its_first_send():
    """Waiting in line for two minutes costs nothing of a deadline of ten seconds."""
    made = world(Say(after=5.0), deadline=10.0)
    configure(made, "p0:m", 0.5)
    race = made.race(size=Asked())
    assert await race.answer() is not None
    assert made.targets["p0:m"].sent[0] > 20


@virtual_time
async def test_a_batch_call_has_its_whole_time_and_no_more():
    """From its send on the deadline counts."""
    made = world(Hang(), deadline=10.0, hedge=None)
    configure(made, "p0:m", 0.5)
    race = made.race(size=Asked())
    await race.answer()
    assert race.end is CallEnd.DEADLINE
    now = asyncio.get_running_loop().time()
    assert now == pytest.approx(made.targets["p0:m"].sent[0] + 10.0)


REFUSED_ELSEWHERE = pytest.mark.parametrize("after", [0.0, 0.1, 0.5, 1.0, 3.0])
"""Seconds in which a second target refuses: the backoff from the first is over then, or is not."""


@REFUSED_ELSEWHERE
@virtual_time
async def test_a_refused_batch_call_waits_for_a_hint_beyond_its_deadline(after):
    """Its time begins with the first request that is not refused, however late that is known."""
    refusal = Fail(FaultKind.RATE_LIMIT, retry_after=30.0)
    elsewhere = Fail(FaultKind.RATE_LIMIT, after=after, retry_after=300.0)
    made = world([refusal, Say()], elsewhere, deadline=10.0)
    race = made.race(size=Asked())
    assert await race.answer() is not None
    assert 30.0 <= made.targets["p0:m"].sent[1] <= 33.1


@REFUSED_ELSEWHERE
@virtual_time
async def test_a_batch_call_that_is_only_refused_ends_with_its_time(after):
    """That began when the provider said that it would have room."""
    refusal = Fail(FaultKind.RATE_LIMIT, retry_after=30.0)
    elsewhere = Fail(FaultKind.RATE_LIMIT, after=after, retry_after=30.0)
    made = world(refusal, elsewhere, deadline=10.0)
    race = made.race(size=Asked())
    assert await race.answer() is None
    assert 30.0 < asyncio.get_running_loop().time() <= 43.1 + after


@REFUSED_ELSEWHERE
@virtual_time
async def test_a_call_that_is_refused_beyond_its_deadline_ends_at_once(after):
    """Outside batches: its caller has nothing to wait for."""
    refusal = Fail(FaultKind.RATE_LIMIT, retry_after=30.0)
    elsewhere = Fail(FaultKind.RATE_LIMIT, after=after, retry_after=30.0)
    made = world(refusal, elsewhere, deadline=10.0, hedge=None)
    race = made.race(size=Asked(batch=False))
    assert await race.answer() is None
    assert race.end is CallEnd.EXHAUSTED
    assert asyncio.get_running_loop().time() == pytest.approx(after)


@virtual_time
async def test_a_hint_beyond_the_deadline_ends_later_calls_at_once_too():
    """They send nothing, and do not wait for what cannot come in time."""
    refusal = Fail(FaultKind.RATE_LIMIT, retry_after=300.0)
    made = world(refusal, refusal, deadline=10.0)
    await made.race(size=Asked(batch=False)).answer()
    race = made.race(size=Asked(batch=False))
    assert await race.answer() is None
    assert (race.end, asyncio.get_running_loop().time()) == (CallEnd.EXHAUSTED, 0.0)
    assert made.sends() == 2


@virtual_time
async def test_a_hint_to_another_call_is_not_waited_for_beside_a_refusal():
    """One target is limited already when the other one refuses this call."""
    refusal = Fail(FaultKind.RATE_LIMIT, retry_after=300.0)
    made = world(refusal, [Say(), refusal], deadline=10.0)
    assert await made.race(size=Asked(batch=False)).answer() is not None
    race = made.race(size=Asked(batch=False))
    assert await race.answer() is None
    assert (race.end, asyncio.get_running_loop().time()) == (CallEnd.EXHAUSTED, 0.0)


@REFUSED_ELSEWHERE
@pytest.mark.parametrize(
    ("kind", "hint"), [(FaultKind.RATE_LIMIT, 600.0), (FaultKind.SERVER, 30.0)]
)
@virtual_time
async def test_what_is_no_matter_of_turns_ends_a_batch_call(after, kind, hint):
    """A limit for many minutes, and a server that is down until after the deadline."""
    refusal = Fail(kind, retry_after=hint)
    elsewhere = Fail(kind, after=after, retry_after=hint)
    made = world(refusal, elsewhere, deadline=10.0, hedge=None)
    race = made.race(size=Asked())
    assert await race.answer() is None
    assert race.end is CallEnd.EXHAUSTED
    assert asyncio.get_running_loop().time() == pytest.approx(after)


@virtual_time
async def test_an_interactive_call_never_waits_past_its_deadline():
    """Its caller sits and waits."""
    made = world(Say(), deadline=10.0)
    configure(made, "p0:m", 0.01)
    race = made.race(size=Asked(batch=False))
    await race.answer()
    assert race.end is CallEnd.DEADLINE
    assert asyncio.get_running_loop().time() == pytest.approx(10.0)


@virtual_time
async def test_interactive_calls_overtake_batch_calls():
    """The batch was there first, and waits."""
    made = world(Say())
    configure(made, "p0:m", 60)
    ends: list[str] = []

    async def one(name: str, load: Asked) -> None:
        await made.race(size=load).answer()
        ends.append(name)

    batch = [asyncio.create_task(one("batch", Asked())) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.gather(one("interactive", Asked(batch=False)), *batch)
    assert ends == ["interactive", "batch", "batch", "batch"]


@virtual_time
async def test_a_hedge_never_takes_the_place_of_a_first_send():
    """The second target is saturated: the late one is waited for."""
    made = world(Say(after=8.0), Say(), hedge=Hedge(delay=1.0))
    configure(made, "p1:m", 0.5)
    race = made.race(size=Asked(batch=False))
    await race.answer()
    kinds = [attempt.kind for attempt in race.receipt().attempts]
    assert kinds == [AttemptKind.PRIMARY]


@virtual_time
async def test_a_cancelled_call_leaves_the_queue():
    """And the next one takes its turn."""
    made = world(Say())
    rate_limiter = configure(made, "p0:m", 60)
    first, second = (asyncio.create_task(made.race(size=Asked()).answer()) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    assert await second is not None
    assert rate_limiter._queue == []


# -- what the user states --------------------------------------------------------------------------


def send_times(rate_limiter: RateLimiter, until: float, **size) -> list[float]:
    """When calls are sent if there are always more."""
    now, times = 0.0, []
    while now < until:
        at = rate_limiter.turn_at(queued(**size))
        now = max(now, at) if at > now else now
        rate_limiter.reserve(queued(**size), now)
        times.append(now)
        if len(times) > 100_000:
            raise AssertionError("nobody ever waits")
        rate_limiter.observe(None, None, now + 0.01)
    return times


def busiest_minute(times: list[float]) -> int:
    """The most that were sent within sixty seconds."""
    return max(bisect_left(times, a + 60 - 1e-6) - i for i, a in enumerate(times))


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("limit", [1, 2, 3, 6, 10, 120, 1_200])
def test_a_stated_limit_is_kept_in_every_minute(limit, batch):
    """The first one too, and nearly all of it is used."""
    rate_limiter = RateLimiter()
    rate_limiter.configure(limit)
    rate_limiter.observe(None, None, 0.0)
    times = send_times(rate_limiter, 240.0, batch=batch)
    assert busiest_minute(times) <= limit
    assert len([t for t in times if t < 240]) >= 0.9 * 4 * limit


@pytest.mark.parametrize("limit", [1, 2, 3, 6])
def test_a_low_limit_is_a_fair_gap(limit):
    """Within a tenth, however low it is."""
    rate_limiter = RateLimiter()
    rate_limiter.configure(limit)
    rate_limiter.observe(None, None, 0.0)
    gaps = [b - a for a, b in pairwise(send_times(rate_limiter, 600.0))]
    assert max(gaps) <= 1.1 * 60 / limit
    assert min(gaps) >= 0.9 * 60 / limit


def test_a_request_larger_than_the_minutes_tokens_waits_for_its_share():
    """Five hundred tokens at a hundred a minute: one in five minutes."""
    rate_limiter = RateLimiter()
    rate_limiter.configure(None, 100)
    rate_limiter.observe(None, None, 0.0)
    times = send_times(rate_limiter, 1_800.0, prompt=400, max_tokens=500)
    assert [b - a for a, b in pairwise(times)] == pytest.approx([300.0] * (len(times) - 1), rel=0.1)


def limited_world(*, stated: bool, deadline: float = 20.0, limit: int = 3, sent: int = 1):
    """A target with a low limit, that was asked a moment ago."""
    w = world(Say(), deadline=deadline)
    rate_limiter = w.states["p0:m"].keys[0].rate_limiter
    if stated:
        rate_limiter.configure(limit)
        rate_limiter.observe(None, None, 0.0)
    else:
        rate_limiter.observe(status(limit, 1), rate_limiter.reserve(queued(), 0.0), 0.0)
    for _ in range(sent):
        rate_limiter.reserve(queued(), 0.0)
    return w


@virtual_time
async def test_a_turn_that_comes_before_the_deadline_is_waited_for():
    """Twenty seconds, at three a minute."""
    race = limited_world(stated=True, deadline=60.0).race(size=Asked(batch=False))
    assert await race.answer() is not None
    assert race.receipt().seconds == pytest.approx(20.0, rel=0.1)


@virtual_time
async def test_a_turn_after_the_deadline_is_tried_where_the_minute_has_room():
    """Two of three in this minute: the user's number is kept, though not evenly."""
    w = limited_world(stated=True, deadline=10.0)
    race = w.race(size=Asked(batch=False))
    assert await race.answer() is not None
    assert w.sends() == 1
    assert race.receipt().seconds == pytest.approx(10.0 - LAST_TRY_SECONDS, abs=0.1)


@virtual_time
async def test_a_turn_after_the_deadline_is_an_error_that_names_the_limit():
    """And when it would be free; what the user stated is not passed in any minute."""
    w = limited_world(stated=True, deadline=10.0, sent=3)
    race = w.race(size=Asked(batch=False))
    assert await race.answer() is None
    ((name, why),) = race.receipt().skipped
    assert (name, w.sends()) == ("p0:m", 0)
    assert why == "its limit of 3 requests a minute has no room for another 50 s"


@virtual_time
async def test_of_crowded_calls_only_as_many_are_tried_as_the_minute_has_room_for():
    """All run out of time at once."""
    w = limited_world(stated=True, deadline=10.0, sent=1)
    races = [w.race(size=Asked(batch=False)) for _ in range(6)]
    answers = await asyncio.gather(*(race.answer() for race in races))
    assert w.sends() == sum(answer is not None for answer in answers) == 2


@virtual_time
async def test_a_turn_that_comes_with_the_deadline_is_told_as_a_limit_too():
    """Not as a turn that never came."""
    w = limited_world(stated=True, deadline=60.0, sent=3)
    race = w.race(size=Asked(batch=False))
    assert await race.answer() is None
    ((_, why),) = race.receipt().skipped
    assert why == "its limit of 3 requests a minute had no room before"


@virtual_time
async def test_a_limit_that_is_only_learned_is_tried_before_the_deadline():
    """It may have been learned wrongly."""
    w = limited_world(stated=False, deadline=10.0)
    assert await w.race(size=Asked(batch=False)).answer() is not None
    assert w.sends() == 1

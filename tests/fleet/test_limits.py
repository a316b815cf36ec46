"""Turns leased from the server: by the real script, in virtual time."""

from __future__ import annotations

from itertools import pairwise

import pytest

from langchain_resilient.engine.rate_limiter import QueuedRequest
from langchain_resilient.exchange import RateLimitLevel, RateLimitStatus
from langchain_resilient.fleet.limits import LeasedRateLimiter
from verification.fleet.batches import run_batches
from verification.fleet.workers import SCRIPT, Batch, run


class Interactive(Batch):
    """The size of a request that a user waits for."""

    batch = False


class Process:
    """One process's limiter beside the real script, at a time of our own."""

    def __init__(self, client, name="a", **limits):
        self.now = 1000.0
        self.client = client
        self.name = name
        self.limiter = LeasedRateLimiter("x", lambda: None, clock=lambda: self.now)
        self.limiter.configure(**limits)

    def queue(self, count, kind=Batch, tokens=0):
        requests = [QueuedRequest(kind(tokens), self.now, lambda: None) for _ in range(count)]
        for request in requests:
            self.limiter.join(request, self.now)
        return requests

    def ask(self):
        arguments = [self.name, self.now, *self.limiter.request(self.now)[1:]]
        reply = self.client.eval(SCRIPT, 3, *self.limiter.keys("v"), *arguments)
        self.limiter.granted([float(value) for value in reply], self.now)

    def state(self):
        return self.client.hgetall(self.limiter.keys("v")[0])

    def send(self, request):
        reservation = self.limiter.reserve(request, self.now)
        self.limiter.leave(request)
        return reservation


@pytest.mark.parametrize(
    ("workers", "rate", "seconds", "operations"),
    [(4, 30, 20, 0.7), (60, 30, 20, 1.3), (1000, 100, 22, 1.6), (100, 200, 6, 1.2)],
)
def test_however_many_share_a_limit_it_is_used_whole_and_never_passed(
    redis_client, workers, rate, seconds, operations
):
    """Those who begin later get as much as the first; the server is asked about once a request."""
    outcome = run(redis_client, workers, rate, seconds)
    assert outcome.rate(after=seconds / 2) >= 0.95 * rate
    assert outcome.most_within(1.0) <= rate * 1.25 + 1
    counts = outcome.by_worker(after=seconds / 2)
    assert len(counts) == workers
    assert counts[-1] <= 2 * counts[len(counts) // 2] + 1
    assert outcome.operations / len(outcome.sends) <= operations


@pytest.mark.parametrize(
    ("dialect", "sizes", "limits"),
    [
        ("openai", (300,) * 4, {"requests_per_minute": 1800}),
        ("together", (420, 60, 60, 60), {"tokens_per_minute": 90_000}),
    ],
)
def test_batches_under_a_bucket_of_one_second_waste_little_of_it(
    redis_client, dialect, sizes, limits
):
    """Nothing is refused, equal processes end together, and Redis is asked once in four calls."""
    outcome = run_batches(redis_client, sizes, dialect, **limits)
    assert outcome.sends == sum(sizes)
    assert outcome.refused == 0
    assert max(outcome.ends) - outcome.ideal < 2.0
    assert outcome.operations / outcome.sends <= 0.25
    if len(set(sizes)) == 1:
        assert outcome.unevenness < 0.1
        assert outcome.unevenness_of_others < 0.05


@pytest.mark.parametrize("prompts", [300, 900])
def test_whoever_comes_first_keeps_what_it_leased_alone_and_gains_no_more(redis_client, prompts):
    """Alone for a tenth of a second, it leases a second's worth of the whole rate, once."""
    outcome = run_batches(
        redis_client, (prompts,) * 4, "together", requests_per_minute=1800, head_start=0.1
    )
    first, second, *_ = sorted(outcome.ends)
    assert first == outcome.ends[0]
    assert 0.5 < (second - first) / 4 < 1.25
    assert outcome.unevenness < 0.1
    assert outcome.unevenness_of_others < 0.02
    assert outcome.refused == 0


def test_each_turn_has_a_time_of_its_own(redis_client):
    """Two leases are two series of turns, not one."""
    one, two = (
        Process(redis_client, "a", requests_per_minute=600),
        Process(redis_client, "b", requests_per_minute=600),
    )
    for process in (one, two, one, two):
        process.queue(3)
        process.ask()
    times = sorted(turn.at for process in (one, two) for turn in process.limiter._turns)
    gaps = [b - a for a, b in pairwise(times)]
    assert len(times) > 4
    assert min(gaps) == pytest.approx(0.1, abs=1e-3)


def test_a_turn_that_is_not_taken_in_time_is_given_back(redis_client):
    """Another process may have it."""
    process = Process(redis_client, requests_per_minute=600)
    process.queue(5)
    process.ask()
    process.ask()
    sent = float(process.state()["sent_r"])
    process.now += 5
    process.ask()
    assert not [t for t in process.limiter._turns if t.at < process.now - 0.5]
    process.ask()
    assert float(process.state()["sent_r"]) <= sent + len(process.limiter._turns)


def test_the_least_of_several_told_limits_counts_and_a_raised_one_once_nobody_says_less(
    redis_client,
):
    """As after a deployment that raises it."""
    low = Process(redis_client, "a", requests_per_minute=60)
    high = Process(redis_client, "b", requests_per_minute=600)
    for process in (low, high, low, high):
        process.queue(1)
        process.ask()
    assert float(high.state()["rate_r"]) == pytest.approx(1.0)
    high.now += 6
    high.ask()
    high.ask()
    assert float(high.state()["rate_r"]) == pytest.approx(10.0)


def test_headers_teach_all_processes(redis_client):
    """What one learned, another that has not asked yet paces by."""
    one, two = Process(redis_client, "a"), Process(redis_client, "b")
    one.queue(1)
    one.ask()
    reservation = one.send(one.limiter._queue[0][3])
    status = RateLimitStatus(RateLimitLevel(600, 9, 10), RateLimitLevel(6000, 90, 100))
    one.limiter.observe(status, reservation, one.now)
    one.now += 0.1
    one.ask()
    two.ask()
    assert two.limiter.active
    assert not two.limiter.fresh
    assert two.limiter.describe() == "600 requests and 6,000 tokens a minute in all processes"


def test_without_any_limit_nothing_is_paced(redis_client):
    """An answer whose headers say nothing ends the caution of the first requests, everywhere."""
    one, two = Process(redis_client, "a"), Process(redis_client, "b")
    request = one.queue(1)[0]
    one.ask()
    reservation = one.send(request)
    one.limiter.observe(None, reservation, one.now)
    one.ask()
    two.ask()
    for process in (one, two):
        waiting = QueuedRequest(Batch(), process.now, lambda: None)
        assert process.limiter.turn_at(waiting) == float("-inf")
        assert process.limiter.due_at() > process.now


def test_tokens_are_settled_by_what_was_used(redis_client):
    """Unused ones come back, more than was reserved is taken."""
    process = Process(redis_client, tokens_per_minute=60_000)
    request = process.queue(1, tokens=0)[0]
    process.ask()
    process.now += 0.5
    reservation = process.send(request)
    process.ask()
    before = float(process.state()["sent_t"])
    reservation.settle(10, 20, process.now)
    process.ask()
    assert float(process.state()["sent_t"]) == pytest.approx(before - (reservation.tokens - 30))


def test_a_report_that_is_sent_twice_counts_once(redis_client):
    """Whether the server had it before the connection broke is not known."""
    process = Process(redis_client, requests_per_minute=600)
    process.ask()
    process.limiter._report.over_requests = 3
    arguments = ["a", process.now, *process.limiter.request(process.now)[1:]]
    process.client.eval(SCRIPT, 3, *process.limiter.keys("v"), *arguments)
    assert float(process.state()["sent_r"]) == 3  # and no reply came
    process.limiter._report.over_requests = 2
    process.ask()  # the same again
    assert float(process.state()["sent_r"]) == 3
    process.ask()  # what came since
    assert float(process.state()["sent_r"]) == 5


def test_a_refusal_slows_the_whole_fleet(redis_client):
    """Once a second at most; it comes back by a fiftieth a second."""
    one = Process(redis_client, "a", requests_per_minute=600)
    two = Process(redis_client, "b", requests_per_minute=600)
    one.ask()
    for _ in range(3):
        one.limiter.record_refusal(one.now, one.now + 0.5)
        one.ask()
    assert float(one.state()["factor"]) == pytest.approx(0.85)
    two.queue(2)
    two.ask()
    assert two.limiter._turns[0].at >= two.now + 0.5
    one.now += 5
    one.ask()
    assert float(one.state()["factor"]) == pytest.approx(0.95)


def test_an_interactive_call_goes_at_once_while_there_is_credit(redis_client):
    """It is reported later; without credit it is the first in the queue."""
    process = Process(redis_client, requests_per_minute=6000)
    process.ask()
    process.ask()
    sent = 0
    while True:
        request = QueuedRequest(Interactive(), process.now, lambda: None)
        if process.limiter.turn_at(request) > process.now:
            break
        process.limiter.reserve(request, process.now)
        sent += 1
    assert sent == 12  # half of what may go at once
    process.ask()
    assert float(process.state()["sent_r"]) == sent
    process.limiter._allowance = 0.0
    process.queue(3)
    process.limiter.join(request, process.now)
    assert process.limiter.turn_at(request) > process.now
    process.ask()
    process.limiter._allowance = 0.0
    assert process.limiter.turn_at(request) == process.limiter._turns[0].at


def test_while_the_server_is_away_each_goes_on_at_its_share(redis_client):
    """Nine tenths of the limit by the number of processes; the turns end when it is back."""
    one = Process(redis_client, "a", requests_per_minute=1200)
    two = Process(redis_client, "b", requests_per_minute=1200)
    for process in (one, two, one, two):
        process.queue(3)
        process.ask()
    one.queue(200)
    sent, began, tries = 0, one.now, 0
    while one.now < began + 10:
        in_vain = one.now >= began + tries  # the server is tried once a second
        tries += in_vain
        if in_vain:
            one.limiter.request(one.now)
        if in_vain or one.limiter.due_at() <= one.now:
            one.limiter.lost(one.now)
        request = one.limiter._queue[0][3]
        if one.limiter.turn_at(request) <= one.now:
            one.send(request)
            sent += 1
        one.now += 0.005
    assert sent == pytest.approx(10 * 20 * 0.9 / 2, rel=0.1)
    assert one.limiter.alone
    redis_client.flushall()
    one.ask()
    assert not one.limiter.alone
    state = one.state()
    assert float(state["rate_r"]) == 20
    assert float(state["level_r"]) <= 0  # it starts empty: nobody knows what was sent


def test_a_state_of_another_version_is_left_alone(redis_client):
    """It says so, and how many use it."""
    process = Process(redis_client, requests_per_minute=60)
    redis_client.hset(process.limiter.keys("v")[0], "version", 99)
    arguments = ["a", process.now, *process.limiter.request(process.now)[1:]]
    reply = redis_client.eval(SCRIPT, 3, *process.limiter.keys("v"), *arguments)
    assert [float(value) for value in reply] == [-1, 0, 99]
    assert redis_client.hgetall(process.limiter.keys("v")[0]) == {"version": "99"}

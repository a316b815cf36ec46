"""A limit that nobody tells: how fast it is learned from refusals, and with how few of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import ceil, inf, log2

import pytest

from langchain_resilient.engine.learned_limit import Refusal
from langchain_resilient.engine.rate_limiter import RateLimiter, Reservation
from tests.engine.test_rate_limiter import queued, status


@dataclass
class Provider:
    """A bucket that tells nothing but, when it refuses, how long to wait."""

    limit: float
    hint: str = "whole"
    capacity: float = 0.0
    at: float = 0.0

    def __post_init__(self) -> None:
        self.capacity = self.level = self.capacity or self.limit

    def admit(self, now: float) -> float | None:
        """None, or the seconds to wait."""
        rate = self.limit / 60
        self.level = min(self.capacity, self.level + (now - self.at) * rate)
        self.at = now
        if self.level > 1 - 1e-9:
            self.level -= 1
            return None
        return (1 - self.level) / rate

    def hinted(self, wait: float) -> float | None:
        """As its header says it."""
        return {"whole": float(ceil(wait)), "exact": wait, "none": None}[self.hint]


class Caller:
    """Sends one after the other, each at its turn, and learns at once."""

    def __init__(self, provider: Provider, *, batch: bool = True, seconds: float = 0.0) -> None:
        self.provider = provider
        self.limiter = RateLimiter()
        self.limiter.observe(None, None, 0.0)
        self.now = 0.0
        self.batch, self.seconds = batch, seconds
        self.admitted: list[float] = []
        self.refused = 0

    def call(self) -> None:
        """Send until it is answered."""
        while True:
            request = queued(batch=self.batch)
            limiter = self.limiter
            self.now = max(self.now, limiter.turn_at(request))
            reservation = limiter.reserve(request, self.now) if limiter.counting else None
            wait = self.provider.admit(self.now)
            self.now += 1e-4
            if wait is None:
                self.admitted.append(self.now)
                limiter.observe(None, reservation, self.now)
                self.now += self.seconds
                return
            self.refuse(wait, reservation)

    def refuse(self, wait: float, reservation: Reservation | None) -> None:
        """Learn of a refusal, and wait as the hint says."""
        self.refused += 1
        hint = self.provider.hinted(wait)
        if reservation is not None:
            reservation.cancel(self.now)
        until = -inf if hint is None else self.now + hint
        refusal = Refusal(self.now - 1e-4, before(reservation), hint)
        self.limiter.record_refusal(self.now, until, refusal)
        self.now = max(self.now + (0.3 if hint is None else 0.0), until)


def before(reservation: Reservation | None) -> float | None:
    """How many had been sent before."""
    return None if reservation is None else reservation.requests - 1


def played(provider: Provider, minutes: float, **how) -> Caller:
    """Send what these minutes admit, and what is saved up at first."""
    caller = Caller(provider, **how)
    for _ in range(round(provider.capacity + minutes * provider.limit)):
        caller.call()
    return caller


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("limit", [1, 2, 3, 6, 10])
@pytest.mark.parametrize("hint", ["whole", "exact"])
def test_a_low_limit_is_learned_with_few_refusals(limit, batch, hint):
    """Two or three at first, and then one whenever twice as much was let in; the gaps are fair.

    Hints in whole seconds are up to a sixth of a gap of six: so far off the first measure may be.
    """
    caller = played(Provider(limit, hint), minutes=5.0, batch=batch, seconds=0.3)
    assert caller.refused <= 2 + log2(len(caller.admitted))
    gaps = [b - a for a, b in pairwise(caller.admitted[limit:])]
    assert max(gaps) <= (1.16 if hint == "whole" else 1.12) * 60 / limit
    assert caller.now <= 1.05 * 300 + 1


@pytest.mark.parametrize("limit", [60, 120, 300, 3000])
def test_a_batch_is_refused_hardly_more_often_than_a_known_limit_allows(limit):
    """One in a hundred, and a handful for learning."""
    caller = played(Provider(limit), minutes=3.0)
    assert caller.refused <= 5 + 0.01 * len(caller.admitted)
    assert caller.now <= 1.05 * 180 + 2


@pytest.mark.parametrize("limit", [60, 300])
def test_a_limit_by_the_second_is_nearly_used(limit):
    """What is not sent there is lost, so the rate must be found, not what was let in."""
    caller = played(Provider(limit, capacity=max(1.0, limit / 60)), minutes=5.0)
    assert caller.now <= 1.25 * 300
    assert caller.refused <= 0.04 * len(caller.admitted)


@pytest.mark.parametrize("limit", [6, 60, 300])
def test_without_any_hint_it_is_learned_too(limit):
    """With more refusals: nothing but the gaps themselves tells how long they are."""
    caller = played(Provider(limit, "none"), minutes=5.0)
    assert caller.now <= 1.25 * 300
    assert caller.refused <= 10 + 0.03 * len(caller.admitted)


def test_a_raised_limit_is_noticed():
    """Six times as much after a while: most of it is used some minutes later."""
    caller = played(Provider(60), minutes=2.0)
    caller.provider.limit = caller.provider.capacity = 360
    began = caller.now
    for _ in range(3000):
        caller.call()
    assert caller.now - began < 1.7 * 3000 / 6


def test_a_lowered_limit_is_kept_to():
    """Others use half of it from now on."""
    caller = played(Provider(300), minutes=2.0)
    caller.provider.limit = 150
    before, began = caller.refused, caller.now
    for _ in range(600):
        caller.call()
    assert caller.refused - before <= 20
    assert caller.now - began < 1.15 * 240


def test_one_refusal_without_a_hint_is_no_limit():
    """A server that refuses one in twenty is busy now and then: nobody is held up."""
    limiter = RateLimiter()
    limiter.observe(None, None, 0.0)
    now = 0.0
    for number in range(400):
        now += 0.05
        assert limiter.turn_at(queued()) <= now
        assert limiter.turn_at(queued(batch=False)) <= now
        reservation = limiter.reserve(queued(), now) if limiter.counting else None
        if number % 20 == 10:
            if reservation is not None:
                reservation.cancel(now)
            limiter.record_refusal(now, -inf, Refusal(now - 0.01, before(reservation), None))
    assert limiter.describe() == ""


def test_a_limit_that_is_never_met_again_is_forgotten():
    """And then nothing is counted any more: calls cost what they cost without a limit."""
    caller = Caller(Provider(300))
    for _ in range(310):
        caller.call()
    assert caller.limiter.counting
    caller.provider.limit = caller.provider.capacity = caller.provider.level = 1e9
    for _ in range(4000):
        caller.call()
    assert not caller.limiter.counting
    assert caller.limiter.turn_at(queued()) == -inf


def test_those_that_were_sent_before_a_refusal_was_known_say_nothing_more():
    """A crowd that meets a limit is one refusal, however many it is."""
    limiter = RateLimiter()
    limiter.observe(None, None, 0.0)
    limiter.record_refusal(1.1, 6.0, Refusal(1.0, None, 5.0))
    described = limiter.describe()
    for _ in range(30):
        limiter.record_refusal(1.1, 6.0, Refusal(1.05, None, 5.0))
    assert limiter.describe() == described == "12 requests a minute"


def test_interactive_calls_wait_only_where_a_refusal_costs_seconds():
    """Above a request a second, the one that is refused goes to the next target at once."""
    for limit, waits in ((6, True), (600, False)):
        caller = played(Provider(limit), minutes=1.0)
        caller.limiter.reserve(queued(), caller.now)
        later = caller.limiter.turn_at(queued(batch=False)) > caller.now
        assert later == waits


def test_a_told_limit_takes_the_place_of_a_learned_one():
    """As soon as an answer's headers tell it."""
    limiter = RateLimiter()
    limiter.observe(None, None, 0.0)
    limiter.record_refusal(1.0, 6.0, Refusal(0.9, None, 5.0))
    limiter.observe(status(600, 500), limiter.reserve(queued(), 7.0), 7.1)
    assert limiter.describe() == "600 requests a minute"

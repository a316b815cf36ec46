"""Accounts that are out, keys that are limited, and targets that are sick, in all processes."""

from __future__ import annotations

from pathlib import Path

import pytest

import langchain_resilient.fleet
from langchain_resilient.engine.target_state import TargetKey
from langchain_resilient.faults import FaultKind
from langchain_resilient.fleet.health import FleetHealth

SCRIPT = (Path(langchain_resilient.fleet.__file__).parent / "health.lua").read_text()


class Process:
    """One process's view of a target, beside the real script, at a time of our own."""

    def __init__(self, client, name):
        self.client, self.name, self.now, self.away = client, name, 1000.0, False
        self.health = FleetHealth(lambda: None, lambda: self.away)
        self.breaker = self.health.breaker("target")
        self.account = self.health.account("account")
        self.ask()

    def ask(self, now=None):
        self.now = self.now if now is None else now
        arguments = [self.name, self.now, *self.health.request(self.now)[1:]]
        reply = self.client.eval(SCRIPT, 1, *self.health.keys("v"), *arguments)
        self.health.granted(reply, self.now, self.name)


@pytest.fixture
def two(redis_client):
    return Process(redis_client, "a"), Process(redis_client, "b")


def trip(process):
    for _ in range(5):
        process.breaker.record_slow(process.now, 5)
    assert process.breaker.tripped
    process.ask()


def test_an_account_that_is_out_is_out_for_all(two, redis_client):
    """Those who come later know it too, until it is over."""
    one, other = two
    one.account.block(one.now, FaultKind.AUTH)
    one.ask()
    other.ask(1001.0)
    assert other.account.not_before == pytest.approx(1300)
    assert other.account.reason is FaultKind.AUTH
    later = Process(redis_client, "c")
    assert later.account.not_before == pytest.approx(1300)
    much_later = Process.__new__(Process)
    Process.__init__(much_later, redis_client, "d")
    much_later.health._known = -1
    much_later.account.not_before = 0.0
    much_later.ask(1301.0)
    assert much_later.account.not_before == 0.0


def test_a_key_waits_as_long_as_its_provider_told_anybody(two):
    """Of the same name only."""
    one, other = two
    keys = TargetKey(other.account), TargetKey(other.account)
    for name, key in zip(("k", "l"), keys, strict=True):
        other.health.watch_key(name, key)
    one.health.tell("limited", "k", 20.0)
    one.ask()
    other.ask()
    assert [key.not_before for key in keys] == [pytest.approx(1020), 0.0]


def test_a_trip_elsewhere_is_a_hint_that_one_good_answer_disproves(two):
    """For all that had it by hearsay; who saw it itself probes on."""
    one, other = two
    trip(one)
    other.ask()
    assert other.breaker.tripped
    assert other.breaker.hearsay
    other.breaker.record_probe(other.now, well=True)
    assert not other.breaker.tripped
    other.ask()
    one.ask()
    assert one.breaker.tripped
    assert one.breaker.trips == 1
    for _ in range(3):
        one.breaker.record_probe(one.now, well=True)
    assert not one.breaker.tripped


def test_an_answer_that_was_asked_for_after_the_hint_disproves_it_too(two):
    """One that was asked for before says nothing."""
    one, other = two
    trip(one)
    other.ask()
    other.breaker.record_fast(started=other.now - 1)
    assert other.breaker.tripped
    other.breaker.record_fast(started=other.now + 1)
    assert not other.breaker.tripped


def test_who_hears_of_it_later_does_not_hear_of_a_trip_that_is_over(two, redis_client):
    """Recovered, or long ago."""
    one, other = two
    trip(one)
    other.ask()
    other.breaker.record_probe(other.now, well=True)
    other.ask()
    assert not Process(redis_client, "c").breaker.tripped


def test_one_process_probes_at_a_time(two):
    """Another when it has let its time pass; each for itself while the server is away."""
    one, other = two
    trip(one)
    other.ask()
    for process in two:
        process.now = 1002.0
        assert not process.breaker.claim_probe(process.now)
        process.ask()
    assert [p.breaker.claim_probe(p.now) for p in two] == [True, False]
    other.ask(1006.0)
    assert other.breaker.claim_probe(other.now)
    one.away = True
    one.breaker._probe_at = one.now
    assert one.breaker.claim_probe(one.now)


def test_news_are_asked_for_while_requests_are_sent(two):
    """Not by who is idle."""
    one, _ = two
    assert one.health.due_at() == float("inf")
    one.breaker.record_fast(started=1000.0)
    assert one.health.due_at() == pytest.approx(1001.0)


def test_a_fresh_server_is_asked_from_the_start(two, redis_client):
    """After a restart its numbers begin again."""
    one, other = two
    for _ in range(5):
        one.health.tell("limited", "k", 20.0)
        one.ask()
    other.ask()
    redis_client.flushall()
    one.account.block(one.now)
    one.ask()
    other.ask()
    assert other.account.not_before == pytest.approx(1300)

"""Accounts that are out, keys that are limited, and targets that are sick, in all processes."""

from __future__ import annotations

from pathlib import Path

import pytest

import langchain_resilient.fleet
from langchain_resilient.engine.target_speed import TargetSpeed
from langchain_resilient.engine.target_state import TargetKey
from langchain_resilient.engine.time_model import SMALLEST, RequestProfile
from langchain_resilient.faults import FaultKind
from langchain_resilient.fleet.health import FleetHealth

SCRIPT = (Path(langchain_resilient.fleet.__file__).parent / "health.lua").read_text()


class Process:
    """One process's view of a target, beside the real script, at a time of our own."""

    def __init__(self, client, name):
        self.client, self.name, self.now, self.away = client, name, 1000.0, False
        self.health = FleetHealth(lambda: None, lambda: self.away)
        self.waiting = {}
        self.breaker = self.health.breaker("target", self.waiting)
        self.account = self.health.account("account")
        self.speed = TargetSpeed({})
        self.health._times.watch("target", self.speed)
        self.ask()

    def ask(self, now=None):
        self.now = self.now if now is None else now
        arguments = [self.name, self.now, *self.health.request(self.now)[1:]]
        reply = self.client.eval(SCRIPT, 4, *self.health.keys("v"), *arguments)
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


@pytest.fixture
def four(redis_client):
    return [Process(redis_client, name) for name in "abcd"]


def slow(process, count=1):
    for _ in range(count):
        process.breaker.record_slow(process.now, 5)
    process.ask()


def test_what_all_have_against_a_target_trips_it(four):
    """Slow requests in a row, wherever they were sent: by hearsay for each of them."""
    for process in four[:3]:
        slow(process)
    for process in four:
        process.ask()
    assert not any(process.breaker.tripped for process in four)
    slow(four[3])
    for process in four:
        process.ask()
    assert all(process.breaker.tripped and process.breaker.hearsay for process in four)
    assert sum(process.breaker.trips for process in four) == 4


def test_evidence_of_others_hastens_before_it_trips(four):
    """Requests that wait look again when to ask another target; nothing is woken for nothing."""
    one, other = four[:2]
    woken = []
    other.waiting["request"] = lambda: woken.append(other.breaker.suspicion)
    slow(one, 3)
    other.ask()
    assert woken == [pytest.approx(0.6, abs=0.01)]
    assert other.breaker.score == pytest.approx(one.breaker.score, abs=0.01)
    other.ask()
    assert len(woken) == 1


def test_four_of_one_process_are_not_enough_for_others(four):
    """What slows one process may be its own; with one more of another's they are."""
    one, other, third, _ = four
    slow(one, 4)
    other.ask()
    assert not one.breaker.tripped
    assert not other.breaker.tripped
    other.breaker.record_slow(other.now, 5, evidence=0.3)
    for process in (other, one, third):
        process.ask()
    assert other.breaker.tripped
    assert one.breaker.tripped
    assert third.breaker.tripped


def test_answers_in_good_time_elsewhere_speak_for_it(four):
    """Slow ones that are scattered among the fast ones of others trip nothing."""
    one, other = four[:2]
    for _ in range(20):
        slow(one)
        for _ in range(3):
            other.breaker.record_fast(started=other.now)
        other.ask()
        one.breaker.record_fast(started=one.now)
        one.breaker.record_fast(started=one.now)
        one.breaker.record_fast(started=one.now)
        one.ask()
    assert not one.breaker.tripped
    assert not other.breaker.tripped


def test_a_process_that_is_slow_alone_trips_alone(four):
    """Its network may be sick: the others' answers are no reason to wait for more."""
    one, *others = four
    for _ in range(5):
        for process in others:
            for _ in range(3):
                process.breaker.record_fast(started=process.now)
            process.ask()
        slow(one)
    assert one.breaker.tripped
    assert not one.breaker.hearsay


def test_the_slow_ones_at_the_end_of_a_burst_trip_nothing(four):
    """Of many that were sent together the fast are answered first, in every process."""
    for process in four:
        for waiting in range(60, 3, -1):
            process.breaker.record_fast(started=process.now, waiting=waiting)
        process.ask()
    for process in four:
        for _ in range(3):
            process.breaker.record_slow(process.now + 1, 5, started=process.now)
        process.ask()
    assert not any(process.breaker.tripped for process in four)


def test_evidence_is_forgotten_when_it_is_old_or_disproved(four):
    """After a minute without more; after a probe that went well."""
    one, other = four[:2]
    slow(one, 4)
    other.ask(1070.0)
    assert other.breaker.score == 0
    slow(one, 1)
    one.breaker._recover()
    one.ask()
    other.ask()
    assert other.breaker.score == 0


def test_doubts_are_asked_about_often_and_told_at_most_so_often(four):
    """Five times a second, after more than one late request; less while there is nothing new."""
    one, other = four[:2]
    assert one.health.due_at() == float("inf")
    one.breaker.record_slow(1000.0, 5)
    assert one.health.due_at() == pytest.approx(1000.2)
    one.ask(1000.2)
    assert one.health.due_at() == pytest.approx(1002.2)
    one.breaker.record_slow(1000.3, 5)
    assert one.health.due_at() == pytest.approx(1000.4)
    one.ask(1000.4)
    assert one.health.due_at() == pytest.approx(1000.6)
    other.breaker.record_fast(started=1000.0)
    other.ask(1001.0)
    assert other.health.due_at() == pytest.approx(1001.2)
    other.breaker.forget_pooled()
    for now, due in ((1002.0, 1004.0), (1004.0, 1008.0)):
        other.ask(now)
        assert other.health.due_at() == pytest.approx(due)


def answer(process, seconds=0.4, count=1, tokens=300):
    for _ in range(count):
        process.now += 0.01
        profile = RequestProfile(tokens, "low")
        process.speed.record(seconds, process.now, profile, plain=False)
    process.ask()


def test_what_is_usual_is_known_to_all(two, redis_client):
    """To who comes later at once; each sample once, whoever passes it on, and not all of many."""
    one, other = two
    for _ in range(2):
        answer(one, 0.4, 15)
    answer(other, 0.5, 4)
    for _ in range(2):
        one.ask()
        other.ask()
    late = Process(redis_client, "c")
    late.ask(1001.0)
    assert [len(p.speed.first_texts.samples()) for p in (one, other, late)] == [34, 34, 34]
    assert redis_client.llen("v:{health}:times") == 34
    assert late.speed.learned_delay(1001.0) == pytest.approx(0.5, rel=0.1)
    sample = late.speed.first_texts.samples()[0]
    assert sample.profile == RequestProfile(300, "low", 0)
    assert sample.seconds == pytest.approx(0.4)
    assert sample.at == pytest.approx(1000.01, abs=0.001)
    assert late.speed.answers.count == 0
    late.health.members = 10
    late.speed.first_texts.add(0.4, 1002.0, RequestProfile(300, "low"))
    for i in range(9):
        late.speed.first_texts.add(0.4, 1002.1 + i, RequestProfile(300, "low"))
    late.ask(1012.0)
    assert redis_client.llen("v:{health}:times") == 38


def test_samples_that_make_no_sense_are_left_out(two, redis_client):
    """Of another version, or by another hand."""
    one, _ = two
    redis_client.rpush("v:{health}:times", *(f"1000|x|target|{row}" for row in ROWS))
    redis_client.hset("v:{health}", "samples", len(ROWS))
    one.ask()
    assert [sample.seconds for sample in one.speed.first_texts.samples()] == [0.3, SMALLEST]


ROWS = ("first,0,0.3,300,,0,0", "first,0,nan,1,,0,0", "first,0,-1,1,,0,0", "first,0,1,-1,,0,0",
        "first,0", "junk", "third,0,1,1,,0,0", "first,0,1,x,,0,0",
        f"first,0,1,{10**400},,0,0", f"first,0,1,1,,{10**400},0", "first,0,inf,1,,0,0",
        "first,0,0.0000,1,,0,0")  # fmt: skip

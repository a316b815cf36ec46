"""What is known of a target: sick, silent or down; its speed; its keys and accounts."""

from __future__ import annotations

from collections import deque

import pytest

from langchain_resilient import FaultKind
from langchain_resilient.engine.circuit_breaker import NO_TRIP_SECONDS
from langchain_resilient.engine.target_speed import ENOUGH_SAMPLES, HELD_SECONDS
from langchain_resilient.engine.target_state import (
    ACCOUNT_OUT_SECONDS,
    DOWN_AFTER,
    DOWN_SECONDS,
    LONG_SILENCE_SECONDS,
    MAX_ACCOUNT_OUT_SECONDS,
    NOT_FOUND_SECONDS,
    OVERLOADED_SECONDS,
    SILENT_AFTER,
    SLOW_PROBES,
    Account,
    TargetState,
    reset_if_all_tripped,
)
from langchain_resilient.engine.time_model import TimeModel
from tests.engine.states import TRIP_AFTER, fail, known, silence, state, tripped

# -- health ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "count"), [(FaultKind.SERVER, 3), (FaultKind.TIMEOUT, 5), (FaultKind.EMPTY, None)]
)
def test_failures_of_the_target_trip_it(kind, count):
    """Three that failed, five that only took long, none of those that blame the request."""
    target = state()
    tripped_at = []
    for i in range(1, 11):
        fail(target, kind)
        if target.circuit_breaker.tripped:
            tripped_at.append(i)
    assert (tripped_at[0] if tripped_at else None) == count


def test_this_process_never_trips():
    """There is no network that could have died."""
    target = state(in_process=True)
    silence(target)
    for _ in range(10):
        fail(target)
    assert not target.circuit_breaker.tripped


def test_without_a_judge_nothing_trips():
    """`health=None` asks for that."""
    target = state()
    for _ in range(10):
        fail(target, trip_after=0)
    assert not target.circuit_breaker.tripped


@pytest.mark.parametrize(("late", "silent"), [(SILENT_AFTER - 1, False), (SILENT_AFTER, True)])
def test_five_late_ones_without_any_answer_are_silence(late, silent):
    """Four are not."""
    target = state()
    for _ in range(late):
        target.record_late(10.0, TRIP_AFTER, started=5.0)
    assert target.silent is silent


@pytest.mark.parametrize(("seconds", "silent"), [(6.0, True), (4.0, False)])
def test_an_answer_to_who_asked_later_ends_the_silence(seconds, silent):
    """One to who asked before says nothing."""
    target = tripped()
    target.record_first_text(seconds, 10.0, plain=False, late=True)
    assert target.silent is silent


@pytest.mark.parametrize(
    ("after", "long_silent"), [(LONG_SILENCE_SECONDS, False), (LONG_SILENCE_SECONDS + 0.1, True)]
)
def test_silent_for_a_while_it_is_passed_by_for_rescues(after, long_silent):
    """Counted from its last text to anybody."""
    target = tripped()
    target.record_first_text(6.0, 10.0, plain=False, late=True)
    assert target.long_silent(10.0 + after) is long_silent


def test_who_is_caught_is_told_once_when_it_is_silent():
    """Not again for each late one after that."""
    target, results = state(), []
    target.waiting["request"] = lambda: results.append("told")
    silence(silence(target))
    assert results == ["told"]


def test_who_is_caught_is_not_told_of_a_slow_target_that_answers():
    """If all are slow, asking elsewhere only adds load."""
    target, results = state(), []
    target.waiting["request"] = lambda: results.append("told")
    target.record_first_text(1.0, 8.0, plain=False, late=True)
    silence(target, started=5.0)
    assert (target.circuit_breaker.tripped, results) == (True, [])


def test_who_is_caught_is_told_when_it_comes_back():
    """Once more, by the first answer to who asked later."""
    target, results = tripped(), []
    target.waiting["request"] = lambda: results.append("told")
    for _ in range(3):
        target.record_first_text(1.0, 20.0, plain=False, late=False)
    assert results == ["told"]


def test_its_return_dates_from_when_the_answered_request_was_sent():
    """What was sent before that is lost."""
    target = tripped()
    target.record_first_text(1.0, 20.0, plain=False, late=False)
    assert target.answering_since == 19.0


def test_late_requests_after_its_return_are_no_silence_yet():
    """It takes five that were sent after the last answered one."""
    target = tripped()
    target.record_first_text(1.0, 20.0, plain=False, late=False)
    for _ in range(SILENT_AFTER - 1):
        target.record_late(25.0, TRIP_AFTER, started=21.0)
    assert not target.silent


def test_a_second_silence_tells_again():
    """After its return the alarm is armed anew."""
    target = tripped()
    target.record_first_text(1.0, 20.0, plain=False, late=False)
    results = []
    target.waiting["request"] = lambda: results.append("told")
    silence(target, now=30.0, started=25.0)
    assert results == ["told"]


def test_in_panic_those_that_spoke_lately_are_believed():
    """And only they."""
    speaking, quiet = tripped(), tripped()
    speaking.last_text_at = 20.0
    reset_if_all_tripped([speaking, quiet], 50.0)
    assert (speaking.circuit_breaker.tripped, quiet.circuit_breaker.tripped) == (False, True)


def test_in_panic_all_are_believed_if_none_spoke_lately():
    """Thirty seconds and more ago is too long."""
    states = [tripped(), tripped()]
    states[0].last_text_at = 19.9
    reset_if_all_tripped(states, 50.0)
    assert [s.circuit_breaker.tripped for s in states] == [False, False]


@pytest.mark.parametrize(
    ("after", "trips"), [(NO_TRIP_SECONDS - 1, False), (NO_TRIP_SECONDS + 1, True)]
)
def test_after_a_panic_nothing_trips_for_a_while(after, trips):
    """All were out, so lateness says nothing of one."""
    target = tripped()
    reset_if_all_tripped([target], 50.0)
    silence(target, now=50.0 + after, started=50.0)
    assert target.circuit_breaker.tripped is trips


@pytest.mark.parametrize(("failures", "down"), [(DOWN_AFTER - 1, False), (DOWN_AFTER, True)])
def test_five_failures_in_a_row_are_down(failures, down):
    """Four are not."""
    target = state()
    for _ in range(failures):
        fail(target, now=10.0)
    assert target.down(11.0) is down


def test_one_that_is_down_is_asked_by_one_at_a_time():
    """After five seconds by the first who comes, and by the next five seconds later."""
    target = state()
    for _ in range(DOWN_AFTER):
        fail(target, now=10.0)
    seen = [target.down(10.0 + DOWN_SECONDS)]
    target.record_send(10.0 + DOWN_SECONDS)
    seen += [target.down(10.1 + DOWN_SECONDS), target.down(10.0 + 2 * DOWN_SECONDS)]
    assert seen == [False, True, False]


@pytest.mark.parametrize("who", ["request", "late request", "probe", "slow probe"])
def test_one_that_speaks_is_up(who):
    """To a request or to a probe, in time or late."""
    target = state()
    for _ in range(DOWN_AFTER):
        fail(target, now=10.0)
    if "probe" in who:
        target.record_probe(1.0, 11.0, plain=False, good=0.5 if "slow" in who else 2.0)
    else:
        target.record_first_text(1.0, 11.0, plain=False, late="late" in who)
    assert not target.down(11.0)


def test_a_probe_that_hears_nothing_leaves_it_down():
    """Nothing is no sign of life."""
    target = state()
    for _ in range(DOWN_AFTER):
        fail(target, now=10.0)
    target.record_probe(None, 11.0, plain=False, good=1.0)
    assert target.down(11.0)


# -- speed ----------------------------------------------------------------------------------------


def quantile(target: TargetState, now: float, q: float = 0.95) -> float | None:
    return target.speed.percentile(q, now, plain=False)


def test_too_few_samples_teach_no_percentile():
    """One less than enough."""
    assert quantile(known(count=ENOUGH_SAMPLES - 1), 1.0) is None


def test_a_percentile_is_known_from_enough_samples():
    """Within the histogram's step."""
    assert quantile(known(0.5), 1.0) == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize(("after", "expected"), [(0.9, 0.5), (1.0, 4.0)])
def test_a_percentile_is_a_second_old_at_most(after, expected):
    """Before that it is not worked out anew."""
    target = known(0.5)
    quantile(target, 0.0)
    for _ in range(10 * ENOUGH_SAMPLES):
        target.speed.first_texts.add(4.0, 0.0)
    assert quantile(target, after) == pytest.approx(expected, rel=0.03)


def test_a_percentile_that_all_samples_miss_stays_what_it_was():
    """Closed early, losers hide the tail, but it was known before."""
    target = known(0.5)
    quantile(target, 0.0)
    target.speed.first_texts = TimeModel()
    for _ in range(ENOUGH_SAMPLES):
        target.speed.first_texts.add(0.1, 2.0, censored=True)
    assert quantile(target, 2.0) == pytest.approx(0.5, rel=0.03)


def test_whole_answers_are_learned_apart():
    """They take longer than first texts."""
    assert known(0.5).speed.percentile(0.95, 1.0, plain=True) is None


def test_an_unknown_target_is_late_after_four_times_the_cold_delay():
    """A model that nobody has seen may think."""
    assert state().speed.late_after(0.0, plain=False, cold=2.0) == 8.0


def test_an_unknown_target_is_late_after_twice_its_slowest_text():
    """Where that is longer."""
    assert known(6.0, count=1).speed.late_after(0.0, plain=False, cold=2.0) == 12.0


def test_a_known_target_is_late_after_its_95th_percentile():
    """A fifth over it, whatever the cold delay is."""
    late = known(0.5).speed.late_after(1.0, plain=False, cold=2.0)
    assert late == pytest.approx(0.6, rel=0.03)


def test_a_sample_is_held_back_for_a_while():
    """It does not count yet when it comes."""
    target = known()
    target.record_first_text(9.0, 10.0, plain=False, late=True)
    assert target.speed.first_texts.residuals.slowest == 0.5


def test_a_held_sample_counts_after_a_while():
    """The next sample lets it in."""
    target = known()
    target.record_first_text(9.0, 10.0, plain=False, late=True)
    target.record_first_text(0.5, 10.0 + HELD_SECONDS, plain=False, late=False)
    assert target.speed.first_texts.residuals.slowest == 9.0


@pytest.mark.parametrize("how", ["late", "failed"])
def test_held_samples_are_dropped_at_a_trip(how):
    """They were of its sickness."""
    target = known()
    target.record_first_text(9.0, 10.0, plain=False, late=True)
    if how == "late":
        silence(target)
    else:
        for _ in range(TRIP_AFTER):
            fail(target, now=10.0)
    target.record_first_text(0.5, 20.0, plain=False, late=False)
    assert target.speed.first_texts.residuals.slowest == 0.5


def test_what_comes_late_from_a_tripped_target_teaches_nothing():
    """It too was of its sickness."""
    target = known()
    silence(target, now=10.0)
    target.record_first_text(9.0, 14.0, plain=False, late=True)
    target.record_first_text(0.5, 14.0 + HELD_SECONDS, plain=False, late=False)
    assert target.speed.first_texts.residuals.slowest == 0.5


def test_a_trip_in_another_thread_does_not_break_the_sample_beside_it():
    """It may be lost, but the request goes on."""

    class TrippedMeanwhile(deque):
        def append(self, sample):
            super().append(sample)
            self.clear()

    target = known()
    target.speed._held_samples = TrippedMeanwhile()
    target.record_first_text(0.5, 10.0, plain=False, late=False)


def test_a_loser_teaches_how_long_it_took_at_least():
    """As one censored sample."""
    target = state()
    target.record_lost(1.0, 1.0, plain=False)
    assert (target.speed.first_texts.count, target.speed.first_texts.residuals.slowest) == (
        1.0,
        0.0,
    )


def test_losers_of_a_silent_target_teach_nothing():
    """That it says nothing is no measure of its speed."""
    target = tripped()
    target.record_lost(1.0, 11.0, plain=False)
    assert target.speed.first_texts.count == 0


@pytest.mark.parametrize(("probes", "out"), [(SLOW_PROBES - 1, True), (SLOW_PROBES, False)])
def test_many_slow_probes_show_that_it_became_slower(probes, out):
    """From the fortieth on it is believed."""
    target = tripped()
    for i in range(probes):
        target.record_probe(3.0, 20.0 + i, plain=False, good=1.0)
    assert target.circuit_breaker.tripped is out


def test_after_slow_probes_its_speed_is_theirs():
    """What it was before is forgotten."""
    target = silence(known(0.5))
    quantile(target, 20.0)
    for _ in range(SLOW_PROBES):
        target.record_probe(3.0, 20.0, plain=False, good=1.0)
    assert quantile(target, 20.0) == pytest.approx(3.0, rel=0.03)


@pytest.mark.parametrize("seconds", [None, 0.5])
def test_slow_probes_must_be_in_a_row(seconds):
    """One that failed, or was good, starts the count again."""
    target = tripped()
    for i in range(SLOW_PROBES):
        target.record_probe(seconds if i == 5 else 3.0, 20.0, plain=False, good=1.0)
    assert target.circuit_breaker.tripped


# -- keys and accounts ----------------------------------------------------------------------------


def test_keys_are_used_in_turn():
    """Three requests use three keys."""
    target = state(keys=3)
    assert {target.next_key(0.0) for _ in range(3)} == {0, 1, 2}


def test_a_limited_key_is_left_out():
    """Until its hint is over."""
    target = state(keys=2)
    fail(target, FaultKind.RATE_LIMIT, key=0, retry_after=60.0)
    assert {target.next_key(1.0) for _ in range(4)} == {1}


def test_a_dead_key_is_left_out():
    """The account that refused it rests."""
    target = state(keys=2)
    fail(target, FaultKind.AUTH, key=1)
    assert {target.next_key(1.0) for _ in range(4)} == {0}


def test_with_no_key_left_the_first_to_be_free_is_used():
    """Who must ask asks with the shortest hint."""
    target = state(keys=2)
    fail(target, FaultKind.RATE_LIMIT, key=0, retry_after=60.0)
    fail(target, FaultKind.RATE_LIMIT, key=1, retry_after=20.0)
    assert {target.next_key(1.0) for _ in range(4)} == {1}


def test_a_target_is_available_when_its_first_key_is():
    """The earliest of them counts."""
    target = state(keys=2)
    fail(target, FaultKind.QUOTA, key=0)
    fail(target, FaultKind.RATE_LIMIT, key=1, retry_after=20.0)
    assert target.available_at() == target.keys[1].not_before


def test_a_hint_is_never_undercut_and_spread_by_a_tenth():
    """Not all come back at once after it."""
    target = state()
    fail(target, FaultKind.RATE_LIMIT, now=100.0, retry_after=20.0)
    assert 120.0 < target.available_at() <= 122.0


def test_a_shorter_hint_does_not_undo_a_longer_one():
    """The answers may come out of order."""
    target = state()
    fail(target, FaultKind.RATE_LIMIT, retry_after=60.0)
    fail(target, FaultKind.RATE_LIMIT, retry_after=1.0)
    assert target.available_at() >= 60.0


def test_an_account_that_stays_out_is_left_alone_longer_and_longer():
    """Twice as long each time, up to an hour."""
    account, now, out = Account(), 0.0, []
    for _ in range(6):
        account.block(now)
        out.append(account.not_before - now)
        now = account.not_before
    doubling = [ACCOUNT_OUT_SECONDS * 2**i for i in range(6)]
    assert out == [min(MAX_ACCOUNT_OUT_SECONDS, seconds) for seconds in doubling]


def test_refusals_of_one_moment_count_once():
    """Ten requests under way fail together."""
    account = Account()
    for _ in range(10):
        account.block(1.0)
    assert account.not_before == 1.0 + ACCOUNT_OUT_SECONDS


def test_a_good_answer_clears_the_accounts_record():
    """The next refusal is the first again."""
    target = state()
    fail(target, FaultKind.QUOTA)
    target.record_success(0)
    fail(target, FaultKind.QUOTA, now=1000.0)
    assert target.available_at() == 1000.0 + ACCOUNT_OUT_SECONDS


def test_a_missing_model_is_left_alone():
    """For an hour, whatever the key."""
    target = state(keys=2)
    fail(target, FaultKind.NOT_FOUND)
    assert target.available_at() == NOT_FOUND_SECONDS


def test_forgiven_it_is_kept_off_by_its_own_hint_only():
    """Nobody else is left to ask."""
    target = state()
    fail(target, FaultKind.AUTH)
    fail(target, FaultKind.NOT_FOUND)
    assert target.available_at(ignore_block=True) == 0


@pytest.mark.parametrize(
    ("kind", "fault", "until"),
    [
        (FaultKind.RATE_LIMIT, {"status": 429}, 10 + OVERLOADED_SECONDS),
        (FaultKind.SERVER, {"status": 503}, 10 + OVERLOADED_SECONDS),
        (FaultKind.SERVER, {"status": 500}, 0.0),
    ],
)
def test_nothing_extra_is_sent_to_a_strained_target(kind, fault, until):
    """For a while after a 429 or 503; a 500 says nothing of its load."""
    target = state()
    fail(target, kind, now=10.0, **fault)
    assert target.overloaded_until == until


@pytest.mark.parametrize(
    ("kind", "health"),
    [
        (FaultKind.NOT_FOUND, "gone"),
        (FaultKind.AUTH, "account out"),
        (FaultKind.RATE_LIMIT, "limited"),
        (FaultKind.EMPTY, "ok"),
    ],
)
def test_health_says_why_it_is_left_out(kind, health):
    """In one word for statistics."""
    target = state()
    fail(target, kind, retry_after=20.0 if kind is FaultKind.RATE_LIMIT else None)
    assert target.health(1.0) == health

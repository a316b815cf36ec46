"""Which keys, accounts and targets are left out, and until when."""

from __future__ import annotations

import pytest

from langchain_resilient import FaultKind
from langchain_resilient.engine.target_state import (
    ACCOUNT_OUT_SECONDS,
    MAX_ACCOUNT_OUT_SECONDS,
    NOT_FOUND_SECONDS,
    OVERLOADED_SECONDS,
    Account,
)
from tests.engine.states import fail, state


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

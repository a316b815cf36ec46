"""Ledgers: sliding windows of dollars, whoever adds to them."""

from __future__ import annotations

import threading
from math import inf, nextafter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from langchain_resilient import ResilientChatModel, SpendCap, Target
from langchain_resilient.options import money
from langchain_resilient.runtime.spending import BUCKETS, Ledger, ledger_of

MINUTE = 60.0
STEP = MINUTE / BUCKETS


def minute(dollars: float = 1.0) -> Ledger:
    return Ledger(SpendCap(dollars, per="minute"))


def test_what_is_spent_counts_for_the_window():
    """And at most one bucket longer."""
    ledger = minute()
    ledger.add(0.4, 100.5)
    assert ledger.spent(100.5 + MINUTE) == 0.4
    assert ledger.spent(100.5 + MINUTE + STEP) == 0.0


def test_what_is_left_is_never_negative():
    """The last answers may go over the cap."""
    ledger = minute(1.0)
    ledger.add(0.25, 0.0)
    assert ledger.left(0.0) == 0.75
    ledger.add(2.0, 0.0)
    assert ledger.left(0.0) == 0.0


amounts = st.lists(st.tuples(st.floats(0, 300), st.floats(0, 5)), max_size=60)


@settings(max_examples=200, deadline=None)
@given(amounts, st.floats(0, 500))
def test_a_ledger_says_what_a_list_of_amounts_would(spent, later):
    """Between the sum of the window and that of the window and one bucket."""
    ledger = minute()
    spent.sort()
    now = (spent[-1][0] if spent else 0.0) + later
    for at, dollars in spent:
        ledger.add(dollars, at)
    least = sum(d for at, d in spent if at > now - MINUTE)
    most = sum(d for at, d in spent if at >= now - MINUTE - STEP - 1e-6)
    assert least - 1e-6 <= ledger.spent(now) <= most + 1e-6


@settings(max_examples=200, deadline=None)
@given(amounts, st.floats(0, 0.9))
def test_it_opens_when_it_says_and_not_before(spent, need):
    """To the last instant."""
    ledger, now = minute(1.0), 300.0
    for at, dollars in sorted(spent):
        ledger.add(dollars, at)
    opens = ledger.open_at(now, need)
    if opens > now:
        assert not ledger.covers(need, nextafter(opens, 0))
    assert ledger.covers(need, opens)


def test_what_was_spent_in_total_never_comes_back():
    """No time opens such a cap."""
    ledger = Ledger(SpendCap(1, per="total"))
    ledger.add(1.0, 5.0)
    assert (ledger.spent(1e12), ledger.open_at(6.0)) == (1.0, inf)


def test_an_open_cap_opens_now():
    """Whatever is left."""
    ledger = minute(1.0)
    ledger.add(0.99, 5.0)
    assert ledger.open_at(6.0) == 6.0


def test_a_need_above_the_cap_is_never_met():
    """Not even by an empty ledger."""
    assert minute(1.0).open_at(0.0, need=2.0) == inf


def test_memory_is_bounded():
    """A bucket for each 60th of the window, however many amounts."""
    ledger = minute()
    for i in range(100_000):
        ledger.add(0.01, i * 0.01)
    assert len(ledger._buckets) <= BUCKETS + 2


def test_a_clock_that_runs_backwards_loses_nothing():
    """Threads may bring their amounts out of order."""
    ledger = minute()
    ledger.add(1.0, 50.0)
    ledger.add(1.0, 10.0)
    assert (ledger.spent(10.0), ledger.spent(50.0)) == (2.0, 2.0)


def test_no_thread_loses_an_amount():
    """Four of them add at the same time."""
    ledger = minute()

    def add() -> None:
        for _ in range(5000):
            ledger.add(1.0, 1.0)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.spent(1.0) == 20_000


def test_equal_caps_of_one_owner_are_one_ledger():
    """A model that is built anew for each request spends on."""
    assert ledger_of(SpendCap(1), "a") is ledger_of(SpendCap(1), "a")
    assert ledger_of(SpendCap(1), "a") is not ledger_of(SpendCap(1), "b")
    assert ledger_of(SpendCap(1), "a") is not ledger_of(SpendCap(2), "a")


def test_caps_of_one_name_are_one_ledger():
    """Whoever owns them; another name is another ledger."""
    assert ledger_of(SpendCap(1, name="x"), "a") is ledger_of(SpendCap(1, name="x"), "b")
    assert ledger_of(SpendCap(1, name="x"), "a") is not ledger_of(SpendCap(1, name="y"), "a")


@pytest.mark.parametrize(
    ("value", "cap"),
    [
        (5, SpendCap(5)),
        (0.5, SpendCap(0.5)),
        (SpendCap(5, per="hour"), SpendCap(5, per="hour")),
        ({"dollars": 5, "per": "total"}, SpendCap(5, per="total")),
        (None, None),
    ],
)
def test_a_cap_may_be_written_as_a_number(value, cap):
    """Of dollars a day; on a target and on a model."""
    assert Target("openai:m", spend_cap=value).spend_cap == cap
    assert ResilientChatModel(targets=["local"], spend_cap=value).spending() == cap


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (-1, ("spend_cap", "dollars")),
        (0, ("spend_cap", "dollars")),
        (float("inf"), ("spend_cap", "dollars")),
        ({"dollars": 1, "per": "year"}, ("spend_cap", "per")),
        ({}, ("spend_cap", "dollars")),
        (True, ("spend_cap",)),
    ],
)
def test_a_wrong_cap_is_named(value, where):
    """With the field that is wrong."""
    with pytest.raises(ValidationError) as caught:
        Target("openai:m", spend_cap=value)
    assert caught.value.errors()[0]["loc"] == where


@pytest.mark.parametrize(
    ("cap", "said"),
    [
        (SpendCap(5), "$5.00 a day"),
        (SpendCap(0.5, per="hour"), "$0.50 an hour"),
        (SpendCap(0.0031, per="total"), "$0.0031 in total"),
    ],
)
def test_a_cap_as_messages_say_it(cap, said):
    """Also one of less than a cent."""
    assert str(cap) == said


def test_nothing_is_no_dollars_and_no_cents():
    """Not in scientific notation."""
    assert money(0.0) == "$0.00"

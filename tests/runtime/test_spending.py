"""Spend caps: ledgers of dollars, which targets are still affordable, and what an attempt cost."""

from __future__ import annotations

import pickle
import threading
from math import inf, nextafter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from langchain_resilient import (
    AttemptKind,
    AttemptRecord,
    Fault,
    FaultKind,
    Outcome,
    Receipt,
    ResilientChatModel,
    SpendCap,
    SpendCapError,
    Target,
)
from langchain_resilient.configuration import spend_cap_of
from langchain_resilient.policies import money
from langchain_resilient.prices import Price, attempt_cost
from langchain_resilient.runtime.spending import BUCKETS, Ledger, SpendLimiter, _span, ledger_of

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
    assert spend_cap_of(ResilientChatModel(targets=["local"], spend_cap=value)) == cap


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
    ("cap", "text"),
    [
        (SpendCap(5), "$5.00 a day"),
        (SpendCap(0.5, per="hour"), "$0.50 an hour"),
        (SpendCap(0.0031, per="total"), "$0.0031 in total"),
    ],
)
def test_a_cap_as_messages_say_it(cap, text):
    """Also one of less than a cent."""
    assert str(cap) == text


def test_nothing_is_no_dollars_and_no_cents():
    """Not in scientific notation."""
    assert money(0.0) == "$0.00"


DEAR = Target("openai:dear", api_key="k", price=(10, 20))
CHEAP = Target("together:cheap", api_key="k", price=(1, 2))
FREE = Target("local")
PRICE = Price(10e-6, 20e-6, cached_input=5e-6, written_input=10e-6)


def record(target=DEAR, outcome=Outcome.WON, **fields):
    return AttemptRecord(target.name, AttemptKind.PRIMARY, 0.0, 0.5, 1.0, outcome, **fields)


def receipt(*attempts):
    winner = next((a.target for a in attempts if a.outcome is Outcome.WON), None)
    return Receipt(attempts, winner, 1.0)


def purse(*targets, cap=None):
    return SpendLimiter({t.name: t for t in targets}, cap)


def capped(target, dollars, **fields):
    return target.model_copy(update={"spend_cap": SpendCap(dollars, **fields)})


MILLION = receipt(record(input_tokens=1_000_000, output_tokens=0))  # ten dollars at DEAR
NAMES = [DEAR.name, CHEAP.name, FREE.name]


# -- what an attempt cost ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "dollars"),
    [
        ({"input_tokens": 1000, "output_tokens": 100}, 0.012),
        ({"input_tokens": 1000, "output_tokens": 100, "cached_tokens": 400}, 0.010),
        ({"output_tokens": 100}, 0.007),
        ({}, 0.005),
    ],
)
@pytest.mark.parametrize("outcome", [Outcome.WON, Outcome.LOST, Outcome.CANCELLED])
def test_an_attempt_costs_its_prompt_and_what_came_of_its_answer(fields, dollars, outcome):
    """A loser's too; a prompt that nobody counted is estimated, here at 500 tokens."""
    assert attempt_cost(record(outcome=outcome, **fields), PRICE, 500) == pytest.approx(dollars)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(FaultKind.RATE_LIMIT, "no", 429),
        Fault(FaultKind.SERVER, "no", 503),
        Fault(FaultKind.CONTENT_FILTER, "no", 400),
        Fault(FaultKind.CONTEXT_LENGTH, "no"),
        Fault(FaultKind.CONNECTION, "refused"),
    ],
)
def test_a_refusal_costs_nothing(fault):
    """Its prompt was never read by a model."""
    assert attempt_cost(record(outcome=Outcome.FAILED, fault=fault), PRICE, 500) == 0.0


@pytest.mark.parametrize(
    "kind", [FaultKind.TIMEOUT, FaultKind.STALL, FaultKind.BROKEN, FaultKind.EMPTY]
)
def test_an_answer_that_failed_on_the_way_counts(kind):
    """The model was at work, as far as one can tell."""
    failed = record(outcome=Outcome.FAILED, fault=Fault(kind, "late"))
    assert attempt_cost(failed, PRICE, 500) == pytest.approx(0.005)


def test_tokens_that_a_failure_reports_count():
    """Whatever it failed of."""
    fault = Fault(FaultKind.CONNECTION, "reset")
    failed = record(outcome=Outcome.FAILED, fault=fault, input_tokens=100, output_tokens=10)
    assert attempt_cost(failed, PRICE, 500) == pytest.approx(0.0012)


def test_an_unknown_price_counts_nothing():
    """There is nothing to count with."""
    assert attempt_cost(record(input_tokens=1000), None, 500) == 0.0


# -- what a call cost -------------------------------------------------------------------------


def test_losers_are_counted_with_the_winners_prompt():
    """Their providers were not heard out."""
    spent = purse(DEAR, CHEAP, cap=SpendCap(1)).settle(
        receipt(
            record(outcome=Outcome.LOST, output_tokens=10),
            record(CHEAP, input_tokens=1000, output_tokens=100),
        ),
        9_000_000,
        0.0,
    )
    assert spent == pytest.approx((0.0102, 0.0012))


def test_without_any_count_the_prompt_is_estimated():
    """Where no provider has counted them."""
    assert purse(DEAR, cap=SpendCap(1)).settle(receipt(record()), 1000, 0.0) == (0.01,)


def test_a_target_from_nowhere_is_no_error():
    """A receipt must never bring an answer down."""
    assert purse(CHEAP, cap=SpendCap(1)).settle(MILLION, 0, 0.0) == (0.0,)


# -- who may be asked -------------------------------------------------------------------------


def test_before_the_cap_is_reached_all_may_be_asked():
    """In the order that was given; the very same list."""
    names = list(NAMES)
    assert purse(DEAR, CHEAP, FREE, cap=SpendCap(11)).allowed(names, 0.0) is names


def test_a_models_cap_stops_all_that_costs_money():
    """What is free goes on."""
    one = purse(DEAR, CHEAP, FREE, cap=SpendCap(10))
    one.settle(MILLION, 0, 0.0)
    assert one.allowed(NAMES, 1.0) == [FREE.name]


def test_a_targets_cap_stops_that_target():
    """The cheaper one answers."""
    one = purse(capped(DEAR, 10), CHEAP, FREE)
    one.settle(MILLION, 0, 0.0)
    assert one.allowed(NAMES, 1.0) == [CHEAP.name, FREE.name]


def test_a_cap_opens_again():
    """When its window has passed."""
    one = purse(capped(DEAR, 10, per="minute"))
    one.settle(MILLION, 0, 0.0)
    assert [one.allowed([DEAR.name], now) for now in (59.0, 62.0)] == [[], [DEAR.name]]


def test_a_prompt_that_what_is_left_cannot_pay_goes_to_a_cheaper_target():
    """A million tokens are ten dollars at one, and one at the other."""
    one = purse(DEAR, CHEAP, cap=SpendCap(5))
    assert one.allowed(NAMES[:2], 0.0, 1_000_000) == [CHEAP.name]


def test_without_caps_nothing_is_known_of_prices():
    """And nothing need be."""
    nobody = Target("openai:nobody-knows-this-model", api_key="k")
    assert purse(nobody).allowed([nobody.name], 0.0) == [nobody.name]


def test_a_cap_on_an_unknown_price_is_refused_at_once():
    """It could never be reached."""
    nobody = Target("openai:nobody-knows-this-model", api_key="k", spend_cap=1)
    with pytest.raises(ValueError, match="spend_cap needs the price"):
        purse(nobody)


def test_a_target_that_comes_later_is_under_the_cap_too():
    """As by `model=` of one call."""
    known = {CHEAP.name: CHEAP}
    one = SpendLimiter(known, SpendCap(10))
    known[DEAR.name] = DEAR
    one.settle(MILLION, 0, 0.0)
    assert one.allowed(NAMES[:2], 0.0) == []


def test_two_models_with_the_same_targets_share_what_is_left():
    """Else a model that is built for each request would have no cap."""
    purse(DEAR, cap=SpendCap(10)).settle(MILLION, 0, 0.0)
    assert purse(DEAR, cap=SpendCap(10)).allowed([DEAR.name], 0.0) == []


def test_two_models_with_other_keys_share_nothing():
    """Another key is another purse."""
    purse(DEAR, cap=SpendCap(10)).settle(MILLION, 0, 0.0)
    other = Target("openai:dear", api_key="other", price=(10, 20))
    assert purse(other, cap=SpendCap(10)).allowed([DEAR.name], 0.0) == [DEAR.name]


# -- what is said -----------------------------------------------------------------------------


def test_the_error_names_the_cap_what_was_spent_when_it_opens_and_what_to_do():
    """All that one needs to act."""
    one = purse(DEAR, cap=SpendCap(9))
    one.settle(MILLION, 0, 0.0)
    error = one.error([DEAR.name], 3600.0)
    assert str(error) == (
        "nothing was asked: the spend cap of $9.00 a day is reached ($10.00 spent); it opens again "
        "in 23 h 24 min\nWhat to do: wait, raise the cap, or add a target that is free, such as "
        '"local", to the chain or as last_resort.'
    )
    assert (error.spent, error.opens_in) == (10.0, 86_400 / 60 * 61 - 3600)


def test_the_error_of_several_caps_tells_of_the_one_that_opens_first():
    """And names each."""
    one = purse(capped(DEAR, 1, per="minute"), capped(CHEAP, 1, per="hour"))
    one.settle(MILLION, 0, 0.0)
    one.settle(receipt(record(CHEAP, input_tokens=2_000_000)), 0, 0.0)
    error = one.error(NAMES[:2], 1.0)
    assert (error.spent, error.opens_in) == (10.0, 60.0)
    assert "$1.00 a minute" in str(error)
    assert "$1.00 an hour" in str(error)


def test_a_cap_in_total_does_not_open():
    """And the error says so."""
    one = purse(DEAR, cap=SpendCap(1, per="total"))
    one.settle(MILLION, 0, 0.0)
    error = one.error([DEAR.name], 0.0)
    assert error.opens_in is None
    assert "it will not open again" in str(error)


def test_why_a_target_is_left_out():
    """For the receipt; None for one that is not."""
    one = purse(DEAR, FREE, cap=SpendCap(1))
    assert one.why_not(DEAR.name, 0.0) is None
    assert "cannot pay for this prompt ($0.00 spent, $10.00 needed)" in one.why_not(
        DEAR.name, 0.0, 1_000_000
    )
    assert one.why_not(FREE.name, 0.0, 1_000_000) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.01, "1 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (11_520, "3 h 12 min"),
        (86_400, "1 d"),
        (180_000, "2 d 2 h"),
    ],
)
def test_a_time_is_written_in_two_units(seconds, text):
    """As people say it."""
    assert _span(seconds) == text


def test_the_error_travels():
    """Between processes, with its message."""
    error = pickle.loads(pickle.dumps(SpendCapError("no", spent=1.0)))  # noqa: S301  # our own
    assert str(error) == "no"
    assert not error.is_retryable

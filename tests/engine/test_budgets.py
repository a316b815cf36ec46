"""Token buckets: what is paid in, what is paid out, and who is served first."""

from __future__ import annotations

import sys
import time
from random import Random
from threading import Thread

import pytest

from langchain_resilient import AttemptKind, Health, Hedge, Retry
from langchain_resilient.engine.budgets import RETRIES_PER_SECOND, Budget, Budgets


def empty(share: float = 0.0, burst: int = 10, rate: float = 0.0) -> Budget:
    budget = Budget(share, burst, rate)
    budget.tokens = 0.0
    return budget


def line(budget: Budget, *since: float, useful_until: float = 100.0):
    """Tickets of requests that began then, and the list of those nudged, in order."""
    woken: list[float] = []
    tickets = [budget.wait(at, useful_until, lambda at=at: woken.append(at)) for at in since]
    return tickets, woken


def test_it_starts_with_half_a_burst():
    """A short script may hedge too."""
    assert Budget(0.05, 20).tokens == 10


def test_a_budget_of_nothing_starts_empty():
    """A share of zero forbids even the first extra send."""
    assert not Budget(0.0, 20).take()


def test_each_request_pays_in_its_share():
    """Twenty requests at five per cent pay for one extra send."""
    budget = empty(0.05)
    for _ in range(20):
        budget.deposit(0.0)
    assert budget.tokens == pytest.approx(1.0)


def test_no_more_than_a_burst_is_saved():
    """A quiet day does not pay for a storm."""
    budget = empty(0.5, burst=3)
    for _ in range(100):
        budget.deposit(0.0)
    assert budget.tokens == 3


def test_taking_stops_when_less_than_one_is_left():
    """Two and a half tokens pay for two."""
    budget = Budget(0.5, 5)
    assert [budget.take() for _ in range(3)] == [True, True, False]


def test_time_pays_in_at_the_rate():
    """Two a second for a second and a half are three."""
    budget = empty(rate=2.0)
    budget.refill(10.0)
    budget.refill(11.5)
    assert budget.tokens == pytest.approx(3.0)


def test_the_first_look_at_the_clock_pays_nothing():
    """How long the process ran before is no credit."""
    budget = empty(rate=2.0)
    budget.refill(1e6)
    assert budget.tokens == 0


def test_time_while_it_is_full_gives_no_credit():
    """Who empties it after an idle hour starts from nothing."""
    budget = Budget(0.0, 4, rate=1.0)
    budget.tokens = 4.0
    budget.deposit(0.0)
    budget.deposit(3600.0)
    for _ in range(4):
        budget.take()
    budget.refill(3600.5)
    assert budget.tokens == pytest.approx(0.5)


def test_time_that_runs_backwards_pays_nothing():
    """Threads may bring their clocks out of order."""
    budget = empty(rate=1.0)
    for now in (10.0, 5.0, 10.0):
        budget.refill(now)
    assert budget.tokens == 0


def test_the_oldest_is_served_first():
    """Whoever asked for the token first: the age of the request counts."""
    budget = empty(1.0)
    _, woken = line(budget, 3.0, 1.0, 2.0)
    budget.deposit(4.0)
    assert woken == [1.0]


def test_who_is_past_use_is_passed_over():
    """The very oldest would get its token too late."""
    budget = empty(1.0)
    line(budget, 1.0, useful_until=5.0)
    _, woken = line(budget, 2.0)
    budget.deposit(6.0)
    assert woken == [2.0]


def test_if_all_are_past_use_the_oldest_is_served():
    """A token is never kept from everybody."""
    budget = empty(1.0)
    _, woken = line(budget, 2.0, 1.0, useful_until=5.0)
    budget.deposit(6.0)
    assert woken == [1.0]


def test_a_served_ticket_is_paid_for():
    """Its token is gone from the bucket."""
    budget = empty(1.0)
    (ticket,), _ = line(budget, 1.0)
    budget.deposit(2.0)
    assert (ticket.granted, ticket.paid, budget.tokens) == (True, True, 0.0)


def test_giving_up_in_the_queue_leaves_it():
    """The next token goes to the next."""
    budget = empty(1.0)
    (first, _), woken = line(budget, 1.0, 2.0)
    first.give_up(3.0)
    budget.deposit(3.0)
    assert woken == [2.0]


def test_giving_up_a_paid_ticket_hands_its_token_on():
    """At once, to the next who waits."""
    budget = empty(1.0)
    (first, _), woken = line(budget, 1.0, 2.0)
    budget.deposit(3.0)
    first.give_up(3.0)
    assert woken == [1.0, 2.0]


def test_giving_up_a_paid_ticket_saves_its_token_if_nobody_waits():
    """It is there for whoever comes."""
    budget = empty(1.0)
    (ticket,), _ = line(budget, 1.0)
    budget.deposit(2.0)
    ticket.give_up(2.0)
    assert budget.tokens == 1.0


def test_a_success_releases_two():
    """Answers let those who wait back in twice as fast as they come."""
    budget = empty()
    _, woken = line(budget, 3.0, 2.0, 1.0)
    budget.release(4.0)
    assert woken == [1.0, 2.0]


def test_a_success_releases_the_only_one():
    """Two are the most, not the least."""
    budget = empty()
    _, woken = line(budget, 1.0)
    budget.release(4.0)
    assert woken == [1.0]


def test_giving_up_a_released_ticket_mints_no_token():
    """Nothing was paid for it, so nothing comes back."""
    budget = empty()
    (ticket,), _ = line(budget, 1.0)
    budget.release(2.0)
    ticket.give_up(2.0)
    assert budget.tokens == 0


def test_who_comes_to_wait_as_the_bucket_fills_is_served():
    """The token came from another thread after `take` had found none."""
    budget = empty(1.0, burst=1)
    taken = budget.take()
    budget.deposit(1.0)
    (ticket,), _ = line(budget, 1.0)
    budget.deposit(2.0)
    assert not taken
    assert ticket.granted


def interrupted(rng: Random):
    """A trace function that lets other threads run between any two lines of the budget."""

    def trace(frame, event, arg):
        if not frame.f_code.co_filename.endswith("budget.py"):
            return None
        if rng.random() < 0.2:
            time.sleep(0)  # the interpreter may go on with another thread
        return trace

    return trace


def hammer(budget: Budget, seed: int, spent: list[int]) -> None:
    """Do at random all that a request may do; end with no ticket open."""
    rng, count = Random(seed), 0
    sys.settrace(interrupted(Random(seed)))
    tickets = []
    for _ in range(500):
        what = rng.random()
        if what < 0.4:
            budget.deposit(0.0)
        elif what < 0.6:
            count += budget.take()
        elif what < 0.8 or not tickets:
            tickets.append(budget.wait(rng.random(), rng.random(), lambda: None))
        else:
            count += settle(tickets.pop(0), rng)
    spent[seed] = count + sum(settle(ticket, rng) for ticket in tickets)


def settle(ticket, rng: Random) -> bool:
    """Spend a granted ticket or give it up; True if it was spent."""
    if ticket.granted and rng.random() < 0.5:
        return True
    ticket.give_up(0.5)
    return False


@pytest.mark.parametrize("burst", [2, 10**6])
def test_threads_neither_mint_tokens_nor_lose_them(monkeypatch, burst):
    """Spent and left are what was paid in; with a small burst, at most."""
    budget, spent = empty(0.5, burst), [0] * 4
    paid_in: list[float] = []
    refill = Budget.refill

    def counted(self: Budget, now: float, paid: float = 0.0) -> None:
        paid_in.append(paid)
        refill(self, now, paid)

    monkeypatch.setattr(Budget, "refill", counted)
    threads = [Thread(target=hammer, args=(budget, i, spent)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(spent) + budget.tokens
    assert total <= sum(paid_in)
    assert burst == 2 or total == sum(paid_in)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (AttemptKind.HEDGE, "hedge"),
        (AttemptKind.RESCUE, "rescue"),
        (AttemptKind.RETRY, "retry"),
    ],
)
def test_each_kind_of_extra_send_has_its_budget(kind, name):
    """Rescues do not eat the hedges' tokens."""
    budgets = Budgets.of(Hedge(), Health(), Retry())
    assert budgets.of_kind(kind) is getattr(budgets, name)


def test_without_hedging_there_is_no_token_for_a_hedge():
    """Whatever is paid in."""
    budgets = Budgets.of(None, Health(), Retry())
    budgets.deposit(0.0)
    assert not budgets.hedge.take()


def test_a_request_pays_into_all_three():
    """Each by its own share."""
    budgets = Budgets.of(Hedge(budget=0.05), Health(rescue=0.1), Retry(budget=0.2))
    before = [budgets.hedge.tokens, budgets.rescue.tokens, budgets.retry.tokens]
    budgets.deposit(0.0)
    after = [budgets.hedge.tokens, budgets.rescue.tokens, budgets.retry.tokens]
    assert [b - a for a, b in zip(before, after, strict=True)] == pytest.approx([0.05, 0.1, 0.2])


def test_some_retries_a_second_are_free():
    """Without a single request paying in."""
    budgets = Budgets.of(None, Health(), Retry(budget=0.0))
    budgets.retry.tokens = 0.0
    budgets.retry.refill(0.0)
    budgets.retry.refill(1.0)
    assert budgets.retry.tokens == pytest.approx(RETRIES_PER_SECOND)


def test_an_answer_releases_two_who_wait_to_retry():
    """And none who wait to hedge."""
    budgets = Budgets.of(Hedge(), Health(), Retry())
    budgets.hedge.tokens = budgets.retry.tokens = 0.0
    (hedge,), _ = line(budgets.hedge, 0.0)
    retries, _ = line(budgets.retry, 1.0, 2.0, 3.0)
    budgets.succeeded(4.0)
    assert [t.granted for t in (hedge, *retries)] == [False, True, True, False]


# -- sizes --------------------------------------------------------------------------------------


def fill_with(sizes: list[float], budget: Budget) -> float:
    """Take as often as the budget allows, for the longest first; returns the size that was sent."""
    sent = 0.0
    for i, size in enumerate(sizes):
        budget.deposit(float(i), size)
        sent += size if size > 100 and budget.take(size) else 0.0
    return sent


def test_long_requests_cost_more():
    """Were all hedges of the longest tenth, they would be half of the tokens; they are 5 %."""
    sizes = [2_000.0 if i % 10 == 5 else 100.0 for i in range(5_000)]
    typical = sum(sizes) / len(sizes)
    assert fill_with(sizes, Budget(0.05, 20)) <= 0.05 * sum(sizes) + 25 * typical


def test_one_larger_than_a_burst_needs_a_full_one():
    """Else it could never be paid."""
    budget = Budget(0.5, 10)
    for i in range(100):
        budget.deposit(float(i), 10.0)
    assert budget.take(1e6)
    assert not budget.take(10.0)


def test_a_size_that_was_not_needed_goes_back():
    """With its token."""
    budget = Budget(0.5, 10)
    budget.deposit(0.0, 100.0)
    before = (budget.tokens, budget.volume)
    assert budget.take(100.0)
    budget.give_back(1.0, 100.0)
    assert (budget.tokens, budget.volume) == before


def test_a_waiting_request_is_paid_by_its_size():
    """Not before there is enough, and then once."""
    budget = empty(1.0)
    budget.deposit(0.0, 100.0)
    assert budget.take(100.0)
    budget.volume = 0.0
    woken: list[str] = []
    ticket = budget.wait(0.0, 100.0, lambda: woken.append("it"), 150.0)
    budget.deposit(1.0, 100.0)
    assert not ticket.granted
    budget.deposit(2.0, 100.0)
    assert ticket.granted
    assert woken == ["it"]

"""Token buckets: what comes in, what goes out, and who is served first."""

from __future__ import annotations

import sys
from random import Random
from threading import Thread

import pytest

from langchain_resilient.engine.budget import RETRIES_A_SECOND, Budget, Budgets, Ticket
from langchain_resilient.policy import Health, Hedge


def nothing() -> None:
    """A nudge that nobody needs."""


def empty(share: float = 1.0, burst: int = 10, rate: float = 0.0) -> Budget:
    """A budget that has spent what it began with."""
    budget = Budget(share, burst, rate)
    while budget.take():
        pass
    return budget


def waiting(budget: Budget, *ages: float, useful_until: float = 1e9) -> list[Ticket]:
    """One ticket for each age."""
    return [budget.wait(age, useful_until, nothing) for age in ages]


# -- deposits -------------------------------------------------------------------------------------


def test_it_starts_with_half_a_burst():
    """The first requests of a short script may hedge too."""
    assert [Budget(0.05, 5).take() for _ in range(1)] == [True]
    budget = Budget(0.05, 5)
    assert [budget.take() for _ in range(3)] == [True, True, False]


def test_without_income_it_never_pays():
    """A share of 0 means never, not a few for a start."""
    assert not Budget(0.0, 20).take()


def test_each_request_pays_its_share_in():
    """Twenty requests at 5 % are one token."""
    budget = empty(0.05, 1)
    before = 1 - budget.tokens
    for _ in range(round(before / 0.05) - 1):
        budget.deposit(0.0)
    assert not budget.take()
    budget.deposit(0.0)
    budget.deposit(0.0)
    assert budget.take()


def test_no_more_than_the_burst_is_saved_up():
    """However many requests come."""
    budget = Budget(1.0, 3)
    for _ in range(100):
        budget.deposit(0.0)
    assert [budget.take() for _ in range(4)] == [True, True, True, False]


def test_time_pays_in_too():
    """Five a second, whatever the load."""
    budget = empty(0.0, 100, rate=5.0)
    budget.refill(10.0)
    budget.refill(12.0)
    assert budget.tokens == pytest.approx(10.0)


def test_time_that_runs_backwards_pays_nothing_twice():
    """Threads may bring their times out of order."""
    budget = empty(0.0, 100, rate=5.0)
    for now in (10.0, 12.0, 11.0, 12.0):
        budget.refill(now)
    assert budget.tokens == pytest.approx(10.0)


def test_time_counts_from_the_last_deposit_even_if_it_was_full():
    """What came while it was full was not saved up."""
    budget = Budget(1.0, 4, rate=1.0)
    for now in (0.0, 0.0, 0.0, 100.0):
        budget.deposit(now)
    while budget.take():
        pass
    budget.refill(101.0)
    assert budget.tokens == pytest.approx(1.0)


def test_a_token_that_was_not_needed_comes_back():
    """And can be taken again, once."""
    budget = empty()
    budget.give_back(0.0)
    assert [budget.take(), budget.take()] == [True, False]


# -- who waits ------------------------------------------------------------------------------------


def test_the_oldest_is_served_first():
    """Whoever asked first for a token: the age of the request counts."""
    budget = empty()
    young, old, middle = waiting(budget, 3.0, 1.0, 2.0)
    budget.deposit(5.0)
    assert [t.granted for t in (young, old, middle)] == [False, True, False]
    budget.deposit(5.0)
    assert [t.granted for t in (young, old, middle)] == [False, True, True]


def test_one_that_the_token_cannot_help_any_more_lets_others_go_first():
    """Else under overload all tokens would come too late."""
    budget = empty()
    dying = budget.wait(1.0, 4.0, nothing)
    young = budget.wait(2.0, 60.0, nothing)
    budget.deposit(5.0)
    assert (dying.granted, young.granted) == (False, True)


def test_to_the_last_moment_a_token_is_of_use():
    """The bound belongs to the time in which it helps."""
    budget = empty()
    dying = budget.wait(1.0, 5.0, nothing)
    budget.wait(2.0, 60.0, nothing)
    budget.deposit(5.0)
    assert dying.granted


def test_if_it_can_help_nobody_the_oldest_gets_it():
    """It may still help."""
    budget = empty()
    old, young = waiting(budget, 1.0, 2.0, useful_until=3.0)
    budget.deposit(5.0)
    assert (old.granted, young.granted) == (True, False)


def test_whoever_is_served_is_told_once():
    """A second token tells the next."""
    told: list[str] = []
    budget = empty()
    budget.wait(1.0, 9.0, lambda: told.append("old"))
    budget.wait(2.0, 9.0, lambda: told.append("young"))
    budget.deposit(5.0)
    assert told == ["old"]
    budget.deposit(5.0)
    assert told == ["old", "young"]


def test_a_waiter_may_come_back_at_once():
    """A nudge is called without the lock."""
    budget = empty()
    again: list[Ticket] = []
    budget.wait(1.0, 9.0, lambda: again.append(budget.wait(1.0, 9.0, nothing)))
    budget.deposit(5.0)
    assert (budget.waiting, again[0].granted) == (1, False)


def test_nobody_passes_those_who_wait_by():
    """A token that came for a waiter cannot be taken by a newcomer."""
    budget = empty()
    waiting(budget, 1.0)
    budget.deposit(5.0)
    assert not budget.take()


def test_who_leaves_is_not_served():
    """The next is."""
    budget = empty()
    old, young = waiting(budget, 1.0, 2.0)
    old.give_up(3.0)
    budget.deposit(5.0)
    assert (old.granted, young.granted, budget.waiting) == (False, True, 0)


def test_a_paid_token_that_is_given_up_goes_to_the_next():
    """Nothing of the budget is lost."""
    budget = empty()
    old, young = waiting(budget, 1.0, 2.0)
    budget.deposit(5.0)
    old.give_up(6.0)
    assert (old.granted, young.granted) == (False, True)


def test_a_paid_token_that_is_given_up_is_saved_if_nobody_waits():
    """For the next who is late."""
    budget = empty()
    (ticket,) = waiting(budget, 1.0)
    budget.deposit(5.0)
    ticket.give_up(6.0)
    assert [budget.take(), budget.take()] == [True, False]


# -- release --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("waiters", "released"), [(0, 0), (1, 1), (2, 2), (5, 2)])
def test_a_success_releases_two(waiters, released):
    """The oldest two, without a token."""
    budget = empty()
    tickets = waiting(budget, *range(waiters))
    budget.release(5.0)
    assert [t.granted for t in tickets] == [i < released for i in range(waiters)]


def test_a_released_ticket_that_is_given_up_mints_no_token():
    """Nobody paid for it."""
    budget = empty()
    (ticket,) = waiting(budget, 1.0)
    budget.release(5.0)
    ticket.give_up(6.0)
    assert not budget.take()


# -- the three of a chain -------------------------------------------------------------------------


def test_success_releases_only_those_who_wait_to_retry():
    """Hedges and rescues are bounded by the requests alone."""
    budgets = Budgets(empty(), empty(), empty())
    tickets = [waiting(b, 1.0)[0] for b in (budgets.hedge, budgets.rescue, budgets.retry)]
    budgets.succeeded(5.0)
    assert [t.granted for t in tickets] == [False, False, True]


def test_a_request_pays_into_all_three():
    """Each its own share."""
    budgets = Budgets(empty(0.1), empty(0.2), empty(0.3))
    budgets.deposit(0.0)
    tokens = [b.tokens for b in (budgets.hedge, budgets.rescue, budgets.retry)]
    assert tokens == pytest.approx([0.1, 0.2, 0.3])


def test_a_policy_becomes_three_budgets():
    """Share, burst and rate as they were set."""
    budgets = Budgets.of(
        Hedge(budget=0.1, burst=7), Health(rescue=0.2, rescue_burst=8, retry=0.3, retry_burst=9)
    )
    found = [(b.share, b.burst, b.rate) for b in (budgets.hedge, budgets.rescue, budgets.retry)]
    assert found == [(0.1, 7, 0.0), (0.2, 8, 0.0), (0.3, 9, RETRIES_A_SECOND)]


def test_without_hedging_there_is_no_token_for_it():
    """However many requests come."""
    budgets = Budgets.of(None, None)
    for _ in range(1000):
        budgets.deposit(0.0)
    assert not budgets.hedge.take()


# -- threads --------------------------------------------------------------------------------------


class Customer(Thread):
    """Deposits, takes, waits, leaves, gives back and releases at random; counts what it spent."""

    def __init__(self, budget: Budget, seed: int, steps: int) -> None:
        super().__init__(daemon=True)
        self.budget, self.rng, self.steps = budget, Random(seed), steps
        self.deposits = self.taken = 0
        self.tickets: list[Ticket] = []

    def run(self) -> None:
        for step in range(self.steps):
            self.rng.choice((self.deposit, self.take, self.wait, self.leave))(float(step))

    def deposit(self, now: float) -> None:
        self.deposits += 1
        self.budget.deposit(now)

    def take(self, now: float) -> None:
        self.taken += self.budget.take()

    def wait(self, now: float) -> None:
        self.tickets.append(self.budget.wait(now, now + 100, nothing))

    def leave(self, now: float) -> None:
        if self.tickets:
            self.tickets.pop(self.rng.randrange(len(self.tickets))).give_up(now)


def test_threads_that_hammer_it_neither_make_nor_lose_a_token():
    """What was paid in was taken, granted, or is there still."""
    budget = empty(0.5, 100_000)
    customers = [Customer(budget, seed, 6000) for seed in range(4)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for customer in customers:
            customer.start()
        for customer in customers:
            customer.join(timeout=60)
    finally:
        sys.setswitchinterval(before)
    granted = sum(t.granted for c in customers for t in c.tickets)
    spent = granted + sum(c.taken for c in customers)
    assert spent + budget.tokens == pytest.approx(0.5 * sum(c.deposits for c in customers))
    assert budget.waiting == sum(not t.granted for c in customers for t in c.tickets)

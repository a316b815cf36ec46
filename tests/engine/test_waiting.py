"""What one request waits for: at most one ticket, and places at full targets."""

from __future__ import annotations

import pytest

from langchain_resilient.engine.budget import Budget
from langchain_resilient.engine.health import TargetState
from langchain_resilient.engine.waiting import Waiting
from langchain_resilient.receipt import AttemptKind


def empty() -> Budget:
    """A budget without a token; each deposit is one."""
    budget = Budget(1.0, 1)
    budget.tokens = 0.0
    return budget


class Request:
    """Somebody who waits, and counts how often it is nudged."""

    def __init__(self, since: float = 1.0) -> None:
        self.nudges = 0
        self.waiting = Waiting(since, 60.0, self.nudge)

    def nudge(self) -> None:
        self.nudges += 1


def full(count: int = 1) -> list[TargetState]:
    """Targets whose only place is taken."""
    states = [TargetState(f"p:{i}", "p", max_concurrency=1) for i in range(count)]
    assert all(state.slots.take() for state in states)
    return states


# -- tickets --------------------------------------------------------------------------------------


def test_nothing_is_granted_to_one_that_waits_for_nothing():
    """There is no ticket."""
    assert Request().waiting.granted() is None


def test_a_ticket_is_not_granted_before_its_token_comes():
    """And the request stays in the queue."""
    budget, request = empty(), Request()
    request.waiting.ask(budget, AttemptKind.RESCUE, 2.0)
    assert request.waiting.granted() is None
    assert (budget.waiting, request.waiting.kind) == (1, AttemptKind.RESCUE)


def test_a_granted_ticket_is_handed_out_once():
    """The caller spends it or gives it up."""
    budget, request = empty(), Request()
    request.waiting.ask(budget, AttemptKind.HEDGE, 2.0)
    budget.deposit(3.0)
    assert request.nudges == 1
    assert request.waiting.granted() is not None
    assert request.waiting.granted() is None


def test_it_keeps_its_place_if_it_asks_again():
    """Asking twice does not put it behind others, nor into the queue twice."""
    budget, request = empty(), Request()
    for now in (2.0, 3.0):
        request.waiting.ask(budget, AttemptKind.HEDGE, now)
    assert budget.waiting == 1


def test_asking_for_another_token_leaves_the_first_queue():
    """At most one ticket a request."""
    hedge, rescue, request = empty(), empty(), Request()
    request.waiting.ask(hedge, AttemptKind.HEDGE, 2.0)
    request.waiting.ask(rescue, AttemptKind.RESCUE, 3.0)
    assert (hedge.waiting, rescue.waiting, request.waiting.kind) == (0, 1, AttemptKind.RESCUE)


def test_a_token_that_came_while_it_asks_for_another_goes_to_the_next():
    """Nothing of the budget is lost."""
    hedge, rescue, request, other = empty(), empty(), Request(), Request(2.0)
    request.waiting.ask(hedge, AttemptKind.HEDGE, 2.0)
    other.waiting.ask(hedge, AttemptKind.HEDGE, 2.0)
    hedge.deposit(3.0)
    request.waiting.ask(rescue, AttemptKind.RESCUE, 3.0)
    assert other.waiting.granted() is not None


@pytest.mark.parametrize("granted", [False, True])
def test_one_that_leaves_leaves_its_token_too(granted):
    """Whether it had come or not."""
    budget, request = empty(), Request()
    request.waiting.ask(budget, AttemptKind.HEDGE, 2.0)
    if granted:
        budget.deposit(3.0)
    request.waiting.leave(4.0)
    request.waiting.leave(5.0)
    assert (budget.waiting, budget.tokens) == (0, float(granted))


# -- queues ---------------------------------------------------------------------------------------


def test_it_is_told_when_a_target_has_room():
    """Whichever of them."""
    states, request = full(2), Request()
    request.waiting.queue(states)
    states[1].slots.give_back()
    assert request.nudges == 1


def test_it_stands_in_each_queue_once():
    """However often it looks."""
    states, request = full(1), Request()
    request.waiting.queue(states)
    request.waiting.queue(states)
    states[0].slots.give_back()
    states[0].slots.take()
    states[0].slots.give_back()
    assert request.nudges == 1


def test_one_that_leaves_is_not_told_any_more():
    """The next in the queue is."""
    states, request, other = full(1), Request(), Request()
    request.waiting.queue(states)
    other.waiting.queue(states)
    request.waiting.leave(2.0)
    states[0].slots.give_back()
    assert (request.nudges, other.nudges) == (0, 1)


def test_room_that_is_not_taken_is_passed_on():
    """One that was told and leaves without it tells the next."""
    states, request, other = full(1), Request(), Request()
    request.waiting.queue(states)
    other.waiting.queue(states)
    states[0].slots.give_back()
    request.waiting.leave(2.0)
    assert (request.nudges, other.nudges) == (1, 1)


def test_it_may_queue_again_after_it_left():
    """Room came, and another thread was faster."""
    states, request = full(1), Request()
    request.waiting.queue(states)
    states[0].slots.give_back()
    states[0].slots.take()
    request.waiting.leave_queues()
    request.waiting.queue(states)
    states[0].slots.give_back()
    assert request.nudges == 2


def test_a_target_that_has_room_meanwhile_tells_at_once():
    """Between the look and the queue a place may have come free."""
    states, request = full(1), Request()
    states[0].slots.give_back()
    request.waiting.queue(states)
    assert request.nudges == 1

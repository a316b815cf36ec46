"""One request's ticket and its places in the queues of full targets."""

from __future__ import annotations

from langchain_resilient import AttemptKind
from langchain_resilient.engine.budgets import Budget
from langchain_resilient.engine.waiting import WaitList
from tests.engine.states import state


class Request:
    """Counts how often it is nudged."""

    def __init__(self, since: float = 0.0) -> None:
        self.nudges = 0
        self.waiting = WaitList(since, 100.0, self.wake)

    def wake(self) -> None:
        self.nudges += 1


def empty() -> Budget:
    budget = Budget(1.0, 10)
    budget.tokens = 0.0
    return budget


def full_target():
    target = state(max_concurrency=1)
    target.concurrency.take()
    return target


def test_nothing_is_granted_to_who_did_not_ask():
    """There is no ticket."""
    assert Request().waiting.take_granted() is None


def test_nothing_is_granted_before_a_token_comes():
    """The ticket is kept."""
    request = Request()
    request.waiting.request_token(empty(), AttemptKind.HEDGE, 1.0)
    assert (request.waiting.take_granted(), request.waiting.ticket is None) == (None, False)


def test_a_token_that_comes_nudges():
    """Once."""
    request, budget = Request(), empty()
    request.waiting.request_token(budget, AttemptKind.HEDGE, 1.0)
    budget.deposit(2.0)
    assert request.nudges == 1


def test_a_granted_ticket_is_taken_once():
    """It cannot be spent twice."""
    request, budget = Request(), empty()
    request.waiting.request_token(budget, AttemptKind.HEDGE, 1.0)
    budget.deposit(2.0)
    taken = [request.waiting.take_granted() is not None for _ in range(2)]
    assert taken == [True, False]


def test_asking_the_same_budget_again_keeps_the_place():
    """There is one ticket, not two."""
    request, budget = Request(), empty()
    for _ in range(3):
        request.waiting.request_token(budget, AttemptKind.HEDGE, 1.0)
    assert budget.waiting == 1


def test_asking_another_budget_leaves_the_first():
    """A rescue is more urgent than the hedge that was waited for."""
    request, hedge, rescue = Request(), empty(), empty()
    request.waiting.request_token(hedge, AttemptKind.HEDGE, 1.0)
    request.waiting.request_token(rescue, AttemptKind.RESCUE, 2.0)
    assert (hedge.waiting, rescue.waiting, request.waiting.kind) == (0, 1, AttemptKind.RESCUE)


def test_asking_another_budget_gives_back_a_token_that_had_come():
    """It is there for the others."""
    request, hedge = Request(), empty()
    request.waiting.request_token(hedge, AttemptKind.HEDGE, 1.0)
    hedge.deposit(1.0)
    request.waiting.request_token(empty(), AttemptKind.RESCUE, 2.0)
    assert hedge.tokens == 1.0


def test_older_requests_are_served_first():
    """A request waits with its own age, not with the moment of asking."""
    young, old, budget = Request(since=5.0), Request(since=1.0), empty()
    young.waiting.request_token(budget, AttemptKind.HEDGE, 6.0)
    old.waiting.request_token(budget, AttemptKind.HEDGE, 7.0)
    budget.deposit(8.0)
    assert (young.nudges, old.nudges) == (0, 1)


def test_leaving_gives_up_the_ticket():
    """The budget waits for nobody."""
    request, budget = Request(), empty()
    request.waiting.request_token(budget, AttemptKind.HEDGE, 1.0)
    request.waiting.leave(2.0)
    assert budget.waiting == 0


def test_leaving_hands_a_granted_token_on():
    """To the next request."""
    first, second, budget = Request(1.0), Request(2.0), empty()
    first.waiting.request_token(budget, AttemptKind.HEDGE, 3.0)
    second.waiting.request_token(budget, AttemptKind.HEDGE, 3.0)
    budget.deposit(4.0)
    first.waiting.leave(4.0)
    assert second.waiting.take_granted() is not None


def test_leaving_twice_is_harmless():
    """The second time there is nothing left to give up."""
    request, budget = Request(), empty()
    request.waiting.request_token(budget, AttemptKind.HEDGE, 1.0)
    budget.deposit(1.0)
    for _ in range(2):
        request.waiting.leave(2.0)
    assert budget.tokens == 1.0


def test_room_at_any_of_the_full_targets_nudges():
    """Whichever comes free first."""
    request, targets = Request(), [full_target(), full_target()]
    request.waiting.wait_for_room(targets)
    targets[1].concurrency.give_back()
    assert request.nudges == 1


def test_a_request_stands_in_a_queue_once():
    """Though it looked at the full target several times."""
    request, target = Request(), full_target()
    for _ in range(3):
        request.waiting.wait_for_room([target])
    target.concurrency.give_back()
    target.concurrency.take()
    target.concurrency.give_back()
    assert request.nudges == 1


def test_after_leaving_the_queues_room_does_not_nudge():
    """It was for somebody else."""
    request, target = Request(), full_target()
    request.waiting.wait_for_room([target])
    request.waiting.leave(1.0)
    target.concurrency.give_back()
    assert request.nudges == 0


def test_room_that_was_offered_is_passed_on():
    """Who leaves with the offer in hand tells the next."""
    first, second, target = Request(), Request(), full_target()
    first.waiting.wait_for_room([target])
    second.waiting.wait_for_room([target])
    target.concurrency.give_back()
    first.waiting.leave(1.0)
    assert second.nudges == 1


def test_after_leaving_the_queues_it_may_stand_there_again():
    """The next time that it finds the target full."""
    request, target = Request(), full_target()
    request.waiting.wait_for_room([target])
    request.waiting.stop_waiting_for_room()
    request.waiting.wait_for_room([target])
    target.concurrency.give_back()
    assert request.nudges == 1

"""Orders of a chain: the fastest first, or by weight."""

from __future__ import annotations

from collections import Counter
from random import Random
from statistics import mean
from typing import TYPE_CHECKING

import pytest

from langchain_resilient.engine.interfaces import Route
from langchain_resilient.engine.target_speed import FEW_SAMPLES
from langchain_resilient.runtime.routing import EXPLORE, EXPLORE_UNKNOWN, balanced, fastest
from tests.engine.states import known, state
from verification.kit.scripted_engine import Hang, Scripted

if TYPE_CHECKING:
    from langchain_resilient.engine.target_state import TargetState

DRAWS = 4000


class NoChance(Random):
    """Never explores."""

    def random(self) -> float:
        return 0.999


class UnderWay:
    """An attempt that waits for its first text."""

    plain = False


def chain(*seconds: float | None) -> list[Route]:
    """One target for each speed; None for one that nobody knows."""
    states = [state() if s is None else known(s, count=FEW_SAMPLES) for s in seconds]
    return [Route(target, Scripted([Hang()])) for target in states]


def places(routes: list[Route], ordered: list[Route]) -> list[int]:
    return [routes.index(route) for route in ordered]


def firsts(routes: list[Route]) -> Counter[int]:
    """How often each came first."""
    rng = Random(3)
    return Counter(places(routes, fastest(routes, 0.0, rng, plain=False))[0] for _ in range(DRAWS))


@pytest.mark.parametrize(
    ("seconds", "order"),
    [
        ((3.0, 1.0, 2.0), [1, 2, 0]),
        ((None, 1.0, None), [1, 0, 2]),
        ((None, None, None), [0, 1, 2]),
        ((1.0, 1.0, 1.0), [0, 1, 2]),
    ],
)
def test_the_known_fastest_goes_first(seconds, order):
    """Then the slower ones, then the unknown, in the chain's order among equals."""
    routes = chain(*seconds)
    assert places(routes, fastest(routes, 0.0, NoChance(), plain=False)) == order


def test_whole_answers_are_ordered_by_their_own_times():
    """The first texts say nothing of them."""
    routes = chain(3.0, 1.0)
    for _ in range(FEW_SAMPLES):
        routes[0].state.record_first_text(1.0, 0.0, plain=True, late=False)
        routes[1].state.record_first_text(9.0, 0.0, plain=True, late=False)
    assert places(routes, fastest(routes, 0.0, NoChance(), plain=True)) == [0, 1]


def test_now_and_then_a_slower_one_goes_first():
    """Each of the others alike, one request in twenty together."""
    seen = firsts(chain(1.0, 2.0, 3.0))
    assert [seen[1] / DRAWS, seen[2] / DRAWS] == pytest.approx([EXPLORE / 2] * 2, abs=0.01)


def test_an_unknown_one_goes_first_more_often():
    """And no known slower one does meanwhile."""
    seen = firsts(chain(1.0, 2.0, None))
    assert (seen[1], seen[2] / DRAWS) == (0, pytest.approx(EXPLORE_UNKNOWN, abs=0.03))


def learned(state_: TargetState, seconds: float, now: float) -> None:
    state_.record_first_text(seconds, now, plain=False, late=False)


@pytest.mark.parametrize("rate", [0.5, 2.0, 200.0], ids=["seldom", "often", "very often"])
def test_a_slower_target_is_not_asked_for_long(rate):
    """Of a hundred requests, one after the other, a tenth of a second is noticed after a few."""
    shares = []
    for seed in range(20):
        routes, rng, now, slower = chain(None, None), Random(seed), 0.0, 0
        for _ in range(100):
            first = fastest(routes, now, rng, plain=False)[0]
            slower += first is routes[0]
            now += 1 / rate
            learned(first.state, 0.25 if first is routes[0] else 0.15, now)
        shares.append(slower / 100)
    assert mean(shares) < 0.13
    assert max(shares) < 0.25


def test_what_is_unknown_is_asked_as_often_as_it_takes():
    """Of many requests at once a few go to each, and the others to the chain's first."""
    routes, rng = chain(None, None, None), Random(1)
    asked: Counter[int] = Counter()
    for _ in range(200):
        first = fastest(routes, 0.0, rng, plain=False)[0]
        asked[routes.index(first)] += 1
        first.state.waiting[UnderWay()] = lambda: None
    assert asked == {0: 200 - 2 * FEW_SAMPLES, 1: FEW_SAMPLES, 2: FEW_SAMPLES}


def test_one_slow_first_answer_is_no_slow_target():
    """It has opened a connection, or the SDK was loaded meanwhile."""
    routes = chain(None, None)
    for number in range(FEW_SAMPLES):
        learned(routes[0].state, 0.25, 0.0)
        learned(routes[1].state, 0.15 if number else 2.0, 0.0)
    assert places(routes, fastest(routes, 0.0, NoChance(), plain=False)) == [1, 0]


def test_exploring_moves_only_the_one_that_is_tried():
    """The rest stays fastest first."""
    routes, rng = chain(3.0, 1.0, 2.0), Random(3)
    orders = {tuple(places(routes, fastest(routes, 0.0, rng, plain=False))) for _ in range(DRAWS)}
    assert orders == {(1, 2, 0), (2, 1, 0), (0, 1, 2)}


def test_a_single_target_is_its_own_order():
    """There is nothing to explore."""
    routes = chain(None)
    assert fastest(routes, 0.0, Random(1), plain=False) == routes


def test_balanced_puts_each_first_by_its_weight():
    """Three, two and one in six."""
    routes, rng = chain(None, None, None), Random(5)
    seen = Counter(places(routes, balanced(routes, [3, 2, 1], rng))[0] for _ in range(DRAWS))
    shares = [seen[i] / DRAWS for i in range(3)]
    assert shares == pytest.approx([3 / 6, 2 / 6, 1 / 6], abs=0.03)


def test_balanced_orders_the_rest_by_weight_too():
    """When the heaviest is first, the others follow two to one."""
    routes, rng = chain(None, None, None), Random(5)
    orders = [places(routes, balanced(routes, [3, 2, 1], rng)) for _ in range(DRAWS)]
    seconds = [order[1] for order in orders if order[0] == 0]
    assert seconds.count(1) / len(seconds) == pytest.approx(2 / 3, abs=0.04)


def test_weight_zero_goes_last():
    """In the chain's order among several."""
    routes, rng = chain(None, None, None), Random(5)
    orders = {tuple(places(routes, balanced(routes, [0, 1, 0], rng))) for _ in range(100)}
    assert orders == {(1, 0, 2)}

"""Orders of a chain: the fastest first, or by weight."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from langchain_resilient.engine.interfaces import Route
from langchain_resilient.engine.target_speed import FEW_SAMPLES
from langchain_resilient.runtime.routing import EXPLORE, EXPLORE_UNKNOWN, balanced, fastest
from tests.engine.states import known, state
from verification.kit.scripted_engine import Hang, Scripted

DRAWS = 4000


class NoChance(Random):
    """Never explores."""

    def random(self) -> float:
        return 0.999


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

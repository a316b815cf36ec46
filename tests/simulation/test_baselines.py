"""What others would have made of a request, where it can be told by hand."""

from __future__ import annotations

from math import inf

import pytest

from langchain_resilient.simulation.baselines import Samples
from langchain_resilient.simulation.faults import Fail, Hang, Phase, Slow
from langchain_resilient.simulation.latency import Recorded
from langchain_resilient.simulation.targets import Script


def samples(*effects, deadline=60.0):
    """Targets of 1, 2, 3 s, each with an effect from 100 s until 200 s, or None."""
    return Samples(
        [
            Script(
                f"p{i}:m",
                Recorded([i + 1.0]),
                () if effect is None else (Phase(100.0, 200.0, effect),),
            )
            for i, effect in enumerate(effects)
        ],
        seed=1,
        deadline=deadline,
    )


def test_alone_means_the_first_target_only():
    """Its latency, or nothing if it fails."""
    drawn = samples(Fail(), None)
    assert (drawn.alone(0, 50.0), drawn.alone(0, 150.0)) == (1.0, inf)


def test_alone_is_unanswered_past_the_deadline():
    """A slow answer is no answer then."""
    assert samples(Slow(6), deadline=5.0).alone(0, 150.0) == inf


@pytest.mark.parametrize(
    ("effects", "seconds"),
    [
        ((None, None), 1.0),
        ((Fail(after=0.5), None), 2.5),
        ((Hang(), None), 62.0),
        ((Hang(), Fail(after=0.5), None), 63.5),
        ((Fail(), Hang()), inf),
    ],
)
def test_a_plain_fallback_goes_down_the_chain(effects, seconds):
    """A failure moves on at once; a hang takes the whole timeout of 60 s."""
    assert samples(*effects).plain(0, 120.0) == seconds


def test_a_plain_fallback_asks_whoever_is_well_by_then():
    """The second target is asked 60 s later, when it is well again."""
    assert samples(Hang(), Fail()).plain(0, 145.0) == 62.0


def test_a_pair_is_of_those_who_are_well():
    """The first hangs: a policy that knows it asks the second and the third."""
    assert samples(Hang(), None, None).pair(0, 150.0) == (2.0, 3.0)


def test_a_pair_keeps_to_the_chain_if_it_must():
    """However slow its first target is."""
    assert samples(Slow(9), None, None).pair(0, 150.0, in_order=True) == (9.0, 2.0)


def test_a_pair_may_wait_for_a_target_to_come_back():
    """All hang: the first is back in 10 s and takes one more."""
    assert samples(Hang(), Hang()).pair(0, 190.0) == (11.0, 12.0)


def test_a_lonely_target_is_asked_twice():
    """A second request goes to it too."""
    assert samples(None).pair(0, 50.0) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("arrived", "feasible"),
    [(50.0, True), (138.0, False), (140.9, False), (141.0, True), (150.0, True)],
)
def test_an_answer_is_feasible_if_a_target_is_back_in_time(arrived, feasible):
    """All hang until 200 s: who arrives from 141 s on has a second left after that."""
    assert samples(Hang(), Hang()).feasible(0, arrived) is feasible


def test_one_healthy_target_makes_an_answer_feasible():
    """Whichever it is."""
    assert samples(Hang(), Fail(), None).feasible(0, 120.0)

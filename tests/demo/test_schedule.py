"""The schedule says what is, and the simulators do it."""

from __future__ import annotations

import pytest
from openai import AsyncOpenAI, InternalServerError

from langchain_resilient.demo.schedule import ACTS, PROVIDERS, doing, rehearse
from langchain_resilient.testing import ProviderSimulator


@pytest.mark.parametrize("act", ["slow tail", "429", "500", "hangs", "cut streams", "down"])
def test_the_issues_misfortunes_all_happen(act):
    """To somebody, at some time."""
    assert any(act in acts for _, acts in ACTS)


def test_all_are_down_at_once_and_well_at_the_end():
    """So that nobody can answer for a while, and everybody can go home."""
    assert ("down",) * len(PROVIDERS) in [acts for _, acts in ACTS]
    assert ACTS[-1][1] == ("well",) * len(PROVIDERS)


@pytest.mark.parametrize("length", [12.0, 120.0, 600.0])
def test_a_show_of_any_length_has_the_same_acts(length):
    """Each at its share of the time."""
    for begins, acts in ACTS:
        second = begins * length / 120.0 + 0.001
        assert [doing(i, second, length) for i in range(len(PROVIDERS))] == [*acts]


async def test_the_simulator_plays_the_act_of_the_moment():
    """In a show of which the 500s are under way."""
    with ProviderSimulator() as sim:
        rehearse(sim, 120.0, begins=-45.0)
        client = AsyncOpenAI(base_url=sim.base_url("openai"), api_key="k", max_retries=0)
        async with client:
            with pytest.raises(InternalServerError):
                await client.chat.completions.create(
                    model="gpt-6.1-sol", messages=[{"role": "user", "content": "hello"}]
                )
    assert doing(0, 45.0, 120.0) == "500"

"""Agents that change their target at every turn: thoughts go back to their maker, none refuses."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from langchain_resilient.providers import responses
from langchain_resilient.testing import ProviderSimulator
from verification.turns import KINDS, TURNS, VERSIONS, WAYS, Conversation

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as simulator:
        yield simulator


CELLS = list(itertools.product(KINDS, KINDS))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("first", "second"), CELLS)
def test_an_agent_may_change_its_target_at_every_turn(sim, first, second, version):
    """Tools included: each turn is answered by the one target that is asked, at once."""
    way = WAYS[CELLS.index((first, second)) % 2]
    assert Conversation(sim, (first, second), version, way).run() == (TURNS, 0, ())


@pytest.mark.parametrize("version", VERSIONS)
def test_an_agent_may_go_through_all_of_them(sim, version):
    """One after the other."""
    assert Conversation(sim, KINDS, version, "invoke").run() == (TURNS, 0, ())


def test_it_would_notice_foreign_thoughts(sim, monkeypatch):
    """If a target got what another has encrypted, its refusal would be seen."""
    monkeypatch.setattr(responses, "is_made_by", lambda *_: True)
    cell = Conversation(sim, ("wrapped", "responses"), None, "invoke").run()
    assert cell.refused
    assert cell.problems

"""The judgement of `verification.patience`: small forms, and that it would notice."""

from __future__ import annotations

from langchain_resilient.testing import NoAnswer, ProviderSimulator
from verification import patience


async def test_a_thinker_is_waited_for():
    """A second of thought, in small: nobody else answers."""
    with ProviderSimulator(seed=1) as sim:
        line = await patience.thinker(sim, "openai", 1.0, 2)
    assert line.holds, line
    assert "16 of 16 answers by the thinker" in line.figures


async def test_requests_too_many_are_noticed(monkeypatch):
    """A model that is not known to think is hedged: more than one request a call."""
    monkeypatch.setattr(patience, "MAX_COLD", 0.99)
    with ProviderSimulator(seed=1) as sim:
        line = await patience.thinker(sim, "openai", 0.1, 1)
    assert not line.holds


async def test_a_lone_users_losses_are_counted(monkeypatch):
    """A fixed hedge of half a second: each call until the target is left out loses so much."""
    monkeypatch.setattr(patience, "CALLS", 6)
    with ProviderSimulator(seed=1) as sim:
        line = await patience.users(sim, 1, 0.05, 0.3, warm=False)
        assert line.holds, line
        monkeypatch.setattr(patience, "MAX_LOST", 0.2)
        sim.script("openai:first-1-0.05-0.3-cold", then=NoAnswer())
        assert not (await patience.users(sim, 1, 0.05, 0.3, warm=False)).holds

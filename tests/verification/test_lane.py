"""The proofs of the batch lane in small, and that they would notice."""

from __future__ import annotations

import pytest

from langchain_resilient.testing import Backlog
from verification import lane

HOUR = 3600.0


def test_a_provider_that_keeps_up_costs_about_half():
    """One prompt of 200 is live."""
    run = lane.run_batch("openai", 200, Backlog(seconds=HOUR), within=6 * HOUR)
    assert (run.wrong, run.twice, run.live) == (0, 0, 1)
    assert run.cost == pytest.approx(0.5025, abs=0.001)
    assert run.seconds < 1.2 * HOUR


def test_some_random_worlds(capsys):
    """Each prompt is answered once, in time."""
    assert lane.main(["seeds", "--seeds", "5", "--prompts", "40"]) == 0
    assert "0 broken" in capsys.readouterr().out


def test_a_broken_promise_is_noticed(capsys, monkeypatch):
    """A lane that never buys is late."""
    monkeypatch.setattr("langchain_resilient.batch.lane.Lane._enforce", lambda _self, now: now + 60)
    world = lane.Scenario("openai", 30, HOUR, Backlog(seconds=9 * HOUR), 600.0, (0.0, 0.0))
    monkeypatch.setattr(lane, "scenario", lambda _seed, _count: world)
    assert lane.main(["seeds", "--seeds", "1"]) == 1
    assert "1 late" in capsys.readouterr().out

"""A small schedule of kills; `make kill` runs a large one."""

from __future__ import annotations

from verification.kill import kill


def test_a_killed_batch_loses_nothing_and_asks_nothing_twice():
    """Three times, at random moments, over real sockets and a real file."""
    verdict = kill(kills=3, prompts=200, seed=7, latency=(0.01, 0.1))
    assert (verdict.kills, verdict.repeated, verdict.late, verdict.wrong) == (3, 0, 0, [])
    assert verdict.recorded[-1] == 200

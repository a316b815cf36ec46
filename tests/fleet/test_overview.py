"""`langchain-resilient fleet`: what a server holds, for people."""

from __future__ import annotations

from langchain_resilient import ResilientChatModel, SpendCap, Target, cli
from langchain_resilient.runtime.spending import reset_ledgers
from langchain_resilient.testing import ProviderSimulator
from tests.fleet.test_link import wait_for


def test_it_shows_limits_caps_and_troubles(redis_server, redis_client, capsys):
    """With the names that people gave, and no key."""
    reset_ledgers()
    with ProviderSimulator() as sim:
        sim.limit("openai:*", requests_per_minute=6000)
        target = Target(
            "openai:m", base_url=sim.base_url("openai"), api_key="sk-canary", price=(2.5, 10)
        )
        llm = ResilientChatModel(
            targets=[target], shared=redis_server.url, spend_cap=SpendCap(3, name="team")
        )
        llm.invoke("a")
        state = llm._ready().chain[0].state
        limiter = state.keys[0].rate_limiter
        for _ in range(5):
            state.circuit_breaker.record_slow(state.last_text_at, 5)
        name, health = limiter.keys("lcr1:default")[0], "lcr1:default:{health}"
        wait_for(lambda: float(redis_client.hget(name, "rate_r") or 0) > 0)
        wait_for(lambda: any(f.startswith("trip") for f in redis_client.hkeys(health)))
        assert cli.main(["fleet", redis_server.url]) == 0
    shown = capsys.readouterr().out
    assert "limit  openai:m: 6,000 requests and" in shown
    assert "cap    team: $" in shown
    assert "of $3 spent in 86,400 s" in shown
    assert "tripped; for " in shown
    assert "canary" not in shown
    reset_ledgers()


def test_nothing_shared_and_no_server_are_said(redis_server, capsys):
    """The second is an error."""
    assert cli.main(["fleet", redis_server.url, "--namespace", "empty"]) == 0
    assert "nothing is shared here" in capsys.readouterr().out
    assert cli.main(["fleet", "redis://:canary@127.0.0.1:1/0"]) == 2
    assert cli.main(["fleet", "http://x"]) == 2
    error = capsys.readouterr().err
    assert "cannot be used" in error
    assert "canary" not in error

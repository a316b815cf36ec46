"""`langchain-resilient fleet`: what a server holds, for people."""

from __future__ import annotations

import json
import time

import pytest

from langchain_resilient import ResilientChatModel, Shared, SpendCap, Target, cli
from langchain_resilient.fleet.link import link_of
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
        health_members = f"{health}:members"
        redis_client.zadd(health_members, {f"other-{i}": time.time() for i in range(20)})
        assert cli.main(["fleet", redis_server.url]) == 0
    shown = capsys.readouterr().out
    assert "limit  openai:m: 6,000 requests and" in shown
    assert "fleet  21 processes asked lately: " in shown
    assert "(0 s ago)" in shown
    assert ", and 1 more" in shown
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


def test_the_table_over_all_processes(redis_server, redis_client):
    """What another process counted is added to what this one did; nonsense is left out."""
    redis_client.flushall()
    shared = Shared(redis_server.url, timeout=5.0)
    with ProviderSimulator() as sim:
        target = Target("openai:m", base_url=sim.base_url("openai"), api_key="k", price=(2.5, 10))
        llm = ResilientChatModel(targets=[target], shared=shared)
        other = ResilientChatModel(targets=[target], shared=shared, max_tokens=9)
        llm.invoke("a")
        other.invoke("b")
        mine, ours = llm.stats(), llm.stats(fleet=True)
    assert (mine.calls, ours.calls, ours.answered) == (1, 2, 2)
    assert ours["openai:m"].wins == 2
    assert ours["openai:m"].spent == pytest.approx(mine.spent + other.stats().spent)
    held = "lcr1:default:{health}:counts"
    (told,) = redis_client.hvals(held)
    redis_client.hset(held, mapping={"elsewhere": told, "old": "{", "older": json.dumps([1])})
    both = llm.stats(fleet=True)
    assert (both.calls, both.answered) == (4, 4)
    assert both["openai:m"].requests == 4
    assert both["openai:m"].input_tokens == 2 * ours["openai:m"].input_tokens
    assert both["openai:m"].spent == pytest.approx(2 * ours["openai:m"].spent)
    assert both["openai:m"].first_text.p50 == pytest.approx(ours["openai:m"].first_text.p50)
    assert both["openai:m"].health == "ok"
    link_of(shared).forked()
    assert llm.stats(fleet=True).calls == 4  # those of the parent process stay, and are not ours


def test_without_a_fleet_there_is_no_table_of_it():
    """Nor without its server: both are said."""
    with ProviderSimulator() as sim:
        target = Target("openai:m", base_url=sim.base_url("openai"), api_key="k")
        with pytest.raises(ValueError, match="needs a model with shared="):
            ResilientChatModel(targets=[target]).stats(fleet=True)
        gone = ResilientChatModel(targets=[target], shared="redis://:canary@127.0.0.1:1/0")
        with pytest.raises(ConnectionError, match=r"127.0.0.1:1.* cannot be used") as caught:
            gone.stats(fleet=True)
        assert "canary" not in str(caught.value)

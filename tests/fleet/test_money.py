"""A spend cap that several processes share: leased dollars, counted once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

import langchain_resilient.fleet
from langchain_resilient import ResilientChatModel, Shared, SpendCap, SpendCapError, Target
from langchain_resilient.fleet.link import forget_links
from langchain_resilient.fleet.money import CapConflictError, DollarLease
from langchain_resilient.runtime.spending import reset_ledgers
from langchain_resilient.testing import ProviderSimulator, Reply
from verification.kit.redis_server import MISSING, RedisServer, installed

SCRIPT = (Path(langchain_resilient.fleet.__file__).parent / "money.lua").read_text()


@pytest.fixture(autouse=True)
def _no_ledgers():
    reset_ledgers()
    yield
    reset_ledgers()


class Process:
    """One process's lease beside the real script, at a time of our own; its own link."""

    def __init__(self, client, member, dollars=1.0, window=3600.0):
        self.client, self.member, self.now = client, member, 36_000.0
        self.away, self.closing = "", False
        self.shared = SimpleNamespace(processes=1)
        self.lease = DollarLease(self, "cap", dollars, window)

    def ask_now(self, part):
        if self.away:
            return
        arguments = [self.member, self.now, *part.request(self.now)[1:]]
        reply = self.client.eval(SCRIPT, 1, *part.keys("v"), *arguments)
        part.granted(reply, self.now, self.member)

    def add(self, part):
        pass

    def wake(self):
        pass

    def ask(self, now=None):
        self.now = self.now if now is None else now
        self.ask_now(self.lease)

    def spend_all(self, amount):
        """Spend by as much while anything is left; how much that was."""
        total = 0.0
        while self.lease.left(self.now) > 0:
            self.lease.spend(amount, self.now)
            total += amount
            self.now += 0.1
        return total


def test_several_processes_spend_the_cap_once(redis_client):
    """To the last crumbs, and no more than what one of each is over by."""
    processes = [Process(redis_client, name) for name in "abcd"]
    spent = 0.0
    for _ in range(4):
        for process in processes:
            spent += process.spend_all(0.004)
            process.ask()
    assert 0.97 <= spent <= 1 + 4 * 0.004


def test_a_lease_is_at_most_half_of_an_equal_part(redis_client):
    """So that who comes later finds something, and little is lost with a process."""
    one = Process(redis_client, "a")
    assert one.lease.left(one.now) == pytest.approx(0.5)
    other = Process(redis_client, "b")
    assert other.lease.left(other.now) == pytest.approx(0.5 / 4)


def test_what_is_reported_twice_counts_once(redis_client):
    """Whether the server had it before the connection broke is not known."""
    one = Process(redis_client, "a")
    one.lease.spend(0.1, one.now)
    arguments = ["a", one.now, *one.lease.request(one.now)[1:]]
    redis_client.eval(SCRIPT, 1, *one.lease.keys("v"), *arguments)
    one.lease.spend(0.05, one.now)
    one.ask()
    one.ask()
    assert one.lease.spent() == pytest.approx(0.15)


def test_the_lease_of_a_dead_process_counts_as_spent(redis_client):
    """What one gives back at its end does not."""
    dead, leaves, other = (Process(redis_client, name) for name in "abc")
    held = dead.lease.left(dead.now)
    leaves.closing = True
    leaves.ask()
    other.ask()
    assert other.lease.spent() == 0
    other.ask(other.now + 31)
    assert other.lease.spent() == pytest.approx(held)


def test_the_window_slides(redis_client):
    """What was spent an hour ago counts no more."""
    one = Process(redis_client, "a")
    one.spend_all(0.01)
    one.ask()
    assert one.lease.left(one.now) == 0
    assert 3600 <= one.lease.opens_at() - 36_000 <= 3660
    one.ask(one.lease.opens_at() + 1)
    assert one.lease.left(one.now) > 0.2


def test_while_the_server_is_away_only_what_is_leased_may_be_spent(redis_client):
    """It is told when the server is back."""
    one = Process(redis_client, "a")
    one.away = "down"
    assert one.spend_all(0.01) == pytest.approx(0.5, abs=0.011)
    one.away = ""
    one.ask()
    assert one.lease.spent() == pytest.approx(0.5, abs=0.011)


def test_caps_of_one_name_and_several_amounts_are_an_error(redis_client):
    """It names both; once nobody has the other any more, it is none."""
    first = Process(redis_client, "a", 1.0)
    with pytest.raises(CapConflictError, match=r"\$1 in 3600 s in other .* \$2 in 3600 s here"):
        Process(redis_client, "b", 2.0)
    first.closing = True
    first.ask()
    assert Process(redis_client, "b", 2.0).lease.left(36_000.0) == pytest.approx(1.0)


def capped(sim, shared, dollars=0.01, name="team"):
    target = Target("openai:m", base_url=sim.base_url("openai"), api_key="k", price=(2.5, 10))
    cap = SpendCap(dollars, per="hour", name=name)
    return ResilientChatModel(targets=[target], spend_cap=cap, shared=shared, max_tokens=50)


def spend(llm):
    """Until the cap stops it; the dollars."""
    spent = 0.0
    while True:
        try:
            usage = llm.invoke("why").usage_metadata
        except SpendCapError as error:
            return spent, error
        spent += usage["input_tokens"] * 2.5e-6 + usage["output_tokens"] * 10e-6


def test_two_processes_keep_one_cap():
    """Here two links of one process, as far apart as two processes."""
    if not installed():
        pytest.skip(MISSING)
    with RedisServer() as server, ProviderSimulator() as sim:
        sim.script("*", then=Reply("word " * 40))
        one = capped(sim, Shared(server.url))
        other = capped(sim, Shared(server.url, timeout=0.3))
        (first, error), (second, _) = spend(one), spend(other)
        assert 0.007 <= first + second <= 0.0115
        assert first > 0
        assert second > 0
        assert "is reached" in str(error) or "cannot pay" in str(error)
        with pytest.raises(ValidationError, match=r"another model, not \$2.00 an hour"):
            capped(sim, Shared(server.url), dollars=2)
        with pytest.raises(ValidationError, match="in other processes"):
            capped(sim, Shared(server.url, timeout=0.31), dollars=2)
        forget_links()


def test_where_the_server_was_never_reached_a_process_spends_its_part():
    """Of as many as `Shared` says."""
    pytest.importorskip("redis")
    with ProviderSimulator() as sim:
        sim.script("*", then=Reply("word " * 40))
        with pytest.warns(UserWarning, match="its share"):
            llm = capped(sim, Shared("redis://127.0.0.1:1/0", processes=4))
        spent, _ = spend(llm)
    assert 0.0015 <= spent <= 0.0035

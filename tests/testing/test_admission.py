"""Rate limits: true buckets, true headers."""

from __future__ import annotations

import asyncio

import pytest

from langchain_resilient.testing import ProviderSimulator, Reply, answer_to
from langchain_resilient.testing.admission import RateLimit
from langchain_resilient.testing.dialects import DIALECTS
from langchain_resilient.testing.dialects.base import IncomingRequest
from tests.testing.wire_client import ask, chat
from verification.kit.virtual_time import virtual_time


def call(model: str = "gpt-4", **more: object) -> IncomingRequest:
    """A request as the limits see it."""
    return IncomingRequest(DIALECTS["openai"], model, chat(**more), stream=False)


def admitted(limit: RateLimit, times: int, at: float, key: str = "k", **more: object) -> int:
    """How many of some requests are let in at one moment."""
    return sum(limit.admit(call(**more), key, at)[0] is None for _ in range(times))


def test_a_minute_lets_a_minutes_worth_in_at_once() -> None:
    """Then one for each second that goes by."""
    limit = RateLimit(60, None)
    assert admitted(limit, 100, 0.0) == 60
    assert admitted(limit, 100, 10.0) == 10


def test_a_second_lets_a_seconds_worth_in() -> None:
    """As Together enforces it."""
    limit = RateLimit(600, None, window="second")
    assert admitted(limit, 100, 0.0) == 10
    assert admitted(limit, 100, 0.5) == 5


def test_tokens_cost_the_larger_of_prompt_and_max_tokens() -> None:
    """At admission, whatever the answer turns out to be."""
    limit = RateLimit(None, 1000)
    assert admitted(limit, 10, 0.0, max_tokens=300) == 3


def test_a_request_over_the_whole_limit_is_too_large() -> None:
    """No wait is promised, and nothing is taken from the bucket."""
    limit = RateLimit(None, 1000)
    denied, (_, tokens) = limit.admit(call(max_tokens=1001), "k", 0.0)
    assert denied is not None
    assert (denied.kind, denied.wait) == ("request_too_large", None)
    assert tokens is not None
    assert tokens.remaining == 1000


def test_the_promised_wait_is_true() -> None:
    """A request that comes back then is let in; one that comes a little earlier is not."""
    limit = RateLimit(30, None)
    admitted(limit, 30, 0.0)
    denied, _ = limit.admit(call(), "k", 0.5)
    assert denied is not None
    assert denied.wait == pytest.approx(1.5)
    assert admitted(limit, 1, 1.99) == 0
    assert admitted(limit, 1, 0.5 + denied.wait) == 1


def test_models_and_keys_have_buckets_of_their_own() -> None:
    """Depending on what the limit is for."""
    by_model, by_key = RateLimit(1, None), RateLimit(1, None, per="key")
    assert [
        admitted(by_model, 1, 0.0, key, model=m) for key, m in [("a", "x"), ("b", "x"), ("a", "y")]
    ] == [1, 0, 1]
    assert [
        admitted(by_key, 1, 0.0, key, model=m) for key, m in [("a", "x"), ("a", "y"), ("b", "x")]
    ] == [1, 0, 1]


def test_others_use_their_share_unseen() -> None:
    """The bucket fills up more slowly than the headers say."""
    limit = RateLimit(60, None, others=0.5)
    admitted(limit, 60, 0.0)
    assert admitted(limit, 100, 10.0) == 5


@pytest.mark.parametrize(
    "kwargs", [{"requests_per_minute": 0}, {"tokens_per_minute": -1}, {"others": 1.0}]
)
def test_impossible_limits_are_refused(kwargs: dict[str, float]) -> None:
    """With a word on what is wrong."""
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        ProviderSimulator().limit("*", **kwargs)


async def test_openai_headers_are_true(sim: ProviderSimulator) -> None:
    """They count down, and the refusal says when to come back."""
    sim.limit("openai:gpt-4", requests_per_minute=2, tokens_per_minute=10_000)
    first = (await ask(sim)).headers
    assert (first["x-ratelimit-limit-requests"], first["x-ratelimit-remaining-requests"]) == (
        "2",
        "1",
    )
    assert first["x-ratelimit-remaining-tokens"] == "9991"
    await ask(sim)
    wire = await ask(sim)
    assert wire.status == 429
    assert 29 < float(wire.headers["retry-after-ms"]) / 1000 <= 30
    assert wire.headers["retry-after"] == "30"
    assert wire.headers["x-ratelimit-remaining-requests"] == "0"
    assert "on requests per min (RPM): Limit 2, Used 2" in wire.error["message"]
    assert sim.requests[-1].step == "Refused 429"


async def test_together_headers_are_true(sim: ProviderSimulator) -> None:
    """A second's worth, and the reset in seconds."""
    sim.limit("together:*", requests_per_minute=60, window="second")
    wire = await ask(sim, dialect="together")
    assert (wire.headers["x-ratelimit-limit"], wire.headers["x-ratelimit-remaining"]) == ("1", "0")
    wire = await ask(sim, dialect="together")
    assert wire.status == 429
    assert (wire.headers["retry-after"], wire.headers["x-ratelimit-reset"]) == ("1", "1")


@pytest.mark.parametrize("dialect", ["openai", "together"])
async def test_a_limit_need_not_be_told(sim: ProviderSimulator, dialect: str) -> None:
    """As by some compatible servers: they refuse, and no header says more than usual."""
    usual = await ask(sim, dialect=dialect)
    sim.limit("*", requests_per_minute=1, headers=False)
    answered, refused = await ask(sim, dialect=dialect), await ask(sim, dialect=dialect)
    assert (answered.status, refused.status) == (200, 429)
    told = [name for name in usual.headers if name.startswith("x-ratelimit")]
    assert {n: answered.headers[n] for n in told} == {n: usual.headers[n] for n in told}
    assert not {"retry-after", "retry-after-ms"} & set(refused.headers)
    assert not [name for name in refused.headers if name.startswith("x-ratelimit")]
    assert refused.error["message"] == "Too many requests"


async def test_a_request_too_large_on_the_wire(sim: ProviderSimulator) -> None:
    """All of the limit remains, and there is no hint."""
    sim.limit("openai:*", tokens_per_minute=100)
    wire = await ask(sim, chat(max_tokens=500))
    assert wire.error["message"].startswith("Request too large for gpt-4")
    assert wire.headers["x-ratelimit-remaining-tokens"] == "100"
    assert "retry-after" not in wire.headers
    sim.limit("together:*", tokens_per_minute=100)
    wire = await ask(sim, chat(max_tokens=500), dialect="together")
    assert wire.status == 429
    assert "retry-after" not in wire.headers


async def test_the_most_specific_limit_counts(sim: ProviderSimulator) -> None:
    """Other models are under the wider one."""
    sim.limit("openai:*", requests_per_minute=1)
    sim.limit("openai:gpt-4", requests_per_minute=100)
    assert [(await ask(sim)).status for _ in range(3)] == [200] * 3
    assert [(await ask(sim, chat(model="gpt-4o"))).status for _ in range(2)] == [200, 429]


async def test_keys_are_told_apart_without_being_kept(sim: ProviderSimulator) -> None:
    """Only a digest is remembered."""
    sim.limit("*", requests_per_minute=1, per="key")
    keys = ["one", "two", "one"]
    statuses = [(await ask(sim, headers={"authorization": f"Bearer {k}"})).status for k in keys]
    assert statuses == [200, 200, 429]
    assert len({seen.key for seen in sim.requests}) == 2


@virtual_time
async def test_a_limit_in_virtual_time() -> None:
    """An hour under a limit passes at once, to the second."""
    loop = asyncio.get_running_loop()
    async with ProviderSimulator() as sim:
        sim.limit("*", requests_per_minute=1)
        sim.script("*", then=Reply(latency=10))
        for minute in range(60):
            wire = await ask(sim, patience=60)
            assert (wire.status, wire.text) == (200, answer_to("Hello"))
            assert loop.time() == pytest.approx(60 * minute + 10)
            await asyncio.sleep(50)

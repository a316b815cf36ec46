"""What tokens cost: against the library's own arithmetic, and what is said where nobody knows."""

from __future__ import annotations

import socket
import sys
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import genai_prices
import pytest
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelPrice
from langchain_core.language_models import FakeListChatModel
from langchain_openai import ChatOpenAI

from langchain_resilient import Target, prices
from langchain_resilient.options import default_chain
from langchain_resilient.prices import (
    FREE,
    Price,
    Usage,
    cost,
    price_for,
    price_of,
    prices_for,
    typical_cost,
)

UNKNOWN = Target("openai:nobody-knows-this-model", api_key="k")


@pytest.fixture
def _without_library(monkeypatch):
    prices._look_up.cache_clear()
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    yield
    prices._look_up.cache_clear()


def models():
    """Every model of these providers, by its own id."""
    wanted = {"openai", "together", "anthropic", "google", "deepseek", "perplexity"}
    for provider in get_snapshot().providers:
        if provider.id in wanted:
            yield from ((provider.id, model.id) for model in provider.models)


USAGES = [
    Usage(1000, 100),
    Usage(200_000, 1),
    Usage(300_000, 5000, cached=100_000),
    Usage(300_000, 5000, cached=100_000, written=50_000),
]


@pytest.mark.parametrize("usage", USAGES, ids=str)
def test_a_cost_is_the_librarys_own(usage, monkeypatch):
    """For every model: flat prices, tiers, caches, fees, and prices of the hour."""
    at = datetime(2026, 11, 20, 2, 0, tzinfo=UTC)
    monkeypatch.setattr(prices, "time", at.timestamp)
    theirs = genai_prices.Usage(
        input_tokens=usage.input,
        output_tokens=usage.output,
        cache_read_tokens=usage.cached,
        cache_write_tokens=usage.written,
    )
    compared = 0
    for provider, model in models():
        price = price_of(provider, model)
        if price is not None:
            expected = genai_prices.calc_price(
                theirs, model, provider_id=provider, genai_request_timestamp=at
            )
            number = float(expected.total_price)
            assert cost(price, usage) == pytest.approx(number, abs=1e-12), (provider, model)
            compared += 1
    assert compared > 200


@pytest.mark.parametrize("target", default_chain())
def test_the_default_chain_has_prices(target):
    """Together's long ids among them."""
    price = price_for(target)
    assert price is not None
    assert price.input > 0


def test_a_known_price_in_dollars_per_token():
    """OpenAI's list price of gpt-4: 30 and 60 dollars per million; 8,192 tokens."""
    price = price_of("openai", "gpt-4")
    assert price == Price(30e-6, 60e-6, 30e-6, 30e-6, context_window=8192)


def test_a_price_of_the_users_own_goes_first():
    """In dollars per million tokens."""
    target = Target("openai:gpt-4", price=(1, 2))
    assert cost(price_for(target), Usage(1_000_000, 1_000_000)) == pytest.approx(3.0)


@pytest.mark.parametrize("target", [Target("local"), Target(provider="text", model="sorry")])
def test_what_runs_in_this_process_is_free(target):
    """Whatever it is called."""
    assert price_for(target) is FREE
    assert FREE.free


def test_a_tier_is_charged_throughout():
    """One token more than the start makes every token dearer, the answer's too."""
    price = Price(1.0, 2.0, 1.0, 1.0, tiers=((10, Price(3.0, 4.0, 3.0, 3.0)),))
    assert [cost(price, Usage(n, 1)) for n in (10, 11)] == [12.0, 37.0]


def test_cached_tokens_are_part_of_the_prompt():
    """They are charged at their own price, once."""
    price = Price(10.0, 0.0, cached_input=1.0, written_input=12.0)
    assert cost(price, Usage(10, 0, cached=4, written=2)) == 4 * 10 + 4 * 1 + 2 * 12


@pytest.mark.parametrize("field", ["input", "output", "request"])
def test_whatever_costs_something_is_not_free(field):
    """One of its prices is enough."""
    assert not replace(FREE, **{field: 1e-9}).free


def test_a_model_that_is_not_charged_by_tokens_has_no_price():
    """One that is charged for its prompts alone has."""
    assert prices._as_price(ModelPrice(), None) is None
    assert prices._as_price(ModelPrice(input_mtok=Decimal(2)), None).input == 2e-6


def test_the_address_goes_before_the_name():
    """A compatible provider behind `base_url` has prices of its own."""
    target = Target(
        "openai:llama-3.3-70b-versatile", base_url="https://api.groq.com/openai/v1", api_key="k"
    )
    assert price_for(target) == price_of("groq", "llama-3.3-70b-versatile") is not None


def test_an_unknown_address_leaves_the_name():
    """Proxies sell what they pass on."""
    target = Target("openai:gpt-4", base_url="http://127.0.0.1:1/v1", api_key="k")
    assert price_for(target) == price_of("openai", "gpt-4")


def test_a_langchain_model_is_known_by_what_it_tells_langsmith():
    """One that says nothing has no price."""
    known = Target(ChatOpenAI(model="gpt-4o", api_key="k"))
    assert price_for(known) == price_of("openai", "gpt-4o") is not None
    assert price_for(Target(FakeListChatModel(responses=["x"]))) is None


def test_a_price_may_depend_on_the_hour(monkeypatch):
    """It is looked up again when the half hour has passed."""
    timed = [
        (provider.id, model.id)
        for provider in get_snapshot().providers
        for model in provider.models
        if isinstance(model.prices, list)
        and any(hasattr(one.constraint, "start_time") for one in model.prices)
    ]
    items = set()
    for hour in range(24):
        at = datetime(2026, 11, 20, hour, tzinfo=UTC)
        monkeypatch.setattr(prices, "time", at.timestamp)
        items.add(price_of(*timed[0]).output)
    assert len(items) > 1


def test_a_lookup_is_made_once():
    """The second one is the same object."""
    assert price_of("openai", "gpt-4o") is price_of("openai", "gpt-4o")


def test_models_are_ordered_by_a_typical_call():
    """gpt-4 is dearer than gpt-3.5-turbo, and nothing is cheaper than nothing."""
    dear, cheap = (typical_cost(price_of("openai", m)) for m in ("gpt-4", "gpt-3.5-turbo"))
    assert dear > cheap > typical_cost(FREE)


def test_no_network_is_touched(monkeypatch):
    """The library's prices are those of its release."""

    def refuse(*_, **__):
        raise AssertionError("a price was looked for in the network")

    prices._look_up.cache_clear()
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert price_of("openai", "gpt-4o-mini") is not None


def test_an_unknown_price_is_none():
    """No guess is made."""
    assert price_for(UNKNOWN) is None


def test_who_needs_an_unknown_price_is_told_how_to_give_it():
    """With the target's name and the feature's."""
    with pytest.raises(ValueError, match=r"spend_cap needs the price of openai:nobody.*price=\("):
        prices_for([Target("local"), UNKNOWN], "spend_cap")


@pytest.mark.usefixtures("_without_library")
def test_without_the_library_nothing_is_known():
    """That is no error by itself."""
    assert price_of("openai", "gpt-4") is None


@pytest.mark.usefixtures("_without_library")
def test_who_needs_the_library_is_told_which_extra():
    """Where own prices would do, that is said too."""
    with pytest.raises(ImportError, match=r"langchain-resilient\[prices\].*price=\("):
        prices_for([Target("openai:gpt-4", api_key="k")], 'order="cheapest"')


@pytest.mark.usefixtures("_without_library")
def test_own_prices_do_without_the_library():
    """And so does what is free."""
    targets = [Target("openai:gpt-4", api_key="k", price=(30, 60)), Target("local")]
    assert [p.input for p in prices_for(targets, "spend_cap").values()] == [30e-6, 0.0]

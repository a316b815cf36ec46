"""What tokens cost: the user's own prices first, else those of the library `genai-prices`.

The library (https://github.com/pydantic/genai-prices, MIT) is imported on first need, knows the
prices of its own release, and is never told to fetch newer ones: an application that wants them
runs its `UpdatePrices`, and the next lookup here sees them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from importlib.util import find_spec
from time import time
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_resilient.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_resilient.options import Target
    from langchain_resilient.receipt import AttemptRecord


MILLION = 1_000_000

_SLOT_SECONDS = 1800
"""Seconds for which a looked-up price holds: some providers' prices depend on the time of day, and
change at full and half hours."""

_FREE_PROVIDERS = frozenset({"local", "text"})
"""What runs in this process costs no money."""


class Usage(NamedTuple):
    """Tokens of one answer. The last two are parts of `input`.

    Attributes:
        input: Of the prompt.
        output: Of the answer, reasoning included.
        cached: Of the prompt, read from the provider's cache.
        written: Of the prompt, written to it.
    """

    input: int
    output: int
    cached: int = 0
    written: int = 0


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs, in dollars per token.

    Attributes:
        input: For a token of the prompt.
        output: For a token of the answer.
        cached_input: For a token of the prompt that was read from the provider's cache.
        written_input: For a token of the prompt that was written to it.
        request: Dollars for each request, beside its tokens.
        context_window: The most tokens that the model takes, where that is known.
        tiers: `(start, price)`, rising: a prompt of more than `start` tokens is charged at that
            price throughout, the answer too. Estimates may leave them aside.
    """

    input: float
    output: float
    cached_input: float
    written_input: float
    request: float = 0.0
    context_window: int | None = None
    tiers: tuple[tuple[int, Price], ...] = ()

    @property
    def free(self) -> bool:
        """Whether nothing is ever paid."""
        return not (self.input or self.output or self.request)


FREE = Price(0.0, 0.0, 0.0, 0.0)


def cost(price: Price, usage: Usage) -> float:
    """Dollars for one answer.

    Args:
        price: Of the model that gave it.
        usage: Its tokens.

    Example:
        ```python
        cost(price_of("openai", "gpt-6-luna"), Usage(input=1000, output=100))  # 0.00015
        ```
    """
    for start, tier in reversed(price.tiers):
        if usage.input > start:
            price = tier
            break
    fresh = max(0, usage.input - usage.cached - usage.written)
    return (
        price.request
        + fresh * price.input
        + usage.cached * price.cached_input
        + usage.written * price.written_input
        + usage.output * price.output
    )


def attempt_cost(record: AttemptRecord, price: Price | None, prompt_tokens: int) -> float:
    """Dollars that an attempt cost, as far as one can tell.

    Neither OpenAI nor Together says whether a request that was closed early is billed, so it counts
    as billed: its prompt, and the answer as far as it was received. A refusal counts nothing.

    Args:
        record: The attempt.
        price: Of its target; None, where it is not known, counts nothing.
        prompt_tokens: What its prompt has, if its provider did not say.
    """
    if price is None or price.free or was_refused(record):
        return 0.0
    dollars = cost(
        price,
        Usage(
            input=prompt_tokens if record.input_tokens is None else record.input_tokens,
            output=record.output_tokens or 0,
            cached=record.cached_tokens or 0,
            written=record.written_tokens or 0,
        ),
    )
    return dollars * (1.0 - record.discount) if record.discount else dollars


def was_refused(record: AttemptRecord) -> bool:
    """Whether an attempt ended before anything was done for it that could be billed."""
    fault = record.fault
    return (
        fault is not None
        and (fault.status is not None or not fault.traits.billable)
        and not record.input_tokens
        and not record.output_tokens
    )


def typical_cost(price: Price) -> float:
    """Dollars for 3,000 tokens of prompt and 1,000 of answer: one number to order models by."""
    return cost(price, Usage(input=3000, output=1000))


def price_of(provider: str, model: str, base_url: str | None = None) -> Price | None:
    """Look up what a model costs at a provider; cached for half an hour.

    Args:
        provider: As in a target, or any name that `genai-prices` knows.
        model: The model's id there.
        base_url: Where the provider's API is spoken, if elsewhere: a provider that is known by this
            address goes before `provider`.

    Returns:
        None where it is not known, or the library is not installed.

    Example:
        ```python
        price_of("together", "openai/gpt-oss-120b").input * 1_000_000  # 0.15
        ```
    """
    if provider in _FREE_PROVIDERS:
        return FREE
    from langchain_resilient.providers.servers import BY_NAME  # noqa: PLC0415  # keeps import light

    server = BY_NAME.get(provider)
    if server is not None:
        if server.price_name is None:
            return FREE
        provider = server.price_name or provider
    return _look_up(provider, model, base_url, int(time() // _SLOT_SECONDS))


def price_for(target: Target) -> Price | None:
    """What a target costs: its own `price`, else what the library says; None if nobody knows.

    A LangChain model as a target is looked up under the names that it gives LangSmith.
    """
    if target.price is not None:
        given, made = (dollars / MILLION for dollars in target.price)
        return Price(given, made, cached_input=given, written_input=given)
    if target.runnable is not None:
        names = _langsmith_names(target.runnable)
        return price_of(*names) if names else None
    from langchain_resilient.providers.families import current_model  # noqa: PLC0415  # as above

    return price_of(target.provider, current_model(target), target.base_url)


_BATCH_DISCOUNT = 0.5

_DISCOUNTED_AT_TOGETHER = frozenset(
    {"meta-llama/Llama-3.3-70B-Instruct-Turbo", "meta-llama/Llama-3-70b-chat-hf",
     "Qwen/Qwen2.5-7B-Instruct-Turbo", "mistralai/Mixtral-8x7B-Instruct-v0.1",
     "zai-org/GLM-4.5-Air-FP8"}
)  # fmt: skip
"""As its page on batches listed them in November 2026; others cost what they always cost."""


def batch_discount(target: Target) -> float:
    """The share of a target's price that its provider's batches save, from 0 to 1.

    Example:
        ```python
        batch_discount(Target("openai:gpt-6-luna"))  # 0.5
        ```
    """
    if target.batch_discount is not None:
        return target.batch_discount
    if target.provider == "together":
        return _BATCH_DISCOUNT if target.model in _DISCOUNTED_AT_TOGETHER else 0.0
    return _BATCH_DISCOUNT if target.provider == "openai" else 0.0


def prices_for(targets: Iterable[Target], feature: str) -> dict[str, Price]:
    """Find the prices that a feature cannot do without.

    The first call loads the library's data, which takes about a tenth of a second: not for a loop.

    Args:
        targets: Those that may be asked.
        feature: What needs them, for the message, e.g. `"spend_cap"`.

    Returns:
        The price of each, by the target's name.

    Raises:
        MissingExtraError: If the library is needed and not installed; names the extra.
        ValueError: If the price of a target is not known; says how to give it.
    """
    prices = {target.name: price_for(target) for target in targets}
    unknown = [name for name, price in prices.items() if price is None]
    if unknown and find_spec("genai_prices") is None:
        msg = (
            f"{feature} needs prices: pip install 'langchain-resilient[prices]', or give each "
            f"target its own, Target(..., price=(input, output)) in dollars per million tokens"
        )
        raise MissingExtraError(msg)
    if unknown:
        msg = (
            f"{feature} needs the price of {', '.join(unknown)}, which is not known: give it as "
            "Target(..., price=(input, output)) in dollars per million tokens"
        )
        raise ValueError(msg)
    return {name: price for name, price in prices.items() if price is not None}


@lru_cache(maxsize=4096)
def _look_up(provider: str, model: str, base_url: str | None, slot: int) -> Price | None:
    at = datetime.fromtimestamp(slot * _SLOT_SECONDS, UTC)
    by_address = _ask({"provider_api_url": base_url}, model, at) if base_url else None
    return by_address or _ask({"provider_id": provider}, model, at)


def _ask(where: dict[str, Any], model: str, at: datetime) -> Price | None:
    try:
        import genai_prices  # noqa: PLC0415  # on first need

        calculation = genai_prices.calc_price(
            genai_prices.Usage(), model, genai_request_timestamp=at, **where
        )
    except (ImportError, LookupError):
        return None
    return _as_price(calculation.model_price, calculation.model.context_window)


def _as_price(model_price: Any, window: int | None) -> Price | None:
    if model_price.input_mtok is None and model_price.output_mtok is None:
        return None
    per_token = (
        model_price.input_mtok,
        model_price.output_mtok,
        model_price.cache_read_mtok,
        model_price.cache_write_mtok,
    )
    starts = {tier.start for price in per_token for tier in getattr(price, "tiers", ())}
    # The library charges a tier's price to prompts of more tokens than its start.
    tiers = tuple((start, _level(model_price, start + 1)) for start in sorted(starts))
    return replace(_level(model_price, 0), context_window=window, tiers=tiers)


def _level(model_price: Any, tokens: int) -> Price:
    """What is charged where the prompt has so many tokens."""
    given = _dollars(model_price.input_mtok, tokens) or 0.0
    read, written = (
        _dollars(x, tokens) for x in (model_price.cache_read_mtok, model_price.cache_write_mtok)
    )
    return Price(
        input=given,
        output=_dollars(model_price.output_mtok, tokens) or 0.0,
        cached_input=given if read is None else read,
        written_input=given if written is None else written,
        request=float(model_price.requests_kcount or 0) / 1000,
    )


def _dollars(per_million: Any, tokens: int) -> float | None:
    """Dollars per token, from the library's dollars per million, with or without tiers."""
    if per_million is None:
        return None
    for tier in reversed(getattr(per_million, "tiers", ())):
        if tokens > tier.start:
            return float(tier.price) / MILLION
    return float(getattr(per_million, "base", per_million)) / MILLION


def _langsmith_names(runnable: Any) -> tuple[str, str] | None:
    params: dict[str, Any] = getattr(runnable, "_get_ls_params", dict)()
    provider, model = params.get("ls_provider"), params.get("ls_model_name")
    return (provider, model) if provider and model else None

"""Takes a chain of LangChain's `with_fallbacks` apart: what it is as fields of our model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable, RunnableBinding, RunnableWithFallbacks
from langchain_core.runnables.retry import RunnableRetry

from langchain_resilient.options import Target
from langchain_resilient.policies import TimeLimits
from langchain_resilient.sampling import SAMPLING_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from langchain_resilient.faults import Fault

_SAME = frozenset({*SAMPLING_FIELDS, "model_kwargs", "default_headers", "default_query"})
"""Fields of `ChatOpenAI` that a target has under the same name."""

_RENAMED = {
    "openai_api_key": "api_key",
    "openai_api_base": "base_url",
    "openai_organization": "organization",
}

_NOT_OURS = frozenset(
    {"async_client", "cache", "client", "max_retries", "metadata", "model_name", "name", "profile",
     "request_timeout", "root_async_client", "root_client", "stream_chunk_timeout", "streaming",
     "use_responses_api", "verbose"}
)  # fmt: skip
"""What it makes for itself, what is policy of the whole chain here, and what is read apart."""


@dataclass(frozen=True)
class RaisedAs:
    """Whether a fault is one of these exceptions: `exceptions_to_handle`, as a `fallback_on`.

    What no exception stands behind, such as a late answer, always counts.
    """

    kinds: tuple[type[BaseException], ...]

    def __call__(self, fault: Fault) -> bool:
        """Say whether another target is asked."""
        return fault.cause is None or isinstance(fault.cause, self.kinds)


def fields_of(chain: Runnable[Any, Any]) -> dict[str, Any]:
    """Say what a chain is as fields of `ResilientChatModel`.

    Args:
        chain: What `with_fallbacks` returned, or a model, with or without `with_retry`.

    Raises:
        ValueError: If it holds what belongs after the model: bound tools, a schema, a config.
    """
    fields: dict[str, Any] = {}
    models: list[Any] = []
    for member, bound in _members(chain, {}, fields):
        target = _as_target(member, bound)
        if getattr(member, "streaming", False):
            fields["streaming"] = True
        if all(target != other for other in models):  # a target is retried by itself
            models.append(target)
    last = models[-1].runnable
    if len(models) > 1 and last is not None and not isinstance(last, BaseChatModel):
        fields["last_resort"] = models.pop()
    return {**fields, "targets": models}


def _members(
    chain: Any, bound: Mapping[str, Any], fields: dict[str, Any]
) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Walk the members in their order, with what is bound to them; note what holds for all."""
    if isinstance(chain, RunnableWithFallbacks):
        if chain.exception_key is not None:
            msg = "exception_key has no equivalent: an answer's receipt says what failed before it"
            raise ValueError(msg)
        if chain.exceptions_to_handle != (Exception,):
            fields["fallback_on"] = RaisedAs(tuple(chain.exceptions_to_handle))
        for member in (chain.runnable, *chain.fallbacks):
            yield from _members(member, bound, fields)
    elif isinstance(chain, RunnableBinding | RunnableRetry):
        if isinstance(chain, RunnableRetry):
            retries = chain.max_attempt_number - 1
            fields["max_retries"] = max(retries, fields.get("max_retries", 0))
        if other := [name for name in chain.kwargs if name not in _SAME]:
            raise ValueError(_after(f"what is bound to a model of it ({', '.join(other)})"))
        if chain.config or chain.config_factories:
            raise ValueError(_after("the config of a model of it"))
        yield from _members(chain.bound, {**bound, **chain.kwargs}, fields)
    elif callable(getattr(chain, "ainvoke", None)) and not hasattr(chain, "steps"):
        yield chain, bound
    else:
        what = "a sequence" if hasattr(chain, "steps") else type(chain).__name__
        raise ValueError(_after(what))


def _after(what: str) -> str:
    return (
        f"from_fallbacks takes chat models, with or without with_retry, not {what}: give it the "
        "models alone, and call bind_tools, with_structured_output, with_config or | on what it "
        "returns, once for all of them"
    )


def _as_target(model: Any, bound: Mapping[str, Any]) -> Target:
    """Make a target of a model: one of ours if all that is set has an equivalent, else as it is."""
    ours = _ours(model)
    return Target(model, **bound) if ours is None else Target(**{**ours, **bound})


def _ours(model: Any) -> dict[str, Any] | None:
    kind = type(model)
    if kind.__name__ != "ChatOpenAI" or not kind.__module__.startswith("langchain_openai."):
        return None  # classes that derive from it are of other providers
    fields: dict[str, Any] = {"provider": "openai", "model": model.model_name}
    for name in model.model_fields_set - _NOT_OURS:
        value = getattr(model, name)
        if value is None or value == {} or (name == "stream_usage" and value):
            continue  # as it is with us anyway
        if name not in _SAME and name not in _RENAMED:
            return None
        fields[_RENAMED.get(name, name)] = value
    timeout = model.request_timeout
    if isinstance(timeout, int | float):
        connect = min(timeout, TimeLimits().connect or timeout)
        fields["time_limits"] = TimeLimits(connect=connect, first_text=timeout, chunk_gap=timeout)
    elif timeout is not None:
        return None
    if model.use_responses_api is not None:
        fields["api"] = "responses" if model.use_responses_api else "chat"
    return fields

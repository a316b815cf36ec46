"""The annotations of the public API can be evaluated, as LangChain and others do."""

from __future__ import annotations

import inspect
import typing
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.runnables import RunnableWithFallbacks
from pydantic import BaseModel

import langchain_resilient
from langchain_resilient import ResilientChatModel, exchange, providers, testing


def _functions(name: str, value: Any) -> list[tuple[str, Any]]:
    """A public object, and the functions that a public class has from this package."""
    if not inspect.isclass(value):
        return [(name, value)] if inspect.isfunction(value) else []
    found: list[tuple[str, Any]] = [(name, value)]
    for attribute in dir(value):
        if attribute.startswith("_") and attribute not in ("__init__", "__call__"):
            continue
        member = inspect.getattr_static(value, attribute)
        member = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
        if inspect.isfunction(member) and member.__module__.startswith("langchain_resilient"):
            found.append((f"{name}.{attribute}", member))
    return found


PUBLIC = [
    pair
    for module, names in (
        (langchain_resilient, langchain_resilient.__all__),
        (testing, testing.__all__),
        (exchange, ["ChatRequest", "ChunkStream", "Provider", "RateLimitLevel", "RateLimitStatus"]),
        (providers, providers.__all__),
    )
    for name in names
    for pair in _functions(f"{module.__name__}.{name}", getattr(module, name))
]


@pytest.mark.parametrize("value", [v for _, v in PUBLIC], ids=[name for name, _ in PUBLIC])
def test_its_hints_can_be_evaluated(value):
    """Nothing in them is imported for type checkers alone."""
    typing.get_type_hints(value)


def test_the_whole_api_is_looked_at():
    """Methods included."""
    names = {name for name, _ in PUBLIC}
    assert {
        "langchain_resilient.ResilientChatModel.bind_tools",
        "langchain_resilient.sum_chunks",
        "langchain_resilient.Stats.plot",
        "langchain_resilient.testing.ProviderSimulator.script",
    } <= names


class Joke(BaseModel):
    """A schema."""

    line: str


def test_fallbacks_pass_methods_on():
    """LangChain reads the hints of a method to know whether it returns a Runnable."""
    llm = ResilientChatModel(targets=[FakeListChatModel(responses=['{"line": "ha"}'])])
    both = llm.with_fallbacks([llm])
    assert isinstance(both.bind_tools([Joke]), RunnableWithFallbacks)
    assert both.with_structured_output(Joke).invoke("hi") == Joke(line="ha")

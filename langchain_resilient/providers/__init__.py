"""The registry of providers: each implements `Provider` in its own module, loaded on first use."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, TypeVar

from langchain_resilient.exchange import Provider
from langchain_resilient.options import Target

__all__ = [
    "ProviderEntry",
    "create_provider",
    "key_for",
    "keys_for",
    "known_providers",
    "provider_entry",
    "register",
]


class ProviderFactory(Protocol):
    """Makes a `Provider` for a target. May define `classify(error) -> Fault | None` of its own."""

    def __call__(self, target: Target) -> Provider:
        """Cheap: no network, no SDK client yet."""
        ...


F = TypeVar("F")
_NAME = re.compile(r"[a-z][a-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class ProviderEntry:
    """What the registry knows about a provider before its module is loaded.

    Attributes:
        name: The word before the colon in `"openai:gpt-4o"`.
        factory: The provider class, or `"module:Class"` to import on first use.
        api_key_env: The environment variable with its key; None if it needs no key.
        base_url_env: The environment variable with another base URL; None if there is none.
        in_process: Its model runs in this process.
    """

    name: str
    factory: str | ProviderFactory
    api_key_env: str | None = None
    base_url_env: str | None = None
    in_process: bool = False


_entries: dict[str, ProviderEntry] = {
    e.name: e
    for e in (
        ProviderEntry(
            "openai",
            "langchain_resilient.providers.openai:OpenAIProvider",
            "OPENAI_API_KEY",
            "OPENAI_BASE_URL",
        ),
        ProviderEntry(
            "together",
            "langchain_resilient.providers.together:TogetherProvider",
            "TOGETHER_API_KEY",
            "TOGETHER_BASE_URL",
        ),
        ProviderEntry(
            "local", "langchain_resilient.providers.local:LocalProvider", in_process=True
        ),
        ProviderEntry("runnable", "langchain_resilient.providers.langchain:LangChainProvider"),
        ProviderEntry(
            "text", "langchain_resilient.providers.static_text:StaticTextProvider", in_process=True
        ),
    )
}


def register(
    name: str, *, api_key_env: str | None = None, base_url_env: str | None = None
) -> Callable[[F], F]:
    """Make a provider known as `"name:model"`; see `langchain_resilient.exchange`.

    Args:
        name: Lower case letters, digits, `-` and `_`; replaces any earlier provider of that name.
        api_key_env: Where its key is looked for; None if it needs none.
        base_url_env: Where another base URL is looked for.

    Raises:
        ValueError: If no target could be written with that name.

    Example:
        ```python
        @register("echo")
        class EchoProvider: ...
        ```
    """
    if not _NAME.fullmatch(name):
        msg = f"{name!r} is no provider's name: lower case letters, digits, - and _ make one"
        raise ValueError(msg)

    def add(factory: F) -> F:
        made: Any = factory
        _entries[name] = ProviderEntry(name, made, api_key_env, base_url_env)
        return factory

    return add


def known_providers() -> tuple[str, ...]:
    """Return the provider names that a target may start with, sorted."""
    return tuple(sorted(_entries))


def provider_entry(name: str) -> ProviderEntry:
    """Look a provider up.

    Raises:
        ValueError: If there is none of that name; lists those there are.
    """
    try:
        return _entries[name]
    except KeyError:
        msg = f"unknown provider {name!r}; known are {', '.join(known_providers())}"
        raise ValueError(msg) from None


def keys_for(target: Target) -> tuple[str | None, ...]:
    """Return the target's own keys, or the environment's unless it would go to another host."""
    env = provider_entry(target.provider).api_key_env
    keys: list[str] = [""]
    if isinstance(target.api_key, tuple):
        keys = [key.get_secret_value() for key in target.api_key]
    elif target.api_key is not None:
        keys = [target.api_key.get_secret_value()]
    elif env and not target.base_url:
        keys = [os.environ.get(env, "")]
    # A key that was read from a file often ends in a newline, which no header may hold.
    return tuple(key.strip() or None for key in keys)


def key_for(target: Target) -> str | None:
    """Return the first of the target's keys; None if it has none."""
    return keys_for(target)[0]


def create_provider(target: Target) -> Provider:
    """Make the provider that serves a target. Imports its module, opens nothing.

    Raises:
        ValueError: If the provider is unknown.
        ImportError: If its package is not installed; says which extra to install.
    """
    factory: Any = provider_entry(target.provider).factory
    if isinstance(factory, str):
        module, _, name = factory.partition(":")
        factory = getattr(import_module(module), name)
    made: Provider = factory(target)
    return made

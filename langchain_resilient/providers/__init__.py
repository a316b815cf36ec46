"""The registry of providers: each implements `Provider` in its own module, loaded on first use."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

from langchain_resilient.exchange import Provider
from langchain_resilient.options import Target, checked_url
from langchain_resilient.providers.families import FamilyProvider, ModelFamily
from langchain_resilient.providers.servers import SERVERS, CompatibleServer

__all__ = [
    "Address",
    "ProviderEntry",
    "address_of",
    "create_provider",
    "key_for",
    "key_variable",
    "keys_for",
    "known_providers",
    "missing_key",
    "organization_of",
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
        name: The word before the colon in `"openai:gpt-6.1-sol"`.
        factory: The provider class, or `"module:Class"` to import on first use.
        api_key_env: The environment variable with its key; None if it needs no key.
        base_url_env: The environment variables with another base URL; the first that is set counts.
        organization_env: The same for the organization.
        public_hosts: The hosts of its own API; a leading dot stands for any subdomain.
        gateway_path: Where LangSmith's gateway has its API; None if it has not.
        in_process: Its model runs in this process.
        base_url: Its address, where the provider's class does not know it.
        other_keys: More environment variables for the key, or for one that it can do without.
        endpoint_env: An environment variable with the address of an account.
        endpoint_path: Where the API is below that.
    """

    name: str
    factory: str | ProviderFactory
    api_key_env: str | None = None
    base_url_env: tuple[str, ...] = ()
    organization_env: tuple[str, ...] = ()
    public_hosts: tuple[str, ...] = ()
    gateway_path: str | None = None
    in_process: bool = False
    base_url: str | None = None
    other_keys: tuple[str, ...] = ()
    endpoint_env: str | None = None
    endpoint_path: str = ""


_GATEWAY = "LANGSMITH_GATEWAY"
_GATEWAY_URL = "https://gateway.smith.langchain.com"
_GATEWAY_KEYS = ("LANGSMITH_GATEWAY_API_KEY", "LANGSMITH_API_KEY")


_entries: dict[str, ProviderEntry] = {
    e.name: e
    for e in (
        ProviderEntry(
            "openai",
            "langchain_resilient.providers.openai:OpenAIProvider",
            "OPENAI_API_KEY",
            # As ChatOpenAI reads them: LangChain's own name, its gateway, the SDK's name.
            ("OPENAI_API_BASE", _GATEWAY, "OPENAI_BASE_URL"),
            ("OPENAI_ORG_ID", "OPENAI_ORGANIZATION"),
            public_hosts=("api.openai.com", ".api.openai.com"),
            gateway_path="openai/v1",
        ),
        ProviderEntry(
            "together",
            "langchain_resilient.providers.together:TogetherProvider",
            "TOGETHER_API_KEY",
            ("TOGETHER_API_BASE", "TOGETHER_BASE_URL"),
            ("TOGETHER_PROJECT_ID",),
            public_hosts=("api.together.ai", "api.together.xyz", "api-inference.together.ai"),
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


def _compatible(server: CompatibleServer) -> ProviderEntry:
    """Make the entry of a server that speaks OpenAI's API."""
    return ProviderEntry(
        server.name,
        f"langchain_resilient.providers.{server.served_by}",
        server.keys[0] if server.needs_key else None,
        server.base_url_env,
        public_hosts=server.hosts,
        base_url=server.base_url or None,
        other_keys=server.keys[1:] if server.needs_key else server.keys,
        endpoint_env=server.endpoint_env,
        endpoint_path=server.endpoint_path,
    )


_entries.update((server.name, _compatible(server)) for server in SERVERS)


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
        addresses = (base_url_env,) if base_url_env else ()
        _entries[name] = ProviderEntry(name, made, api_key_env, addresses)
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
        close = get_close_matches(name, _entries, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        msg = (
            f"unknown provider {name!r}{hint}; known are {', '.join(known_providers())}; a server "
            "with OpenAI's API needs no name of its own: "
            'Target("openai:model", base_url=..., api_key=...); any LangChain chat model is a '
            "target as it is; others are added with langchain_resilient.providers.register"
        )
        raise ValueError(msg) from None


class Address(NamedTuple):
    """Where a target's requests go.

    Attributes:
        url: The base URL; None for the provider's own public API.
        variable: The environment variable that says so; None if the target itself does, or nobody.
        public: Whether it is the provider's own public API.
    """

    url: str | None
    variable: str | None
    public: bool


def address_of(target: Target) -> Address:
    """Find where a target's requests go: what it says itself, else the environment.

    Raises:
        ValueError: If an environment variable holds no usable URL; names it, and never its value.
    """
    entry = provider_entry(target.provider)
    url, variable = target.base_url, None
    if not url:
        variable, value = _first_set(entry.base_url_env)
        if variable == _GATEWAY:
            gateway = _gateway_url(value)
            if gateway is None:
                after = entry.base_url_env[entry.base_url_env.index(_GATEWAY) + 1 :]
                variable, value = _first_set(after)
            else:
                value = f"{gateway}/{entry.gateway_path}"
        if variable is None and entry.endpoint_env:
            variable, value = _first_set((entry.endpoint_env,))
            if variable is not None and not value.rstrip("/").endswith(entry.endpoint_path):
                value = value.rstrip("/") + entry.endpoint_path
        if variable is None:
            return Address(entry.base_url, None, public=True)
        try:
            url = checked_url(value)
        except ValueError as error:
            msg = f"{variable} {error}"
            raise ValueError(msg) from None
    return Address(url, variable, _is_public(url, entry.public_hosts))


def _first_set(names: tuple[str, ...]) -> tuple[str | None, str]:
    """The first of some environment variables that is set, and its value."""
    return next(((name, value) for name in names if (value := os.environ.get(name))), (None, ""))


def _gateway_url(value: str) -> str | None:
    """Read `LANGSMITH_GATEWAY` as LangChain does: yes, no, or an address."""
    if value.lower() in ("false", "0", "no"):
        return None
    return _GATEWAY_URL if value.lower() in ("true", "1", "yes") else value.rstrip("/")


def _is_public(url: str, hosts: tuple[str, ...]) -> bool:
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme == "https" and any(
        host.endswith(known) if known.startswith(".") else host == known for known in hosts
    )


def organization_of(target: Target) -> str | None:
    """The target's organization or project, or the environment's unless it would go elsewhere."""
    if target.organization or target.base_url:
        return target.organization
    return _first_set(provider_entry(target.provider).organization_env)[1] or None


def key_variable(target: Target) -> str | None:
    """The environment variable that a target's key is read from; None if it needs no key.

    Where none is set, the one that is usual.
    """
    env = provider_entry(target.provider).api_key_env
    if env and address_of(target).variable == _GATEWAY:
        return _first_set(_GATEWAY_KEYS)[0] or env
    if env and (others := provider_entry(target.provider).other_keys):
        return _first_set((env, *others))[0] or env
    return env


def keys_for(target: Target) -> tuple[str | None, ...]:
    """Return the target's own keys, or the environment's unless it would go to another host."""
    keys: list[str] = [""]
    if isinstance(target.api_key, tuple):
        keys = [key.get_secret_value() for key in target.api_key]
    elif callable(target.api_key):
        keys = [f"from function {id(target.api_key)}"]  # each function is an account of its own
    elif target.api_key is not None:
        keys = [target.api_key.get_secret_value()]
    elif not target.base_url or address_of(target).public:
        env = key_variable(target)
        names = (env,) if env else provider_entry(target.provider).other_keys
        keys = [_first_set(names)[1]]
    return tuple(bare_key(key) or None for key in keys)


def bare_key(key: str) -> str:
    """Take away what surrounds a key that was read from a file: white space, a byte order mark."""
    return key.strip().strip("\ufeff").strip()


def key_for(target: Target) -> str | None:
    """Return the first of the target's keys; None if it has none."""
    return keys_for(target)[0]


def missing_key(target: Target) -> str | None:
    """Return the environment variable to set for a target that has no key and needs one."""
    if target.base_url and not address_of(target).public:
        return None  # many compatible servers need none
    variable = key_variable(target)
    return variable if variable and key_for(target) is None else None


def create_provider(target: Target) -> Provider:
    """Make the provider that serves a target. Imports its module, opens nothing.

    Raises:
        ValueError: If the provider is unknown, or lacks the API that the target asks for.
        ImportError: If its package is not installed; says which extra to install.
    """
    factory: Any = provider_entry(target.provider).factory
    if isinstance(factory, str):
        module, _, name = factory.partition(":")
        factory = getattr(import_module(module), name)
    if target.api == "responses" and not getattr(factory, "speaks_responses", False):
        msg = f"{target.name}: its provider has no Responses API; leave out api={target.api!r}"
        raise ValueError(msg)
    if target.successors:
        return FamilyProvider(target, factory)
    made: Any = factory(target)
    if (directory := getattr(made, "directory", None)) is not None:
        made.family = ModelFamily(target, directory)
    provider: Provider = made
    return provider

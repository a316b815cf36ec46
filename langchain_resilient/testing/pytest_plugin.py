"""Fixtures for pytest: a simulator that runs for one test.

Example:
    ```python
    # conftest.py
    pytest_plugins = ["langchain_resilient.testing.pytest_plugin"]
    ```
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from langchain_resilient.testing.simulator import ProviderSimulator

_ADDRESSES = {
    # LangChain reads the first two in another order than the SDK.
    "OPENAI_API_BASE": "openai",
    "OPENAI_BASE_URL": "openai",
    "TOGETHER_API_BASE": "together",
    "TOGETHER_BASE_URL": "together",
}
_KEYS = ("OPENAI_API_KEY", "TOGETHER_API_KEY")


@pytest.fixture
def provider_simulator() -> Iterator[ProviderSimulator]:
    """A simulator that listens on loopback until the test is over.

    Example:
        ```python
        def test_a_limited_provider(provider_simulator):
            provider_simulator.script("openai:*", then=RateLimited(2))
            url = provider_simulator.base_url("openai")
        ```
    """
    with ProviderSimulator() as simulator:
        yield simulator


@pytest.fixture
def simulated_providers(
    provider_simulator: ProviderSimulator, monkeypatch: pytest.MonkeyPatch
) -> ProviderSimulator:
    """The same, and the environment sends every client there that goes by it, with keys of no use.

    For applications that make their models themselves.

    Example:
        ```python
        def test_the_application(simulated_providers):
            simulated_providers.script("openai:*", then=Status(500))
            assert my_application.answer("Hello")
        ```
    """
    for variable, provider in _ADDRESSES.items():
        monkeypatch.setenv(variable, provider_simulator.base_url(provider))
    for variable in _KEYS:
        monkeypatch.setenv(variable, "simulated")
    return provider_simulator

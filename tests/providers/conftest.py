"""Fixtures: a simulator on the test's own loop, and no keys of the machine's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from langchain_resilient.testing import ProviderSimulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def sim() -> AsyncIterator[ProviderSimulator]:
    """A simulator that runs while the test does."""
    async with ProviderSimulator() as simulator:
        yield simulator


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide what this machine may have set for the providers."""
    for vendor in ("OPENAI", "TOGETHER"):
        for name in (
            "API_KEY", "BASE_URL", "API_BASE", "ORG_ID", "ORGANIZATION", "PROJECT_ID",
            "CUSTOM_HEADERS",
        ):  # fmt: skip
            monkeypatch.delenv(f"{vendor}_{name}", raising=False)
    for name in ("LANGSMITH_GATEWAY", "LANGSMITH_GATEWAY_API_KEY", "LANGSMITH_API_KEY"):
        monkeypatch.delenv(name, raising=False)

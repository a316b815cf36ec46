"""Fixtures: a simulator on the test's own loop."""

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

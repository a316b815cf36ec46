"""The providers of these tests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from langchain_resilient.runtime.shared_state import loop_reaper
from langchain_resilient.testing import ProviderSimulator
from tests.streaming.stories import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    """A simulator whose targets are all healthy, until a test says otherwise."""
    with ProviderSimulator() as simulator:
        yield simulator


@pytest.fixture
async def loop_is_left_empty() -> AsyncIterator[None]:
    """After the test nothing of a stream runs on its loop any more."""
    before = asyncio.all_tasks()
    yield
    assert await loop_reaper().drain() == 0
    await until(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()})

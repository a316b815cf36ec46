"""A fresh process memory, a simulator, and ears for everything that is logged."""

from __future__ import annotations

import io
import logging
import warnings
from typing import TYPE_CHECKING

import pytest

from langchain_resilient.runtime.shared_state import reset
from langchain_resilient.testing import ProviderSimulator

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No test learns from another."""
    reset(0)
    yield
    reset(0)


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    """A simulator on loopback."""
    with ProviderSimulator() as simulator:
        yield simulator


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Everything that any logger says, from DEBUG on, and every warning."""
    heard, root = io.StringIO(), logging.getLogger()
    handler, before = logging.StreamHandler(heard), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    loggers = ("openai", "together", "httpx", "httpx2", "httpcore", "httpcore2", "aiohttp",
               "asyncio", "langchain_resilient")  # fmt: skip
    for name in loggers:
        logging.getLogger(name).setLevel(logging.DEBUG)
    logging.captureWarnings(capture=True)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        yield heard
    logging.captureWarnings(capture=False)
    for name in loggers:
        logging.getLogger(name).setLevel(logging.NOTSET)
    root.removeHandler(handler)
    root.setLevel(before)

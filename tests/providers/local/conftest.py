"""The embedded model, loaded once for all tests; it is fetched into the user's cache folder."""

from __future__ import annotations

import importlib.util

import pytest

from langchain_resilient.providers.local import preload, unload
from langchain_resilient.providers.local.model import get_model
from langchain_resilient.providers.local.weights import WeightsError, ensure_weights


@pytest.fixture(scope="session")
def model():
    """The embedded model, loaded."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip('xllamacpp is not installed: pip install "langchain-resilient[local]"')
    try:
        ensure_weights()
    except WeightsError as error:
        pytest.skip(f"no weights: {error}")
    preload()
    yield get_model("")
    unload()

"""What the standard suites share."""

from __future__ import annotations

import pytest

from tests.standard import media


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite fetches its pictures, papers and sounds from the web; here they are made."""
    monkeypatch.setattr("httpx.get", media.get)
    monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "langchain-resilient")

"""What a prompt mentions."""

from __future__ import annotations

from langchain_resilient.testing.prompt_entities import PromptEntities


def test_an_apostrophe_quotes_nothing() -> None:
    """Only marks around words do."""
    assert PromptEntities("What's Bob's age, and 'x y'?").quoted == ["x y"]

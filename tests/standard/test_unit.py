"""LangChain's own unit suite for chat models."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_tests.unit_tests import ChatModelUnitTests

from langchain_resilient import ResilientChatModel


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some tests of the suite make the model without any key."""
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    monkeypatch.setenv("TOGETHER_API_KEY", "test")


class TestUnit(ChatModelUnitTests):
    """Every test of the suite; `test_serdes` skips itself.

    LangChain's `load` admits only classes of its own tree, so the model says of itself that it is
    not serialisable, and the suite respects that.
    """

    @property
    def chat_model_class(self) -> type[ResilientChatModel]:
        return ResilientChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"targets": ["openai:gpt-4"]}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return (
            {"OPENAI_API_KEY": "from-env", "TOGETHER_API_KEY": "from-env"},
            {},
            {"api_key": None},
        )


class TestUnitv1(TestUnit):
    """The same with LangChain's content blocks."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"targets": ["openai:gpt-4"], "output_version": "v1"}

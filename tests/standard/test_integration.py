"""LangChain's integration suite, over real sockets, against the simulator in both dialects.

Each dialect four times: as it is, with `output_version="v1"`, and both again with every sync method
going through the async ones. OpenAI's both APIs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from langchain_resilient import Target
from langchain_resilient.testing import ProviderSimulator
from tests.standard.suite import OnlyAsync, Suite
from verification.cassettes.recording import MODELS

if TYPE_CHECKING:
    from collections.abc import Iterator

_bases: dict[str, str] = {}


@pytest.fixture(scope="module", autouse=True)
def simulator() -> Iterator[ProviderSimulator]:
    """One simulator for the whole module."""
    with ProviderSimulator() as sim:
        _bases.update({dialect: sim.base_url(dialect) for dialect in MODELS})
        yield sim


class AtTheSimulator(Suite):
    """Where the targets are."""

    def target(self) -> Target:
        return Target(f"{self.dialect}:{MODELS[self.dialect]}", base_url=_bases[self.dialect])


class TestOpenAI(AtTheSimulator):
    """As it is."""

    dialect = "openai"


class TestOpenAIv1(TestOpenAI):
    """With LangChain's content blocks."""

    version = "v1"


class TestOpenAIAsync(TestOpenAI):
    """Through the async methods."""

    face = OnlyAsync


class TestOpenAIv1Async(TestOpenAIAsync):
    """With content blocks, through the async methods."""

    version = "v1"


class TestResponses(TestOpenAI):
    """By OpenAI's Responses API."""

    def target(self) -> Target:
        return super().target().model_copy(update={"api": "responses"})

    @property
    def supports_audio_inputs(self) -> bool:
        return False  # the API takes none

    @property
    def supports_pdf_tool_message(self) -> bool:
        return True

    @property
    def enable_vcr_tests(self) -> bool:
        return False  # there are cassettes of chat completions alone


class TestResponsesv1(TestResponses):
    """With LangChain's content blocks."""

    version = "v1"


class TestResponsesAsync(TestResponses):
    """Through the async methods."""

    face = OnlyAsync


class TestResponsesv1Async(TestResponsesAsync):
    """With content blocks, through the async methods."""

    version = "v1"


class TestTogether(AtTheSimulator):
    """As it is."""

    dialect = "together"


class TestTogetherv1(TestTogether):
    """With LangChain's content blocks."""

    version = "v1"


class TestTogetherAsync(TestTogether):
    """Through the async methods."""

    face = OnlyAsync


class TestTogetherv1Async(TestTogetherAsync):
    """With content blocks, through the async methods."""

    version = "v1"

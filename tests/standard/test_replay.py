"""LangChain's integration suite without any server: replayed from `cassettes/`, in both dialects.

The targets are the providers' public APIs, so the requests are those that go there. One set of
cassettes serves all four ways to run it: neither `output_version` nor the async methods may change
a request, and a request that is not in the cassette fails its test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from langchain_resilient import Target
from langchain_resilient.providers.openai import OpenAIProvider
from langchain_resilient.providers.sdk import SDKProvider
from langchain_resilient.providers.together import TogetherProvider
from langchain_resilient.testing import ProviderSimulator
from tests.standard.suite import OnlyAsync, Suite
from verification.cassettes.recording import KEYS, MODELS, counted, from_live
from verification.cassettes.sources import source_of

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.vcr
PATHS = {"openai": "/chat/completions", "together": "/v1/chat/completions"}


@pytest.fixture(autouse=True)
def _answered(
    request: pytest.FixtureRequest, record_mode: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Nobody is there to answer; while recording the simulator is, or the provider itself."""
    dialect = request.cls.dialect
    if record_mode != "none" and from_live(dialect):
        monkeypatch.setattr(SDKProvider, "open", counted)
        yield
        return
    monkeypatch.setenv(KEYS[dialect], "for-nobody")
    for variable in ("OPENAI_BASE_URL", "TOGETHER_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    if record_mode == "none":
        yield
        return
    with ProviderSimulator() as sim:
        provider = {"openai": OpenAIProvider, "together": TogetherProvider}[dialect]
        monkeypatch.setattr(provider, "public_url", sim.base_url(dialect) + PATHS[dialect])
        yield


class Recorded(Suite):
    """The public APIs themselves, or what was recorded in their place."""

    def target(self) -> Target:
        return Target(f"{self.dialect}:{MODELS[self.dialect]}")

    @property
    def chat_model_params(self) -> dict[str, Any]:
        # A request that is in no cassette shall fail at once.
        return {**super().chat_model_params, "max_retries": 0}

    @property
    def supports_audio_inputs(self) -> bool:
        # The simulated models hear; these two, in truth, do not.
        return source_of(self.dialect).get("kind") != "live" and not from_live(self.dialect)


class TestOpenAI(Recorded):
    """As it is; these are recorded."""

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


class TestTogether(Recorded):
    """As it is; these are recorded."""

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

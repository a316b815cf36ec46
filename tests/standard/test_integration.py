"""LangChain's own integration suite, over real sockets, against the simulator in both dialects.

The capability switches are those that OpenAI's own integration turns on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests

from langchain_resilient import ResilientChatModel, Target
from langchain_resilient.portal import portal
from langchain_resilient.providers.clients import close_clients
from langchain_resilient.testing import ProviderSimulator
from tests.standard import media

if TYPE_CHECKING:
    from collections.abc import Iterator

_bases: dict[str, str] = {}


@pytest.fixture(scope="module", autouse=True)
def simulator() -> Iterator[ProviderSimulator]:
    """One simulator for the whole module."""
    with ProviderSimulator() as sim:
        _bases.update({d: sim.base_url(d) for d in ("openai", "together")})
        yield sim


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite fetches its pictures, papers and sounds from the web; here they are made."""
    monkeypatch.setattr("httpx.get", media.get)
    monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "langchain-resilient")


@pytest.fixture(autouse=True)
def _transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cassettes of vcrpy before 9 lose the headers of aiohttp's responses."""
    if request.node.get_closest_marker("vcr"):
        monkeypatch.setenv("LANGCHAIN_RESILIENT_TRANSPORT", "httpx")
        portal().run(close_clients())


class _Suite(ChatModelIntegrationTests):
    spec = ""

    @property
    def chat_model_class(self) -> type[ResilientChatModel]:
        return ResilientChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        dialect = self.spec.partition(":")[0]
        return {"targets": [Target(self.spec, base_url=_bases[dialect])]}

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_urls(self) -> bool:
        return True

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def supports_audio_inputs(self) -> bool:
        return True

    @property
    def supports_image_tool_message(self) -> bool:
        return True

    @property
    def enable_vcr_tests(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return self.spec.partition(":")[2]

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> Any:
        llm = ResilientChatModel(
            **self.chat_model_params, model_kwargs={"reasoning_effort": "medium"}
        )
        return _ask(
            llm, "explain the relationship between the 2008/9 economic crisis", stream=stream
        )

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> Any:
        llm = ResilientChatModel(**self.chat_model_params)
        prompt = "word " * 2000
        llm.invoke(prompt)
        return _ask(llm, prompt, stream=stream)


def _ask(llm: ResilientChatModel, prompt: str, *, stream: bool) -> Any:
    if not stream:
        return llm.invoke(prompt)
    whole: Any = None
    for chunk in llm.stream(prompt):
        whole = chunk if whole is None else whole + chunk
    return whole


class TestOpenAIDialect(_Suite):
    """Through the openai SDK."""

    spec = "openai:gpt-4o-mini"

    @property
    def supports_pdf_inputs(self) -> bool:
        return True

    @property
    def supported_usage_metadata_details(self) -> dict[str, list[str]]:
        return {"invoke": ["reasoning_output", "cache_read_input"], "stream": []}


class TestTogetherDialect(_Suite):
    """Through the together SDK; its API takes no PDF and reports no details of usage."""

    spec = "together:Qwen/Qwen2.5-7B-Instruct-Turbo"

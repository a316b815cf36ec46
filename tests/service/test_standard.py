"""LangChain's integration suite with its own class for OpenAI, which asks the service.

What the suite finds wrong would be wrong for every client: tools, streams, structured output,
images, files, sounds, token counts.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("starlette", reason="needs the extra `serve`")
pytest.importorskip("uvicorn", reason="needs the extra `serve`")
pytest.importorskip("prometheus_client", reason="needs the extra `serve`")

from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

from langchain_resilient.testing import ProviderSimulator, Status
from tests.service.serving import model, served
from tests.standard import media

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "openai:gpt-6.1-sol"
_at: dict[str, str] = {}


@pytest.fixture(scope="module", autouse=True)
def _services() -> Iterator[None]:
    """One over a model that hears and sees; one that falls back to it with every request."""
    with ProviderSimulator() as sim:
        sim.script("together:dead", then=Status(500))
        fallback = model(sim, "together:dead", MODEL, health=None)
        over = {
            "healthy": model(sim, MODEL),
            "broken": fallback,
            "chat": model(sim, "openai:gpt-4.1", api="chat"),
            "responses": model(sim, MODEL, api="responses"),
        }
        with ExitStack() as stack:
            for name, llm in over.items():
                url = stack.enter_context(served(llm, receipts=name == "healthy"))
                _at[name] = f"{url}/v1"
            yield


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite fetches its pictures, papers and sounds from the web; here they are made."""
    monkeypatch.setattr("httpx.get", media.get)
    monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "langchain-resilient")


class TestChatOpenAI(ChatModelIntegrationTests):
    """By chat completions."""

    service = "healthy"

    @property
    def chat_model_class(self) -> type[ChatOpenAI]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": "resilient",
            "base_url": _at[self.service],
            "api_key": "none",
            "stream_usage": True,
            "max_retries": 0,
            # It keeps connections for all loops; each test has a loop of its own.
            "default_headers": {"connection": "close"},
        }

    @property
    def model_override_value(self) -> str:
        return MODEL.partition(":")[2]

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
    def supports_pdf_inputs(self) -> bool:
        return True

    @property
    def supported_usage_metadata_details(self) -> dict[str, list[str]]:
        return {"invoke": ["reasoning_output", "cache_read_input"], "stream": []}

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> Any:
        llm = ChatOpenAI(**self.chat_model_params, reasoning_effort="medium")
        return _ask(llm, "explain the 2008/9 economic crisis", stream=stream)

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> Any:
        llm = ChatOpenAI(**self.chat_model_params)
        prompt = "word " * 2000
        llm.invoke(prompt)
        return _ask(llm, prompt, stream=stream)


LONG = pytest.mark.skipif(
    not os.environ.get("LANGCHAIN_RESILIENT_LONG"), reason="long: it runs with make service"
)


@LONG
class TestChatOpenAIWithFallback(TestChatOpenAI):
    """The first target fails each time, and no test can tell."""

    service = "broken"


class TestResponses(TestChatOpenAI):
    """By the Responses API, over a target that has it not: all is translated, twice."""

    service = "chat"
    model_override_value = "gpt-4.1"

    @property
    def chat_model_params(self) -> dict[str, Any]:
        params = super().chat_model_params
        del params["stream_usage"]
        return {**params, "use_responses_api": True}

    @property
    def supports_audio_inputs(self) -> bool:
        return False  # the API takes none

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> Any:
        llm = ChatOpenAI(**self.chat_model_params, reasoning={"effort": "medium"})
        return _ask(llm, "explain the 2008/9 economic crisis", stream=stream)


@LONG
class TestResponsesOverResponses(TestResponses):
    """Over a target that has it."""

    service = "responses"
    model_override_value = "gpt-6.1-sol"


def _ask(llm: ChatOpenAI, prompt: str, *, stream: bool) -> Any:
    if not stream:
        return llm.invoke(prompt)
    whole: Any = None
    for chunk in llm.stream(prompt):
        whole = chunk if whole is None else whole + chunk
    return whole

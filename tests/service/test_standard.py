"""LangChain's integration suite with its own class for OpenAI, which asks the service.

What the suite finds wrong would be wrong for every client: tools, streams, structured output,
images, files, sounds, token counts.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

pytest.importorskip("starlette", reason="needs the extra `serve`")
pytest.importorskip("uvicorn", reason="needs the extra `serve`")
pytest.importorskip("prometheus_client", reason="needs the extra `serve`")

from langchain_openai import ChatOpenAI

from langchain_resilient.testing import ProviderSimulator, Status
from tests.service.serving import model, served
from tests.standard import media
from tests.standard.suite import Abilities

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


class TestChatOpenAI(Abilities):
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
    supports_audio_inputs = False  # the API takes none
    reasoning_params: ClassVar[Any] = {"reasoning": {"effort": "medium"}}

    @property
    def chat_model_params(self) -> dict[str, Any]:
        params = super().chat_model_params
        del params["stream_usage"]
        return {**params, "use_responses_api": True}


@LONG
class TestResponsesOverResponses(TestResponses):
    """Over a target that has it."""

    service = "responses"
    model_override_value = "gpt-6.1-sol"

"""How the recording programs reach live providers and the embedded model."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING
from unittest.mock import patch

from langchain_resilient.providers.local import model
from langchain_resilient.providers.local.weights import ensure_weights
from langchain_resilient.providers.sdk import SDKProvider

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_resilient.exchange import ChatRequest, ChunkStream


MODELS = {"openai": "gpt-4o-mini", "together": "Qwen/Qwen2.5-7B-Instruct-Turbo"}
"""The model that is recorded of each provider."""

KEYS = {"openai": "OPENAI_API_KEY", "together": "TOGETHER_API_KEY"}
LIVE = "RESILIENT_RECORD_LIVE"
"""Names the dialects, with commas, that are recorded from the live providers (`make record`)."""

MAX_LIVE_CALLS = 150
"""Requests to one live provider in one recording. The suite needs about 90."""

_calls: Counter[str] = Counter()


def from_live(dialect: str) -> bool:
    """Whether this dialect is being recorded from the provider itself."""
    return dialect in os.environ.get(LIVE, "").split(",")


class TooManyCallsError(RuntimeError):
    """A recording wanted more requests than it may send to a live provider."""


async def counted(provider: SDKProvider, request: ChatRequest, *, stream: bool) -> ChunkStream:
    """Stand in for `SDKProvider.open`: the request too many is not sent."""
    name = provider.target.provider
    _calls[name] += 1
    if _calls[name] > MAX_LIVE_CALLS:
        raise TooManyCallsError(f"{MAX_LIVE_CALLS} requests went to {name}: that must do")
    return await _open(provider, request, stream=stream)


_open = SDKProvider.open


MODEL = "SmolLM2-135M-Instruct"
KEY = "for-the-loopback-alone"


@contextmanager
def server() -> Iterator[str]:
    """Run the embedded model behind llama.cpp's own HTTP server on loopback; yields its base URL.

    The package lets that server listen where nobody can reach it and speaks to the model in
    process. Here it gets a port and is asked through the openai SDK. Needs the extra `local`.
    """
    server_params = model._server_params

    def params_with_key(*args: object) -> object:
        params = server_params(*args)
        params.api_keys = [KEY]
        return params

    with (
        patch.object(model, "_unreachable_address", lambda: nullcontext("127.0.0.1")),
        patch.object(model, "_server_params", params_with_key),
    ):
        running = model.new_server(ensure_weights(), MODEL)
    yield f"{running.listening_address}/v1"

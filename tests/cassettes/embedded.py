"""The embedded model behind llama.cpp's own OpenAI-compatible HTTP server, on loopback.

The package lets that server listen where nobody can reach it and speaks to the model in process
(`providers/local_server.py`); here it is given a port, and asked through the openai SDK.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING
from unittest.mock import patch

from langchain_resilient.providers import local_server
from langchain_resilient.providers.weights import ensure_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "SmolLM2-135M-Instruct"
KEY = "for-the-loopback-alone"


@contextmanager
def server() -> Iterator[str]:
    """Run it; gives its base URL. Needs the extra `local`, and its weights."""
    params = local_server._params

    def with_our_key(*args: object) -> object:
        made = params(*args)
        made.api_keys = [KEY]
        return made

    with (
        patch.object(local_server, "_unreachable_address", lambda: nullcontext("127.0.0.1")),
        patch.object(local_server, "_params", with_our_key),
    ):
        running = local_server.new_server(ensure_weights(), MODEL)
    yield f"{running.listening_address}/v1"

"""The embedded model behind llama.cpp's own OpenAI-compatible HTTP server, on loopback.

The package lets that server listen where nobody can reach it and speaks to the model in process
(`providers/local/model.py`). Here the server gets a port and is asked through the openai SDK.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING
from unittest.mock import patch

from langchain_resilient.providers.local import model
from langchain_resilient.providers.local.weights import ensure_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "SmolLM2-135M-Instruct"
KEY = "for-the-loopback-alone"


@contextmanager
def server() -> Iterator[str]:
    """Run the server; yields its base URL. Needs the extra `local` and the weights."""
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

"""A llama.cpp HTTP server: `python -m verification.losers.llama_server MODEL.gguf`.

It is llama.cpp's own `tools/server`, as `xllamacpp` wraps it. It prints its address and serves
until its stdin ends, so that it cannot outlive whoever started it.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

CONTEXT_TOKENS = 2048
BATCH_TOKENS = 32
"""A prompt can be stopped between two batches only."""
SLOTS = 2


def serve(path: str) -> None:
    """Load a model and serve it on a free port of the loopback interface."""
    os.environ["GOMP_SPINCOUNT"] = "0"
    xllamacpp: Any = importlib.import_module("xllamacpp")  # it has no type stubs
    params: Any = xllamacpp.CommonParams()
    params.model.path = path
    params.model_alias = {"smollm2"}
    params.hostnames = ["127.0.0.1"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.n_parallel, params.n_ctx = SLOTS, SLOTS * CONTEXT_TOKENS
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.offline, params.ui, params.verbosity = True, False, -1
    params.endpoint_metrics = True
    params.cache_ram_mib = 0
    params.sampling.ignore_eos = True  # a story that is over at once loses no race
    params.fit_params = False
    server: Any = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()
    os._exit(0)  # its destructors wait for requests under way


if __name__ == "__main__":
    serve(sys.argv[1])

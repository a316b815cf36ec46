"""The one place that touches xllamacpp: make a llama.cpp server for a GGUF file, or let one be.

What is done about the binding's habits: it insists on listening, holds the GIL while it loads, and
its destructors hang if its loop has not begun, or in a forked child.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_resilient.providers.local_dialect import SLOTS
from langchain_resilient.providers.local_errors import LocalModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

IDLE_SECONDS = 300
"""An idle model gives its memory back after this time; the next request loads it again (0.5 s)."""

_CONTEXT_TOKENS = 4096
_BATCH_TOKENS = 64  # a request can be stopped between two batches of its prompt: 0.7 s on one core
_WARM_BYTES = 1 << 30
_LONGEST_SOCKET_PATH = 100  # the least of all systems' limits (macOS: 104 with the final zero)


def new_server(path: Path, name: str) -> Any:
    """Load a model. Blocks, and holds the GIL for most of the time.

    Args:
        path: The GGUF file.
        name: What its chunks call it.

    Returns:
        An `xllamacpp.Server`.

    Raises:
        LocalModelError: With status 503.
    """
    # OpenMP's threads otherwise burn a core while they wait for each other.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    try:
        # It has no type stubs, and loads 100 MB of code.
        xllamacpp: Any = importlib.import_module("xllamacpp")
    except ImportError as error:
        msg = f'{error}: the local model needs pip install "langchain-resilient[local]"'
        raise LocalModelError(msg, code="missing_extra") from error
    _warm(path)
    with _unreachable_address() as hostname:
        try:
            server = xllamacpp.Server(_params(xllamacpp, path, name, hostname))
        except (RuntimeError, ValueError) as error:
            msg = f"llama.cpp cannot load {path}: is it a GGUF file, and memory left? ({error})"
            raise LocalModelError(msg) from error
    # A server that is destroyed before its loop runs waits for it for ever. The loop itself answers
    # this question, and so runs.
    server.handle_metrics()
    return server


def _params(xllamacpp: Any, path: Path, name: str, hostname: str) -> Any:
    threads = _number("LANGCHAIN_RESILIENT_THREADS", 1)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {name}
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * _number("LANGCHAIN_RESILIENT_CONTEXT", _CONTEXT_TOKENS)
    params.n_batch = params.n_ubatch = _BATCH_TOKENS
    params.hostnames = [hostname]
    params.api_keys = [os.urandom(32).hex()]
    params.n_threads_http = 1
    params.offline, params.ui, params.verbosity = True, False, -1
    params.endpoint_metrics = True
    params.sleep_idle_seconds = IDLE_SECONDS
    params.cache_ram_mib = 0  # else up to 8 GB of old prompts
    params.fit_params = False  # loads everything twice to see whether it fits
    params.prefill_assistant = False  # an answer begins anew, as it does at every API
    return params


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal() or int(text) < 1:
        msg = f"{variable} must be a number from 1 up, not {text!r}"
        raise LocalModelError(msg)
    return int(text)


def _warm(path: Path) -> None:
    """Read the file into the page cache: the constructor holds the GIL, reading does not."""
    if path.stat().st_size <= _WARM_BYTES:
        with path.open("rb", buffering=0) as file:
            block = bytearray(1 << 20)
            while file.readinto(block):
                pass


@contextlib.contextmanager
def _unreachable_address() -> Iterator[str]:
    """Give the server, which insists on listening, a socket that nobody can reach.

    On POSIX a Unix socket in a private folder, unlinked as soon as the model is loaded; elsewhere
    (and where the path would be too long) a random port on loopback, guarded by a random key.
    """
    folder = tempfile.mkdtemp() if os.name == "posix" else ""
    path = str(Path(folder, "llama.sock"))
    try:
        yield path if folder and len(path) <= _LONGEST_SOCKET_PATH else "127.0.0.1"
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def leak(server: Any) -> None:
    """Never destroy a server."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(server))


def exit_at_once() -> None:
    """Skip C++ destructors when this process ends: llama.cpp's would wait for the parent's threads.

    Python has ended in good order by then, and its buffers are written.
    """
    libc = ctypes.CDLL(None)
    # Only glibc has it. It hands the exit status on, which is what `_exit` wants.
    if hasattr(libc, "on_exit"):
        libc.on_exit(ctypes.cast(libc._exit, ctypes.c_void_p), None)  # noqa: SLF001  # C's name

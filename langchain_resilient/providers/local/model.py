"""One llama.cpp model in this process: loaded once, used from any thread, freed at exit.

This is the only module that touches xllamacpp. The binding blocks its caller while it generates, so
a model owns as many worker threads as it can write answers at a time. They are daemons with a queue
of their own rather than an executor's: at exit, Python joins an executor's threads *before* it runs
any code that could tell them to stop.

The binding also insists on listening on a socket, holds the GIL while it loads, and its destructors
hang if its loop has not started, or in a forked child. After a fork, the child has neither the
worker threads nor llama.cpp's. It forgets the parent's models and loads its own on first use.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import importlib
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from langchain_resilient.providers.local.dialect import SLOTS
from langchain_resilient.providers.local.weights import WeightsError, ensure_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_resilient.exchange import Chunk

EMBEDDED = "smollm2"
"""The embedded model; any other name is the path of a GGUF file."""

IDLE_SECONDS = 300
"""An idle model frees its memory after this time; the next request loads it again (0.5 s)."""

_RETRY_LOAD_SECONDS = 30.0  # a failed load may have cost a download
_MAX_CLOSE_SECONDS = 60.0  # longer than any batch of a prompt; beyond it, a crash at exit is risked
_POLL_SECONDS = 0.05
_CONTEXT_TOKENS = 4096
_BATCH_TOKENS = 64  # a request can be stopped between two batches of its prompt: 0.7 s on one core
_MAX_WARM_UP_BYTES = 1 << 30
_MAX_SOCKET_PATH = 100  # below the limits of all systems (macOS: 104 with the final zero)


class LocalModelError(Exception):
    """The local model cannot answer; carries the status and code with which an API would say so.

    Attributes:
        status_code: 400 for the request, 404 for a missing file, 500 and 503 for the model.
        code: E.g. `"context_length_exceeded"`.
        counts: llama.cpp's counts: `{"n_ctx", "n_prompt_tokens"}`, in tokens.
        body: `{"message", "type", "code"}` and the counts: the error object of an API.
    """

    def __init__(
        self, message: str, status_code: int = 503, code: str = "model_unavailable"
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.code = code
        self.counts: dict[str, Any] = {}

    @property
    def body(self) -> dict[str, Any]:
        """The error object that an API would send."""
        return {"message": str(self), "type": self.code, "code": self.code, **self.counts}


def to_error(error: Any) -> LocalModelError:
    """Turn llama.cpp's error object into an exception with the codes of the larger APIs."""
    if not isinstance(error, dict):
        return LocalModelError(str(error), 500, "server_error")
    message, kind = str(error.get("message")), str(error.get("type"))
    if kind == "exceed_context_size_error" or "ontext size has been exceeded" in message:
        too_long = LocalModelError(message, 400, "context_length_exceeded")
        too_long.counts = {n: error[n] for n in ("n_ctx", "n_prompt_tokens") if n in error}
        return too_long
    status = error.get("code")
    return LocalModelError(message, status if isinstance(status, int) else 500, kind)


class Generation:
    """One answer on its way from a worker thread to the event loop that created it.

    The queue holds at most as many chunks as the model's context has tokens.

    Attributes:
        body: The request in llama.cpp's dialect.
        stopped: Set this to stop the generation at the next token.
        chunks: Chunks and `{"error": ...}` objects, then an exception, or None at the end.
    """

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        self.stopped: bool = False
        self.chunks: asyncio.Queue[Chunk | Exception | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def on_chunk(self, chunk: Chunk) -> bool:
        """Pass a chunk to the loop. Called by a worker thread; True stops the generation."""
        if not self.stopped:
            self._send(chunk)
        return self.stopped

    def on_end(self, error: Exception | None) -> None:
        """Tell the loop that no chunk follows. Called by a worker thread."""
        self._send(error)

    def _send(self, item: Chunk | Exception | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self.chunks.put_nowait, item)
        except RuntimeError:  # the loop is closed, so nothing will read the rest
            self.stopped = True


class LocalModel:
    """A GGUF file and the threads that run it. Safe for use by any thread.

    Args:
        path: The file; None for the embedded model, which is fetched on first use.

    Attributes:
        name: The model's name in its chunks.
        embedded: Whether this is the embedded model.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._queue: SimpleQueue[Generation | None] = SimpleQueue()
        self._running: set[Generation] = set()
        self._workers: list[threading.Thread] = []
        self._lock = threading.Lock()  # guards the fields; held only briefly
        self._load_lock = threading.Lock()  # held for a load and its download
        self._server_lock = threading.Lock()  # held while a server is created or destroyed
        self._fetching = False
        self._server: Any = None
        self._load_error: tuple[str, int, str] | None = None
        self._retry_load_at = 0.0
        self.embedded: bool = path is None
        self.name: str = EMBEDDED if path is None else path.stem

    def submit(self, generation: Generation) -> None:
        """Queue a request. It always ends with `on_end`, even if the model cannot be loaded."""
        with self._lock:
            if not self._workers:
                self._workers = [
                    threading.Thread(
                        target=self._work, args=(self._queue,), name=f"{self.name}-{n}", daemon=True
                    )
                    for n in range(SLOTS)
                ]
                for worker in self._workers:
                    worker.start()
            self._queue.put(generation)

    def load(self) -> Any:
        """Load the model unless it is loaded. Blocks.

        Returns:
            The `xllamacpp.Server`.

        Raises:
            LocalModelError: With status 404 or 503; the same again for 30 s after a failed load.
        """
        with self._load_lock:
            if self._server is None:
                if self._load_error is not None and time.monotonic() < self._retry_load_at:
                    raise LocalModelError(*self._load_error)
                try:
                    self._start_server(self._find_weights())
                except LocalModelError as error:
                    if error.status_code >= 500:  # noqa: PLR2004  # a missing file may appear
                        self._load_error = str(error), error.status_code, error.code
                        self._retry_load_at = time.monotonic() + _RETRY_LOAD_SECONDS
                    raise
            return self._server

    def _find_weights(self) -> Path:
        if self._path is not None:
            if not self._path.is_file():
                msg = f"the local model {self._path} does not exist: give the path of a GGUF file"
                raise LocalModelError(msg, 404, "model_not_found")
            return self._path
        self._fetching = True
        try:
            return ensure_weights()
        except WeightsError as error:
            raise LocalModelError(str(error), code="weights_unavailable") from error
        finally:
            self._fetching = False

    def _start_server(self, path: Path) -> None:
        with self._server_lock:
            if _exiting:
                raise LocalModelError("Python is shutting down")
            self._server = new_server(path, self.name)

    def metrics(self) -> dict[str, float]:
        """llama.cpp's counters, e.g. `tokens_predicted_total`; empty before the model is loaded."""
        if self._server is None:
            return {}
        lines = (
            line.split()
            for line in self._server.handle_metrics().splitlines()
            if line and line[0] != "#"
        )
        return {name.removeprefix("llamacpp:"): float(value) for name, value in lines}

    def close(self) -> None:
        """Stop running answers within a token, end the threads, and free the memory.

        The model may be used again.
        """
        with self._lock:
            workers, self._workers = self._workers, []
            with contextlib.suppress(Empty):
                while waiting := self._queue.get_nowait():
                    waiting.on_end(_unloaded())
            for generation in self._running:
                generation.stopped = True
            for _ in workers:
                self._queue.put(None)
            self._queue = SimpleQueue()
        deadline = time.monotonic() + _MAX_CLOSE_SECONDS
        for worker in workers:
            # A download is not waited for: its thread dies with the process and loads nothing.
            while worker.is_alive() and not self._fetching and time.monotonic() < deadline:
                worker.join(_POLL_SECONDS)
        with self._server_lock:
            if _forked:
                self.leak_server()
            self._server = None

    def leak_server(self) -> bool:
        """Never destroy the server; return whether there is one, or one is being created."""
        if self._server is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._server))
        return self._server is not None or self._server_lock.locked()

    def _work(self, queue: SimpleQueue[Generation | None]) -> None:
        while (generation := queue.get()) is not None:
            with self._lock:
                self._running.add(generation)
                if queue is not self._queue:  # the model was closed meanwhile
                    generation.stopped = True
            generation.on_end(self._generate(generation))
            with self._lock:
                self._running.discard(generation)
            del generation  # otherwise an idle thread would keep the last answer alive

    def _generate(self, generation: Generation) -> Exception | None:
        try:
            if not generation.stopped:
                server = self.load()
                if not generation.stopped:  # a load takes time
                    server.handle_chat_completions(generation.body, generation.on_chunk)
        except LocalModelError as error:
            return error
        except Exception as error:  # noqa: BLE001  # llama.cpp raises many built-in exceptions
            return LocalModelError(str(error), 400, "invalid_request_error")
        return _unloaded() if generation.stopped else None


def _unloaded() -> LocalModelError:
    return LocalModelError("the local model was unloaded before its answer was finished")


# -- the models of this process -----------------------------------------------------------------

_models: dict[Path | None, LocalModel] = {}
_models_lock = threading.Lock()


def get_model(name: str) -> LocalModel:
    """Return the process's model of this name; it may not be loaded yet.

    Args:
        name: `"smollm2"`, the path of a GGUF file, or `""` for `LANGCHAIN_RESILIENT_MODEL`, else
            `"smollm2"`.
    """
    name = name or os.environ.get("LANGCHAIN_RESILIENT_MODEL") or EMBEDDED
    path = None if name == EMBEDDED else Path(name).expanduser().resolve()
    with _models_lock:
        return _models.get(path) or _models.setdefault(path, LocalModel(path))


def unload() -> None:
    """Stop and free every local model of the process. The next request loads its model again."""
    with _models_lock:
        models = list(_models.values())
    for model in models:
        model.close()


_exiting = False
_forked = False
"""Whether this process is a fork of one that had a loaded model."""


def _unload_at_exit() -> None:
    global _exiting  # noqa: PLW0603  # a thread that still fetches weights must not load them
    _exiting = True
    unload()


def _forget_models_of_parent() -> None:
    global _models_lock, _forked  # noqa: PLW0603  # another thread may have held it at the fork
    _models_lock = threading.Lock()
    leaked = [model.leak_server() for model in _models.values()]
    if any(leaked) and not _forked:
        _forked = True
        _skip_destructors_at_exit()
    _models.clear()


def _skip_destructors_at_exit() -> None:
    """Keep C++ destructors from running at exit: llama.cpp's would wait for the parent's threads.

    Python has shut down in good order by then, and its buffers are flushed.
    """
    libc = ctypes.CDLL(None)
    # Only glibc has `on_exit`. It passes the exit status on, which is the argument of `_exit`.
    if hasattr(libc, "on_exit"):
        libc.on_exit(ctypes.cast(libc._exit, ctypes.c_void_p), None)  # noqa: SLF001  # C's name


# llama.cpp's static destructors wait for ever for a server that is still alive.
atexit.register(_unload_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_models_of_parent)


# -- llama.cpp's server -------------------------------------------------------------------------


def _remedy(error: ImportError) -> str:
    return "; install it: apt-get install libgomp1" if "libgomp" in str(error) else ""


def new_server(path: Path, name: str) -> Any:
    """Load a model. Blocks, and holds the GIL for most of the time.

    Args:
        path: The GGUF file.
        name: The model's name in its chunks.

    Returns:
        An `xllamacpp.Server`.

    Raises:
        LocalModelError: With status 503.
    """
    # Otherwise OpenMP's threads burn a core while they wait for each other.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    try:
        # It has no type stubs, and loads 100 MB of code.
        xllamacpp: Any = importlib.import_module("xllamacpp")
    except ModuleNotFoundError as error:
        msg = f'{error}: the local model needs pip install "langchain-resilient[local]"'
        raise LocalModelError(msg, code="missing_extra") from error
    except ImportError as error:  # slim images of Linux lack OpenMP, say
        msg = f"xllamacpp is installed and cannot be loaded: {error}{_remedy(error)}"
        raise LocalModelError(msg, code="missing_library") from error
    _read_into_page_cache(path)
    with _unreachable_address() as hostname:
        try:
            server = xllamacpp.Server(_server_params(xllamacpp, path, name, hostname))
        except (RuntimeError, ValueError) as error:
            msg = f"llama.cpp cannot load {path}: is it a GGUF file, and memory left? ({error})"
            raise LocalModelError(msg) from error
    # A server destroyed before its loop has started waits for the loop for ever. The loop itself
    # answers this request, so afterwards it has started.
    server.handle_metrics()
    return server


def _server_params(xllamacpp: Any, path: Path, name: str, hostname: str) -> Any:
    threads = _positive_int("LANGCHAIN_RESILIENT_THREADS", 1)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {name}
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * _positive_int("LANGCHAIN_RESILIENT_CONTEXT", _CONTEXT_TOKENS)
    params.n_batch = params.n_ubatch = _BATCH_TOKENS
    params.hostnames = [hostname]
    params.api_keys = [os.urandom(32).hex()]
    params.n_threads_http = 1
    params.offline, params.ui, params.verbosity = True, False, -1
    params.endpoint_metrics = True
    params.sleep_idle_seconds = IDLE_SECONDS
    params.cache_ram_mib = 0  # by default, up to 8 GB of old prompts
    params.fit_params = False  # loads everything twice to see whether it fits
    params.prefill_assistant = False  # an answer starts afresh, as at every API
    return params


def _positive_int(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal() or int(text) < 1:
        msg = f"{variable} must be a number from 1 up, not {text!r}"
        raise LocalModelError(msg)
    return int(text)


def _read_into_page_cache(path: Path) -> None:
    """Read the file once, without the GIL; llama.cpp's constructor then holds it for less time."""
    if path.stat().st_size <= _MAX_WARM_UP_BYTES:
        with path.open("rb", buffering=0) as file:
            block = bytearray(1 << 20)
            while file.readinto(block):
                pass


@contextlib.contextmanager
def _unreachable_address() -> Iterator[str]:
    """Give the server, which insists on listening, a socket that nothing else can reach.

    On POSIX a Unix socket in a private folder, unlinked as soon as the model is loaded; elsewhere
    (and where the path would be too long) a random port on loopback, guarded by a random key.
    """
    folder = tempfile.mkdtemp() if os.name == "posix" else ""
    path = str(Path(folder, "llama.sock"))
    try:
        yield path if folder and len(path) <= _MAX_SOCKET_PATH else "127.0.0.1"
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)

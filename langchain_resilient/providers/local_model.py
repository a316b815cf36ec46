"""One llama.cpp model in this process: loaded once, used from any thread, let go at exit.

`xllamacpp.Server` blocks its caller while it generates, so a model owns as many worker threads as
it can write answers at a time. They are daemons with a queue of their own rather than an
executor's: Python joins an executor's threads at exit *before* anyone could tell them to stop.

After a fork the child has no worker threads and no llama.cpp threads. It forgets the parent's
models and loads its own on first use.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from langchain_resilient.providers.local_dialect import SLOTS
from langchain_resilient.providers.local_errors import LocalModelError
from langchain_resilient.providers.local_server import exit_at_once, leak, new_server
from langchain_resilient.providers.weights import WeightsError, ensure_weights

EMBEDDED = "smollm2"
"""The model of this package; any other name is the path of a GGUF file."""

_FAILURE_SECONDS = 30.0  # a failed load may have cost a download: ask again only after this time
_CLOSE_SECONDS = 60.0  # the most that a batch of a prompt may take; then a crash at exit is risked
_POLL_SECONDS = 0.05


class Job(Protocol):
    """One answer to be generated. Its methods are called by a worker thread."""

    body: dict[str, Any]
    stopped: bool

    def take(self, chunk: dict[str, Any]) -> bool:
        """Take a chunk or an `{"error": ...}`; True stops the generation."""
        ...

    def end(self, error: Exception | None) -> None:
        """Learn that no chunk follows."""
        ...


class LocalModel:
    """A GGUF file and the threads that run it. Safe for use by any thread.

    Args:
        path: The file; None for the embedded model, which is fetched on first use.

    Attributes:
        name: What its chunks call it.
        embedded: Whether it is the model of this package.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._running: set[Job] = set()
        self._workers: list[threading.Thread] = []
        self._lock = threading.Lock()  # guards the fields; held only briefly
        self._loading = threading.Lock()  # held for a load, with its download
        self._making = threading.Lock()  # held while a server is made or destroyed
        self._fetching = False
        self._server: Any = None
        self._failure: tuple[str, int, str] | None = None
        self._failed_until = 0.0
        self.embedded: bool = path is None
        self.name: str = EMBEDDED if path is None else path.stem

    def submit(self, job: Job) -> None:
        """Queue a job. It ends by `job.end`, also where the model cannot be loaded."""
        with self._lock:
            if not self._workers:
                self._workers = [
                    threading.Thread(
                        target=self._work, args=(self._jobs,), name=f"{self.name}-{n}", daemon=True
                    )
                    for n in range(SLOTS)
                ]
                for worker in self._workers:
                    worker.start()
            self._jobs.put(job)

    def load(self) -> Any:
        """Load the model unless it is loaded. Blocks.

        Raises:
            LocalModelError: With status 404 or 503; the same again for 30 s after a failed load.
        """
        with self._loading:
            if self._server is None:
                if self._failure is not None and time.monotonic() < self._failed_until:
                    raise LocalModelError(*self._failure)
                try:
                    self._make(self._weights())
                except LocalModelError as error:
                    if error.status_code >= 500:  # noqa: PLR2004  # a missing file may come
                        self._failure = str(error), error.status_code, error.code
                        self._failed_until = time.monotonic() + _FAILURE_SECONDS
                    raise
            return self._server

    def _weights(self) -> Path:
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

    def _make(self, path: Path) -> None:
        with self._making:
            if _ending:
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
        """Stop what runs within a token, end the threads, free the memory. It may be used again."""
        with self._lock:
            workers, self._workers = self._workers, []
            with contextlib.suppress(Empty):
                while waiting := self._jobs.get_nowait():
                    waiting.end(_unloaded())
            for job in self._running:
                job.stopped = True
            for _ in workers:
                self._jobs.put(None)
            self._jobs = SimpleQueue()
        deadline = time.monotonic() + _CLOSE_SECONDS
        for worker in workers:
            # A download cannot be stopped: its thread dies with the process, and loads nothing.
            while worker.is_alive() and not self._fetching and time.monotonic() < deadline:
                worker.join(_POLL_SECONDS)
        with self._making:
            if _forked:
                self.leak()
            self._server = None

    def leak(self) -> bool:
        """Never destroy the server; tell whether there is one, or one is being made."""
        if self._server is not None:
            leak(self._server)
        return self._server is not None or self._making.locked()

    def _work(self, jobs: SimpleQueue[Job | None]) -> None:
        while (job := jobs.get()) is not None:
            with self._lock:
                self._running.add(job)
                if jobs is not self._jobs:  # closed since
                    job.stopped = True
            job.end(self._generate(job))
            with self._lock:
                self._running.discard(job)
            del job  # else an idle thread would keep the last answer alive

    def _generate(self, job: Job) -> Exception | None:
        try:
            if not job.stopped:
                server = self.load()
                if not job.stopped:  # a load takes its time
                    server.handle_chat_completions(job.body, job.take)
        except LocalModelError as error:
            return error
        except Exception as error:  # noqa: BLE001  # llama.cpp's exceptions come as many builtin ones
            return LocalModelError(str(error), 400, "invalid_request_error")
        return _unloaded() if job.stopped else None


def _unloaded() -> LocalModelError:
    return LocalModelError("the local model was unloaded before its answer was finished")


_models: dict[Path | None, LocalModel] = {}
_registry = threading.Lock()


def model_at(name: str) -> LocalModel:
    """Find the process's model of this name, not loaded yet.

    Args:
        name: `"smollm2"`, the path of a GGUF file, or `""` for `LANGCHAIN_RESILIENT_MODEL`, else
            `"smollm2"`.
    """
    name = name or os.environ.get("LANGCHAIN_RESILIENT_MODEL") or EMBEDDED
    path = None if name == EMBEDDED else Path(name).expanduser().resolve()
    with _registry:
        return _models.get(path) or _models.setdefault(path, LocalModel(path))


def unload() -> None:
    """Stop and free every local model of the process. The next request loads its model again."""
    with _registry:
        models = list(_models.values())
    for model in models:
        model.close()


_ending = False
_forked = False
"""Whether this process is a fork of one with a loaded model."""


def _end() -> None:
    global _ending  # noqa: PLW0603  # known to whoever loads a model too late
    _ending = True
    unload()


def _forget_parents_models() -> None:
    global _registry, _forked  # noqa: PLW0603  # another thread may have held the lock at the fork
    _registry = threading.Lock()
    leaked = [model.leak() for model in _models.values()]
    if any(leaked) and not _forked:
        _forked = True
        exit_at_once()
    _models.clear()


# llama.cpp's static destructors wait for ever for a server that is still alive.
atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents_models)

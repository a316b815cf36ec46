"""The service as a process of its own, as it is run, and the proxies that it is compared with."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS_TO_START = 60.0

Started = tuple[str, "subprocess.Popen[str]"]
"""A server's URL and its process."""


@contextmanager
def service(*args: str, **environ: str) -> Iterator[Started]:
    """Start `langchain-resilient serve` at a free port; gives its URL and its process."""
    command = [sys.executable, "-m", "langchain_resilient", "serve", "--port", "0", *args]
    with tempfile.TemporaryDirectory() as folder:
        # It remembers, as it does by default, but not among what the user's own targets taught.
        own = {"LANGCHAIN_RESILIENT_REMEMBER": str(Path(folder, "learned.json"))}
        quiet = {"LANGCHAIN_RESILIENT_MODEL_LISTS": "off"}
        with _started(command, {**own, **quiet, **environ}) as process:
            yield _address(process), process


@contextmanager
def bare_proxy(upstream: str) -> Iterator[Started]:
    """Start the least of a proxy."""
    command = [sys.executable, "-m", "verification.service.bare_proxy", upstream]
    with _started(command, {}) as process:
        yield _address(process), process


@contextmanager
def litellm_proxy(program: Path, upstream: str, folder: Path) -> Iterator[Started]:
    """Start litellm's, with its own defaults, for a model "resilient".

    Args:
        program: Its `litellm`.
        upstream: Where that model is.
        folder: Where its configuration may lie.
    """
    config = folder / "litellm.json"  # which is YAML too
    where = {"model": "openai/m", "api_base": upstream, "api_key": "none"}
    models = [{"model_name": "resilient", "litellm_params": where}]
    config.write_text(json.dumps({"model_list": models}), "utf-8")
    quiet = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it fetches prices
        "LITELLM_LOG": "ERROR",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    port = _free_port()
    flags = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    log = folder / "litellm.log"
    with log.open("w") as said, _started([str(program), *flags], quiet, said) as process:
        url = f"http://127.0.0.1:{port}"
        if not _is_up(f"{url}/health/liveliness", process):
            raise RuntimeError(log.read_text("utf-8")[-4000:])
        yield url, process


@contextmanager
def _started(
    command: list[str], environ: dict[str, str], log: IO[str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    complaints = subprocess.PIPE if log is None else log
    with subprocess.Popen(
        command, env={**os.environ, **environ}, stdout=log, stderr=complaints, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(SECONDS_TO_START)
            finally:
                process.kill()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _is_up(url: str, process: subprocess.Popen[str]) -> bool:
    """Wait until a server answers; False if it does not in time, or ends."""
    until = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < until and process.poll() is None:
        try:
            return httpx.get(url).is_success
        except httpx.TransportError:
            time.sleep(0.2)
    return False


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if found := re.search(r"running on (http://[\d.]+:\d+)", line):
            # Nobody may block on what it says from now on.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return found[1]
    raise RuntimeError(said)

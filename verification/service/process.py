"""The service as a process of its own, as it is run, and the proxies that it is compared with."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verification.judges.server import free_ports, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS_TO_START = 60.0

Started = tuple[str, "subprocess.Popen[Any]"]
"""A server's URL and its process."""


@contextmanager
def service(*args: str, **environ: str) -> Iterator[Started]:
    """Start `langchain-resilient serve` at a free port; gives its URL and its process."""
    command = [sys.executable, "-m", "langchain_resilient", "serve", "--port", "0", *args]
    with tempfile.TemporaryDirectory() as folder:
        # It remembers, as it does by default, but not among what the user's own targets taught.
        own = {
            "LANGCHAIN_RESILIENT_REMEMBER": str(Path(folder, "learned.json")),
            "LANGCHAIN_RESILIENT_MODEL_LISTS": "off",
        }
        with _started(command, **{**own, **environ}) as process:
            yield _address(process), process


@contextmanager
def bare_proxy(upstream: str) -> Iterator[Started]:
    """Start the least of a proxy."""
    command = [sys.executable, "-m", "verification.service.bare_proxy", upstream]
    with _started(command) as process:
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
    (port,) = free_ports(1)
    flags = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    command = [str(program), *flags]
    with serving(command, port, subprocess.DEVNULL, **quiet) as process:
        yield f"http://127.0.0.1:{port}", process


@contextmanager
def _started(command: list[str], **environ: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command, env={**os.environ, **environ}, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(SECONDS_TO_START)
            finally:
                process.kill()


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

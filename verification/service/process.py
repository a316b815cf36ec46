"""The service as a process of its own, as it is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS_TO_START = 60.0


@contextmanager
def service(*args: str, **environ: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start `langchain-resilient serve` at a free port; gives its URL and its process."""
    command = [sys.executable, "-m", "langchain_resilient", "serve", "--port", "0", *args]
    quiet = {"LANGCHAIN_RESILIENT_MODEL_LISTS": "off"}
    with subprocess.Popen(
        command, env={**os.environ, **quiet, **environ}, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield _address(process), process
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

"""A Redis server of our own, on a free port of this machine, for tests and proofs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

MISSING = "redis-server or redis-py is not installed (apt-get install redis-server)"


def installed() -> bool:
    """Whether there is a server to start and a client to ask it."""
    try:
        import redis  # noqa: F401
    except ImportError:
        return False
    return _program() is not None


def _program() -> str | None:
    return shutil.which("redis-server") or shutil.which("valkey-server")


class RedisServer:
    """One server, without any file of its own; a context manager that ends it.

    Args:
        *options: More of its options: `"--requirepass", "..."`.
        program_options: What stands before all options: a file of settings, `"--sentinel"`.

    Attributes:
        port: Where it listens, after a restart too.

    Example:
        ```python
        with RedisServer() as server:
            ResilientChatModel(targets=["text:yes"], shared=server.url)
        ```
    """

    def __init__(self, *options: str, program_options: tuple[str, ...] = ()) -> None:
        self.port = free_port()
        self._program_options = program_options
        self._options = options
        self._directory = tempfile.mkdtemp(prefix="redis-")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its URL, without a password."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, empty, and wait until it listens."""
        program = _program()
        assert program is not None, MISSING
        log = Path(self._directory) / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [program, *self._program_options, "--port", str(self.port), "--bind", "127.0.0.1",
                 "--save", "", "--appendonly", "no", "--dir", self._directory, *self._options],
                stdout=output, stderr=output, env=os.environ | {"LC_ALL": "C"},
            )  # fmt: skip
        until = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
            except OSError:
                assert time.monotonic() < until, log.read_text()
                assert self._process.poll() is None, log.read_text()
                time.sleep(0.01)
            else:
                return

    def kill(self) -> None:
        """End it as `kill -9` does: what it held is lost."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let it answer nobody, while it accepts connections (SIGSTOP)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""Starts the llama.cpp server, and watches what it does by its metrics.

A request that waits for llama.cpp's first result looks once a second whether its client is there
(`HTTP_POLLING_SECONDS`), and that second begins anew with *any* result of the server, metrics too
(`recv_with_timeout` in its `server-queue.cpp`). So the watcher asks nothing while the server has a
connection to notice the end of: the kernel's table of sockets tells.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.request import urlopen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOCKETS = Path("/proc/net/tcp")
"""The kernel's table of TCP sockets, which `proc(5)` describes."""

_ESTABLISHED, _CLOSE_WAIT = "01", "08"
_TICK = 0.005
_PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Sample:
    """What the server said of itself at one moment.

    Attributes:
        at: When its answer had come, by `time.monotonic`.
        busy: Requests that it works on.
        decodes: Calls of `llama_decode` so far: one a token, or one a batch of a prompt.
        predicted: Tokens generated so far by requests that are over, however they ended.
        clients: Connections from others that are open, as the kernel sees them.
        unnoticed: Connections that a client has closed and the server has not: then the other
            figures are as before, since it was not asked.
    """

    at: float
    busy: int
    decodes: int
    predicted: int
    clients: int
    unnoticed: int


class Llama:
    """A running llama.cpp server, watched by a thread. Use it with `with`.

    Args:
        process: The server.
        url: Where it listens.
    """

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.url = url
        self._process = process
        self._port = int(url.rpartition(":")[2])
        self._samples: list[Sample] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="llama-watch")

    def __enter__(self) -> Self:
        self._samples.append(self._ask(clients=0))
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.go_on()
        self._over.set()
        self._thread.join()

    def pause(self) -> None:
        """Let the whole process stand still, connections open: a pause in the middle."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End the pause."""
        self._process.send_signal(signal.SIGCONT)

    @property
    def samples(self) -> list[Sample]:
        """All so far."""
        return self._samples

    def before(self, at: float) -> Sample:
        """The last sample that was complete at a moment."""
        return next(sample for sample in reversed(self._samples) if sample.at <= at)

    async def until(self, true: Callable[[Sample], bool], *, after: float) -> Sample:
        """Wait for the first sample after a moment of which something is true.

        Raises:
            TimeoutError: If there is none in 30 s.
        """
        async with asyncio.timeout(_PATIENCE):
            seen = 0
            while True:
                for sample in self._samples[seen:]:
                    if sample.at > after and true(sample):
                        return sample
                    seen += 1
                await asyncio.sleep(_TICK)

    def _watch(self) -> None:
        while not self._over.is_set():
            clients, unnoticed = self._connections()
            if unnoticed:
                at, last = time.monotonic(), self._samples[-1]
                sample = replace(last, at=at, clients=clients, unnoticed=unnoticed)
            else:
                sample = self._ask(clients)
            self._samples.append(sample)
            time.sleep(_TICK)

    def _ask(self, clients: int) -> Sample:
        with urlopen(f"{self.url}/metrics", timeout=_PATIENCE) as answer:  # noqa: S310  # ours
            lines = answer.read().decode().splitlines()
        fields = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return Sample(
            at=time.monotonic(),
            busy=int(float(fields["llamacpp:requests_processing"])),
            decodes=int(float(fields["llamacpp:n_decode_total"])),
            predicted=int(float(fields["llamacpp:tokens_predicted_total"])),
            clients=clients,
            unnoticed=0,
        )

    def _connections(self) -> tuple[int, int]:
        """Count the server's connections, open and half closed; the watcher has none just now.

        The kernel knows one for closed when our FIN or RST has come, whether the server looks or
        not.
        """
        rows = [row.split() for row in SOCKETS.read_text("ascii").splitlines()]
        states = [row[3] for row in rows if row[1].endswith(f":{self._port:04X}")]
        return states.count(_ESTABLISHED), states.count(_CLOSE_WAIT)


@contextmanager
def llama(model: Path) -> Iterator[Llama]:
    """Start a server for a GGUF file, and end it.

    Raises:
        RuntimeError: If it does not come up.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "verification.losers.llama_server", str(model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            msg = "the llama.cpp server did not start"
            raise RuntimeError(msg)
        with Llama(process, url) as made:
            yield made
    finally:
        process.kill()
        process.communicate()

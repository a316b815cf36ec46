"""Starts a judge's process on loopback and ends it; asks it things beside our client."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import time
from contextlib import closing, contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any
from urllib.request import Request, urlopen

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PATIENCE = 60.0
_GRACE = 5.0
_TICK = 0.05


_PORTS = range(20_000, 32_000)
"""Below the ports that connections are given: of those, a free one may be taken at any time."""


def free_ports(number: int) -> list[int]:
    """Find ports on which nobody listens just now."""
    found: list[int] = []
    # Drawn by the system's own random: two programs beside each other must not find the same.
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        if len(found) == number:
            break
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found


@contextmanager
def serving(
    command: Sequence[str], port: int, output: IO[Any] | int, **environ: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server as long as the block, from when its port answers; gives its process.

    Args:
        command: Starts it in the foreground.
        port: Where it listens.
        output: Where all that it prints goes.
        **environ: More environment variables.

    Raises:
        RuntimeError: If it ends, or does not listen within a minute.
    """
    process = subprocess.Popen(
        command,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
    )
    try:
        _until_it_listens(process, port)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until_it_listens(process: subprocess.Popen[Any], port: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        with closing(socket.socket()) as knock:
            if knock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(_TICK)
    msg = f"{process.args!r} does not listen; its exit status is {process.poll()}"
    raise RuntimeError(msg)


def ask(method: str, url: str, body: Any = None) -> Any:
    """Ask a judge's own control interface, beside our client.

    Returns:
        The JSON that it answers.
    """
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"content-type": "application/json"}, method=method)  # noqa: S310
    with urlopen(request, timeout=_PATIENCE) as answer:  # noqa: S310  # loopback
        return json.loads(answer.read() or b"null")

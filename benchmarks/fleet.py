"""Processes that a benchmark starts, and ends: servers, and one worker a contender."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.environments import python_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HERE = Path(__file__).parent


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command with its input and output held, and end it; show why if it fails."""
    with tempfile.TemporaryFile("w+") as complaints:
        started = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            cwd=HERE.parent,
        )
        try:
            yield started
        finally:
            _end(started)
            if started.returncode:
                complaints.seek(0)
                sys.stderr.write(complaints.read()[-4000:])


def _end(started: subprocess.Popen[str]) -> None:
    """Close its input, which ends all of ours, and wait; kill what stays."""
    assert started.stdin is not None
    assert started.stdout is not None
    started.stdin.close()
    try:
        started.wait(5)
    except subprocess.TimeoutExpired:
        started.kill()
        started.wait()
    started.stdout.close()


@contextmanager
def instant_server(*pace: float) -> Iterator[str]:
    """Start the server of prepared bytes; yields its base URL.

    Args:
        *pace: Seconds before the first text and before each further one; nothing for all at once.
    """
    seconds = [str(each) for each in pace]
    with process(sys.executable, str(HERE / "instant_server.py"), *seconds) as started:
        assert started.stdout is not None
        yield started.stdout.readline().strip()


class Crew:
    """A worker for each contender.

    Args:
        started: Their processes, by name.
    """

    def __init__(self, started: dict[str, subprocess.Popen[str]]) -> None:
        self._started = started
        self.names = list(started)

    def order(self, name: str, do: str, **order: Any) -> None:
        """Tell one what to do."""
        stdin = self._started[name].stdin
        assert stdin is not None
        stdin.write(json.dumps({"do": do, **order}) + "\n")
        stdin.flush()

    def finding(self, name: str) -> Any:
        """Wait for what one found.

        Raises:
            RuntimeError: If it died; it has said why.
        """
        stdout = self._started[name].stdout
        assert stdout is not None
        if not (line := stdout.readline()):
            msg = f"the worker of {name!r} died"
            raise RuntimeError(msg)
        return json.loads(line)

    def do(self, name: str, do: str, **order: Any) -> Any:
        """Tell one what to do, and wait for what it found."""
        self.order(name, do, **order)
        return self.finding(name)

    def all_do(self, do: str, **order: Any) -> dict[str, Any]:
        """Tell all the same, at the same time."""
        for name in self.names:
            self.order(name, do, **order)
        return {name: self.finding(name) for name in self.names}


@contextmanager
def crew(names: Iterable[str]) -> Iterator[Crew]:
    """Start a worker for each name, and end them."""
    script = str(HERE / "worker.py")
    with ExitStack() as stack:
        yield Crew(
            {name: stack.enter_context(process(python_of(name), script, name)) for name in names}
        )

"""The simulated providers in a process of their own, told by lines what the weather is."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Self

from langchain_resilient.testing.simulator import ProviderSimulator
from tests.soak.weather import KEYS, blow

if TYPE_CHECKING:
    from types import TracebackType


class Providers:
    """The other end: starts the process, and ends it. Use it with `with`.

    Attributes:
        urls: The base URL of each dialect.
    """

    def __init__(self) -> None:
        self.urls: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.urls = self._read()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._process:  # closes both pipes, at which the server ends, and waits for it
            pass

    def weather(self, number: int) -> None:
        """Change the weather; nothing waits for it."""
        self._write(str(number))

    def census(self) -> dict[str, int]:
        """What the server has: `in_flight`, `sockets` and how many `requests` came."""
        self._write("census")
        return self._read()

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _read(self) -> dict:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


def main() -> None:
    """Serve until standard input ends."""
    with ProviderSimulator(seed=0, remember=0, keys=set(KEYS)) as sim:
        blow(sim, 0)
        _tell({dialect: sim.base_url(dialect) for dialect in ("openai", "together")})
        for line in sys.stdin:
            if line.strip() == "census":
                here = {"in_flight": sim.in_flight, "sockets": sim.open_sockets}
                _tell({**here, "requests": sim.count()})
            else:
                blow(sim, int(line))


def _tell(what: dict) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

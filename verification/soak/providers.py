"""The simulated providers, in a process of their own, told by lines what the weather is.

They do mostly well, always a few faults, and in turn an outage.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Self

from langchain_resilient import testing as t
from langchain_resilient.testing import ProviderSimulator

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from langchain_resilient.testing import Step


FIRST, SECOND, THIRD, FOURTH = "openai:first", "together:second", "openai:third", "together:fourth"
STRANGER = "openai:stranger"
TARGETS = (FIRST, STRANGER, SECOND, THIRD, FOURTH)
"""The chain. The stranger's key is wrong, always."""

KEYS = ("right-1", "right-2")
WRONG_KEY = "wrong"

_FIRST_TEXT = t.Lognormal(0.1, 0.5)
PACE = t.Reply(first_text=_FIRST_TEXT, chunk_gap=0.003, words=4)
"""A good answer, piece by piece: 0.1 s to the first in the median."""

AT_ONCE = t.Reply(first_text=_FIRST_TEXT, words=4)
"""The same, all pieces at once."""

WELL = {PACE: 0.2, AT_ONCE: 0.8}

_BREAKS: tuple[Step, ...] = (
    t.Cut(3, reply=PACE),
    t.Reset(3, reply=PACE),
    t.CleanEnd(3, reply=PACE),
    t.SseError(3, reply=PACE),
    t.Malformed(3, reply=PACE),
    t.HtmlInside(3, reply=PACE),
    t.Stall(3, seconds=2.0, reply=PACE),
)
_REFUSALS: tuple[Step, ...] = (
    t.Status(500),
    t.Html(502),
    t.Overloaded(),
    t.RateLimited(0.2),
    t.SlowDown(),
    t.ContentFilter(),
    t.Compatible(503, "upstream"),
    t.Garbage(),
    t.Garbage("broken"),
    t.Empty(),
    t.Whitespace(),
    t.Raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
    t.Reset(),
    t.KeepAlives(0.2),
    t.NoAnswer(1.0),
)


def _well(share: float) -> dict[Step, float]:
    return {step: share * odds for step, odds in WELL.items()}


def _odds(steps: tuple[Step, ...], share: float) -> dict[Step, float]:
    return dict.fromkeys(steps, share / len(steps))


ALWAYS = _odds(_REFUSALS, 0.04) | _odds(_BREAKS, 0.02) | _well(0.94)
"""On the best of days six in a hundred answers fail, each in its own way."""

WEATHERS: tuple[Mapping[str, Mapping[Step, float]], ...] = (
    {},
    {FIRST: {t.Status(500): 1.0}},
    {SECOND: {t.NoAnswer(): 1.0}},
    {"openai:*": {t.RateLimited(0.3): 0.7} | _well(0.3)},
    {FIRST: _odds(_BREAKS, 0.7) | _well(0.3)},
    {"together:*": {t.Overloaded(): 0.8} | _well(0.2)},
    {FIRST: {t.NoAnswer(): 0.5} | _well(0.5), SECOND: {t.Reset(): 1.0}},
    {"*": _odds(_REFUSALS, 0.2) | _odds(_BREAKS, 0.1) | _well(0.7)},
    {FIRST: {t.KeepAlives(0.1): 1.0}},
    {FIRST: {t.Reply(first_text=t.Pareto(0.2, 1.5), chunk_gap=0.003, words=4): 1.0}},
)
"""Everybody's patterns for a while each, round and round: targets die and come back, 429s come in
bursts, and somebody is always there to answer."""


def blow(sim: ProviderSimulator, number: int) -> None:
    """Let it be weather `number`; nothing is left of the one before."""
    for pattern in {pattern for weather in WEATHERS for pattern in weather} | {"*", *TARGETS}:
        sim.chaos(pattern, ALWAYS)
    for pattern, odds in WEATHERS[number % len(WEATHERS)].items():
        for one in _under(pattern):
            sim.chaos(one, odds)


def _under(pattern: str) -> list[str]:
    """A pattern and the more specific ones that would go before it."""
    return [pattern, *(one for one in TARGETS if one != pattern and _fits(pattern, one))]


def _fits(pattern: str, target: str) -> bool:
    return pattern.endswith("*") and target.startswith(pattern[:-1])


class Providers:
    """The other end: starts the process, and ends it. Use it with `with`.

    Attributes:
        urls: The base URL of each dialect.
    """

    def __init__(self) -> None:
        self.urls: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "verification.soak.providers"],
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

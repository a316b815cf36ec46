"""What each contender does when its first model has a fault and its second is healthy.

All meet a fault at the same time, from processes of their own; the models are the simulator's, in
one process for the faulty and one for the healthy.
"""

from __future__ import annotations

import json
import re
import socket
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.contenders import UNDER_FAULTS
from benchmarks.fleet import crew, process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.fleet import Crew

SAYS = "The sky is blue because of Rayleigh scattering, which favours short waves."
PROMPT = f"Say exactly: {SAYS}"
HEALTHY = {"first_text": 0.3}
TRIES = 3

_WELL = {"step": "Reply", "rate": 100}
FAULTS: dict[str, dict[str, Any] | None] = {
    "none": {"step": "Reply", **HEALTHY},
    "500": {"step": "Status", "code": 500},
    "429, Retry-After 2": {"step": "Status", "code": 429, "retry_after": 2},
    "401": {"step": "Status", "code": 401},
    "dead port": None,
    "reset": {"step": "Reset"},
    "hang, no headers": {"step": "NoAnswer"},
    "hang after headers": {"step": "Stall", "after": 0},
    "keep-alives only": {"step": "KeepAlives", "interval": 0.5},
    "cut mid-answer": {"step": "Cut", "after": 4, "reply": _WELL},
    "stall mid-answer": {"step": "Stall", "after": 4, "reply": _WELL},
    "empty answer": {"step": "Empty"},
    "malformed JSON": {"step": "Malformed", "after": 2},
    "first token 10x slower": {"step": "Reply", "first_text": 10 * HEALTHY["first_text"]},
}
"""By name, as steps of the simulator; None is a port where nobody listens."""


@dataclass(frozen=True)
class Cell:
    """What became of the tries of one contender at one fault in one way.

    Attributes:
        verdict: The worst of them; see `benchmarks.trial.Trial`.
        first: Median seconds to the first text; None if any try had none.
        whole: Median seconds to the end, whatever it was.
    """

    verdict: str
    first: float | None
    whole: float

    def __str__(self) -> str:
        if self.verdict == "text":
            return f"{self.whole:.2f}"
        after = f" at {self.whole:.1f}" if self.verdict.startswith("error") else ""
        return f"{self.verdict.partition(' ')[0]}{after}"


Cells = dict[str, dict[str, dict[str, Cell]]]
"""By fault, contender and way (`"plain"` or `"stream"`)."""


def measure() -> Cells:
    """Let all meet all faults, one fault after the other."""
    cells: Cells = {}
    with (
        _simulator(_script()) as faulty,
        _healthy() as healthy,
        crew(UNDER_FAULTS) as workers,
        _dead_port() as dead,
    ):
        _meet(workers, "none", faulty, healthy, 1)
        for name, step in FAULTS.items():
            primary = dead if step is None else faulty
            outcome = _meet(workers, name, primary, healthy, TRIES)
            cells[name] = {who: _cells(ways) for who, ways in outcome.items()}
    return cells


def _meet(workers: Crew, fault: str, primary: str, healthy: str, tries: int) -> dict[str, Any]:
    urls = {"primary": primary, "fallback": healthy}
    workers.all_do("prepare", **urls, fault=_model(fault), tries=tries)
    began = time.monotonic()
    present = workers.all_do("meet", prompt=PROMPT, says=SAYS)
    print(f"  {fault}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return present


def _model(fault: str) -> str:
    return re.sub(r"\W+", "-", fault)


def _script() -> dict[str, Any]:
    return {
        f"openai:{_model(name)}": [{**step, "then": True}]
        for name, step in FAULTS.items()
        if step is not None
    }


def _healthy() -> Any:
    return _simulator({"openai:healthy": [{"step": "Reply", **HEALTHY, "then": True}]})


@contextmanager
def _simulator(script: dict[str, Any]) -> Iterator[str]:
    """Start the simulator in a process of its own; yields its base URL for openai."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(script, file)
        file.flush()
        command = (sys.executable, "-m", "langchain_resilient.testing", "--script", file.name)
        with process(*command) as started:
            assert started.stdout is not None
            for line in started.stdout:
                if match := re.search(r"http://\S+/openai/v1", line):
                    yield match[0]
                    break
            started.terminate()


@contextmanager
def _dead_port() -> Iterator[str]:
    """Hold a port where nobody listens, so that nobody else takes it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}/v1"


def _cells(ways: dict[str, list[dict[str, Any]]]) -> dict[str, Cell]:
    return {way: _cell(tries) for way, tries in ways.items()}


def _cell(tries: list[dict[str, Any]]) -> Cell:
    worst = [each["verdict"] for each in tries if each["verdict"] != "text"]
    firsts = [each["first"] for each in tries]
    first = None if None in firsts else statistics.median(firsts)
    whole = statistics.median(each["whole"] for each in tries)
    return Cell(max(worst, key=worst.count) if worst else "text", first, whole)

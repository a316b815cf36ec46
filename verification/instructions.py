"""Counts the bytecode instructions of a call, which a noisy machine cannot change.

    python -m verification.instructions [--store] [--burden SHARE]

`ours` are those of this package's own code, `all` those of whatever runs in the process while the
call lasts, which depends on the versions of the libraries. The C code below is not counted. Each is
the median of some calls after warming up, for how many reads a socket needs is a matter of luck.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import subprocess
import sys
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import langchain_resilient
from benchmarks.instant_server import CHUNKS, LONG, SHORT
from langchain_resilient import Hedge, ResilientChatModel, Target

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROOT = Path(__file__).parents[1]
BASELINE = Path(__file__).with_name("instructions.json")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
ALLOWED = 1.05
LIBRARIES = ("aiohttp", "httpx-aiohttp", "httpx2", "langchain-core", "openai", "pydantic")
WARM_UP, CALLS, STREAMS = 50, 41, 5
_INSTRUCTIONS_A_TURN = 3
"""Of an empty loop: take the next, keep it, jump back."""

_HOME = str(Path(langchain_resilient.__file__).parent)

Counts = dict[str, float]
"""Instructions by name: `"ainvoke ours"`, `"ainvoke all"`, ... each per call or per chunk."""


class Counter:
    """Counts instructions while it is on; a frame that began before is not seen."""

    def __init__(self) -> None:
        self.ours = self.others = 0
        self._mine: dict[str, bool] = {}

    def _enter(self, frame: Any, _event: str, _argument: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        file = frame.f_code.co_filename
        if file not in self._mine:
            self._mine[file] = file.startswith(_HOME)
        return self._count_ours if self._mine[file] else self._count_others

    def _count_ours(self, _frame: Any, event: str, _argument: Any) -> Any:
        self.ours += event == "opcode"
        return self._count_ours

    def _count_others(self, _frame: Any, event: str, _argument: Any) -> Any:
        self.others += event == "opcode"
        return self._count_others

    def __enter__(self) -> Self:
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)


@contextmanager
def _server() -> Any:
    command = [sys.executable, str(ROOT / "benchmarks" / "instant_server.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        yield started.stdout.readline().decode().strip()
        started.stdin.close()


async def _per_call(one: Callable[[], Awaitable[Any]], warm_up: int, calls: int) -> Counts:
    for _ in range(warm_up):
        await one()
    results: list[tuple[int, int]] = []
    for _ in range(calls):
        with Counter() as counter:
            await one()
        results.append((counter.ours, counter.ours + counter.others))
    ours, everything = zip(*results, strict=True)
    return {"ours": statistics.median(ours), "all": statistics.median(everything)}


def _model(url: str, key: str, on: Literal["first_text", "response"]) -> ResilientChatModel:
    # Counting slows the clock's work twentyfold: a learned delay would hedge, and be counted.
    target = Target("openai:gpt-4o-mini", base_url=url, api_key=key)
    return ResilientChatModel(targets=[target], hedge=Hedge(delay=60, pause=None, on=on))


async def _measured(url: str) -> Counts:
    llm, plain = _model(url, "k", "first_text"), _model(url, "plain", "response")

    async def stream() -> None:
        assert sum([bool(chunk.text) async for chunk in llm.astream(LONG)]) == CHUNKS

    ways: dict[str, tuple[Callable[[], Awaitable[Any]], int, int, int]] = {
        "ainvoke": (lambda: llm.ainvoke(SHORT), WARM_UP, CALLS, 1),
        "ainvoke plain": (lambda: plain.ainvoke(SHORT), WARM_UP, CALLS, 1),
        "chunk of astream": (stream, 3, STREAMS, CHUNKS),
    }
    counts: Counts = {}
    gc.disable()  # finalizers are run by chance
    for name, (one, warm_up, calls, parts) in ways.items():
        figures = await _per_call(one, warm_up, calls)
        counts |= {f"{name} {whose}": number / parts for whose, number in figures.items()}
    return counts


def count(burden: float = 0.0) -> Counts:
    """Count the instructions of a call and of a chunk, over a loopback server.

    Args:
        burden: Share of needless work to put on each `ainvoke`: a guard must be seen to fail.
    """
    if burden:
        _put_on(burden)
    with _server() as url:
        return asyncio.run(_measured(url))


def _put_on(share: float) -> None:
    """Let `_agenerate` idle, as code of this package, for a share of the stored instructions."""
    turns = int(share * baseline()["counts"]["ainvoke ours"] / _INSTRUCTIONS_A_TURN)
    source = f"def idle():\n    for _ in range({turns}):\n        pass\n"
    names: dict[str, Any] = {}
    exec(compile(source, f"{_HOME}/idle.py", "exec"), names)  # noqa: S102 - our own text
    real = ResilientChatModel._agenerate

    async def slower(*args: Any, **kwargs: Any) -> Any:
        names["idle"]()
        return await real(*args, **kwargs)

    ResilientChatModel._agenerate = slower  # type: ignore[method-assign]


def versions() -> dict[str, str]:
    """Return the libraries' versions, on which the counts called `all` depend."""
    return {name: version(name) for name in LIBRARIES}


def baseline() -> dict[str, Any]:
    """Return what is stored for this Python: `counts` and `versions`, or neither."""
    stored: dict[str, Any] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    return stored.get(PYTHON, {})


def grown(counts: Counts, stored: dict[str, Any]) -> list[str]:
    """Say which counts are more than 5 % above the stored ones.

    Those called `all` are compared only where the libraries are of the same versions.
    """
    same = stored["versions"] == versions()
    return [
        f"{name}: {counts[name]:.0f} instructions, stored {was:.0f}"
        for name, was in stored["counts"].items()
        if (same or name.endswith(" ours")) and counts[name] > was * ALLOWED
    ]


def store(counts: Counts) -> None:
    """Keep the counts as the baseline of this Python."""
    stored = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    rounded = {name: round(number, 1) for name, number in counts.items()}
    stored[PYTHON] = {"counts": rounded, "versions": versions()}
    BASELINE.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", action="store_true")
    parser.add_argument("--burden", type=float, default=0.0)
    options = parser.parse_args()
    found = count(options.burden)
    sys.stdout.write(json.dumps(found) + "\n")
    if options.store:
        store(found)

"""Sizes that no provider sends, over real sockets: refused clearly, in bounded memory and time."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import re
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenacity import stop_after_attempt

from langchain_resilient import Hedge, ResilientChatModel, ResilientError, Retry, Target, TimeLimits
from langchain_resilient.runtime import shared_state
from verification.fuzz.hostile_server import HEALTHY

if TYPE_CHECKING:
    from collections.abc import Iterator

MEGABYTE = 1_000_000
MAX_MEGABYTES = 100
"""Memory that a scene may take beside what the process has."""

MAX_GROWTH = 10.0
"""Megabytes by which a process may have grown between a fifth of a fuzzing run and its end."""

MAX_SECONDS = 60.0
"""A scene may take so long; the limits of the library are shorter or are met sooner."""


@dataclass(frozen=True)
class Expected:
    """What becomes of a scene.

    Attributes:
        why: An expression that is found in what is said about the sick target.
        plain: Whether a whole answer is asked for instead of a stream.
        megabytes: Memory that it may take.
        answers: Whether the sick target's answer is taken, for it is one.
    """

    why: str
    plain: bool = False
    megabytes: int = MAX_MEGABYTES
    answers: bool = False


_EVENT, _STREAM = "an event is longer than", "the stream is longer than"
EXPECTED: dict[str, Expected] = {
    "a line without end": Expected(_EVENT),
    "a JSON string without end": Expected(_EVENT),
    "an event of many lines": Expected(_EVENT),
    "an event of long lines": Expected(_EVENT),
    "comments without end": Expected(f"{_STREAM}|no text within"),
    "a comment without end": Expected(_EVENT),
    "carriage returns without end": Expected(f"{_STREAM}|no text within"),
    "line feeds without end": Expected(f"{_STREAM}|no text within"),
    "a body without end": Expected("the answer is longer than", plain=True),
    "a body of many objects": Expected("the answer is longer than", plain=True),
    "an event of many objects": Expected("more than 1000000 objects"),
    "an error without end": Expected("server"),
    "text without end": Expected(_STREAM),
    "long text without end": Expected(_STREAM, megabytes=300),
    "thoughts without end": Expected("no text within|the stream is longer"),
    "white space without end": Expected("no text within|the stream is longer"),
    "chunks that say nothing": Expected("10000 chunks in a row said nothing"),
    "more after the end": Expected("", answers=True),
    "a call without end": Expected(_STREAM, megabytes=300),
    "calls without end": Expected("more than 1024 tool calls"),
    "choices without end": Expected("more than 128 choices"),
    "deep JSON": Expected("recursion limit", plain=True),
    "a deep event": Expected("recursion limit|without a finish_reason"),
    "deep arguments": Expected("", plain=True, answers=True),
    "a huge number": Expected("number out of range"),
    "a gzip bomb": Expected("the answer is longer than", plain=True),
    "a gzip bomb of events": Expected(_EVENT),
    "a deflate bomb": Expected(_EVENT),
    "a bomb in a bomb": Expected("is encoded as 'gzip, gzip'"),
    "a coding nobody asked for": Expected("is encoded as 'br'"),
    "a header of 10 MB": Expected("connection .*Got more than \\d+ bytes"),
    "100,000 headers": Expected("connection .*Too many headers"),
    "provisional answers without end": Expected("no text within|connection|broken"),
    "a redirect to itself": Expected("307"),
    "tiny pieces": Expected("", answers=True),
    "well": Expected("", answers=True),
}
"""What becomes of each scene of the server."""


@dataclass(frozen=True)
class Outcome:
    """What came of one scene.

    Attributes:
        scene: Which.
        said: What is told of the sick target; "" if it answered.
        text: What the user got; None if nothing.
        megabytes: Memory at the peak, beside what the process had.
        seconds: How long it took.
    """

    scene: str
    said: str
    text: str | None
    megabytes: float
    seconds: float

    def problems(self) -> list[str]:
        """What must not be, in words."""
        want, results = EXPECTED[self.scene], []
        if self.text is None:
            results.append("no answer, though a target was well")
        elif not want.answers and self.text != HEALTHY:
            results.append(f"answered {self.text[:60]!r}")
        if not re.search(want.why, self.said) or "internal" in self.said:
            results.append(f"it is not told that {want.why!r}")
        if self.megabytes > want.megabytes:
            results.append(f"it took more than {want.megabytes} MB")
        if self.seconds > MAX_SECONDS:
            results.append(f"it took longer than {MAX_SECONDS:g} s")
        return results


@contextmanager
def server() -> Iterator[str]:
    """Start the server in a process of its own; yields its address."""
    command = [sys.executable, "-m", "verification.fuzz.hostile_server"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


async def ask(url: str, scene: str) -> Outcome:
    """Play one scene: it is asked first, and a healthy target after it."""
    shared_state.reset()
    expected = EXPECTED[scene]
    targets = [Target(f"openai:{name}", base_url=url, api_key="sk-0123456789")
               for name in (scene, "fallback")]  # fmt: skip
    model = ResilientChatModel(
        targets=targets,
        timeout=2 * MAX_SECONDS,
        time_limits=TimeLimits(first_text=5.0),
        hedge=Hedge(on="response") if expected.plain else None,
        retry=Retry(stop=stop_after_attempt(1)),
        health=None,
    )
    before, began = start_measuring(), time.perf_counter()
    text, words = None, ""
    try:
        message = await model.ainvoke("Hello")
        text = message.text
        words = _told(message.response_metadata["resilience"])
    except ResilientError as error:
        words = str(error)
    await shared_state.loop_reaper().drain()
    seconds = time.perf_counter() - began
    return Outcome(scene, words, text, (peak() - before) / MEGABYTE, seconds)


def _told(receipt: dict[str, Any]) -> str:
    first = receipt["attempts"][0]
    return f"{first.get('fault', '')} {first.get('message', '')} {first.get('status', '')}".strip()


def start_measuring() -> int:
    """Begin to look for a peak; returns the memory of this process in bytes now. Linux only."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def peak() -> int:
    """The most memory of this process, in bytes, since `start_measuring`."""
    return _memory("VmHWM")


def _memory(name: str) -> int:
    match = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def run(scenes: list[str]) -> list[Outcome]:
    """Play scenes one after the other; the first, which is not counted, warms up."""

    async def main(url: str) -> list[Outcome]:
        await ask(url, "well")
        results = []
        for scene in scenes:
            results.append(await ask(url, scene))
            wrong = "; ".join(results[-1].problems())
            sys.stdout.write(f"{_line(results[-1])}{'  WRONG: ' + wrong if wrong else ''}\n")
            sys.stdout.flush()
        return results

    with server() as url:
        return asyncio.run(main(url))


def _line(one: Outcome) -> str:
    got = "answered" if EXPECTED[one.scene].answers and one.text != HEALTHY else "well answered"
    head = f"{one.scene:34}{one.megabytes:7.1f} MB{one.seconds:7.2f} s  "
    return f"{head}{got if one.text is not None else 'NO ANSWER'}: {one.said[:90]}"

"""How much slower Python is after a pause, on this machine: its caches may not be its own.

A service at 100 requests a second has a pause before each. On a machine of one's own they cost
little; on a virtual one, neighbours use the same caches meanwhile, and the same code then takes
several times as long. The pause is spent spinning, in the same process: nothing is switched here,
and the core is never given up.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import TYPE_CHECKING

from langchain_core.messages import AIMessage

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSE = 0.01
"""Seconds: between requests, at 100 a second."""


def milliseconds_after(
    pause: float,
    *,
    rounds: int = 300,
    work: Callable[[], object] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Measure a piece of Python, each time after a pause.

    Args:
        pause: Seconds; 0 for a loop without any.
        rounds: How often.
        work: What is measured; by default some messages that are made, written and read.
        clock: Seconds.

    Returns:
        The median, in milliseconds.
    """
    taken = []
    for _ in range(rounds):
        until = clock() + pause
        while clock() < until:
            pass
        began = clock()
        (work or _some_messages)()
        taken.append((clock() - began) * 1000)
    return statistics.median(taken)


def told() -> str:
    """Measure it with and without pauses; a line that tells."""
    hot, cold = milliseconds_after(0), milliseconds_after(PAUSE)
    return (
        f"this machine: a piece of Python takes {hot:.2f} ms in a loop and {cold:.2f} ms after "
        f"pauses of {PAUSE * 1000:g} ms, {cold / hot:.1f} x"
    )


def _some_messages() -> None:
    for number in range(6):
        message = AIMessage(f"hello {number}", response_metadata={"parts": [1, 2, 3]})
        json.loads(json.dumps(message.model_dump()))

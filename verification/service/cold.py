"""Whether the processor still holds, after a pause, what it held before: how cold its caches get.

A service at 100 requests a second has a pause before each. On a machine of one's own the caches
keep most of it meanwhile; on a virtual one, neighbours may push out all of it, and each line of
memory that a request touches is then fetched anew. The pause is spent spinning, in the same
process: nothing is switched, and the core is never given up.
"""

from __future__ import annotations

import random
import statistics
import time
from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSE = 0.01
"""Seconds: between requests, at 100 a second."""

LINES = 4096
"""Of 64 bytes: 256 KB, less than a core's own cache."""

_WORDS = 8
"""In a line."""


def nanoseconds_after(
    pause: float,
    *,
    rounds: int = 100,
    read: Callable[[], object] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Measure how long a line of memory takes to read, with what Python needs for it.

    Args:
        pause: Seconds before each round; 0 for a loop without any.
        rounds: How often all lines are read.
        read: Reads them; for tests.
        clock: Seconds.

    Returns:
        The median over the rounds, for one line.
    """
    read = read or _reader()
    taken = []
    for _ in range(rounds):
        until = clock() + pause
        while clock() < until:
            pass
        began = clock()
        read()
        taken.append(clock() - began)
    return statistics.median(taken) / LINES * 1e9


def told() -> str:
    """Measure it with and without pauses; a line that tells."""
    hot, cold, size = nanoseconds_after(0), nanoseconds_after(PAUSE), LINES * _WORDS * 8 // 1024
    return (
        f"this machine: Python reads a line of {size} KB in {hot:.0f} ns in a loop, "
        f"in {cold:.0f} ns after {PAUSE * 1000:g} ms"
    )


def table_of_lines() -> array[int]:
    """Make a table in which the first word of each line says where the next one begins.

    They are in no order, and go round: none can be fetched before the one before it is there.
    """
    order = [0, *random.Random(0).sample(range(1, LINES), LINES - 1)]
    table = array("Q", bytes(LINES * _WORDS * 8))
    for line, following in zip(order, [*order[1:], 0], strict=True):
        table[line * _WORDS] = following * _WORDS
    return table


def _reader() -> Callable[[], object]:
    table, steps = table_of_lines(), range(LINES)

    def read() -> int:
        at = 0
        for _ in steps:
            at = table[at]
        return at

    return read

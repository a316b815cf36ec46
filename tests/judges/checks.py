"""What a judge is asked, what came of it, and the table that says so."""

from __future__ import annotations

import asyncio
import textwrap
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.judges.left import left

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

_WIDTH = 110


@dataclass(frozen=True)
class Check:
    """One thing to ask of a judge.

    Attributes:
        asked: What, in a few words.
        work: Does it, and returns what that proved; raises what it did not.
    """

    asked: str
    work: Callable[[], Awaitable[str]]


@dataclass(frozen=True)
class Row:
    """What came of a check.

    Attributes:
        asked: What was asked.
        proved: What that proved; of a failure, what was wrong.
        ok: Whether it did.
        seconds: How long it took.
        requests: How many requests the judge saw.
    """

    asked: str
    proved: str
    ok: bool
    seconds: float
    requests: int

    def __str__(self) -> str:
        """Two lines or more of the table."""
        mark = "ok" if self.ok else "NOT OK"
        head = f"{self.asked:<72}{self.requests:>9}{self.seconds:>9.2f} s  {mark}"
        proved = textwrap.wrap(self.proved, _WIDTH, initial_indent="    ", subsequent_indent="    ")
        return "\n".join((head, *proved))


async def examine(check: Check, seen: Callable[[], int]) -> Row:
    """Do a check and count what the judge saw of it.

    Args:
        check: What to do.
        seen: How many requests the judge has seen since it started.
    """
    before, began = await asyncio.to_thread(seen), time.monotonic()
    try:
        proved, ok = await check.work(), True
    except Exception as error:  # noqa: BLE001  # whatever happened, it is told in the table
        proved, ok = f"{type(error).__name__}: {error}", False
    seconds = time.monotonic() - began
    return Row(check.asked, proved, ok, seconds, await asyncio.to_thread(seen) - before)


async def hear(
    checks: Sequence[Check], seen: Callable[[], int], ours: Collection[int] = ()
) -> list[Row]:
    """Do all checks of a judge, print the table as it grows, and then look what was left behind.

    Args:
        checks: What to do.
        seen: How many requests the judge has seen since it started.
        ours: Ports on which this process itself serves.
    """
    rows = []
    for check in (*checks, Check("afterwards", lambda: _nothing_left(ours))):
        rows.append(await examine(check, seen))
        print(rows[-1], flush=True)
    return rows


async def _nothing_left(ours: Collection[int]) -> str:
    found = await left(ours)
    assert not found, "; ".join(found)
    return "no task, no loser and no socket of ours was left, and nobody complained"

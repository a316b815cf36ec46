"""Cases drawn by hypothesis, played in batches: after each one the memory is looked at."""

from __future__ import annotations

import asyncio
import gc
import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import openai  # noqa: F401  # beforehand: no part of any case
import together  # noqa: F401
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from verification.fuzz.answers import case
from verification.fuzz.hostile import MEGABYTE, start_measuring
from verification.fuzz.world import Tally, in_memory, play_in_memory, play_over_sockets
from verification.kit.virtual_time import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Callable

AT_ONCE = 8
"""Cases in one example of hypothesis, whose own work would else be most of it."""

BYTES = 192
"""Choices of one case."""

BATCH = 1000


@dataclass(frozen=True)
class Batch:
    """What came of some cases.

    Attributes:
        tally: The counts.
        megabytes: The memory of the process after it.
    """

    tally: Tally
    megabytes: float


def drawn(cases: int, number: int) -> list[bytes]:
    """Let hypothesis draw the bytes of so many cases; the number is the seed."""
    results: list[bytes] = []

    @seed(number)
    @settings(max_examples=max(1, cases // AT_ONCE), database=None, deadline=None,
              phases=[Phase.generate], suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.binary(min_size=AT_ONCE * BYTES, max_size=AT_ONCE * BYTES))
    def take(data: bytes) -> None:
        results.extend(data[at : at + BYTES] for at in range(0, len(data), BYTES))

    take()
    return results


def memory_batch(datas: list[bytes]) -> Tally:
    """Play cases without sockets, in virtual time."""
    tally = Tally()
    with in_memory() as ledger, asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(play_in_memory(map(case, datas), ledger, tally))
    return tally


def socket_batch(datas: list[bytes]) -> Tally:
    """Play cases over real sockets."""
    tally = Tally()
    asyncio.run(play_over_sockets(datas, tally))
    return tally


def _all(play: Callable[[list[bytes]], Tally], share: tuple[int, int], batch: int) -> list[Batch]:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    first, cases = share
    results = []
    for number in range(max(1, cases // batch)):
        tally = play(drawn(batch, first * 1_000_000 + number))
        results.append(Batch(tally, start_measuring() / MEGABYTE))
    return results


def without_sockets(share: tuple[int, int]) -> list[Batch]:
    """Play a share (seed, cases) of the cases without sockets."""
    return _all(memory_batch, share, BATCH)


def over_sockets(share: tuple[int, int]) -> list[Batch]:
    """Play a share (seed, cases) of the cases over sockets."""
    return _all(socket_batch, share, BATCH // 4)


def grown(batches: list[Batch]) -> tuple[float, float]:
    """Megabytes of the process after a fifth of the batches, and after the last."""
    gc.collect()
    return batches[len(batches) // 5].megabytes, batches[-1].megabytes

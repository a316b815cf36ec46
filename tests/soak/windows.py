"""What is measured of a window: so many prompts, and then silence, in which all is counted."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_resilient.runtime.background_loop import background_loop
from langchain_resilient.runtime.shared_state import loop_reaper

if TYPE_CHECKING:
    from tests.soak.callers import Callers
    from tests.soak.server import Providers

SETTLE = 5.0
"""Seconds that all may take to come to rest after the last call."""

_MEGABYTE = 1 << 20
_NOT_OURS = {"late", "answered", "cancelled"}


@dataclass(frozen=True)
class Window:
    """A row of the table. Seconds, megabytes, milliseconds; counts are of after the window."""

    prompts: int
    sends: int
    seconds: float
    p50: float
    p99: float
    cpu_ms: float
    rss: float
    objects: int
    tasks: int
    threads: int
    files: int
    sockets: int
    busy: int
    answered: int
    cancelled: int
    late: int
    errors: dict[str, int] = field(default_factory=dict)

    def as_row(self) -> dict[str, float]:
        """As the CSV has it."""
        return {**asdict(self), "errors": sum(self.errors.values())}


class Soak:
    """Runs windows, one after the other.

    Args:
        callers: Who asks.
        providers: Who answers.
        in_flight: How many callers at a time.
        weather_every: Prompts after which the weather changes.
    """

    def __init__(
        self, callers: Callers, providers: Providers, *, in_flight: int, weather_every: int
    ) -> None:
        self._callers = callers
        self._providers = providers
        self._in_flight = in_flight
        self._every = weather_every
        self._asked = 0
        self._sent = 0

    async def window(self, prompts: int) -> Window:
        """Ask so many prompts, wait until all is still, and count."""
        self._callers.told.clear()
        self._callers.latencies.clear()
        began, cpu, before = time.monotonic(), time.process_time(), self._asked
        async with asyncio.TaskGroup() as group:
            for _ in range(self._in_flight):
                group.create_task(self._worker(before + prompts))
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
        busy = await self._settled()
        return self._count(self._asked - before, seconds, cpu, busy)

    async def _worker(self, until: int) -> None:
        while self._asked < until:
            weather = self._asked // self._every
            asked = await self._callers.call()
            self._asked += asked
            if self._asked // self._every != weather:
                self._providers.weather(self._asked // self._every)

    async def _settled(self) -> int:
        """Wait for what was left; returns how many requests the server is still busy with."""
        await loop_reaper().drain()
        await asyncio.to_thread(background_loop().run, _drain())
        ends = time.monotonic() + SETTLE
        while True:
            gc.collect()
            busy = self._providers.census()["in_flight"]
            if not busy and _tasks() == 1:
                return 0
            if time.monotonic() > ends:
                return busy
            await asyncio.sleep(0.05)

    def _count(self, prompts: int, seconds: float, cpu: float, busy: int) -> Window:
        told, latencies = self._callers.told, sorted(self._callers.latencies)
        census = self._providers.census()
        sockets, sends = census["sockets"], census["requests"] - self._sent
        self._sent = census["requests"]
        return Window(
            prompts=prompts,
            sends=sends,
            seconds=seconds,
            p50=latencies[len(latencies) // 2],
            p99=latencies[len(latencies) * 99 // 100],
            cpu_ms=1000 * cpu / prompts,
            rss=_resident(),
            objects=len(gc.get_objects()),
            tasks=_tasks(),
            threads=threading.active_count(),
            files=_open_files() - sockets,
            sockets=sockets,
            busy=busy,
            answered=told["answered"],
            cancelled=told["cancelled"],
            late=told["late"],
            errors={name: count for name, count in told.items() if name not in _NOT_OURS},
        )


async def _drain() -> None:
    await loop_reaper().drain()


def _tasks() -> int:
    """Tasks of this loop and of the portal's."""
    return len(asyncio.all_tasks()) + len(asyncio.all_tasks(background_loop()._loop))


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd")) - 1  # the folder itself  # noqa: PTH208


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MEGABYTE

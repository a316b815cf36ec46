"""What is measured of a window: so many prompts, and then silence, in which all is counted."""

from __future__ import annotations

import asyncio
import csv
import gc
import os
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from langchain_resilient.runtime.background_loop import background_loop
from langchain_resilient.runtime.shared_state import loop_reaper
from verification.kit.report import Table, write_csv

if TYPE_CHECKING:
    from collections.abc import Sequence

    from verification.soak.callers import Callers
    from verification.soak.providers import Providers


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

    Attributes:
        kinds: Of which classes the objects are, after each window.
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
        self.kinds: list[Counter[str]] = []

    async def window(self, prompts: int) -> Window:
        """Ask so many prompts, wait until all is still, and count."""
        self._callers.outcomes.clear()
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
        outcomes, latencies = self._callers.outcomes, sorted(self._callers.latencies)
        census = self._providers.census()
        sockets, sends = census["sockets"], census["requests"] - self._sent
        self._sent = census["requests"]
        self.kinds.append(_kinds())
        return Window(
            prompts=prompts,
            sends=sends,
            seconds=seconds,
            p50=latencies[len(latencies) // 2],
            p99=latencies[len(latencies) * 99 // 100],
            cpu_ms=1000 * cpu / prompts,
            rss=_resident(),
            objects=self.kinds[-1].total(),
            tasks=_tasks(),
            threads=threading.active_count(),
            files=_open_files() - sockets,
            sockets=sockets,
            busy=busy,
            answered=outcomes["answered"],
            cancelled=outcomes["cancelled"],
            late=outcomes["late"],
            errors={name: count for name, count in outcomes.items() if name not in _NOT_OURS},
        )


async def _drain() -> None:
    await loop_reaper().drain()


def _kinds() -> Counter[str]:
    """Of which classes the garbage collector's objects are."""
    return Counter(f"{type(o).__module__}.{type(o).__qualname__}" for o in gc.get_objects())


def _tasks() -> int:
    """Tasks of this loop and of the portal's."""
    return len(asyncio.all_tasks()) + len(asyncio.all_tasks(background_loop()._loop))


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd")) - 1  # the folder itself  # noqa: PTH208


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MEGABYTE


WARM_UP = 600.0
"""Seconds that are not counted of a long run; of a shorter one it is a tenth: until then pools,
histograms and the allocator's own stock grow to their size."""

SPAN = 3
"""Windows of which the median is taken at either end, at least. One may have had bad luck, and the
objects of any are up to 1 % more or less, as there happen to be idle connections (some 20 each) and
samples of the time models that share their request's profile."""


@dataclass(frozen=True)
class Bounds:
    """What may grow, and how much.

    Attributes:
        megabytes: Of resident memory.
        objects: Of the garbage collector, as a share.
        latency: The last windows' p50 and p99, in those of the first.
        errors: The share of calls that may end in an error.
    """

    megabytes: float = 5.0
    objects: float = 0.01
    latency: float = 1.3
    errors: float = 0.0


def complaints(windows: Sequence[Window], bounds: Bounds) -> list[str]:
    """List what was not flat, in words.

    Args:
        windows: Of the whole run, in order.
        bounds: What may grow.
    """
    after = counted(windows)
    results = [*_growth(after, bounds), *_left_behind(after)]
    if late := sum(one.late for one in windows):
        results.append(f"{late} calls ended after their deadline")
    errors = sum(sum(one.errors.values()) for one in windows)
    calls = errors + sum(one.answered for one in windows)
    if errors > bounds.errors * calls:
        results.append(f"{errors} of {calls} calls ended in an error")
    return results


def counted(windows: Sequence[Window]) -> Sequence[Window]:
    """Leave out those that are for warming up."""
    first, passed = max(1, len(windows) // 10), 0.0
    if sum(one.seconds for one in windows) >= 2 * WARM_UP:
        for number, one in enumerate(windows):
            passed += one.seconds
            if passed >= WARM_UP:
                first = max(first, number + 1)
                break
    return windows[first:]


def growth(figures: Sequence[float]) -> tuple[float, float]:
    """A figure in the beginning and in the end: medians of a quarter of the windows, or `SPAN`."""
    span = max(SPAN, len(figures) // 4)
    return median(figures[:span]), median(figures[-span:])


def _growth(windows: Sequence[Window], bounds: Bounds) -> list[str]:
    results = []
    first, last = growth([one.rss for one in windows])
    if last - first > bounds.megabytes:
        results.append(f"memory grew from {first:.1f} to {last:.1f} MB")
    for name, most in (
        ("objects", 1 + bounds.objects),
        ("p50", bounds.latency),
        ("p99", bounds.latency),
    ):
        first, last = growth([getattr(one, name) for one in windows])
        if last > most * first:
            results.append(f"{name} grew from {first:.4g} to {last:.4g}")
    return results


def _left_behind(windows: Sequence[Window]) -> list[str]:
    results = []
    for name in ("tasks", "threads", "files"):
        seen = {getattr(one, name) for one in windows}
        if len(seen) > 1:
            results.append(f"{name} after each window: {sorted(seen)}")
    if busy := sum(one.busy for one in windows):
        results.append(
            f"the server was still busy with {busy} requests after their callers had gone"
        )
    return results


_TABLE = Table(
    ("window", ">6"),
    ("prompts", ">8,"),
    ("sends", ">8,"),
    ("/s", ">5.0f"),
    ("p50 s", ">6.3f"),
    ("p99 s", ">6.3f"),
    ("CPU ms", ">6.2f"),
    ("RSS MB", ">7.1f"),
    ("objects", ">8,"),
    ("tasks", ">5"),
    ("threads", ">7"),
    ("files", ">5"),
    ("sockets", ">7"),
    ("busy", ">4"),
    ("answered", ">8,"),
    ("cancelled", ">9,"),
    ("late", ">4"),
    (" errors", "<7"),
    gap=" ",
)

HEAD = _TABLE.header()


def line(number: int, one: Window) -> str:
    """Write a row of the table."""
    errors = ", ".join(f"{count} {name}" for name, count in one.errors.items()) or "none"
    return _TABLE.line(
        number, one.prompts, one.sends, one.prompts / one.seconds, one.p50, one.p99, one.cpu_ms,
        one.rss, one.objects, one.tasks, one.threads, one.files, one.sockets, one.busy,
        one.answered, one.cancelled, one.late, f" {errors}",
    )  # fmt: skip


def write_windows(windows: Sequence[Window], path: Path) -> None:
    """Write one line per window."""
    write_csv(path, ({"window": n, **one.as_row()} for n, one in enumerate(windows, start=1)))


def plot(results: Path, path: Path) -> None:
    """Draw memory, latency and CPU over the run.

    Args:
        results: The CSV; of a run that was interrupted too.
        path: Where the PNG goes.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with results.open(newline="") as file:
        windows = list(csv.DictReader(file))
    asked = list(accumulate(float(one["prompts"]) for one in windows))
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.2))
    drawn = (
        ("resident memory", "MB", {"rss": ""}),
        ("latency", "seconds", {"p50": "p50", "p99": "p99"}),
        ("CPU per prompt", "milliseconds", {"cpu_ms": ""}),
    )
    for axes, (title, unit, names) in zip(panels, drawn, strict=True):
        for name, label in names.items():
            axes.plot(asked, [float(one[name]) for one in windows], marker=".", label=label)
        axes.set(title=title, ylabel=unit, xlabel="prompts so far")
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
        axes.locator_params(axis="x", nbins=4)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)

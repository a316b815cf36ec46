"""Closes losers: one owner, exactly one cancellation each, off the hot path, in bounded time.

A pooled connection is lost for good if a streaming task is cancelled twice (together on
httpx/httpcore: encode/httpx#3782), so a task handed to the reaper is cancelled here, once, and
nothing else touches it. Nothing waits for it either, except `drain` at the very end.
"""

from __future__ import annotations

import asyncio


class Reaper:
    """Holds the losers' tasks of one event loop until they have closed their connections."""

    __slots__ = ("_closing", "_probes")

    def __init__(self) -> None:
        self._closing: set[asyncio.Task[None]] = set()
        self._probes: set[asyncio.Task[None]] = set()

    def take(self, task: asyncio.Task[None]) -> None:
        """Cancel a task, once, and keep it until it is done."""
        if task.done() or task in self._closing:
            return
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        task.cancel()

    def keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task that is ending by itself (closing its connection) without cancelling it."""
        if not task.done():
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def host(self, task: asyncio.Task[None]) -> None:
        """Hold a background task (a probe) while it works; `drain` cancels it."""
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    async def drain(self, seconds: float = 2.0) -> int:
        """Wait until the losers are closed, at most `seconds`.

        Returns:
            How many are still open.
        """
        for probe in tuple(self._probes):
            self.take(probe)
        if self._closing:
            await asyncio.wait(set(self._closing), timeout=seconds)
        return len(self._closing)

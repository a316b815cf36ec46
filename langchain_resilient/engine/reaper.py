"""Closes losers: one owner, exactly one cancel each, off the hot path, bounded.

A pooled connection is lost for good if a streaming task is cancelled twice (together on
httpx/httpcore: encode/httpx#3782), so a task handed to the reaper is cancelled here, once, and
nobody else touches it. Nobody waits for it either, except `drain` at the very end.
"""

from __future__ import annotations

import asyncio


class Reaper:
    """Holds the tasks of one event loop's losers until they have closed their connections."""

    __slots__ = ("_dying", "_guests")

    def __init__(self) -> None:
        self._dying: set[asyncio.Task[None]] = set()
        self._guests: set[asyncio.Task[None]] = set()

    def take(self, task: asyncio.Task[None]) -> None:
        """Cancel a task, once, and keep it until it is done."""
        if task.done() or task in self._dying:
            return
        self._dying.add(task)
        task.add_done_callback(self._dying.discard)
        task.cancel()

    def keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task that is ending by itself (closing its connection) without cancelling it."""
        if not task.done():
            self._dying.add(task)
            task.add_done_callback(self._dying.discard)

    def host(self, task: asyncio.Task[None]) -> None:
        """Hold a task that nobody waits for while it does its work; `drain` sends it away."""
        self._guests.add(task)
        task.add_done_callback(self._guests.discard)

    async def drain(self, seconds: float = 2.0) -> int:
        """Wait until the losers are closed, at most `seconds`.

        Returns:
            How many are still not closed.
        """
        for guest in tuple(self._guests):
            self.take(guest)
        if self._dying:
            await asyncio.wait(set(self._dying), timeout=seconds)
        return len(self._dying)

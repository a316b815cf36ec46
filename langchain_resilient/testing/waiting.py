"""Waiting for a condition without looking at it all the time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Waiters:
    """Wakes those who wait when their condition may have come true. For one loop."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], Callable[[], bool]] = {}

    def look(self) -> None:
        """Something has changed: wake whoever waited for it."""
        if self._waiting:
            for future, condition in list(self._waiting.items()):
                if not future.done() and condition():
                    future.set_result(None)

    async def until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait until a condition is true.

        Raises:
            TimeoutError: If that takes longer than so many seconds.
        """
        if condition():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = condition
        try:
            await asyncio.wait_for(future, seconds)
        finally:
            del self._waiting[future]

"""What calls leave behind: tasks by the call that made them, sockets, and complaints at the end."""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
import weakref
from collections import defaultdict
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Self

from langchain_resilient.providers.sdk import close_clients
from langchain_resilient.runtime.background_loop import background_loop
from langchain_resilient.runtime.shared_state import loop_reaper

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from langchain_resilient.testing.simulator import ProviderSimulator

SETTLE = 2.0
"""Seconds that a loser may take to be gone."""

_TICK = 0.005

_call: ContextVar[int] = ContextVar("call")


class Census:
    """Knows which call made a task, on the running loop and on the portal's. Use it with `with`.

    A task inherits the context of whoever made it, across threads too; so a number in the context
    tells whose it is.
    """

    def __init__(self) -> None:
        self._tasks: dict[int, list[weakref.ref[asyncio.Task[Any]]]] = defaultdict(list)
        self._loops = [asyncio.get_running_loop(), background_loop()._loop]
        self._warned = warnings.catch_warnings(record=True)
        self.complaints: list[str] = []

    def __enter__(self) -> Self:
        for loop in self._loops:
            loop.set_task_factory(self._make)
            loop.set_exception_handler(lambda _, context: self.complaints.append(str(context)))
        self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        self._log = self._warned.__enter__()
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ResourceWarning)
        warnings.simplefilter("always", RuntimeWarning)
        return self

    def __exit__(self, *error: object) -> None:
        self._warned.__exit__(None, None, None)
        sys.unraisablehook = self._hook
        for loop in self._loops:
            loop.set_task_factory(None)
            loop.set_exception_handler(None)

    async def run(self, number: int, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a call under its number."""
        context = copy_context()
        context.run(_call.set, number)
        return await asyncio.get_running_loop().create_task(work, context=context)

    async def left(self, number: int) -> list[str]:
        """Wait for what a call made to be gone, and list what is still there."""
        return await settled(lambda: [f"task left: {task}" for task in self._alive(number)])

    async def close(self, sim: ProviderSimulator) -> list[str]:
        """Close the clients of both loops, and list what the process, or the server, still has."""
        found = await _drained() + await asyncio.to_thread(background_loop().run, _drained())
        try:
            await sim.await_idle(SETTLE, sockets=0)
        except TimeoutError as error:
            found.append(str(error))
        gc.collect()  # whatever was dropped without being closed complains now
        return [*found, *self.complaints, *(str(one.message) for one in self._log or ())]

    def _make(
        self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
        context = options.get("context")
        number = _call.get(None) if context is None else context.get(_call)
        if number is not None:
            self._tasks[number].append(weakref.ref(task))
        return task

    def _alive(self, number: int) -> list[asyncio.Task[Any]]:
        tasks = [known() for known in tuple(self._tasks[number])]
        return [task for task in tasks if task is not None and not task.done()]

    def _unraisable(self, what: sys.UnraisableHookArgs) -> None:
        self.complaints.append(f"{what.err_msg}: {what.exc_value!r} in {what.object!r}")


async def settled(what_is_left: Callable[[], list[str]]) -> list[str]:
    """Wait for something to be gone.

    Args:
        what_is_left: Lists what is still there.

    Returns:
        What is still there after `SETTLE` seconds.
    """
    left = what_is_left()
    for _ in range(round(SETTLE / _TICK)):
        if not left:
            break
        await asyncio.sleep(_TICK)
        left = what_is_left()
    return left


async def _drained() -> list[str]:
    """Close the running loop's losers and clients."""
    left = await loop_reaper().drain()
    await close_clients()
    return [f"{left} losers are not closed"] if left else []

"""What calls leave behind: tasks, losers, connections in use, sockets, threads and files.

- `Census` watches one event loop, the portal's loop and the interpreter's complaints, call by call.
- `remaining` closes everything and lists what a whole program still has.
- `stock` and `grown` compare what the process holds before and after.
"""

from __future__ import annotations

import asyncio
import gc
import os
import stat
import sys
import threading
import time
import warnings
import weakref
from collections import Counter, defaultdict
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from langchain_resilient.providers import connection
from langchain_resilient.runtime.background_loop import background_loop
from langchain_resilient.runtime.shared_state import loop_reaper

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine

    from langchain_resilient.testing import ProviderSimulator

SETTLE = 2.0
"""Seconds that a loser may take to be gone."""

WORKER_THREADS = "verification-worker"
"""Name of the threads in which synchronous calls are made; they stay."""

_TICK = 0.005

_PERMANENT_THREADS = (WORKER_THREADS, "asyncio_", "langchain-resilient_")
"""Threads that loops keep for their blocking work, a bounded number."""

_DESCRIPTORS = Path("/proc/self/fd")

_call: ContextVar[int] = ContextVar("call")


class Census:
    """Knows which call made a task, on the running loop and on the portal's. Use it with `with`.

    A task inherits the context of the code that creates it, across threads too, so a number in the
    context identifies the call.
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
        """Wait until everything that a call started is gone, and list what is still there."""
        return await settled(lambda: [f"a task is left: {task}" for task in self._alive(number)])

    async def close(self, sim: ProviderSimulator) -> list[str]:
        """Close the clients of both loops, and list what the process, or the server, still has."""
        leftovers = await _drain_everywhere()
        try:
            await sim.await_idle(SETTLE, sockets=0)
        except TimeoutError as error:
            leftovers.append(str(error))
        gc.collect()  # whatever was dropped without being closed complains now
        return [*leftovers, *self.complaints, *(str(one.message) for one in self._log or ())]

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


async def settled(list_leftovers: Callable[[], list[str]]) -> list[str]:
    """Wait until nothing is left, for `SETTLE` seconds at most.

    Args:
        list_leftovers: Lists what is still there.

    Returns:
        What is still there in the end.
    """
    until = time.monotonic() + SETTLE
    while (leftovers := list_leftovers()) and time.monotonic() < until:  # noqa: ASYNC110
        await asyncio.sleep(_TICK)
    return leftovers


async def remaining(own_ports: Collection[int] = (), before: Collection[str] = ()) -> list[str]:
    """Close the clients, wait until what was given up is gone, and list what is still there.

    Sockets are counted where the kernel shows a process its descriptors (Linux). The event loops'
    own socket pairs are no connections.

    Args:
        own_ports: Ports on which this process serves: what is bound there is not the client's.
        before: What `sockets()` returned before.
    """
    # The state of an older socket may change meanwhile, its ends do not.
    known = {socket.partition(", state")[0] for socket in before}

    def leftovers() -> list[str]:
        new = [s for s in _sockets(own_ports) if s.partition(", state")[0] not in known]
        return tasks() + new

    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ResourceWarning)
        losers = await _drain_everywhere()
        gc.collect()
        rest = await settled(leftovers)
    return [*losers, *rest, *(str(one.message) for one in complaints)]


async def _drain_everywhere() -> list[str]:
    """Close the losers and clients of the running loop and of the portal's."""
    return await _drain() + await asyncio.to_thread(background_loop().run, _drain())


async def _drain() -> list[str]:
    losers = await loop_reaper().drain()
    await connection.close_clients()
    return [f"{losers} losers are not closed"] if losers else []


def tasks() -> list[str]:
    """List the tasks of the running loop but for the current one."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return [f"a task is left: {task}" for task in others]


def sockets() -> set[str]:
    """List the TCP sockets that this process holds, by their rows in the kernel's table."""
    return set(_sockets(()))


def _sockets(own_ports: Collection[int]) -> list[str]:
    if not _DESCRIPTORS.exists():
        return []
    mine = {f"{inode}" for inode in map(_inode, _DESCRIPTORS.iterdir()) if inode}
    rows = [row.split() for row in Path("/proc/self/net/tcp").read_text("ascii").splitlines()[1:]]
    return [
        f"socket left: {local} to {remote}, state {state}"
        for _, local, remote, state, *_, inode in (row[:10] for row in rows)
        if inode in mine and int(local.rpartition(":")[2], 16) not in own_ports
    ]


def _inode(descriptor: Path) -> int:
    try:
        status = os.stat(descriptor)  # noqa: PTH116  # follows to the socket itself
    except OSError:  # it was the descriptor of the listing itself
        return 0
    return status.st_ino if stat.S_ISSOCK(status.st_mode) else 0


def busy_connections(
    loop: asyncio.AbstractEventLoop | None = None, keys: Collection[str] | None = None
) -> list[str]:
    """List the connections that the SDKs' clients count as in use.

    Args:
        loop: Only the clients of this loop; None for all loops.
        keys: Only the clients of these API keys; None for all keys.
    """
    pools = list(connection._by_loop.values()) if loop is None else [connection._by_loop.get(loop)]
    made = [client for pool in pools if pool is not None for client in list(pool.by_key.values())]
    chosen = [client for client in made if keys is None or client.client.api_key in keys]
    held = [_in_use(client.http._transport) for client in chosen]
    return [f"a pool holds {connections}" for connections in held if connections]


def _in_use(transport: Any) -> list[Any]:
    """List what a pool counts as in use; neither transport has a public way to ask."""
    if hasattr(transport, "_pool"):
        pool = transport._pool
        return [*(c for c in pool.connections if not c.is_idle()), *pool._requests]
    session = transport.client
    if session is None or callable(session):  # it was closed, or never used
        return []
    return [*session.connector._acquired, *session.connector._waiters]


def stock() -> Counter[str]:
    """Count the process's threads by name, and its open files by kind, sockets among them."""
    names = [t.name for t in threading.enumerate() if not t.name.startswith(_PERMANENT_THREADS)]
    return Counter([*(f"thread {name}" for name in names), *_open_files()])


def _open_files() -> list[str]:
    kinds = []
    for name in os.listdir(_DESCRIPTORS) if _DESCRIPTORS.exists() else ():  # noqa: PTH208
        try:
            # The directory being listed has a descriptor too, which is gone by now.
            kinds.append(os.readlink(_DESCRIPTORS / name).partition(":")[0])  # noqa: PTH115
        except OSError:
            continue
    return kinds


def grown(before: Counter[str], after: Counter[str]) -> list[str]:
    """List what there is more of."""
    return [f"{number} more: {what}" for what, number in (after - before).items()]

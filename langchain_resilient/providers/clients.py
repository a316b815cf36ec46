"""One SDK client per event loop and account, shared by all models, closed when its loop goes.

A client used on two loops breaks (openai: RuntimeError, together: a silent second send), and one in
a model's state could be neither copied nor pickled. So clients live here, by loop.

A loop that ends as `asyncio.run` does closes its clients. The clients of one that was closed in
another way are let go when the next loop comes. What is left at the interpreter's exit (notebooks
never close their loop) is left to the operating system, and so is a parent's in a forked child:
its finalisers would complain on stderr, and take the parent's sockets out of the epoll both share.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable


class Closable(Protocol):
    """Any SDK client."""

    async def close(self) -> None:
        """Close its connections."""
        ...


C = TypeVar("C", bound=Closable)


class _LoopClients:
    """The clients of one loop, and the generator whose end closes them."""

    __slots__ = ("_closer", "_loop", "made")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.made: dict[Hashable, Any] = {}
        self._loop = loop
        self._closer = self._until_closed()

    async def adopt(self) -> None:
        """Have the running loop close the clients at its end.

        An async generator is what a loop itself promises to close (`shutdown_asyncgens`, which
        asyncio.run and Runner call), and so the one hook on a loop's end that asyncio offers.
        """
        await anext(self._closer)

    async def _until_closed(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            with _lock:
                if _by_loop.get(self._loop) is self:
                    del _by_loop[self._loop]
            while self.made:
                _, client = self.made.popitem()
                with contextlib.suppress(Exception):
                    await client.close()

    async def close(self) -> None:
        """Close every client, on their loop."""
        await self._closer.aclose()

    def abandon(self) -> None:
        """Close after the loop has gone: there is nothing left to wait for, so one step does it."""
        for closing in (*(client.close() for client in self.made.values()), self._closer.aclose()):
            with contextlib.suppress(Exception, StopIteration):
                closing.send(None)


_by_loop: dict[asyncio.AbstractEventLoop, _LoopClients] = {}
_lock = threading.Lock()


async def client_for(key: Hashable, make: Callable[[], C]) -> C:
    """Return the running loop's client for `key`, made on first use.

    Args:
        key: Everything that tells one client from another: base URL, API key, headers.
        make: Builds it.
    """
    loop = asyncio.get_running_loop()
    clients = _by_loop.get(loop)
    if clients is None:
        clients = _LoopClients(loop)
        with _lock:
            gone = [_by_loop.pop(known) for known in list(_by_loop) if known.is_closed()]
            _by_loop[loop] = clients
        for one in gone:
            one.abandon()
        await clients.adopt()
    found: C | None = clients.made.get(key)
    if found is None:
        found = clients.made[key] = make()
    return found


async def close_clients() -> None:
    """Close every client of the running loop. New calls make new clients."""
    clients = _by_loop.get(asyncio.get_running_loop())
    if clients is not None:
        await clients.close()


def _in_child() -> None:
    """Start afresh after a fork."""
    global _by_loop, _lock  # noqa: PLW0603  # one a process is their whole point
    _lock = threading.Lock()
    if _by_loop:
        inherited, _by_loop = _by_loop, {}
        _keep_for_ever(inherited)


def _at_exit() -> None:
    if _by_loop:
        _keep_for_ever(_by_loop)


def _keep_for_ever(value: object) -> None:
    """Leak it on purpose: only so does not even the interpreter's end finalise it."""
    with contextlib.suppress(ImportError, AttributeError):  # CPython alone has it, and needs it
        import ctypes  # noqa: PLC0415  # for the rare loop that nobody closed

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

"""Clients with connections: one per event loop and key, closed when their loop ends."""

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
    """Anything with connections to close, such as an SDK client."""

    async def close(self) -> None:
        """Close its connections."""
        ...


C = TypeVar("C", bound=Closable)


class _LoopClients:
    """The clients of one event loop, and the generator whose end closes them."""

    __slots__ = ("_closer", "_loop", "by_key")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.by_key: dict[Hashable, Any] = {}
        self._loop = loop
        self._closer = self._until_closed()

    async def close_with_loop(self) -> None:
        """Have the running loop close the clients at its end.

        An async generator is what a loop itself promises to close (`shutdown_asyncgens`, which
        asyncio.run and Runner call): it is the only hook on a loop's end that asyncio offers.
        """
        await anext(self._closer)

    async def _until_closed(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            with _lock:
                if _by_loop.get(self._loop) is self:
                    del _by_loop[self._loop]
            while self.by_key:
                _, client = self.by_key.popitem()
                with contextlib.suppress(Exception):
                    await client.close()

    async def close(self) -> None:
        """Close every client, on their loop."""
        await self._closer.aclose()

    def abandon(self) -> None:
        """Close every client after the loop has gone.

        Without a loop there is nothing left to wait for, so each coroutine is stepped once by hand.
        """
        closings = (*(client.close() for client in self.by_key.values()), self._closer.aclose())
        for closing in closings:
            with contextlib.suppress(Exception, StopIteration):
                closing.send(None)


_by_loop: dict[asyncio.AbstractEventLoop, _LoopClients] = {}
_lock = threading.Lock()


async def client_for(key: Hashable, make: Callable[[], C]) -> C:
    """Return the running loop's client for `key`, made on first use.

    Args:
        key: Everything that distinguishes one client from another: base URL, API key, headers.
        make: Creates the client.
    """
    loop = asyncio.get_running_loop()
    clients = _by_loop.get(loop)
    if clients is None:
        clients = _LoopClients(loop)
        with _lock:
            abandoned = [_by_loop.pop(other) for other in list(_by_loop) if other.is_closed()]
            _by_loop[loop] = clients
        for other_clients in abandoned:
            other_clients.abandon()
        await clients.close_with_loop()
    client: C | None = clients.by_key.get(key)
    if client is None:
        client = clients.by_key[key] = make()
    return client


async def close_client(key: Hashable) -> None:
    """Close the running loop's client for `key`, if there is one. New calls make a new one."""
    clients = _by_loop.get(asyncio.get_running_loop())
    client = None if clients is None else clients.by_key.pop(key, None)
    if client is not None:
        with contextlib.suppress(Exception):
            await client.close()


async def close_clients() -> None:
    """Close every client of the running loop. New calls make new clients."""
    clients = _by_loop.get(asyncio.get_running_loop())
    if clients is not None:
        await clients.close()


def _reset_after_fork() -> None:
    """Start without clients in a forked child: the sockets are the parent's."""
    global _by_loop, _lock  # noqa: PLW0603  # one per process is their whole point
    _lock = threading.Lock()
    if _by_loop:
        inherited, _by_loop = _by_loop, {}
        _leak(inherited)


def _leak_at_exit() -> None:
    if _by_loop:
        _leak(_by_loop)


def _leak(value: object) -> None:
    """Leak a value on purpose, so that not even the interpreter's end finalises it.

    Clients whose loop was never closed would print warnings of unclosed connections then.
    """
    with contextlib.suppress(ImportError, AttributeError):  # CPython alone has it, and needs it
        import ctypes  # noqa: PLC0415  # for the rare loop that nobody closed

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


atexit.register(_leak_at_exit)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)

"""One SDK client per event loop and account, shared by all models, closed when its loop goes.

A client used on two loops breaks (openai: RuntimeError, together: a silent second send), and one in
a model's state could be neither copied nor pickled. So clients live here, by loop.
"""

from __future__ import annotations

import asyncio
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

    __slots__ = ("closer", "made")

    def __init__(self) -> None:
        self.made: dict[Hashable, Any] = {}
        self.closer: AsyncGenerator[None, None] | None = None


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
        clients = await _adopt(loop)
    found: C | None = clients.made.get(key)
    if found is None:
        found = clients.made[key] = make()
    return found


async def _adopt(loop: asyncio.AbstractEventLoop) -> _LoopClients:
    clients = _LoopClients()
    with _lock:
        for gone in [known for known in _by_loop if known.is_closed()]:
            del _by_loop[gone]
        _by_loop[loop] = clients
    # An async generator is what a loop itself promises to close (`shutdown_asyncgens`, which
    # asyncio.run and Runner call), and so the one hook on a loop's end that asyncio offers.
    clients.closer = _close_with_loop(loop)
    await anext(clients.closer)
    return clients


async def _close_with_loop(loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await close_clients(loop)


async def close_clients(loop: asyncio.AbstractEventLoop | None = None) -> None:
    """Close every client of a loop (default: the running one). New calls make new clients."""
    with _lock:
        clients = _by_loop.pop(loop or asyncio.get_running_loop(), None)
    if clients is not None:
        for client in clients.made.values():
            await client.close()

"""The server: asyncio connections that read requests and write whatever they are given."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from langchain_resilient.testing.http import (
    CONTINUE,
    HttpRequest,
    MalformedRequestError,
    RequestParser,
    head,
)

_CLOSE_TIMEOUT = 2.0  # seconds that stopping waits for connections and tasks to end
_LOOP_PASSES = 10  # in which the loop makes what it accepted, and tells of what was aborted
_NO_LINGER = struct.pack("ii", 1, 0)


class Connection(asyncio.Protocol):
    """One client's connection: requests come in order, one is answered at a time."""

    __slots__ = ("_last", "_on_lost", "_parser", "_resumed", "_server", "_transport")

    def __init__(self, server: Server) -> None:
        self._server = server
        self._parser = RequestParser()
        self._transport: asyncio.Transport | None = None
        self._on_lost: Callable[[bool], None] | None = None  # set while a response holds it
        self._resumed: asyncio.Future[None] | None = None
        self._last = False  # the client wants the connection closed after this request

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register a new client."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self._transport = transport
        self._server.connections.add(self)
        if self._server.stopping:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Answer the requests that the bytes complete."""
        self._parser.feed(data)
        self._advance()

    def eof_received(self) -> bool:
        """Close our side too once the client has closed its own."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - lost is lost
        """Cancel the response that was being written."""
        self._server.connections.discard(self)
        self.resume_writing()
        on_lost, self._on_lost, self._transport = self._on_lost, None, None
        if on_lost is not None:
            on_lost(not self._server.stopping)
        self._server.notify()

    def pause_writing(self) -> None:
        """Make `drain` wait: the client reads too slowly."""
        self._resumed = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """Let `drain` return: the client has caught up."""
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)
        self._resumed = None

    # What the request handler and the exchanges call.

    def hold(
        self, responding: Coroutine[Any, Any, None], on_lost: Callable[[bool], None]
    ) -> asyncio.Task[None]:
        """Start writing a response; the client's next request waits until `release`.

        Args:
            responding: What writes the response.
            on_lost: Called if the connection is lost before that, with whether the client closed it
                (and not this server).

        Returns:
            The task that writes the response.
        """
        self._on_lost = on_lost
        return self._server.run(responding)

    def write(self, data: bytes) -> None:
        """Send bytes; drop them if the client is gone."""
        if self._transport is not None:
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the client reads again."""
        if self._resumed is not None:
            await self._resumed

    def release(self, *, close: bool = False) -> None:
        """Go on with the next request after a complete response.

        Args:
            close: Whether to close the connection instead.
        """
        held, self._on_lost = self._on_lost is not None, None
        if close or self._last:
            self.close()
        elif held:
            asyncio.get_running_loop().call_soon(self._advance)
        self._server.notify()

    def close(self) -> None:
        """Close after what was written."""
        self._on_lost = None
        if self._transport is not None:
            self._transport.close()
        self._server.notify()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        """Close with RST, which the system sends for a socket with no linger time."""
        self._on_lost = None
        if self._transport is None:
            return
        sock = self._transport.get_extra_info("socket")
        if isinstance(sock.fileno(), int):  # a loop in virtual time has no real sockets
            with socket.fromfd(sock.fileno(), sock.family, sock.type) as twin:
                twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._transport.abort()
        self._server.notify()

    def _advance(self) -> None:
        """Answer the requests that have arrived in full, one after the other."""
        while self._on_lost is None and self._transport is not None:
            try:
                request = self._parser.next_request()
            except MalformedRequestError as error:
                self.write(head(error.status, [("content-length", "0"), ("connection", "close")]))
                self.close()
                return
            if request is None:
                if self._parser.wants_continue():
                    self.write(CONTINUE)
                return
            self._last = not request.head.keep_alive
            self._server.handle(self, request)
            self._server.notify()
            if self._last and self._on_lost is None:
                self.close()


class Server:
    """Listens on the loopback interface of the running loop.

    Attributes:
        connections: The open ones.
        stopping: Whether `stop` was called: connections lost after that were not closed by clients.
    """

    def __init__(
        self, handle: Callable[[Connection, HttpRequest], None], notify: Callable[[], None]
    ) -> None:
        self.connections: set[Connection] = set()
        self.handle = handle
        self.notify = notify
        self.stopping: bool = False
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int) -> int:
        """Listen, and return the port.

        Raises:
            OSError: If the port is taken.
        """
        loop = asyncio.get_running_loop()
        self.stopping = False
        self._server = await loop.create_server(lambda: Connection(self), "127.0.0.1", port)
        return int(self._server.sockets[0].getsockname()[1])

    def run(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in a task, and hold on to it until it ends, for the loop does not."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            context = {"message": "a step of the simulator failed", "exception": error}
            task.get_loop().call_exception_handler(context)

    async def stop(self) -> None:
        """Close everything: hanging requests are dropped, and no wait is long."""
        self.stopping = True
        server, self._server = self._server, None
        if server is None:
            return
        # What is accepted but not made yet when a server closes, asyncio leaves open (CPython 3.11,
        # `Server._attach`): accept no more, let those be made, then close.
        loop = asyncio.get_running_loop()
        for listening in server.sockets:
            loop.remove_reader(listening.fileno())
        await _passes()
        server.close()
        for connection in list(self.connections):
            connection.abort()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_TIMEOUT)
        if self.connections:
            await _passes()
        with suppress(TimeoutError):
            await asyncio.wait_for(server.wait_closed(), _CLOSE_TIMEOUT)


async def _passes() -> None:
    for _ in range(_LOOP_PASSES):
        await asyncio.sleep(0)

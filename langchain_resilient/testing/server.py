"""The connections: asyncio protocols that read requests and write whatever a step wants."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from langchain_resilient.testing.http import CONTINUE, MalformedRequestError, Parser, head

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_resilient.testing.exchange import Exchange
    from langchain_resilient.testing.http import Request
    from langchain_resilient.testing.steps.base import Step

_CLOSE_WAIT = 2.0  # seconds that stopping waits for connections and tasks to wind up
_PASSES = 10  # of the loop, for aborted connections to be told so
_NO_LINGER = struct.pack("ii", 1, 0)


class Connection(asyncio.Protocol):
    """One client's connection: requests come in order, one is answered at a time."""

    __slots__ = ("_exchange", "_last", "_parser", "_resumed", "_server", "_transport")

    def __init__(self, server: Server) -> None:
        self._server = server
        self._parser = Parser()
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._resumed: asyncio.Future[None] | None = None
        self._last = False  # the client wants the connection closed after this request

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self._transport = transport
        self._server.connections.add(self)
        if self._server.stopping:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes have come: answer what they complete."""
        self._parser.feed(data)
        self._advance()

    def eof_received(self) -> bool:
        """The client has closed its side: nobody reads the rest, so close ours."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - lost is lost
        """The connection is gone."""
        self._server.connections.discard(self)
        self.resume_writing()
        exchange, self._exchange, self._transport = self._exchange, None, None
        if exchange is not None:
            exchange.abandon(aborted=not self._server.stopping)
        self._server.notify()

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self._resumed = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """The client has caught up."""
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)
        self._resumed = None

    # What the desk and the exchanges call.

    def play(self, exchange: Exchange, step: Step) -> None:
        """An exchange takes the connection until it releases it."""
        self._exchange = exchange
        self._server.keep(exchange.start(step))

    def write(self, data: bytes) -> None:
        """Send bytes; into the void if the client is gone."""
        if self._transport is not None:
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the client reads again."""
        if self._resumed is not None:
            await self._resumed

    def release(self, exchange: Exchange | None, *, close: bool = False) -> None:
        """A response is complete: go on with the next request.

        Args:
            exchange: The one that held the connection, if one did.
            close: Whether to close the connection instead.
        """
        held = exchange is not None and self._exchange is exchange
        if held:
            self._exchange = None
        if close or self._last:
            self.close()
        elif held:
            asyncio.get_running_loop().call_soon(self._advance)
        self._server.notify()

    def close(self) -> None:
        """Close after what was written."""
        self._exchange = None
        if self._transport is not None:
            self._transport.close()
        self._server.notify()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        """Close with RST, which an endpoint sends when it lingers for no time at all."""
        self._exchange = None
        if self._transport is None:
            return
        sock = self._transport.get_extra_info("socket")
        if isinstance(sock.fileno(), int):  # a loop in virtual time has no real sockets
            with socket.fromfd(sock.fileno(), sock.family, sock.type) as twin:
                twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._transport.abort()
        self._server.notify()

    def _advance(self) -> None:
        """Answer the requests that have come in whole, one after the other."""
        while self._exchange is None and self._transport is not None:
            try:
                request = self._parser.next_request()
            except MalformedRequestError as error:
                self.write(head(error.status, [("content-length", "0"), ("connection", "close")]))
                self.close()
                return
            if request is None:
                if self._parser.wants_leave():
                    self.write(CONTINUE)
                return
            self._last = not request.head.keep_alive
            self._server.handle(self, request)
            self._server.notify()
            if self._last and self._exchange is None:
                self.close()


class Server:
    """Listens on the loopback interface of the running loop.

    Attributes:
        connections: The open ones.
        stopping: Whether `stop` was called: clients that lose their connection did not go away.
    """

    def __init__(
        self, handle: Callable[[Connection, Request], None], notify: Callable[[], None]
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

    def keep(self, task: asyncio.Task[None]) -> None:
        """Hold on to a task until it ends, for the loop does not."""
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            context = {"message": "a step of the simulator failed", "exception": error}
            task.get_loop().call_exception_handler(context)

    async def stop(self) -> None:
        """Close everything: hanging requests are dropped, and nothing is waited for long."""
        self.stopping = True
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for connection in list(self.connections):
            connection.abort()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_WAIT)
        for _ in range(_PASSES):
            if self.connections:
                await asyncio.sleep(0)
        with suppress(TimeoutError):
            await asyncio.wait_for(server.wait_closed(), _CLOSE_WAIT)

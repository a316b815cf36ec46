"""HTTP/1.1 by httptools, a parser in C, with the bounds that uvicorn's use of it lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

    from langchain_resilient.service.config import ServiceConfig

_TOO_LONG = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"connection: close\r\ncontent-length: 0\r\n\r\n"
)
_MAX_GATHERED_BYTES = 64 * 1024
"""What is sent without waiting for more: as much as transports buffer themselves."""

_OF_UPGRADES = (b"connection", b"upgrade", b"http2-settings")


class GatheringTransport:
    """Sends what is written within one turn of the loop in one piece.

    uvicorn writes the head and the body of an answer, and each event of a stream, by themselves. To
    send costs more than to make most of them: it wakes the client up, each time.

    Args:
        transport: The connection's; whatever is not about writing is left to it.
        loop: The connection's.
    """

    __slots__ = ("_loop", "_pieces", "_size", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send soon."""
        if not self._pieces:
            self._loop.call_soon(self.send)
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= _MAX_GATHERED_BYTES:
            self.send()

    def write_eof(self) -> None:
        """Send all, and that nothing follows."""
        self.send()
        self._transport.write_eof()

    def close(self) -> None:
        """Send all, then close."""
        self.send()
        self._transport.close()

    def send(self) -> None:
        """Send all now."""
        pieces, self._pieces, self._size = self._pieces, [], 0
        if pieces and not self._transport.is_closing():
            self._transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))


class BoundedProtocol(HttpToolsProtocol):
    """One connection of a client; see `bounded` for what it bounds."""

    longest_head: ClassVar[int]
    seconds: ClassVar[float]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = self._in_request = self._refused = False
        self._head_size = 0
        self._limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; a client that says nothing is not waited for longer than an idle one."""
        super().connection_made(cast("asyncio.Transport", GatheringTransport(transport, self.loop)))
        self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop_limit()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what came; most requests come in one piece, and need no timer."""
        if self._refused:
            return
        self._unset_keepalive_if_required()
        goes_on = self._in_head  # else the beginning may be of an earlier request
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self._pass_over(memoryview(data)[upgrade.args[0] :]):
                return
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
            return
        if not self._in_request:
            self._stop_limit()
            # An empty line, or the rest of what was answered already, begins no request.
            if self.cycle is None or self.cycle.response_complete:
                self._wait_for_request()
            return
        if self._limit is None:
            self._limit = self.loop.call_later(self.seconds, self._too_slow)
        if self._in_head and goes_on:
            self._head_size += len(data)
            if self._head_size > self.longest_head:
                self._refuse()

    def _refuse(self) -> None:
        """Say that the head is too long.

        What the client is still sending is dropped until it stops, or its time is over: a
        connection that is closed before takes the answer with it.
        """
        self._refused = True
        self.transport.write(_TOO_LONG)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _pass_over(self, rest: memoryview) -> bool:
        """Read requests as if they offered no other protocol; whether that can be done.

        Java's client offers HTTP/2 with its first request, whose body the parser would not read.

        Args:
            rest: What came behind the head of the first; others may follow.
        """
        while True:
            method = self.parser.get_method()
            if method == b"CONNECT":
                self.send_400_response("This is no proxy.")
                return False
            head = [method + b" " + self.url + b" HTTP/1.1"]
            head += [
                name + b": " + value for name, value in self.headers if name not in _OF_UPGRADES
            ]
            self.parser = httptools.HttpRequestParser(self)
            try:
                self.parser.feed_data(b"\r\n".join(head) + b"\r\n\r\n")
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
            except httptools.HttpParserError:
                self.send_400_response("Invalid HTTP request received.")
                return False
            else:
                return True

    def _wait_for_request(self) -> None:
        """Close the connection if none begins for long."""
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._in_head = self._in_request = True
        self._head_size = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Read one header; those that follow a body are nobody's here."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        if not self.parser.should_upgrade():
            self._in_head = False
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End a request."""
        if not self.parser.should_upgrade():
            self._in_request = False
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Send the end of an answer at once: what is done after it can wait, the client cannot."""
        self.transport.send()  # type: ignore[attr-defined]  # a GatheringTransport
        super().on_response_complete()

    def _stop_limit(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _too_slow(self) -> None:
        """Close a connection whose request does not end.

        Whoever answers has a limit of their own for the body; and while nobody reads it (the
        request waits for its turn), it cannot end.
        """
        if self._in_head or self.cycle.response_complete:
            self.transport.close()
        else:
            self._limit = self.loop.call_later(self.seconds, self._too_slow)


def bounded(config: ServiceConfig) -> type[BoundedProtocol]:
    """Make the protocol of a service.

    Its heads may be as long as `max_header_bytes`, and take as long to come as a body may; a
    request that was answered before it was sent whole may take as long again. A connection on which
    nothing comes is closed after `idle_timeout`.
    """
    bounds = {"longest_head": config.max_header_bytes, "seconds": config.body_timeout}
    return type("BoundedProtocol", (BoundedProtocol,), bounds)

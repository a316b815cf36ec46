"""Just enough HTTP/1.1 to serve requests byte by byte: total control of the wire is the purpose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple

SECRET_HEADERS = frozenset(
    {"authorization", "api-key", "x-api-key", "cookie", "proxy-authorization"}
)
MAX_HEAD = 65_536
MAX_BODY = 256 * 1024 * 1024  # the files of batches are the largest
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

Headers = tuple[tuple[str, str], ...]

_REASONS = {status.value: status.phrase for status in HTTPStatus} | {
    520: "Web Server Returned an Unknown Error",
    521: "Web Server Is Down",
    522: "Connection Timed Out",
    523: "Origin Is Unreachable",
    524: "A Timeout Occurred",
    529: "Overloaded",
}


class MalformedRequestError(Exception):
    """The client does not speak HTTP.

    Attributes:
        status: HTTP status code to answer with before the connection is closed.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The head of a request.

    Attributes:
        method: In capitals.
        path: Without the query.
        query: What follows the `?`.
        headers: Lower-case names; the last of several values. Those that carry secrets are left
            out, so that no record holds them.
        token: The API key from `authorization`, or "".
        keep_alive: Whether the client wants to keep the connection.
        length: The length of the body in bytes, or None if it comes in chunks.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    token: str = field(repr=False)
    keep_alive: bool
    length: int | None


class HttpRequest(NamedTuple):
    """One whole request."""

    head: RequestHead
    body: bytes


class RequestParser:
    """Collects bytes until they make a request; one for each connection.

    Example:
        ```python
        parser = RequestParser()
        parser.feed(data)
        while (request := parser.next_request()) is not None:
            ...
        ```
    """

    __slots__ = ("_awaits_body", "_buffer", "_expects_continue", "_head", "_raw_head")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._raw_head = b""
        self._head: RequestHead | None = None  # what `_raw_head` says
        self._awaits_body = False
        self._expects_continue = False

    def feed(self, data: bytes) -> None:
        """Add what has just arrived."""
        self._buffer += data

    def wants_continue(self) -> bool:
        """Tell, once, whether the client waits for `100 Continue` before it sends the body."""
        asked, self._expects_continue = self._expects_continue and not self._buffer, False
        return asked

    def next_request(self) -> HttpRequest | None:
        """Return the next whole request, or None until more bytes arrive.

        Raises:
            MalformedRequestError: If the bytes are no HTTP request, or far too many.
        """
        if not self._awaits_body and not self._read_head():
            return None
        head = self._head
        assert head is not None  # noqa: S101 - for the type checker
        body = self._take_chunks() if head.length is None else self._take_body(head.length)
        if body is None:
            return None
        self._awaits_body = False
        return HttpRequest(head, body)

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD:
                raise MalformedRequestError(431, "the request head is too long")
            return False
        raw = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        if raw != self._raw_head:  # a client that keeps its connection mostly sends the same head
            self._head = _parse_head(raw)
            self._raw_head = raw
        self._awaits_body = True
        self._expects_continue = self._head is not None and "expect" in self._head.headers
        return True

    def _take_body(self, length: int) -> bytes | None:
        if len(self._buffer) < length:
            return None
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return body

    def _take_chunks(self) -> bytes | None:
        """Read a whole chunked body from the start, or nothing: request bodies are short."""
        body, at = bytearray(), 0
        while (end := self._buffer.find(b"\r\n", at)) >= 0:
            try:
                size = int(self._buffer[at:end].partition(b";")[0], 16)
            except ValueError:
                raise MalformedRequestError(400, "a chunk has no size") from None
            if len(body) + size > MAX_BODY:
                raise MalformedRequestError(413, "the request body is too long")
            at = end + 2 + size + 2
            if len(self._buffer) < at:
                return None
            if size == 0:
                del self._buffer[:at]
                return bytes(body)
            body += self._buffer[end + 2 : end + 2 + size]
        return None


def _parse_head(raw: bytes) -> RequestHead:
    lines = raw.decode("latin-1").split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):  # noqa: PLR2004 - method, path, version
        raise MalformedRequestError(400, "not an HTTP/1.1 request")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    token = headers.get("authorization", "").removeprefix("Bearer ")
    return RequestHead(
        method=parts[0],
        path=parts[1].partition("?")[0],
        query=parts[1].partition("?")[2],
        headers={k: v for k, v in headers.items() if k not in SECRET_HEADERS},
        token=token,
        keep_alive=parts[2] != "HTTP/1.0" and headers.get("connection", "").lower() != "close",
        length=_body_length(headers),
    )


def _body_length(headers: Mapping[str, str]) -> int | None:
    if "chunked" in headers.get("transfer-encoding", ""):
        return None
    text = headers.get("content-length", "0")
    if not text.isdecimal():
        raise MalformedRequestError(400, "the content length is not a number")
    if int(text) > MAX_BODY:
        raise MalformedRequestError(413, "the request body is too long")
    return int(text)


def head(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    """Write a response head, up to and with the empty line."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {status} {reason(status)}\r\n{lines}\r\n".encode("latin-1")


def reason(status: int) -> str:
    """Return the words for a status code, Cloudflare's too."""
    return _REASONS.get(status, "Unknown")


def chunk(data: bytes) -> bytes:
    """Frame one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)

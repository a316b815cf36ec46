"""The HTTP client that the SDK clients use, and the bounds on what it reads.

aiohttp costs half the CPU and returns every cancelled connection, which Together's httpx does not
(see `tests/whole_stack/test_cancellation.py`); httpx (httpx2) is there for what works only with it:
cassettes with vcrpy before 9.
"""

from __future__ import annotations

import asyncio
import functools
import os
import zlib
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Literal, cast

from langchain_resilient.providers.connection import (
    Certificates,
    plain_context,
    proxy_for,
    tls_context,
)
from langchain_resilient.providers.errors import AnswerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator


ACCEPTED = "gzip, deflate"
"""What is asked for as `Accept-Encoding`; the standard library can stop in the midst of both."""

MAX_ERROR_BYTES = 256 * 1024
"""So much of an error's body is read: its status has told what to believe."""

ERROR_SECONDS = 2.0
"""The longest wait for the next piece of an error's body."""

_ERROR = 300
"""From this status on the SDKs raise."""

_STEP = 64 * 1024

_KNOWN = {"gzip": 31, "x-gzip": 31, "deflate": 15, "br": 0, "zstd": 0, "compress": 0}
"""Content codings and their `wbits`; 0 for those that nobody asked for."""


def bounded_bodies(httpx: Any) -> Callable[[Any], Awaitable[None]]:
    """Make a hook for the responses of one HTTP client.

    Args:
        httpx: The httpx that the client is of: `httpx2` or `httpx`.

    Example:
        ```python
        httpx.AsyncClient(event_hooks={"response": [bounded_bodies(httpx)]})
        ```
    """
    guarded = _stream_class(httpx.AsyncByteStream)

    async def look(response: Any) -> None:
        coding, status = response.headers.get("content-encoding"), response.status_code
        if coding or status >= _ERROR:
            response.stream = guarded(response.stream, coding or "", status)
            if coding:
                del response.headers["content-encoding"]
        if status >= _ERROR:
            # There are charsets whose decoders raise, and then nobody learns of the status.
            response.encoding = "utf-8"

    return look


@functools.cache
def _stream_class(base: type) -> Any:
    """Make the stream that one of the two httpx takes for its own."""
    return type("Guarded", (_BoundedBody, base), {})


class _BoundedBody:
    """A body, decompressed in small steps; of an error only the beginning.

    Args:
        source: What the transport gave; this owns it now.
        coding: The `Content-Encoding`.
        status: The HTTP status.
    """

    def __init__(self, source: Any, coding: str, status: int) -> None:
        self._source = source
        self._coding = coding
        self._status = status

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = self._error() if self._status >= _ERROR else self._decoded()
        try:
            async for piece in pieces:
                yield piece
        except BaseException:
            # Together's SDK leaves a response open whose body cannot be read.
            await self._source.aclose()
            raise

    async def aclose(self) -> None:
        """Free the connection."""
        await self._source.aclose()

    async def _error(self) -> AsyncIterator[bytes]:
        """Give what can be had of an error's body: its status and headers tell more."""
        size, pieces = 0, self._decoded()
        while size < MAX_ERROR_BYTES:
            try:
                async with asyncio.timeout(ERROR_SECONDS):
                    piece = await anext(pieces, None)
            except Exception:  # noqa: BLE001  # whatever breaks it off
                return
            if piece is None:
                return
            size += len(piece)
            yield piece

    async def _decoded(self) -> AsyncIterator[bytes]:
        decoder, surplus = self._decoder(), 0
        async for data in self._source:
            if decoder is _DEFLATE:
                decoder = zlib.decompressobj(15 if _has_zlib_header(data) else -15)
            if decoder is None:
                yield data
            elif decoder.eof:
                # A connection that was read to its end serves again; but not for ever.
                surplus += len(data)
                if surplus > _STEP:
                    return
            else:
                for piece in self._decompressed(decoder, data):
                    yield piece

    def _decoder(self) -> Any:
        """Make the decompressor; None where the body is as it is.

        Raises:
            AnswerError: If it is encoded in a way, or in ways, that nobody asked for.
        """
        names = [name.strip().lower() for name in self._coding.split(",")]
        known = [name for name in names if name in _KNOWN]  # others stand there by mistake
        if not known:
            return None
        if len(known) > 1 or not _KNOWN[known[0]]:
            message = f"the answer is encoded as {self._coding[:60]!r}, not as {ACCEPTED}"
            raise AnswerError(message, status_code=self._status)
        return _DEFLATE if known[0] == "deflate" else zlib.decompressobj(_KNOWN[known[0]])

    def _decompressed(self, decoder: Any, data: bytes) -> Iterator[bytes]:
        piece = b" " * _STEP
        while (data or len(piece) == _STEP) and not decoder.eof:
            try:
                piece = decoder.decompress(data, _STEP)
            except zlib.error as error:
                message = f"the answer is not encoded as {self._coding[:60]!r}: {error}"
                raise AnswerError(message, status_code=self._status) from None
            data = decoder.unconsumed_tail
            if piece:
                yield piece


_DEFLATE: Any = object()
"""Stands for a decompressor until the first bytes tell which of two formats it is."""


def _has_zlib_header(data: bytes) -> bool:
    """Whether `deflate` is what RFC 9110 says, or the bare stream that some servers send."""
    return data[:1] != b"" and data[0] & 0x0F == zlib.DEFLATED and data[0] >> 4 < 8  # noqa: PLR2004  # RFC 1950, 2.2


Transport = Literal["aiohttp", "httpx"]

MAX_CONNECTIONS = 1000
"""The SDKs' own limit (Together's is 100) would queue a larger batch."""

KEEPALIVE_CONNECTIONS = 200

MAX_HEADER_BYTES = 64 * 1024
"""The longest header of a response: some gateways put whole policies into one. httpx reads twice as
much, aiohttp 8 KiB unless told."""

KEEPALIVE_SECONDS = 60.0
"""How long an idle connection waits for the next call: a new one costs two or three round trips
before the first text. The providers' own front door, Cloudflare, keeps them longer. A server that
hangs up earlier (uvicorn after five seconds) is seen to; in the very moment of that, the request is
sent again."""


def transport_name() -> Transport:
    """Read `LANGCHAIN_RESILIENT_TRANSPORT`, `"aiohttp"` unless set.

    Raises:
        ValueError: If it is neither "aiohttp" nor "httpx".
    """
    name = os.environ.get("LANGCHAIN_RESILIENT_TRANSPORT", "aiohttp")
    if name not in ("aiohttp", "httpx"):
        msg = f'LANGCHAIN_RESILIENT_TRANSPORT must be "aiohttp" or "httpx", not {name!r}'
        raise ValueError(msg)
    return cast("Transport", name)


def http_client(
    sdk: Any,
    httpx: Any,
    timeout: Any,
    *,
    url: str,
    proxy_variable: str | None = None,
    certificates: Certificates = (None, None),
) -> Any:
    """Make the HTTP client that an SDK client runs on.

    Args:
        sdk: The module `openai` or `together`.
        httpx: The httpx that it is made for: `httpx2` or `httpx`.
        timeout: An `httpx.Timeout`.
        url: Where its requests go.
        proxy_variable: An environment variable with a proxy for this provider alone.
        certificates: Those of the authorities to trust, and this client's own.

    Raises:
        ConnectionSetupError: If the environment names a proxy or certificates that cannot be used.
    """
    proxy = proxy_for(url, proxy_variable)
    aiohttp = transport_name() == "aiohttp" and not (proxy and proxy.socks)
    client_class = sdk.DefaultAioHttpClient if aiohttp else sdk.DefaultAsyncHttpxClient
    encrypted = url.startswith("https:") or (proxy and proxy.url.startswith("https:"))
    client = client_class(
        timeout=timeout,
        verify=tls_context(httpx, certificates) if encrypted else plain_context(),
        proxy=proxy.url if proxy else None,
        trust_env=False,  # a proxy for other addresses that cannot be used is not our fault
        limits=httpx.Limits(
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=KEEPALIVE_CONNECTIONS,
            keepalive_expiry=KEEPALIVE_SECONDS,
        ),
        # A redirect could carry the key to another host.
        follow_redirects=False,
        # One cookie that no header may hold would spoil every later request.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        headers={"accept-encoding": ACCEPTED},
        event_hooks={"response": [bounded_bodies(httpx)]},
    )
    if aiohttp:
        for transport in (client._transport, *client._mounts.values()):  # noqa: SLF001  # no other way
            if transport is not None:
                transport.client = functools.partial(_session, transport)
    return client


def _session(transport: Any) -> Any:
    """Make aiohttp's session as the transport itself would, but for the bounds on headers."""
    from aiohttp import ClientSession, TCPConnector  # noqa: PLC0415  # the SDKs' import is lazy too

    limits = transport.limits
    connector = TCPConnector(
        keepalive_timeout=limits.keepalive_expiry,
        ssl=transport.ssl_context,
        limit=limits.max_connections,
    )
    return ClientSession(
        connector=connector, max_line_size=MAX_HEADER_BYTES, max_field_size=MAX_HEADER_BYTES
    )

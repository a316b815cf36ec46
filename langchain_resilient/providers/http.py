"""The HTTP client that the SDK clients use, and the bounds on what it reads.

aiohttp costs half the CPU and returns every cancelled connection, which Together's httpx does not
(see `tests/whole_stack/test_cancellation.py`); httpx (httpx2) is there for what works only with it:
cassettes with vcrpy before 9.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sys
import zlib
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal, cast

from langchain_resilient.providers.connection import (
    Certificates,
    plain_context,
    proxy_for,
    tls_context,
)
from langchain_resilient.providers.errors import AnswerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping


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
    name = os.environ.get("LANGCHAIN_RESILIENT_TRANSPORT") or "aiohttp"
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


# -- past the client -------------------------------------------------------------------------------


class PlainResponse:
    """A response of aiohttp that has succeeded and is not compressed, as `sse` reads it.

    Args:
        response: What aiohttp gave; this owns it now.
        as_httpx: Makes an exception of aiohttp the client's own.
    """

    __slots__ = ("_as_httpx", "_read", "_response", "headers", "status_code")

    def __init__(self, response: Any, as_httpx: Callable[[Exception], Exception]) -> None:
        self._response = response
        self._read = response.content.readany
        self._as_httpx = as_httpx
        self.headers: Mapping[str, str] = response.headers
        self.status_code: int = response.status

    def aiter_bytes(self) -> PlainResponse:
        """Give the body's pieces as they come."""
        return self

    def __aiter__(self) -> PlainResponse:
        return self

    async def __anext__(self) -> bytes:
        try:
            data: bytes = await self._read()
        except Exception as error:
            raise self._as_httpx(error) from error
        if data:
            return data
        await self.aclose()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Free the connection."""
        try:
            await self._response.__aexit__(None, None, None)
        except Exception as error:
            raise self._as_httpx(error) from error


class DirectPost:
    """Posts through the aiohttp session of an HTTP client, past the client's own objects.

    Those cost more than the exchange itself. What is not a plain success (an error, a compressed
    body) becomes the client's own response nevertheless.

    Args:
        client: The HTTP client; it has sent a request already.
        httpx: The httpx that it is of.
        transport: Its aiohttp transport.
        url: Where to.
        headers: Those of each request.
        timeout: As in the extensions of the client's requests.
    """

    __slots__ = ("_client", "_headers", "_httpx", "_log", "_mapping", "_stream", "_timeout",
                 "_transport", "_url")  # fmt: skip

    def __init__(
        self,
        client: Any,
        httpx: Any,
        transport: Any,
        *,
        url: str,
        headers: list[tuple[str, str]],
        timeout: Mapping[str, float | None],
    ) -> None:
        from aiohttp import ClientTimeout  # noqa: PLC0415  # the SDKs' import is lazy too
        from multidict import CIMultiDict  # noqa: PLC0415
        from yarl import URL  # noqa: PLC0415

        module = sys.modules[type(transport).handle_async_request.__module__]
        self._client = client
        self._httpx = httpx
        self._transport = transport
        self._mapping: Callable[[], Any] = module.map_aiohttp_exceptions
        self._stream: Any = module.AiohttpResponseStream
        self._url = URL(url)
        self._headers = CIMultiDict(headers)
        self._timeout = ClientTimeout(
            sock_connect=timeout.get("connect"),
            sock_read=timeout.get("read"),
            connect=timeout.get("pool"),
        )
        self._log = logging.getLogger(httpx.__name__)

    @property
    def usable(self) -> bool:
        """Whether nobody would miss the client's own line in the log."""
        return not self._log.isEnabledFor(logging.INFO)

    async def send(
        self, content: bytes, headers: Mapping[str, str] | None, request: Callable[[], Any]
    ) -> Any:
        """Post a body and return the open response.

        Args:
            content: The body.
            headers: More headers for this request alone.
            request: Makes the client's own object for it, where that is needed.

        Raises:
            Exception: The client's own.
        """
        every = self._headers
        if headers:
            every = every.copy()
            every.update(headers)
        try:
            response = await self._transport.client.post(
                self._url,
                data=content,
                headers=every,
                timeout=self._timeout,
                allow_redirects=False,
                auto_decompress=False,
            )
        except Exception as error:
            raise self._as_httpx(request, error) from error
        if response.status < _ERROR and "content-encoding" not in response.headers:
            return PlainResponse(response, functools.partial(self._as_httpx, request))
        try:
            return await self._full(response, request())
        except BaseException:
            response.close()
            raise

    def _as_httpx(self, request: Callable[[], Any], error: Exception) -> Exception:
        """Make an exception of aiohttp the client's own, which knows its request.

        aiohttp raises one and the same object wherever a connection was closed by us. It would keep
        each of its tracebacks for ever, and with them the objects of every call that read on.
        """
        try:
            with self._mapping():
                raise error  # noqa: TRY301  # for the mapping to see it
        except Exception as mapped:  # noqa: BLE001  # whatever it is
            error.__traceback__ = None
            if isinstance(mapped, self._httpx.TransportError):
                mapped.request = request()
            return mapped

    async def _full(self, response: Any, request: Any) -> Any:
        """Make the client's own response, and run its hooks."""
        full = self._httpx.Response(
            status_code=response.status,
            headers=response.raw_headers,
            stream=self._stream(response),
            request=request,
            extensions={"reason_phrase": (response.reason or "").encode()},
        )
        for hook in self._client.event_hooks["response"]:
            await hook(full)
        return full


def direct_post(
    client: Any,
    httpx: Any,
    *,
    url: Any,
    headers: list[tuple[str, str]],
    timeout: Mapping[str, float | None],
) -> DirectPost | None:
    """Make what posts past a client of `http_client`; None where the client itself must send.

    It must where a proxy is in between, where its transport is not aiohttp's, and where its `send`
    has been replaced by one that watches its requests.

    Args:
        client: The HTTP client; it has sent a request already.
        httpx: The httpx that it is of.
        url: Where to, as a URL of that httpx.
        headers: Those of each request.
        timeout: As in the extensions of the client's requests.
    """
    send = httpx.AsyncClient.send
    home = os.path.dirname(httpx.__file__)  # noqa: PTH120  # as the code objects say it
    transport = client._transport_for_url(url)  # noqa: SLF001  # no other way
    if (
        not isinstance(send, FunctionType)
        or not send.__code__.co_filename.startswith(home)
        or not hasattr(transport, "get_client")
        or transport.proxy is not None
    ):
        return None
    return DirectPost(client, httpx, transport, url=str(url), headers=headers, timeout=timeout)

"""Connections: what the environment says of them, and the clients that hold them.

Whatever is wrong with its certificates or its proxy is one target's fault, whose words name the
variable to mend. Clients are one per event loop and key, and are closed when their loop ends.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import ssl
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable


class ConnectionSetupError(Exception):
    """No connection can be made with these settings, however often it is tried."""


CA_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Where the certificates of trusted authorities are; the first that is set counts."""


Certificates = tuple[str | None, str | tuple[str, str] | None]
"""Where the certificates of trusted authorities are, and a client's own with its key."""


def tls_context(httpx: Any, certificates: Certificates = (None, None)) -> ssl.SSLContext:
    """The TLS settings for all connections that have the same certificates to trust.

    Args:
        httpx: The httpx that they are made by, where nothing else is said: `httpx2` or `httpx`.
        certificates: A target's own; they go before the environment's.

    Raises:
        ConnectionSetupError: If a variable names certificates that cannot be read.
    """
    variable = next((name for name in CA_VARIABLES if os.environ.get(name)), None)
    authorities, own = certificates
    if authorities is not None:
        variable, path = "ca_certificates", authorities
    else:
        path = os.environ[variable] if variable else ""
    if own is not None:
        return _own_context(httpx.create_ssl_context, variable, path, own)
    if variable is None:
        return usual_context(httpx.create_ssl_context)
    return _context_from(variable, path)


@functools.cache
def usual_context(create: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Once per process: to read all root certificates costs 30 ms and more."""
    return create()


@functools.cache
def _own_context(
    create: Callable[[], ssl.SSLContext],
    variable: str | None,
    path: str,
    own: str | tuple[str, str],
) -> ssl.SSLContext:
    context = _context_from.__wrapped__(variable, path) if variable else create()
    try:
        context.load_cert_chain(*((own,) if isinstance(own, str) else own))
    except OSError as error:
        msg = f"client_certificate cannot be read: {own} ({error})"
        raise ConnectionSetupError(msg) from None
    return context


@functools.cache
def _context_from(variable: str, path: str) -> ssl.SSLContext:
    try:
        if Path(path).is_dir():
            return ssl.create_default_context(capath=path)
        return ssl.create_default_context(cafile=path)
    except OSError as error:  # an SSLError is one
        msg = f"{variable} names certificates that cannot be read: {path} ({error})"
        raise ConnectionSetupError(msg) from None


@functools.cache
def plain_context() -> ssl.SSLContext:
    """The settings of a client that makes no TLS connections: nothing has to be read for them."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Proxy(NamedTuple):
    """The proxy between here and a server.

    Attributes:
        url: Its URL, which may hold a password.
        socks: Whether it speaks SOCKS, which only httpx can.
    """

    url: str
    socks: bool


def proxy_for(url: str, own_variable: str | None = None) -> Proxy | None:
    """Find the proxy that the environment names for a server; None if there is none.

    Args:
        url: Where requests go.
        own_variable: A variable of one provider's, which goes before the usual ones.

    Raises:
        ConnectionSetupError: If it is a kind of proxy that cannot be used; names the variable.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxies = getproxies()
    scheme = parts.scheme if proxies.get(parts.scheme) else "all"
    variable, proxy = f"{scheme.upper()}_PROXY", proxies.get(scheme)
    if not proxy or proxy_bypass(host):
        proxy = None
    if own_variable and os.environ.get(own_variable) and not _is_local(host):
        variable, proxy = own_variable, os.environ[own_variable]
    if proxy is None:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    kind = urlsplit(proxy).scheme.lower()
    if kind in ("http", "https"):
        return Proxy(proxy, socks=False)
    if kind not in ("socks5", "socks5h"):
        known = "http://, https://, socks5:// or socks5h://"
        msg = f"{variable} names a proxy of a kind that is not known ({kind}://): write {known}"
        raise ConnectionSetupError(msg)
    if find_spec("socksio") is None:
        msg = f"{variable} names a SOCKS proxy, which needs a package more: pip install socksio"
        raise ConnectionSetupError(msg)
    return Proxy(proxy, socks=True)


def _is_local(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


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

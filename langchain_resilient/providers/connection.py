"""What the environment says of connections: trusted certificates, and the proxy.

Whatever is wrong with it is one target's fault, and its words name the variable to mend.
"""

from __future__ import annotations

import functools
import os
import ssl
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

if TYPE_CHECKING:
    from collections.abc import Callable


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

"""Which HTTP transport the SDK clients get, and how it is set up.

aiohttp costs half the CPU and returns every cancelled connection, which Together's httpx does not
(see `tests/whole_stack/test_cancellation.py`); httpx (httpx2) is there for what works only with it:
cassettes with vcrpy before 9.
"""

from __future__ import annotations

import functools
import os
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Literal, cast

from langchain_resilient.providers.guard import ACCEPTED, guard

if TYPE_CHECKING:
    import ssl

Transport = Literal["aiohttp", "httpx"]

MAX_CONNECTIONS = 1000
"""The SDKs' own limit (Together's is 100) would queue a larger batch."""

KEEPALIVE_CONNECTIONS = 200

KEEPALIVE_SECONDS = 60.0
"""How long an idle connection to a public API waits for the next call: a new one costs two or three
round trips before the first text. The providers' own front door, Cloudflare, keeps them longer."""

OTHER_KEEPALIVE_SECONDS = 5.0
"""The same for other servers: uvicorn hangs up after five seconds."""


def transport() -> Transport:
    """Read `LANGCHAIN_RESILIENT_TRANSPORT`, `"aiohttp"` unless set.

    Raises:
        ValueError: If it is neither "aiohttp" nor "httpx".
    """
    found = os.environ.get("LANGCHAIN_RESILIENT_TRANSPORT", "aiohttp")
    if found not in ("aiohttp", "httpx"):
        msg = f'LANGCHAIN_RESILIENT_TRANSPORT must be "aiohttp" or "httpx", not {found!r}'
        raise ValueError(msg)
    return cast("Transport", found)


def http_client(sdk: Any, httpx: Any, timeout: Any, *, public: bool) -> Any:
    """Make the HTTP client that an SDK client runs on.

    Args:
        sdk: The module `openai` or `together`.
        httpx: The httpx that it is made for: `httpx2` or `httpx`.
        timeout: An `httpx.Timeout`.
        public: Whether it is for a provider's own public API.
    """
    aiohttp = transport() == "aiohttp"
    client_class = sdk.DefaultAioHttpClient if aiohttp else sdk.DefaultAsyncHttpxClient
    return client_class(
        timeout=timeout,
        verify=tls(httpx),
        limits=httpx.Limits(
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=KEEPALIVE_CONNECTIONS,
            keepalive_expiry=KEEPALIVE_SECONDS if public else OTHER_KEEPALIVE_SECONDS,
        ),
        # A redirect could carry the key to another host.
        follow_redirects=False,
        # One cookie that no header may hold would spoil every later request.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        headers={"accept-encoding": ACCEPTED},
        event_hooks={"response": [guard(httpx)]},
    )


@functools.cache
def tls(httpx: Any) -> ssl.SSLContext:
    """Make the process's TLS settings: to read all root certificates costs 30 ms and more.

    Args:
        httpx: The httpx that they are made by: `httpx2` or `httpx`.
    """
    context: ssl.SSLContext = httpx.create_ssl_context()
    return context

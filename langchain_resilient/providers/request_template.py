"""Posts bodies through an SDK client whose first request is the pattern of the others."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from langchain_resilient.providers.errors import was_closed
from langchain_resilient.providers.http import direct_post
from langchain_resilient.wire.json_values import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Set as AbstractSet

    from langchain_resilient.providers.http import DirectPost
    from langchain_resilient.providers.sse import HTTPResponse


MAX_MOVES = 3
"""The most redirects that one client follows."""

STALE_SECONDS = 0.5
"""Within so many seconds a kept connection shows that the server had closed it. What closes later
had been accepted, and is not sent twice."""

_PER_REQUEST_HEADERS = ("content-length", "cookie", "host", "transfer-encoding")

_IDEMPOTENCY_KEY = "idempotency-key"
"""A request with this header is never reused: servers would take the next for its repetition."""


class RequestTemplate:
    """Posts request bodies to one URL through one SDK client.

    The SDK sends the first request. Its URL and headers are kept, and later requests are built from
    them directly, which saves most of the SDK's time; through an HTTP client of our own they go
    past its objects too. Errors are the SDK's own in all cases.

    Args:
        client: The SDK client; the template owns it from now on.
        http: The HTTP client that the SDK client was given.
        sdk: The SDK's module.
        httpx: The httpx that the SDK is built on: `httpx2` or `httpx`.
        url: The URL to post to.
        changing: Headers that each request brings itself.
        on_first: Called when the first answer has begun.
        owned: Whether the HTTP client is one of our own, which closing this closes.

    Attributes:
        client: The SDK client.
        http: The HTTP client.
    """

    __slots__ = (
        "_changing",
        "_direct",
        "_httpx",
        "_moves",
        "_on_first",
        "_owned",
        "_request_args",
        "_sdk",
        "_url",
        "client",
        "http",
    )

    def __init__(
        self,
        client: Any,
        http: Any,
        sdk: Any,
        httpx: Any,
        url: str,
        *,
        changing: AbstractSet[str] = frozenset(),
        on_first: Callable[[], None] | None = None,
        owned: bool = True,
    ) -> None:
        self._owned = owned
        self.client = client
        self._changing = changing
        self.http = http
        self._sdk = sdk
        self._httpx = httpx
        self._url = url
        self._on_first = on_first
        self._moves = 0
        self._request_args: dict[str, Any] | None = None
        self._direct: DirectPost | None = None

    def moved(self, error: Exception) -> bool:
        """Follow a 307 or 308 to another address of the same server; never to another server."""
        response: Any = getattr(error, "response", None)
        if getattr(response, "status_code", None) not in (307, 308) or self._moves >= MAX_MOVES:
            return False
        url = urljoin(str(response.url), response.headers.get("location") or "")
        if urlsplit(url)[:2] != urlsplit(str(response.url))[:2] or url == str(response.url):
            return False
        self._url, self._request_args, self._direct = url, None, None
        self._moves += 1
        return True

    async def post(
        self,
        body: dict[str, Any],
        headers: Mapping[str, str] | None = None,
        *,
        again: bool = True,
    ) -> HTTPResponse:
        """Send a body and return the open response.

        Args:
            body: The body, which is sent as JSON.
            headers: More headers for this request alone.
            again: Whether to send it once more where a kept connection turns out to be closed.

        Raises:
            ValueError: If the body holds an object that is nothing in JSON.
            Exception: The SDK's error for a status over 299, or for a failed connection.
        """
        content = encode(body)
        request_args = self._request_args
        if request_args is None:
            return await self._post_by_sdk(content, headers)
        if headers:
            merged = self._httpx.Headers(request_args["headers"])
            merged.update(headers)
            request_args = {**request_args, "headers": merged}
        request = partial(self._httpx.Request, "POST", content=content, **request_args)
        direct = self._direct
        if direct is not None and not direct.usable:
            direct = None
        full_request = request() if direct is None else None
        time = asyncio.get_running_loop().time
        latest = time() + STALE_SECONDS
        try:
            response: Any = (
                await self.http.send(full_request, stream=True)
                if direct is None
                else await direct.send(content, headers, request)
            )
        except Exception as error:
            if again and was_closed(error) and time() < latest:
                return await self.post(body, headers, again=False)
            if isinstance(error, self._httpx.TimeoutException):
                raise self._sdk.APITimeoutError(request=request()) from error
            raise self._sdk.APIConnectionError(request=request()) from error
        if response.status_code > 299:  # noqa: PLR2004  # HTTP's own numbers read best as such
            raise await self._status_error(response)
        opened: HTTPResponse = response
        return opened

    async def connect(self, url: str, headers: Mapping[str, str]) -> None:
        """Ask for something small, and leave the connection to the next request."""
        async with self.http.stream("GET", url, headers=headers) as response:
            async for _ in response.aiter_bytes():
                pass

    async def close(self) -> None:
        """Close the client and its connections, unless they are the caller's."""
        if self._owned:
            await self.client.close()

    async def _post_by_sdk(
        self, content: bytes, headers: Mapping[str, str] | None = None
    ) -> HTTPResponse:
        response: Any = await self.client.post(
            self._url,
            content=content,
            options={"headers": dict(headers)} if headers else {},
            cast_to=self._httpx.Response,
            stream=True,
            stream_cls=self._sdk.AsyncStream[object],
        )
        if self._on_first is not None:
            self._on_first()
        request = response.request
        is_usual = not headers or headers.keys() == self._changing
        if is_usual and _IDEMPOTENCY_KEY not in request.headers:
            kept = [
                header
                for header in request.headers.multi_items()
                if header[0] not in _PER_REQUEST_HEADERS
            ]
            timeout = request.extensions.get("timeout")
            self._request_args = {
                "url": request.url,
                "headers": self._httpx.Headers(kept),
                "extensions": {} if timeout is None else {"timeout": timeout},
            }
            if self._owned:
                self._direct = direct_post(
                    self.http, self._httpx, url=request.url, headers=kept, timeout=timeout or {}
                )
        opened: HTTPResponse = response
        return opened

    async def _status_error(self, response: Any) -> Exception:
        """Make the SDK's error for a status."""
        try:
            await response.aread()
        finally:
            await response.aclose()
        # There is no public way to it but a second request.
        error: Exception = self.client._make_status_error_from_response(response)  # noqa: SLF001
        return error

"""How requests leave: the first as the SDK writes it, all others after its pattern.

An SDK makes each request from scratch: a pydantic model of options, headers merged from five
sources, a URL parsed twice. From one of our requests to the next only the body changes. So the
first goes through the SDK's documented `client.post(...)`, and the request that its response names
is the pattern of those that follow. They go through the HTTP client that the SDK was given: the
same transport, connections and headers for less than half of the CPU (see `make bench`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

if TYPE_CHECKING:
    from langchain_resilient.providers.sse import Response

_OWN = ("content-length", "cookie", "host", "transfer-encoding")
"""Headers that belong to one request."""

_ONCE = "idempotency-key"
"""A request with it must never be a pattern: servers would take the others for its repetition."""


class Sender:
    """Posts bodies to one URL, by one SDK client. Errors are the SDK's.

    Args:
        client: The SDK's; this owns it now.
        http: The HTTP client that it was given.
        sdk: The module `openai` or `together`.
        httpx: The httpx that it is made for: `httpx2` or `httpx`.
        url: Where to.
    """

    __slots__ = ("_client", "_http", "_httpx", "_pattern", "_sdk", "_url")

    def __init__(self, client: Any, http: Any, sdk: Any, httpx: Any, url: str) -> None:
        self._client = client
        self._http = http
        self._sdk = sdk
        self._httpx = httpx
        self._url = url
        self._pattern: dict[str, Any] | None = None

    async def post(self, body: dict[str, Any]) -> Response:
        """Send and return the open response.

        Args:
            body: Is written as JSON.

        Raises:
            Exception: What the SDK raises for a status over 299, and where no response comes.
        """
        pattern = self._pattern
        if pattern is None:
            return await self._by_sdk(body)
        try:
            content = to_json(body, inf_nan_mode="constants")
        except ValueError:
            return await self._by_sdk(body)  # its error is the one that users know
        request = self._httpx.Request("POST", content=content, **pattern)
        try:
            response: Any = await self._http.send(request, stream=True)
        except self._httpx.TimeoutException as error:
            raise self._sdk.APITimeoutError(request=request) from error
        except Exception as error:
            raise self._sdk.APIConnectionError(request=request) from error
        if response.status_code > 299:  # noqa: PLR2004  # HTTP's own numbers read best as such
            raise await self._error(response)
        found: Response = response
        return found

    async def close(self) -> None:
        """Close the client and its connections."""
        await self._client.close()

    async def _by_sdk(self, body: dict[str, Any]) -> Response:
        response: Any = await self._client.post(
            self._url,
            body=body,
            cast_to=self._httpx.Response,
            stream=True,
            stream_cls=self._sdk.AsyncStream[object],
        )
        request = response.request
        if _ONCE not in request.headers:
            headers = [one for one in request.headers.multi_items() if one[0] not in _OWN]
            self._pattern = {
                "url": request.url,
                "headers": self._httpx.Headers(headers),
                "extensions": {k: v for k, v in request.extensions.items() if k == "timeout"},
            }
        found: Response = response
        return found

    async def _error(self, response: Any) -> Exception:
        """Make the SDK's error for a status."""
        try:
            await response.aread()
        finally:
            await response.aclose()
        # There is no public way to it but a second request.
        error: Exception = self._client._make_status_error_from_response(response)  # noqa: SLF001
        return error

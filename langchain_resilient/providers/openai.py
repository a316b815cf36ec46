"""OpenAI, and any server that speaks its API, through the official `openai` SDK."""

from __future__ import annotations

from typing import Any, ClassVar

from langchain_resilient.providers._sdk import KEEPALIVE_CONNECTIONS, MAX_CONNECTIONS, SDKProvider
from langchain_resilient.providers.transport import transport

_STREAM_OPTIONS = {"include_usage": True}


class OpenAIProvider(SDKProvider):
    """Serves `"openai:model"`; with a `base_url`, any OpenAI-compatible server."""

    unknown: ClassVar[frozenset[str]] = frozenset({"top_k", "min_p", "repetition_penalty"})

    def _make_client(self) -> Any:
        import httpx2  # noqa: PLC0415  # SDKs cost half a second to import: on first use only
        import openai  # noqa: PLC0415

        client_class = (
            openai.DefaultAioHttpClient
            if transport() == "aiohttp"
            else openai.DefaultAsyncHttpxClient
        )
        timeout = httpx2.Timeout(None, connect=self._connect_seconds)
        return openai.AsyncOpenAI(
            # Many compatible servers need no key, but the SDK insists on one.
            api_key=self._key or "none",
            organization=self.target.organization,
            base_url=self._base_url,
            default_headers=self.target.default_headers or None,
            max_retries=0,
            timeout=timeout,
            http_client=client_class(
                timeout=timeout,
                limits=httpx2.Limits(
                    max_connections=MAX_CONNECTIONS, max_keepalive_connections=KEEPALIVE_CONNECTIONS
                ),
                # A redirect could carry the key to another host.
                follow_redirects=False,
            ),
        )

    async def _post(self, client: Any, body: dict[str, Any]) -> Any:
        import httpx2  # noqa: PLC0415
        from openai import AsyncStream  # noqa: PLC0415

        return await client.post(
            "/chat/completions",
            body=body,
            cast_to=httpx2.Response,
            stream=True,
            stream_cls=AsyncStream[object],
        )

    def _adapt(self, body: dict[str, Any], *, stream: bool) -> dict[str, Any]:
        body["model"] = self.target.model
        if self._base_url is None:
            # Other servers often take them, and know only `max_tokens`.
            self._drop_unknown(body, self.unknown)
            if "max_tokens" in body:
                body["max_completion_tokens"] = body.pop("max_tokens")
        elif self._dropped:
            self._drop_unknown(body, frozenset())
        if stream:
            body["stream"] = True
            if "stream_options" not in self._dropped:
                body.setdefault("stream_options", _STREAM_OPTIONS)
        return body

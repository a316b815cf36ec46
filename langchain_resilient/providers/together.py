"""Together AI, through the official `together` SDK."""

from __future__ import annotations

from typing import Any, ClassVar

from langchain_resilient.providers._sdk import KEEPALIVE_CONNECTIONS, MAX_CONNECTIONS, SDKProvider
from langchain_resilient.providers.transport import transport

# Since SDK 3.0 chat completions have a host of their own, unless a base URL is given.
_PUBLIC_URL = "https://api-inference.together.ai/v1/chat/completions"


class TogetherProvider(SDKProvider):
    """Serves `"together:maker/model"`."""

    unknown: ClassVar[frozenset[str]] = frozenset(
        {"stream_options", "parallel_tool_calls", "service_tier", "store", "metadata", "prediction",
         "user", "verbosity", "modalities", "audio", "web_search_options"}
    )  # fmt: skip

    def _make_client(self) -> Any:
        import httpx  # noqa: PLC0415  # SDKs cost half a second to import: on first use only
        import together  # noqa: PLC0415

        client_class = (
            together.DefaultAioHttpClient
            if transport() == "aiohttp"
            else together.DefaultAsyncHttpxClient
        )
        timeout = httpx.Timeout(None, connect=self._connect_seconds)
        return together.AsyncTogether(
            api_key=self._key or "none",
            project_id=self.target.organization,
            base_url=self._base_url,
            default_headers=self.target.default_headers or None,
            max_retries=0,
            timeout=timeout,
            http_client=client_class(
                timeout=timeout,
                # The SDK's own limit of 100 connections would queue a larger batch.
                limits=httpx.Limits(
                    max_connections=MAX_CONNECTIONS, max_keepalive_connections=KEEPALIVE_CONNECTIONS
                ),
                # A redirect could carry the key to another host.
                follow_redirects=False,
            ),
        )

    async def _post(self, client: Any, body: dict[str, Any]) -> Any:
        import httpx  # noqa: PLC0415
        from together import AsyncStream  # noqa: PLC0415

        return await client.post(
            "/v1/chat/completions" if self._base_url else _PUBLIC_URL,
            body=body,
            cast_to=httpx.Response,
            stream=True,
            stream_cls=AsyncStream[object],
        )

    def _adapt(self, body: dict[str, Any], *, stream: bool) -> dict[str, Any]:
        body["model"] = self.target.model
        self._drop_unknown(body, self.unknown)
        if "max_completion_tokens" in body:
            body["max_tokens"] = body.pop("max_completion_tokens")
        top = body.pop("top_logprobs", None)
        if isinstance(body.get("logprobs"), bool):
            # Together counts the alternatives where OpenAI says yes or no.
            wanted = body.pop("logprobs")
            if wanted:
                body["logprobs"] = top or 1
        if stream:
            body["stream"] = True
        return body

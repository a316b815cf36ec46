"""OpenAI, and any server that speaks its API, through the official `openai` SDK."""

from __future__ import annotations

from typing import Any, ClassVar

from langchain_resilient.providers.sdk import SDKProvider

_UNKNOWN = frozenset({"top_k", "min_p", "repetition_penalty"})
_STREAM_OPTIONS = {"include_usage": True}


class OpenAIProvider(SDKProvider):
    """Serves `"openai:model"`; with a `base_url`, any OpenAI-compatible server."""

    public_url: ClassVar[str] = "https://api.openai.com/v1/chat/completions"
    path: ClassVar[str] = "/chat/completions"

    @staticmethod
    def _libraries() -> tuple[Any, Any]:
        import httpx2  # noqa: PLC0415
        import openai  # noqa: PLC0415

        return openai, httpx2

    def _sdk_client(self, sdk: Any, **settings: Any) -> Any:
        organization = self.target.organization
        client = sdk.AsyncOpenAI(organization=organization, **settings)
        if self.target.base_url:
            # None made the SDK look into the environment: that is no other server's business.
            client.organization, client.project = organization, None
        return client

    def _adapt(self, body: dict[str, Any], *, stream: bool) -> dict[str, Any]:
        body["model"] = self.target.model
        if self._base_url is None:
            # Other servers often take them, and know only `max_tokens`.
            self._learn(_UNKNOWN & body.keys())
            if "max_tokens" in body:
                body["max_completion_tokens"] = body.pop("max_tokens")
        if stream:
            body["stream"] = True
            body.setdefault("stream_options", _STREAM_OPTIONS)
        if self._dropped:
            self._leave_out(body)
        return body

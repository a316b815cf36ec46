"""Together AI, through the official `together` SDK."""

from __future__ import annotations

from typing import Any, ClassVar

from langchain_resilient.providers.sdk import SDKProvider

_UNKNOWN = frozenset(
    {"stream_options", "parallel_tool_calls", "service_tier", "store", "metadata", "prediction",
     "user", "verbosity", "modalities", "audio", "web_search_options"}
)  # fmt: skip


class TogetherProvider(SDKProvider):
    """Serves `"together:maker/model"`."""

    # Since SDK 3.0 chat completions have a host of their own, unless a base URL is given.
    public_url: ClassVar[str] = "https://api-inference.together.ai/v1/chat/completions"
    path: ClassVar[str] = "/v1/chat/completions"

    @staticmethod
    def _libraries() -> tuple[Any, Any]:
        import httpx  # noqa: PLC0415
        import together  # noqa: PLC0415

        return together, httpx

    def _sdk_client(self, sdk: Any, **settings: Any) -> Any:
        return sdk.AsyncTogether(project_id=self.target.organization, **settings)

    def _below(self, base_url: str) -> str:
        # Unlike OpenAI's, Together's base URLs end before the `/v1`, and nobody remembers.
        return super()._below(base_url.rstrip("/").removesuffix("/v1"))

    def _adapt(self, body: dict[str, Any], *, stream: bool) -> dict[str, Any]:
        body["model"] = self.target.model
        if isinstance(body.get("tool_choice"), dict):
            # One tool is forced (as structured output does): nothing is left to do in parallel.
            body.pop("parallel_tool_calls", None)
        self._learn(_UNKNOWN & body.keys())
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
        if self._dropped:
            self._leave_out(body)
        return body

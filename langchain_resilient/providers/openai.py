"""OpenAI, and any server that speaks its API, through the official `openai` SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from langchain_resilient.providers.responses import TwoAPIs

if TYPE_CHECKING:
    from langchain_resilient.options import Target

_UNSUPPORTED = frozenset({"top_k", "min_p", "repetition_penalty"})
_STREAM_OPTIONS = {"include_usage": True}


class OpenAIProvider(TwoAPIs):
    """Serves `"openai:model"`; with a `base_url`, any OpenAI-compatible server."""

    public_url: ClassVar[str] = "https://api.openai.com/v1/chat/completions"
    path: ClassVar[str] = "/chat/completions"
    proxy_variable: ClassVar[str | None] = "OPENAI_PROXY"  # as in ChatOpenAI
    batch_endpoint: ClassVar[str | None] = "/v1/chat/completions"
    batches_responses: ClassVar[bool] = True

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        if self.is_public:
            self._refusals.require("metadata", "store")
            # Older models refuse them; newer ones take them, and do not see them.
            self._refusals.move_tool_images()

    @staticmethod
    def import_sdk() -> tuple[Any, Any]:
        """Import `openai` and `httpx2`."""
        import httpx2  # noqa: PLC0415
        import openai  # noqa: PLC0415

        return openai, httpx2

    def takes_marks(self) -> bool:
        """Of a server that nobody knows: it may be a gateway to Anthropic's models."""
        return not self.is_public

    def create_client(self, sdk: Any, **settings: Any) -> Any:
        """Create an `AsyncOpenAI` that ignores what the environment says of another server."""
        client = sdk.AsyncOpenAI(organization=self.organization, **settings)
        if self.target.base_url:
            # For None the SDK has read the environment, which is no business of another server.
            client.organization, client.project = self.organization, None
        return client

    def adapt_body(self, body: dict[str, Any], *, stream: bool) -> dict[str, Any]:
        """Adapt the body to OpenAI, or to a server that is compatible with it."""
        body["model"] = self.target.model
        if self.is_public:
            # Compatible servers often take these, and know only `max_tokens`.
            self.drop_parameters(_UNSUPPORTED & body.keys())
            if "max_tokens" in body:
                body["max_completion_tokens"] = body.pop("max_tokens")
        if stream:
            body["stream"] = True
            body.setdefault("stream_options", _STREAM_OPTIONS)
        else:
            body.pop("stream_options", None)  # OpenAI refuses it there
        return body

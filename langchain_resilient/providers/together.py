"""Together AI, through the official `together` SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from langchain_resilient.providers.responses import TwoAPIs
from langchain_resilient.wire.foreign_blocks import UnsupportedContentError, express_foreign_blocks
from langchain_resilient.wire.refused_messages import audio_by_url, modern_calls

if TYPE_CHECKING:
    from langchain_resilient.options import Target

_UNSUPPORTED = frozenset(
    {"stream_options", "parallel_tool_calls", "service_tier", "store", "metadata", "prediction",
     "user", "verbosity", "modalities", "audio", "web_search_options"}
)  # fmt: skip

_NO_THINKING = ("none", "minimal")
_EFFORTS = {"xhigh": "high", "max": "high"}
"""Efforts that Together calls otherwise: it knows low, medium and high."""

_AUDIO = ("wav",)
"""The formats of audio that it takes beside its text."""


class TogetherProvider(TwoAPIs):
    """Serves `"together:maker/model"`."""

    # Since SDK 3.0 chat completions have a host of their own, unless a base URL is given.
    public_url: ClassVar[str] = "https://api-inference.together.ai/v1/chat/completions"
    path: ClassVar[str] = "/v1/chat/completions"
    batch_endpoint: ClassVar[str | None] = path

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._refusals.swap_role("developer")
        # The results of tools are text, and so is what is no user's.
        self._refusals.move_tool_images()
        self._refusals.drop_lists()

    @staticmethod
    def import_sdk() -> tuple[Any, Any]:
        """Import `together` and `httpx`."""
        import httpx  # noqa: PLC0415
        import together  # noqa: PLC0415

        return together, httpx

    def create_client(self, sdk: Any, **settings: Any) -> Any:
        """Create an `AsyncTogether`; the target's organization is Together's project."""
        client = sdk.AsyncTogether(project_id=self.organization, **settings)
        # For None the SDK has read the environment, which is no business of another server.
        client.project_id = self.organization
        return client

    def express(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Together takes videos and audio by their URLs."""
        return express_foreign_blocks(messages, takes_urls=True)

    def completions_url(self, base_url: str) -> str:
        """Return the URL of chat completions, whether or not the base URL ends with `/v1`."""
        # Unlike OpenAI's, Together's base URLs end before the `/v1`, which is easily forgotten.
        return super().completions_url(base_url.rstrip("/").removesuffix("/v1"))

    def models_url(self) -> str:
        """Return the URL of the list of models, which the host of chat completions lacks."""
        return super().models_url() if self.base_url else "https://api.together.ai/v1/models"

    def adapt_body(self, body: dict[str, Any], *, stream: bool) -> dict[str, Any]:
        """Adapt the body to Together."""
        body["model"] = self.target.model
        if any(map(_is_special, body["messages"])):
            body["messages"] = _as_listed(body["messages"])
        if isinstance(body.get("tool_choice"), dict):
            # One tool is forced, as for structured output: there are no parallel calls to allow.
            body.pop("parallel_tool_calls", None)
        self.drop_parameters(_UNSUPPORTED & body.keys())
        if "max_completion_tokens" in body:
            body["max_tokens"] = body.pop("max_completion_tokens")
        alternatives = body.pop("top_logprobs", None)
        if isinstance(body.get("logprobs"), bool):
            # Together takes the number of alternatives where OpenAI takes a bool.
            is_wanted = body.pop("logprobs")
            if is_wanted:
                body["logprobs"] = alternatives or 1
        if (effort := body.get("reasoning_effort")) is not None:
            if effort in _NO_THINKING:
                # Models that think or do not, as they are told, have a switch for it.
                body.setdefault("reasoning", {"enabled": False})
                del body["reasoning_effort"]
            else:
                body["reasoning_effort"] = _EFFORTS.get(effort, effort)
        if stream:
            body["stream"] = True
        return body


def _as_listed(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write a conversation with what Together's own types list.

    Raises:
        UnsupportedContentError: If a message holds a file, which it does not read.
    """
    for index, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, list) and any(
            isinstance(block, dict) and block.get("type") == "file" for block in content
        ):
            msg = f"messages[{index}] holds a file, which this target cannot take"
            raise UnsupportedContentError(msg)
    return audio_by_url(modern_calls(messages), _AUDIO)


def _is_special(message: dict[str, Any]) -> bool:
    """Whether a message may hold what only OpenAI's API has: functions, audio of any format."""
    return (
        message["role"] == "function"
        or "function_call" in message
        or message.get("content").__class__ is list
    )

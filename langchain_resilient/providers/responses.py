"""OpenAI's Responses API, and any server that speaks it, through the official `openai` SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from langchain_resilient.providers.errors import AnswerError
from langchain_resilient.providers.openai import create_openai_client, import_openai
from langchain_resilient.providers.redaction import redact
from langchain_resilient.providers.sdk import SDKProvider
from langchain_resilient.providers.sse import EventStream
from langchain_resilient.wire.responses import (
    ENDS,
    FAILURES,
    EventConverter,
    whole_chunk,
)
from langchain_resilient.wire.responses_request import NOT_HERE, responses_body

if TYPE_CHECKING:
    from collections.abc import Collection
    from collections.abc import Set as AbstractSet

    from langchain_core.messages import AIMessage

    from langchain_resilient.exchange import Chunk, ChunkStream
    from langchain_resilient.options import Target
    from langchain_resilient.providers.sse import HTTPResponse, WholeAnswer


_STREAM_OPTIONS = {"include_obfuscation": False}
"""Padding against eavesdroppers on the wire; it triples the size of each event."""


class ResponsesProvider(SDKProvider):
    """Serves `Target("openai:model", api="responses")`.

    Nothing is kept at the provider: reasoning comes back encrypted, and is sent again.
    """

    public_url: ClassVar[str] = "https://api.openai.com/v1/responses"
    path: ClassVar[str] = "/responses"
    required: ClassVar[frozenset[str]] = SDKProvider.required | {
        "input",
        "text",
        "previous_response_id",
        "conversation",
    }

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._encrypted = True

    @staticmethod
    def import_sdk() -> tuple[Any, Any]:
        """Import `openai` and `httpx2`."""
        return import_openai()

    def create_client(self, sdk: Any, **settings: Any) -> Any:
        """Create an `AsyncOpenAI`."""
        return create_openai_client(sdk, self.target, settings)

    def adapt_body(self, body: dict[str, Any], *, stream: bool) -> dict[str, Any]:
        """Convert the body to the Responses API."""
        body = responses_body(body, self._is_own, encrypted=self._encrypted)
        body["model"] = self.target.model
        # The API has no stop words; they hold on our side.
        body.pop("stop", None)
        if self.base_url is None:
            self.drop_parameters(NOT_HERE & body.keys())
        if stream:
            body["stream"] = True
            if self.base_url is None:
                body["stream_options"] = _STREAM_OPTIONS
        return body

    def open_answer(self, response: HTTPResponse, *, stream: bool) -> ChunkStream:
        """Read the answer's events, or the whole answer."""
        return ResponsesStream(super().open_answer(response, stream=stream), self._secrets)

    def drop_parameters(self, names: AbstractSet[str]) -> None:
        """Leave parameters out; of what is included first our own wish, then the caller's."""
        if "include" in names and self._encrypted:
            self._encrypted = False
            names = names - {"include"}
        super().drop_parameters(names)

    def _is_own(self, answer: AIMessage) -> bool:
        return is_made_by(answer, self.target)


def is_made_by(answer: AIMessage, target: Target) -> bool:
    """Whether an answer in a conversation was made by a target, whose reasoning it then holds."""
    metadata = answer.response_metadata
    receipt = metadata.get("resilience")
    if isinstance(receipt, dict) and receipt.get("winner"):
        return bool(receipt["winner"] == target.name)
    model = str(metadata.get("model_name") or metadata.get("model") or "")
    # A dated snapshot answers for the name that was asked.
    same = model == target.model or model.startswith(f"{target.model}-2")
    return same and metadata.get("model_provider") in (None, target.provider, "openai")


class ResponsesStream:
    """An answer of the Responses API, as the chunks that everything else here reads.

    Args:
        answer: What reads the response; this owns it now.
        secrets: Kept out of the errors that are raised.
    """

    __slots__ = ("_answer", "_convert", "_secrets", "rate_limit_status")

    def __init__(self, answer: Any, secrets: Collection[str] = ()) -> None:
        self._answer: EventStream | WholeAnswer = answer
        self._convert = EventConverter().convert
        self._secrets = secrets
        self.rate_limit_status = answer.rate_limit_status

    def __aiter__(self) -> ResponsesStream:
        return self

    async def __anext__(self) -> Chunk:
        while True:
            event = await self._answer.__anext__()
            kind = event.get("type")
            if kind in FAILURES or event.get("status") in ("failed", "cancelled"):
                raise self._error(event)
            if "output" in event and "choices" not in event:
                return whole_chunk(event)
            chunk = self._convert(event)
            if kind in ENDS and isinstance(self._answer, EventStream):
                # Nothing follows: the connection may serve again.
                self._answer.finish()
            if chunk is not None:
                return chunk

    def _error(self, event: Chunk) -> AnswerError:
        details = event.get("error") or (event.get("response") or {}).get("error")
        if not isinstance(details, dict):
            known = ("code", "message", "param")
            details = {name: event[name] for name in known if event.get(name)}
        body = {"message": "the provider gave the answer up", **details}
        message = "the provider reported an error inside its answer"
        return AnswerError(message, redact(body, self._secrets))

    async def aclose(self) -> None:
        """Free the connection."""
        await self._answer.aclose()

"""The Responses API of OpenAI, of Together, and of any server that speaks it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic_core import from_json

from langchain_resilient.providers.error_details import error_details, error_status, error_text
from langchain_resilient.providers.errors import AnswerError
from langchain_resilient.providers.json_text import MAX_LENIENT_BYTES
from langchain_resilient.providers.redaction import redact
from langchain_resilient.providers.refusals import ResponsesRefusals
from langchain_resilient.providers.sdk import SDKProvider, UnbatchableRequestError
from langchain_resilient.providers.sse import EventStream, WholeAnswer
from langchain_resilient.wire.foreign_blocks import (
    UnsupportedContentError,
    express_foreign_blocks,
)
from langchain_resilient.wire.responses import (
    ENDS,
    FAILURES,
    EventConverter,
    whole_chunk,
)
from langchain_resilient.wire.responses_request import (
    NOT_HERE,
    ONLY_HERE,
    needs_responses,
    prefers_responses,
    responses_body,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Mapping
    from collections.abc import Set as AbstractSet

    from langchain_core.messages import AIMessage

    from langchain_resilient.exchange import Chunk, ChunkStream, RequestForm, WrittenRequest
    from langchain_resilient.options import Target
    from langchain_resilient.providers.sse import HTTPResponse


_CHAT = "/chat/completions"

_STREAM_OPTIONS = {"include_obfuscation": False}
"""Padding against eavesdroppers on the wire; it triples the size of each event."""

_SAYS_RESPONSES = re.compile(r"v1/responses|responses api", re.IGNORECASE)
"""What chat completions say that refuse a request which the other API takes."""

_SAYS_ONLY = re.compile(r"only (?:supported|available)", re.IGNORECASE)

_SAYS_NO_MODEL = re.compile(r"\bmodel\b", re.IGNORECASE)

_FOREIGN = re.compile(
    r"encrypted.content|required (?:following|'\w+') item|items are not persisted|"
    r"(?:rs|msg|fc)_\w+'? not found",
    re.IGNORECASE,
)
"""What is said of items in a conversation that this account or model cannot read."""

_EFFORT = re.compile(r"reasoning\W{0,3}effort", re.IGNORECASE)
"""How a refusal names the parameter that says how long a model thinks."""

_NOT_THINKING = re.compile(r"^(?:ft:)?(?:gpt-[34]|chatgpt)|-chat\b", re.IGNORECASE)
"""Models of OpenAI without reasoning, which refuse to encrypt it."""

_SPECIAL = ONLY_HERE | {"tools"}
"""Parameters by which a request may have to go to one API rather than the other."""

Need = Literal["all", "tools", "never", "nothing encrypted"]

_learned: set[tuple[Hashable, Need]] = set()
"""For which requests targets were found to want the Responses API; `"never"`: they have none; and
which of them encrypt no reasoning."""


class TwoAPIs(SDKProvider):
    """Base class of providers that also have the Responses API.

    `Target(api=)` chooses; `"auto"` asks there what chat completions cannot do or, by their model,
    would refuse. A 400 that says so is believed, and remembered for the process.
    """

    speaks_responses: ClassVar[bool] = True
    """Whether a target may ask for `api="responses"`."""
    batches_responses: ClassVar[bool] = False
    """Whether its batches take requests for that API."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        # The model may be served there alone, whatever is asked of it.
        self._is_special = target.api != "auto" or prefers_responses(target.model, {})
        self._responses = ResponsesProvider(self)
        self._identity: Hashable = (type(self), self._url, target.model)

    async def send(self, original: dict[str, Any], *, stream: bool) -> ChunkStream:
        """Send a body to the API that takes it."""
        # Most requests hold nothing that asks for a choice.
        if self._is_special or _learned or not _SPECIAL.isdisjoint(original):
            if self._prefers_responses(original):
                return await self._send_to_responses(original, stream=stream)
            if self.target.api != "auto":
                return await super().send(original, stream=stream)
        try:
            return await super().send(original, stream=stream)
        except UnsupportedContentError:
            # Files by their URLs, which chat completions do not take, are read there.
            if not self.is_public or self.target.api != "auto" or self._knows("never"):
                raise
        except Exception as error:
            need = _need_of(error, original)
            if need is None or self._knows("never"):
                raise
            self._remember(need)
        return await self._responses.send(original, stream=stream)

    def written(self, original: dict[str, Any], form: RequestForm | None = None) -> WrittenRequest:
        """Write a body for the API that takes it, or that took it before."""
        if form is not None:
            there = form.endpoint == self._responses.batch_endpoint
        else:
            there = self._prefers_responses(original)
        if not there:
            return super().written(original, form)
        if not self.batches_responses:
            msg = f"{self.target.name} has no batches for its Responses API"
            raise UnbatchableRequestError(msg)
        return self._responses.written(original, form)

    async def _send_to_responses(self, original: dict[str, Any], *, stream: bool) -> ChunkStream:
        try:
            return await self._responses.send(original, stream=stream)
        except Exception as error:
            if self.target.api != "auto" or not _lacks_responses(error):
                raise
            if needs_responses(original):
                message = f"{self.target.name} has no Responses API, which this request needs"
                body = {"message": message, "code": "unsupported_api"}
                raise AnswerError(message, body, status_code=400) from error
            self._remember("never")
        return await super().send(original, stream=stream)

    def _prefers_responses(self, body: dict[str, Any]) -> bool:
        if self.target.api != "auto":
            return self.target.api == "responses"
        if needs_responses(body):
            return True
        if self._knows("never"):
            return False
        return (
            prefers_responses(self.target.model, body)
            or self._knows("all")
            or (bool(body.get("tools")) and self._knows("tools"))
        )

    def _learn(self, error: Exception, body: Mapping[str, Any]) -> bool:
        """Learn from a refusal, unless it says that the other API takes the request as it is."""
        if self.target.api == "auto" and not self._knows("never") and _need_of(error, body):
            return False
        return super()._learn(error, body)

    def _knows(self, need: Need) -> bool:
        return (self._identity, need) in _learned

    def _remember(self, need: Need) -> None:
        _learned.add((self._identity, need))

    async def connect(self) -> None:
        """Open a connection for each API that requests to this model go to."""
        if self.target.api != "responses":
            await super().connect()
        if self._prefers_responses({"tools": [{"type": "function"}]}):
            await self._responses.connect()

    async def aclose(self) -> None:
        """Close the connections to both."""
        await super().aclose()
        await self._responses.aclose()


def forget_apis() -> None:
    """Forget which targets want which API."""
    _learned.clear()


def _lacks_responses(error: BaseException) -> bool:
    """Whether an error says that a server has no such address; not that it has no such model."""
    details = error_details(error)
    if error_status(error, details) not in (404, 405, 501):
        return False
    text = f"{details.get('code')} {error_text(error, details)}"
    return not _SAYS_NO_MODEL.search(text.replace("_", " "))


def _need_of(error: BaseException, body: Mapping[str, Any]) -> Need | None:
    """Read from a refusal of chat completions which requests want the other API."""
    details = error_details(error)
    if error_status(error, details) not in (400, 404, 422):
        return None
    text = error_text(error, details)
    if not _SAYS_RESPONSES.search(text):
        return None
    return "tools" if body.get("tools") and not _SAYS_ONLY.search(text) else "all"


class ResponsesProvider(SDKProvider):
    """Sends the requests of another provider to its Responses API.

    Nothing is kept at the provider: reasoning comes back encrypted, and is sent again.

    Args:
        host: The provider, whose SDK, address and key are used.
    """

    batch_endpoint: ClassVar[str | None] = "/v1/responses"
    required: ClassVar[frozenset[str]] = SDKProvider.required | {"input", "text", "reasoning"}
    added: ClassVar[frozenset[str]] = SDKProvider.added | {"store"}

    def __init__(self, host: SDKProvider) -> None:
        self._host = host
        super().__init__(host.target)
        self._refusals = ResponsesRefusals(host.target.name, self.added, self.drop_parameters)
        self._identity: Hashable = (type(host), self._url, host.target.model)
        self._encrypted = not _NOT_THINKING.search(host.target.model)
        # `None`: any.
        self._refused_efforts: set[str | None] = set()

    def request_url(self) -> str:
        """Return the address beside that of chat completions."""
        return self._host.request_url().removesuffix(_CHAT) + "/responses"

    def models_url(self) -> str:
        """Return the URL of the host's list of models."""
        return self._host.models_url()

    def import_sdk(self) -> tuple[Any, Any]:  # type: ignore[override]
        """Import the host's SDK."""
        return self._host.import_sdk()

    def create_client(self, sdk: Any, **settings: Any) -> Any:
        """Create the host's client."""
        return self._host.create_client(sdk, **settings)

    async def send(self, original: dict[str, Any], *, stream: bool) -> ChunkStream:
        """Send a body; without the reasoning in its conversation if that cannot be read."""
        try:
            return await super().send(original, stream=stream)
        except Exception as error:
            messages = original["messages"]
            is_plain = all(message.__class__ is dict for message in messages)
            if is_plain or not _FOREIGN.search(error_text(error, error_details(error))):
                raise
        plain = {**original, "messages": [dict(message) for message in messages]}
        return await super().send(plain, stream=stream)

    def adapt_body(self, body: dict[str, Any], *, stream: bool) -> dict[str, Any]:
        """Convert the body to the Responses API."""
        encrypted = self._encrypted and (self._identity, "nothing encrypted") not in _learned
        body = responses_body(body, self._is_own, encrypted=encrypted)
        body["model"] = self.target.model
        body.pop("stop", None)
        if self._refused_efforts:
            self._leave_effort_out(body)
        if self.base_url is None:
            self.drop_parameters(NOT_HERE & body.keys())
        if stream:
            body["stream"] = True
            _ask_for_parts_of_images(body)
            if self.base_url is None:
                body["stream_options"] = _STREAM_OPTIONS
        return body

    def _give_back(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Leave them: what this API wants back is written from the LangChain message itself."""
        return messages

    def express(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Files by their URLs are taken here."""
        return express_foreign_blocks(messages, takes_urls=False, takes_files=True)

    def open_answer(self, response: HTTPResponse, *, stream: bool) -> ChunkStream:
        """Read the answer's events, or the whole answer."""
        if stream or "event-stream" in response.headers.get("content-type", ""):
            return ResponsesStream(response, self._secrets)
        return WholeResponse(response, self._secrets)

    def drop_parameters(self, names: AbstractSet[str]) -> None:
        """Leave parameters out; of what is included first our own wish, then the caller's."""
        if "include" in names and self._encrypted:
            self._encrypted = False
            _learned.add((self._identity, "nothing encrypted"))
            names = names - {"include"}
        super().drop_parameters(names)

    def _learn(self, error: Exception, body: Mapping[str, Any]) -> bool:
        """Learn from a refusal; how long to think is part of a parameter, and its only one."""
        return self._learn_effort(error, body) or super()._learn(error, body)

    def _learn_effort(self, error: Exception, body: Mapping[str, Any]) -> bool:
        effort = (body.get("reasoning") or {}).get("effort")
        details = error_details(error)
        if effort is None or error_status(error, details) not in (400, 422):
            return False
        words = f"{details.get('code')} {details.get('param')} {error_text(error, details)}"
        if not _EFFORT.search(words):
            return False
        one = "value" in words.lower()
        self._refused_efforts.add(effort if one else None)
        what = f"'reasoning_effort' with the value {effort!r}" if one else "'reasoning_effort'"
        self._refusals.warn(f"does not take {what}: left out there")
        return True

    def _leave_effort_out(self, body: dict[str, Any]) -> None:
        reasoning = body.get("reasoning") or {}
        if reasoning.get("effort") in self._refused_efforts or None in self._refused_efforts:
            body["reasoning"] = {k: v for k, v in reasoning.items() if k != "effort"}
            if not body["reasoning"]:
                del body["reasoning"]

    def _is_own(self, answer: AIMessage) -> bool:
        return is_made_by(answer, self.target)


def _ask_for_parts_of_images(body: dict[str, Any]) -> None:
    """Ask for one partial image: the API wants to be asked where an image is made in a stream."""
    tools = body.get("tools") or ()
    if any(tool.get("type") == "image_generation" for tool in tools):
        parts = {"partial_images": 1}
        body["tools"] = [parts | t if t.get("type") == "image_generation" else t for t in tools]


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


_NOT_CONVERTED = FAILURES | ENDS | {None}


class ResponsesStream(EventStream):
    """A streamed answer of the Responses API, as the chunks that everything else here reads.

    Args:
        response: An open one; this owns it now.
        secrets: Kept out of the errors that are raised.
    """

    __slots__ = ("_convert",)

    def __init__(self, response: HTTPResponse, secrets: Collection[str] = ()) -> None:
        super().__init__(response, secrets)
        self._convert = EventConverter().convert

    def _decode(self, event: Any) -> Chunk | None:
        kind: Any = None
        # Nearly all are plain events; anything else takes the slow path.
        if event.__class__ is bytes and not self._halves and len(event) < MAX_LENIENT_BYTES:
            try:
                decoded: Any = from_json(event)
                kind = decoded["type"]
            except (ValueError, KeyError, TypeError):
                pass
        if kind.__class__ is str and kind[:9] == "response.":
            self._begun = True
        elif (decoded := super()._decode(event)) is None:
            return None
        chunk = self._read(decoded) if kind in _NOT_CONVERTED else self._convert(decoded)
        if self._events and chunk is not None and "event" in chunk and len(chunk) == 2:  # noqa: PLR2004
            return None  # it shows that the model works, and so does what has come with it
        return chunk

    def _read(self, event: Chunk) -> Chunk | None:
        """Read what may be no event, or end the answer."""
        kind = event.get("type")
        if kind in FAILURES or kind is None:
            return whole_answer(event, self._secrets)
        if kind in ENDS:
            # Nothing follows: the connection may serve again.
            self.finish()
        return self._convert(event)

    def _end(self) -> Chunk:
        rest = self._read(super()._end())
        if rest is None:
            raise StopAsyncIteration
        return rest


class WholeResponse(WholeAnswer):
    """A plain answer of the Responses API, as a stream of one chunk."""

    __slots__ = ()

    events: ClassVar[type[EventStream]] = ResponsesStream

    async def __anext__(self) -> Chunk:
        while True:
            answer = await super().__anext__()
            chunk = answer if self._events else whole_answer(answer, self._secrets)
            if chunk is not None:
                return chunk


def whole_answer(answer: Chunk, secrets: Collection[str]) -> Chunk | None:
    """Convert a whole answer to a chunk; None for anything else, but for chat completions.

    Raises:
        AnswerError: If it, or an event, says that there is no answer.
    """
    status = answer.get("status")
    if answer.get("type") in FAILURES or status in ("failed", "cancelled"):
        raise _error(answer, secrets)
    if "choices" in answer:
        return answer
    if "output" not in answer:
        return None
    if status in ("in_progress", "queued"):
        raise AnswerError("the answer is not complete", status_code=200)
    return whole_chunk(answer)


def _error(event: Chunk, secrets: Collection[str]) -> AnswerError:
    details = event.get("error") or (event.get("response") or {}).get("error")
    if not isinstance(details, dict):
        known = ("code", "message", "param")
        details = {name: event[name] for name in known if event.get(name)}
    body = {"message": "the provider gave the answer up", **details}
    message = "the provider reported an error inside its answer"
    return AnswerError(message, redact(body, secrets))

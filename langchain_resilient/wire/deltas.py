"""Chunk by chunk from the wire to LangChain's `ChatGenerationChunk`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk
from pydantic import BaseModel

from langchain_resilient.wire import native
from langchain_resilient.wire.answers import metadata
from langchain_resilient.wire.calls import ToolCalls
from langchain_resilient.wire.draft import PLAIN
from langchain_resilient.wire.reading import choices_of, read
from langchain_resilient.wire.usage import usage_metadata

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage, ToolCallChunk

    from langchain_resilient.request import Chunk
    from langchain_resilient.wire.draft import Draft
    from langchain_resilient.wire.reading import Delta


_M = TypeVar("_M", bound=BaseModel)


class Deltas:
    """Turns the chunks of one stream into LangChain's. Each stream needs its own.

    Text, refusals, reasoning, logprobs and pieces of tool calls go out as they come. All that
    LangChain would join or add up when it sums chunks (model, finish_reason, usage, ...) waits for
    `last`, and so does what has sense only whole (audio, citations). Of several choices only the
    first is streamed, since LangChain has no place for more. The sum of the chunks is the message
    that `to_result` makes of the same answer, but for tool calls whose arguments are no valid JSON:
    LangChain repairs those when it sums chunks.

    Args:
        provider: What stands as `model_provider` on every chunk.

    Example:
        ```python
        deltas = Deltas("openai")
        for chunk in stream:
            draft.add(chunk)
            if (piece := deltas.add(chunk)) is not None:
                yield piece
        yield stamp(deltas.last(draft, "gpt-4o"), receipt.as_dict())
        ```
    """

    __slots__ = ("_named", "_place", "_provider", "_relay", "_tools")

    def __init__(self, provider: str) -> None:
        self._provider = provider
        # Whether a chunk has named the provider: then a native target that goes on may not differ.
        self._named = False
        self._relay: native.Relay | None = None
        self._tools = ToolCalls()
        self._place = 0

    def add(self, chunk: Chunk) -> ChatGenerationChunk | None:
        """Convert one chunk; None where it holds nothing to pass on yet.

        Raises:
            BadChunkError: If the chunk makes no sense.
        """
        # The same shortcut as in `Draft.add`: a piece of plain text.
        try:
            (choice,) = chunk["choices"]
            delta = choice["delta"]
            text = delta["content"]
            if (
                text.__class__ is str
                and text
                and (len(delta) == 1 or delta.keys() <= PLAIN)
                and choice["index"] == 0
                and not choice.get("logprobs")
            ):
                self._named = True
                return text_chunk(text, self._provider)
        except (KeyError, TypeError, ValueError, AttributeError):
            pass
        return self._add_any(chunk)

    def turn(self) -> None:
        """Begin with the chunks of another answer, which goes on where this one broke."""
        self._relay = None
        # LangChain would join its tool calls to those of the same place.
        self._place += len(self._tools.calls)
        self._tools = ToolCalls()

    def marker(self, replaced: dict[str, Any]) -> ChatGenerationChunk:
        """Make the chunk which says that a new answer replaces all that came before it."""
        chunk = self.text("")
        chunk.message.response_metadata[native.REPLACED_KEY] = [replaced]
        return chunk

    def text(self, text: str) -> ChatGenerationChunk:
        """Make a chunk of text that no server sent as it is, such as a trimmed continuation."""
        self._named = True
        return text_chunk(text, self._provider)

    def _add_any(self, chunk: Chunk) -> ChatGenerationChunk | None:
        choices = choices_of(chunk)
        if "message_chunk" in chunk:
            return self._pass_on(native.as_message(chunk["message_chunk"]))
        deltas = [delta for delta in map(read, choices) if delta.index == 0]
        pieces = [piece for piece in map(self._piece, deltas) if piece is not None]
        if len(pieces) > 1:
            return pieces[0] + pieces[1:]
        return pieces[0] if pieces else None

    def _piece(self, delta: Delta) -> ChatGenerationChunk | None:
        calls = [c for c in map(self._call_chunk, delta.calls) if c is not None]
        if not (delta.text or delta.reasoning or delta.refusal or calls or delta.logprobs):
            return None
        piece = self.text(delta.text)
        if calls:
            # LangChain parses the calls when it makes the message.
            piece.message = AIMessageChunk(
                content=delta.text,
                response_metadata={"model_provider": self._provider},
                tool_call_chunks=calls,
            )
        if delta.reasoning:
            piece.message.additional_kwargs["reasoning_content"] = delta.reasoning
        if delta.refusal:
            piece.message.additional_kwargs["refusal"] = delta.refusal
        if delta.logprobs:
            piece.message.response_metadata["logprobs"] = delta.logprobs
            piece.generation_info = {"logprobs": delta.logprobs}
        return piece

    def _call_chunk(self, fragment: Any) -> ToolCallChunk | None:
        place, id_, name, args = self._tools.add(fragment)
        if id_ is None and name is None and args is None:
            return None
        return tool_call_chunk(name=name, args=args, id=id_, index=self._place + place)

    def _pass_on(self, message: AIMessage) -> ChatGenerationChunk:
        if self._relay is None:
            told = message.response_metadata.get("model_provider")
            if told and not self._named:
                self._provider = told
            self._named = True
            self._relay = native.Relay(self._provider)
        return ChatGenerationChunk(message=self._relay.chunk(message))

    def last(self, draft: Draft, model_name: str) -> ChatGenerationChunk:
        """Make the chunk that ends the stream: usage, metadata and all that had to wait.

        Args:
            draft: The answer whose chunks went through `add`; the one that ended it, where another
                target continued it.
            model_name: The model that was asked, for providers that do not say which one answered.
        """
        if draft.native:
            relay = self._relay or native.Relay(self._provider)
            return ChatGenerationChunk(message=relay.last(draft.native, model_name))
        choice = draft.choices[0]
        told = metadata(draft, choice, self._provider, model_name)
        made = [
            tool_call_chunk(id=call.id, index=self._place + place)
            for place, call in enumerate(choice.tools.calls)
            if not call.given_id
        ]
        message = AIMessageChunk(
            content="",
            additional_kwargs=choice.late_extras(),
            response_metadata=told,
            usage_metadata=usage_metadata(draft.usage),
            tool_call_chunks=made,
            chunk_position="last",
        )
        info = {k: told[k] for k in ("finish_reason", "model_name") if k in told}
        return ChatGenerationChunk(message=message, generation_info=info)


def shortened(piece: ChatGenerationChunk, text: str) -> ChatGenerationChunk | None:
    """Say less of a chunk's text, and nothing of log probabilities; None if nothing is left."""
    message = piece.message
    content: Any = text
    if isinstance(message.content, list):
        blocks = [block for block in message.content if isinstance(block, dict)]
        content = [block for block in blocks if block.get("type") != "text"]
        if text:
            place = next((b for b in blocks if b.get("type") == "text"), {"type": "text"})
            content.append({**place, "text": text})
    told = {k: v for k, v in message.response_metadata.items() if k != "logprobs"}
    kept = message.model_copy(update={"content": content, "response_metadata": told})
    if not (content or kept.additional_kwargs or getattr(kept, "tool_call_chunks", None)):
        return None
    return ChatGenerationChunk(message=kept)


def text_chunk(text: str, provider: str) -> ChatGenerationChunk:
    """Make a chunk of plain text.

    It is put together as pydantic's own `model_construct` does, from the state of validated ones: a
    fifth of the time, and there is nothing to validate about a string.
    `tests/wire/test_deltas.py` holds it to that.
    """
    state = _MESSAGE.copy()
    for name, empty in _MUTABLE:
        state[name] = empty()
    state["content"] = text
    state["response_metadata"] = {"model_provider": provider}
    message = _put_together(AIMessageChunk, state, {"content", "response_metadata"}, {})
    state = {**_GENERATION, "text": text, "message": message}
    return _put_together(ChatGenerationChunk, state, {"text", "message"}, None)


def _put_together(
    model: type[_M], state: dict[str, Any], fields: set[str], extra: dict[str, Any] | None
) -> _M:
    made = model.__new__(model)
    _set(made, "__dict__", state)
    _set(made, "__pydantic_fields_set__", fields)
    _set(made, "__pydantic_extra__", extra)
    _set(made, "__pydantic_private__", None)
    return made


_set = object.__setattr__
_MESSAGE = AIMessageChunk(content="").__dict__
_MUTABLE = [(k, type(v)) for k, v in _MESSAGE.items() if isinstance(v, list | dict | set)]
_GENERATION = ChatGenerationChunk(message=AIMessageChunk(content="")).__dict__

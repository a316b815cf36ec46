"""Chunk by chunk from the wire to LangChain's `ChatGenerationChunk`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import BaseModel

from langchain_resilient.wire import passthrough
from langchain_resilient.wire.accumulator import PLAIN, usage_metadata
from langchain_resilient.wire.chunk_parser import choices_of, parse_choice
from langchain_resilient.wire.tool_calls import ToolCallAssembler

if TYPE_CHECKING:
    from langchain_core.messages import InvalidToolCall, ToolCall, ToolCallChunk

    from langchain_resilient.exchange import Chunk
    from langchain_resilient.wire.accumulator import ChoiceAccumulator, ResponseAccumulator
    from langchain_resilient.wire.chunk_parser import Delta
    from langchain_resilient.wire.tool_calls import ToolCallBuilder


Stampable = TypeVar("Stampable", ChatResult, ChatGeneration, AIMessage)


def to_chat_result(response: ResponseAccumulator, provider: str, model_name: str) -> ChatResult:
    """Turn a whole answer into LangChain's form, with one generation a choice.

    The message has no id: LangChain gives it one that is unique, which the ids of some servers are
    not, and agents replace messages that have the same. The provider's own stands in
    `response_metadata["id"]`. Usage is on the first message only, since tracers add it up.

    Args:
        response: An answer without a fault.
        provider: The true provider's name, e.g. `"openai"`; LangChain chooses a translator by it.
        model_name: The model that was asked, for providers that do not say which one answered.

    Example:
        ```python
        to_result(draft, "openai", "gpt-4o").generations[0].message.content  # 'Hi'
        ```
    """
    if response.native:
        return _native_result(response, provider, model_name)
    usage = usage_metadata(response.usage)
    generations: list[ChatGeneration] = []
    for index in sorted(response.choices):
        choice = response.choices[index]
        message = to_message(choice, response_metadata(response, choice, provider, model_name))
        message.usage_metadata = None if generations else usage
        generations.append(_generation(message, choice))
    output = {
        "token_usage": response.usage,
        "model_name": response.model or model_name,
        "model_provider": provider,
    }
    return ChatResult(generations=generations, llm_output=output)


def to_message(choice: ChoiceAccumulator, response_metadata: dict[str, Any]) -> AIMessage:
    """Turn one choice into a message, which takes over the metadata and adds the logprobs."""
    if choice.logprobs is not None:
        response_metadata["logprobs"] = choice.logprobs
    calls, invalid = parse_calls(choice.tools.calls)
    return AIMessage(
        content=choice.text,
        additional_kwargs=choice.extras(),
        response_metadata=response_metadata,
        tool_calls=calls,
        invalid_tool_calls=invalid,
    )


def response_metadata(
    response: ResponseAccumulator, choice: ChoiceAccumulator, provider: str, model_name: str
) -> dict[str, Any]:
    """Collect what a message says about its answer; in a stream, on one chunk only.

    LangChain joins the strings and adds the numbers of chunks, so none of it may come twice.
    """
    known = {
        "finish_reason": choice.finish_reason,
        "id": response.id,
        "system_fingerprint": response.system_fingerprint,
        "service_tier": response.service_tier,
        "warnings": response.warnings,
        "moderation": response.moderation,
        "seed": choice.seed,
        # LangChain puts it there under `invoke`; it has costs and counts that usage_metadata lacks.
        "token_usage": response.usage if choice is response.choices[0] else None,
    }
    head = {"model_provider": provider, "model_name": response.model or model_name}
    return head | {name: value for name, value in known.items() if value}


def parse_calls(calls: list[ToolCallBuilder]) -> tuple[list[ToolCall], list[InvalidToolCall]]:
    """Sort calls into those whose arguments are a JSON object, or nothing, and the others."""
    good, bad = [], []
    for call in calls:
        error = "the arguments are not a JSON object"
        try:
            # Not strict: models put raw line breaks into strings, and LangChain lets them.
            args = json.loads(call.args, strict=False) if call.args else {}
        except (ValueError, RecursionError) as failure:
            args, error = None, f"the arguments are not JSON: {failure}"
        if isinstance(args, dict):
            good.append(tool_call(name=call.name, args=args, id=call.id))
        else:
            bad.append(invalid_tool_call(name=call.name, args=call.args, id=call.id, error=error))
    return good, bad


def attach_receipt(answer: Stampable, receipt: dict[str, Any]) -> Stampable:
    """Put a receipt on an answer, on one message of it.

    Args:
        answer: A result, a generation, a message, or the **last** chunk of a stream.
        receipt: `Receipt.as_dict()`.

    Returns:
        The same object.
    """
    found: Any = answer.generations[0] if isinstance(answer, ChatResult) else answer
    message = found if isinstance(found, AIMessage) else found.message
    message.response_metadata[passthrough.RECEIPT_KEY] = receipt
    return answer


def _generation(message: AIMessage, choice: ChoiceAccumulator) -> ChatGeneration:
    # LangChain copies this into the metadata: what is not known must not stand there as None.
    known = {"finish_reason": choice.finish_reason, "logprobs": choice.logprobs}
    info = {name: value for name, value in known.items() if value is not None}
    return ChatGeneration(message=message, generation_info=info or None)


def _native_result(response: ResponseAccumulator, provider: str, model_name: str) -> ChatResult:
    message = passthrough.merge_messages(response.native, provider, model_name)
    told = message.response_metadata
    output = {
        "token_usage": passthrough.usage_of(response.native),
        "model_name": told["model_name"],
        "model_provider": told["model_provider"],
    }
    return ChatResult(generations=[ChatGeneration(message=message)], llm_output=output)


_M = TypeVar("_M", bound=BaseModel)


class ChunkConverter:
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
        self._relay: passthrough.MessagePassthrough | None = None
        self._tools = ToolCallAssembler()
        self._place = 0

    def add(self, chunk: Chunk) -> ChatGenerationChunk | None:
        """Convert one chunk; None where it holds nothing to pass on yet.

        Raises:
            BadChunkError: If the chunk makes no sense.
        """
        # The same shortcut as in `ResponseAccumulator.add`: a piece of plain text.
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
        self._tools = ToolCallAssembler()

    def marker(self, replaced: dict[str, Any]) -> ChatGenerationChunk:
        """Make the chunk which says that a new answer replaces all that came before it."""
        chunk = self.text("")
        chunk.message.response_metadata[passthrough.REPLACED_KEY] = [replaced]
        return chunk

    def text(self, text: str) -> ChatGenerationChunk:
        """Make a chunk of text that no server sent as it is, such as a trimmed continuation."""
        self._named = True
        return text_chunk(text, self._provider)

    def _add_any(self, chunk: Chunk) -> ChatGenerationChunk | None:
        choices = choices_of(chunk)
        if "message_chunk" in chunk:
            return self._pass_on(passthrough.as_message(chunk["message_chunk"]))
        deltas = [delta for delta in map(parse_choice, choices) if delta.index == 0]
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
            self._relay = passthrough.MessagePassthrough(self._provider)
        return ChatGenerationChunk(message=self._relay.chunk(message))

    def last(self, response: ResponseAccumulator, model_name: str) -> ChatGenerationChunk:
        """Make the chunk that ends the stream: usage, metadata and all that had to wait.

        Args:
            response: The answer whose chunks went through `add`; the one that ended it, where another
                target continued it.
            model_name: The model that was asked, for providers that do not say which one answered.
        """
        if response.native:
            relay = self._relay or passthrough.MessagePassthrough(self._provider)
            return ChatGenerationChunk(message=relay.last(response.native, model_name))
        choice = response.choices[0]
        told = response_metadata(response, choice, self._provider, model_name)
        made = [
            tool_call_chunk(id=call.id, index=self._place + place)
            for place, call in enumerate(choice.tools.calls)
            if not call.given_id
        ]
        message = AIMessageChunk(
            content="",
            additional_kwargs=choice.late_extras(),
            response_metadata=told,
            usage_metadata=usage_metadata(response.usage),
            tool_call_chunks=made,
            chunk_position="last",
        )
        info = {k: told[k] for k in ("finish_reason", "model_name") if k in told}
        return ChatGenerationChunk(message=message, generation_info=info)


def with_text(piece: ChatGenerationChunk, text: str) -> ChatGenerationChunk | None:
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

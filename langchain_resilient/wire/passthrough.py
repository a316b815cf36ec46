"""Answers of targets that are LangChain models: their messages pass through unchanged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from langchain_resilient.wire.chunk_parser import BadChunkError
from langchain_resilient.wire.finish_reasons import NORMALIZED_KEY, REASON_KEYS, normalized
from langchain_resilient.wire.messages import assistant_blocks
from langchain_resilient.wire.provider_state import RECEIPT_KEY

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
    from langchain_core.messages.ai import UsageMetadata


REPLACED_KEY = "resilience_replaced"
"""In the `response_metadata` of a chunk: it replaces everything before it, and the whole answer
follows."""

FORM_KEY = "output_version"
"""In the `response_metadata` of a message: LangChain's name for the form of its blocks."""

RESPONSES_FORM = "responses/v1"
"""The form of OpenAI's Responses API."""

_THOUGHTS = frozenset({"reasoning", "reasoning_content", "thinking", "redacted_thinking"})
_VISIBLE_EXTRAS = ("refusal", "function_call", "audio", "tool_outputs", "images")
"""Where integrations put what has no place in a text: a built-in tool's outputs, approvals."""


def as_message(value: Any) -> AIMessage:
    """Check that a native target returned a message.

    Raises:
        BadChunkError: If it is not an `AIMessage` or `AIMessageChunk`.
    """
    from langchain_core.messages import AIMessage  # noqa: PLC0415  # only native targets need it

    if not isinstance(value, AIMessage):
        raise BadChunkError(f"`message_chunk` is of type {type(value).__name__}, not an AIMessage")
    return value


def content_kinds(message: AIMessage) -> tuple[bool, bool, bool]:
    """Return whether a message holds any text, anything visible, and any thoughts."""
    text = message.text
    extras = message.additional_kwargs
    blocks = message.content if isinstance(message.content, list) else []
    types = {block.get("type") for block in blocks if isinstance(block, dict)}
    visible = bool(
        (text and not text.isspace())
        or has_tool_calls(message)
        or any(extras.get(k) for k in _VISIBLE_EXTRAS)
        or types - _THOUGHTS - {"text", None}
    )
    return bool(text), visible, bool(extras.get("reasoning_content") or types & _THOUGHTS)


def has_tool_calls(message: AIMessage) -> bool:
    """Whether a message holds a tool call or a piece of one."""
    pieces = getattr(message, "tool_call_chunks", None)
    return bool(message.tool_calls or message.invalid_tool_calls or pieces)


def calls_of(messages: list[AIMessage]) -> list[tuple[str, str]]:
    """Return the name and the arguments, as they came, of each tool call of an answer."""
    pieces = [m for m in map(_as_chunk, messages) if has_tool_calls(m)]
    if not pieces:
        return []
    total = pieces[0] + pieces[1:] if len(pieces) > 1 else pieces[0]
    chunks = [(c["name"] or "", c["args"] or "") for c in total.tool_call_chunks]
    return chunks or [(c["name"], json.dumps(c["args"])) for c in total.tool_calls]


def refusal_of(messages: list[AIMessage]) -> str:
    """Return why a model would not answer; empty if it did."""
    return "".join(str(m.additional_kwargs.get("refusal") or "") for m in messages)


def finish_reason(messages: list[AIMessage]) -> str | None:
    """Return why the model stopped, under whichever name its integration uses."""
    return _metadata_of(messages, *REASON_KEYS)


def usage_of(messages: list[AIMessage]) -> dict[str, Any] | None:
    """Return the token counts under the names of chat completions; None if there are none."""
    usages = [m.usage_metadata for m in messages if m.usage_metadata]
    if not usages:
        return None
    counts: dict[str, Any] = {
        "prompt_tokens": sum(u["input_tokens"] for u in usages),
        "completion_tokens": sum(u["output_tokens"] for u in usages),
        "total_tokens": sum(u["total_tokens"] for u in usages),
    }
    if details := _cache_details(usages):
        counts["prompt_tokens_details"] = details
    return counts


def _cache_details(usages: list[UsageMetadata]) -> dict[str, int]:
    details: list[Mapping[str, Any]] = [u.get("input_token_details") or {} for u in usages]
    names = (("cached_tokens", "cache_read"), ("cache_write_tokens", "cache_creation"))
    return {
        ours: sum(detail.get(theirs) or 0 for detail in details)
        for ours, theirs in names
        if any(theirs in detail for detail in details)
    }


class GivenTool(dict[str, Any]):
    """A tool as a request parameter, which remembers how the caller gave it.

    Built-in tools, custom ones and what `@tool(extras=...)` says have no place in the parameter;
    a LangChain model gets the tool as it was given. Elsewhere it is the plain dict that it looks
    like, and copies are nothing else.

    Attributes:
        given: A LangChain tool, a function, a class or a dict.
        strict: What was said of all tools; None if nothing was.
    """

    def __init__(self, param: Mapping[str, Any], given: Any, strict: bool | None = None) -> None:
        super().__init__(param)
        self.given = given
        self.strict = strict

    def under(self, name: str) -> GivenTool:
        """Make a copy that has another name."""
        param = {**self, "function": {**self["function"], "name": name}}
        given = param
        if hasattr(self.given, "args_schema") and hasattr(self.given, "model_copy"):
            given = self.given.model_copy(update={"name": name})  # a tool of LangChain's
        return GivenTool(param, given, self.strict)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a plain dict: functions cannot be pickled."""
        return dict, (dict(self),)


def as_given(
    params: Sequence[Mapping[str, Any]], tools: Sequence[Any], strict: bool | None = None
) -> list[GivenTool]:
    """Let converted tools remember how the caller gave them."""
    return [GivenTool(*pair, strict) for pair in zip(params, tools, strict=True)]


def are_given(tools: Sequence[Any]) -> bool:
    """Whether any tool was given in another form than that of the parameter."""
    return any(isinstance(tool, GivenTool) and tool.given != dict(tool) for tool in tools)


def given_tools(tools: Sequence[Any]) -> tuple[list[Any], bool | None]:
    """Return the tools of a request as the caller gave them, and what was said of `strict`."""
    strict = next((tool.strict for tool in tools if isinstance(tool, GivenTool)), None)
    return [tool.given if isinstance(tool, GivenTool) else tool for tool in tools], strict


_AT_ONCE = frozenset({"model_provider", FORM_KEY, REPLACED_KEY})
"""Metadata that stays on its chunk; LangChain does not concatenate the first two."""


class MessagePassthrough:
    """Passes on the chunks of one stream of a LangChain model, so that they can be summed.

    Metadata and usage wait for the last chunk: if the stream breaks and another target continues
    it, LangChain would merge them with that target's.

    Args:
        provider: The `model_provider` of every chunk: LangChain would concatenate different names.
    """

    __slots__ = ("_first", "_listed", "_provider")

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._first: AIMessageChunk | None = None
        self._listed = False

    def chunk(self, message: AIMessage) -> AIMessageChunk:
        """Copy one message; a model without streaming yields one whole `AIMessage`."""
        piece = _as_chunk(message)
        if self._first is None:
            self._first = piece
        metadata = {**piece.response_metadata, "model_provider": self._provider}
        piece.response_metadata = {name: metadata[name] for name in _AT_ONCE & metadata.keys()}
        piece.usage_metadata = None
        piece.chunk_position = None
        self._listed = isinstance(piece.content, list)
        return piece

    def last_chunk(self, messages: list[AIMessage], model_name: str) -> AIMessageChunk:
        """Make the chunk that ends the stream of these messages."""
        from langchain_core.messages import AIMessageChunk  # noqa: PLC0415

        waiting = [
            AIMessageChunk(
                content="", response_metadata=m.response_metadata, usage_metadata=m.usage_metadata
            )
            for m in messages
            if m.usage_metadata or m.response_metadata.keys() - _AT_ONCE
        ]
        total = AIMessageChunk(content="") + waiting
        metadata = {**total.response_metadata, "model_provider": self._provider}
        # The receipt of a nested resilient model: that of this call takes its place.
        metadata.pop(RECEIPT_KEY, None)
        metadata.pop(REPLACED_KEY, None)
        if _metadata_of(messages, "model_name") is None:
            metadata["model_name"] = _metadata_of(messages, "model") or model_name
        if NORMALIZED_KEY not in metadata:
            calls, refused = any(map(has_tool_calls, messages)), bool(refusal_of(messages))
            word = normalized(finish_reason(messages), calls=calls, refused=refused)
            metadata |= {NORMALIZED_KEY: word} if word else {}
        return AIMessageChunk(
            content=[] if self._listed else "",
            response_metadata=metadata,
            usage_metadata=total.usage_metadata,
            chunk_position="last",
            id=self._first.id if self._first else None,
        )


def merge_messages(messages: list[AIMessage], provider: str, model_name: str) -> AIMessage:
    """Sum the messages of a stream, or copy the only one."""
    from langchain_core.messages import AIMessage, message_chunk_to_message  # noqa: PLC0415

    relay = MessagePassthrough(messages[0].response_metadata.get("model_provider") or provider)
    pieces = [relay.chunk(message) for message in messages]
    last = relay.last_chunk(messages, model_name)
    if len(messages) == 1 and type(messages[0]) is AIMessage:
        metadata = {**pieces[0].response_metadata, **last.response_metadata}
        return messages[0].model_copy(update={"response_metadata": metadata})
    total = message_chunk_to_message(pieces[0] + [*pieces[1:], last])
    return as_message(total)


def _as_chunk(message: AIMessage) -> AIMessageChunk:
    from langchain_core.messages import AIMessageChunk  # noqa: PLC0415

    if not isinstance(message, AIMessageChunk):
        return AIMessageChunk(**message.model_dump(exclude={"type"}))
    return message.model_copy()


def _metadata_of(messages: list[AIMessage], *names: str) -> str | None:
    """Return the latest text that any of the messages has under one of these names."""
    for message in reversed(messages):
        for name in names:
            text = message.response_metadata.get(name)
            if text and isinstance(text, str):
                return text
    return None


_FORMATS = {
    "amazon_bedrock": frozenset({"bedrock", "bedrock_converse", "anthropic"}),
    "anthropic-bedrock": frozenset({"anthropic", "bedrock"}),
    "azure": frozenset({"openai"}),
    "google_anthropic_vertex": frozenset({"anthropic", "google_vertexai"}),
    "google_vertexai": frozenset({"google_genai"}),
    "mistral": frozenset({"mistralai"}),
    "openai-codex": frozenset({"openai"}),
}
"""By an integration's `ls_provider`: each other `model_provider` of its messages."""


def formats_of(provider: str) -> frozenset[str]:
    """Return each `model_provider` that an integration gives to its own messages.

    Args:
        provider: Its `ls_provider`.

    Example:
        ```python
        formats_of("azure")  # frozenset({'azure', 'openai'})
        ```
    """
    return _FORMATS.get(provider, frozenset()) | {provider}


def without_foreign_blocks(
    messages: Iterable[BaseMessage], formats: Collection[str], target: str = ""
) -> list[BaseMessage]:
    """Reduce answers of other providers to their text and tool calls.

    Their reasoning is signed for them alone and their blocks have other names. A LangChain model
    sends on what it does not know, and its API then refuses that.

    Args:
        messages: A conversation; it is not changed.
        formats: Each `model_provider` whose answers are kept as they are.
        target: The name of the target that they go to: what it answered itself, by the receipt, is
            kept too.
    """
    return [_plain(message, formats, target) for message in messages]


def _plain(message: BaseMessage, formats: Collection[str], target: str) -> BaseMessage:
    from langchain_core.messages import AIMessage  # noqa: PLC0415

    if not isinstance(message, AIMessage) or isinstance(message.content, str):
        return message
    by, receipt = map(message.response_metadata.get, ("model_provider", RECEIPT_KEY))
    winner = receipt.get("winner") if isinstance(receipt, dict) else None
    # Whoever made it, a client of the service has sent it in this form.
    readable = "openai" in formats or message.response_metadata.get(FORM_KEY) != RESPONSES_FORM
    if readable and (by is None or by in formats) and (not target or winner in (None, target)):
        return message
    if readable and target and winner == target:
        return message
    text, refusal, _ = assistant_blocks(message.content)
    metadata = {k: v for k, v in message.response_metadata.items() if k != FORM_KEY}
    return AIMessage(
        text or refusal,
        tool_calls=message.tool_calls,
        invalid_tool_calls=message.invalid_tool_calls,
        response_metadata=metadata,
        id=message.id,
        name=message.name,
    )

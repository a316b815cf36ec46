"""LangChain messages to chat-completions messages, with whatever they hold."""

from __future__ import annotations

import base64
import binascii
import hashlib
import mimetypes
import re
from typing import TYPE_CHECKING, Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_openai_messages,
)

from langchain_resilient.wire.foreign_blocks import (
    CACHE_MARK,
    ForeignBlock,
    ForeignMessages,
    MarkedBlock,
    UnsupportedContentError,
)
from langchain_resilient.wire.json_values import json_text, writable_text
from langchain_resilient.wire.provider_state import OwnedMessage, owned
from langchain_resilient.wire.tool_calls import function_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


_THOUGHTS = frozenset({"reasoning", "reasoning_content", "thinking", "redacted_thinking"})

OWN_ITEMS = frozenset(
    {"mcp_approval_response", "tool_search_output", "apply_patch_call_output", "additional_tools",
     "configuration_update", "computer_call_output"}
)  # fmt: skip
"""Blocks of a user's or a tool's message that stand for items of OpenAI's Responses API."""

_OWN_BLOCKS = OWN_ITEMS | {"non_standard", "input_image", "custom_tool_call_output"}

_DROPPED = (
    _THOUGHTS
    | OWN_ITEMS
    | {
        "tool_call",
        "tool_call_chunk",
        "invalid_tool_call",
        "server_tool_call",
        "server_tool_call_chunk",
        "server_tool_result",
        "server_tool_use",
        "non_standard",
    }
)
"""Blocks that only their own provider could read. OpenAI and Together refuse them with a 400."""

_AUDIO_FORMATS = {"mpeg": "mp3", "x-wav": "wav", "wave": "wav", "vnd.wave": "wav"}


def assistant_blocks(content: Any) -> tuple[str, str, list[dict[str, Any]]]:
    """Read the content of an answer, in any provider's form.

    Returns:
        Its text, its refusal, and the tool calls that stand in it as `id`, `name`, `args`. Whatever
        else there is cannot be sent back: chat completions take nothing else from an assistant.
    """
    if isinstance(content, str):
        return content, "", []
    text, refusal = [], []
    calls: list[dict[str, Any]] = []
    for block in content:
        if isinstance(block, str):
            text.append(block)
            continue
        kind = block.get("type")
        if kind in {"text", None} and isinstance(block.get("text"), str):
            text.append(block["text"])
        elif kind == "refusal":
            refusal.append(str(block.get("refusal") or ""))
        elif kind == "tool_use":
            calls.append(
                {"id": block.get("id"), "name": block.get("name"), "args": block.get("input")}
            )
        elif kind == "function_call":
            args = block.get("arguments")
            calls.append({"id": block.get("call_id"), "name": block.get("name"), "args": args})
        elif kind == "tool_call":
            calls.append(block)
    return "".join(text), "".join(refusal), calls


def normalize_blocks(
    content: list[str | dict[Any, Any]], place: str = "content"
) -> list[str | dict[Any, Any]]:
    """Prepare the blocks of a message for `convert_to_openai_messages`, without changing them.

    Args:
        content: The blocks.
        place: Where they are, for errors.

    Raises:
        ValueError: If a block says that it is a text and is none; says which.
    """
    normalized: list[str | dict[Any, Any]] = []
    for number, block in enumerate(content):
        try:
            mended = block if isinstance(block, str) else _normalize_block(block)
        except ValueError as error:
            raise ValueError(f"{place}[{number}]: {error}") from None
        if mended is not None:
            normalized.append(mended)
    return normalized


def _normalize_block(block: dict[Any, Any]) -> dict[Any, Any] | None:
    kind = block.get("type")
    if kind in _DROPPED:
        return None
    mender = _NORMALIZERS.get(kind) if kind is None or isinstance(kind, str) else None
    if mender is None:
        return block
    mended = mender(block)
    if mended.__class__ is dict and (mark := cache_mark(block)) is not None:
        return {**mended, CACHE_MARK: mark}
    return mended


def cache_mark(block: Any) -> Any:
    """The cache mark of a block, in Anthropic's form or LangChain's; None if it has none."""
    if not isinstance(block, dict):
        return None
    return block.get(CACHE_MARK) or _dict(block.get("extras")).get(CACHE_MARK)


def _typed_text(block: dict[Any, Any]) -> dict[Any, Any]:
    if not isinstance(block.get("text"), str):
        raise ValueError("a text block holds no text")  # noqa: TRY004  # a value of the user's
    return block


def _untyped(block: dict[Any, Any]) -> dict[Any, Any]:
    """A block without a type: a text, as in an answer, or a form of Bedrock's."""
    if isinstance(block.get("text"), str):
        return _text(block["text"])
    return block if block.keys() & _CONVERTED_UNTYPED else ForeignBlock(block)


_CONVERTED_UNTYPED = frozenset({"image", "json", "guard_content"})
"""What LangChain converts by its key alone."""


def _image_url(block: dict[Any, Any]) -> dict[Any, Any]:
    url = block.get("image_url")
    # An early form of LangChain's: the address alone.
    return {**block, "image_url": {"url": url}} if isinstance(url, str) else block


def _image(block: dict[Any, Any]) -> dict[Any, Any]:
    source = block.get("source")
    if isinstance(source, dict) and source.get("type") == "url":  # Anthropic's
        return {"type": "image_url", "image_url": {"url": source.get("url")}}
    detail = block.get("detail") or _dict(block.get("extras")).get("detail")
    data, mime_type = block.get("base64") or block.get("data"), block.get("mime_type")
    url = block.get("url") or (data and mime_type and f"data:{mime_type};base64,{data}")
    if not detail or source or not url:
        return block
    return {"type": "image_url", "image_url": {"url": url, "detail": detail}}


def _file(block: dict[Any, Any]) -> dict[Any, Any]:
    """Name a file: OpenAI wants it, and LangChain would warn about the name that it gives."""
    if block.get("source_type") == "text":
        return _text(block.get("text") or block.get("url"))
    if isinstance(block.get("file"), dict):  # OpenAI's own form
        file = block["file"]
        if "file_data" not in file or file.get("filename"):
            return block
        media = str(file["file_data"]).partition(";")[0].removeprefix("data:")
        return {**block, "file": {**file, "filename": _filename(media)}}
    if id_ := block.get("file_id") or (block.get("source_type") == "id" and block.get("id")):
        return {"type": "file", "file": {"file_id": id_}}
    places = (block, _dict(block.get("extras")), _dict(block.get("metadata")))
    if any(source.get("filename") for source in places) or not (
        block.get("base64") or block.get("data")
    ):
        return block
    return {**block, "filename": _filename(block.get("mime_type"))}


def _audio(block: dict[Any, Any]) -> dict[Any, Any]:
    kind, _, form = str(block.get("mime_type") or "").partition("/")
    if form not in _AUDIO_FORMATS:
        return block
    return {**block, "mime_type": f"{kind}/{_AUDIO_FORMATS[form]}"}


def _document(block: dict[Any, Any]) -> dict[Any, Any]:
    """Anthropic's form of a file."""
    source = _dict(block.get("source"))
    kind, data = source.get("type"), source.get("data")
    if kind == "text":
        return _text(data)
    if kind != "base64":
        return ForeignBlock(block)
    media = source.get("media_type")
    name = block.get("title") or _filename(media)
    file = {"filename": name, "file_data": f"data:{media};base64,{data}"}
    return {"type": "file", "file": file}


def _plain_text(block: dict[Any, Any]) -> dict[Any, Any]:
    if block.get("text") is not None:
        return _text(block["text"])
    try:
        return _text(base64.b64decode(block.get("base64") or "", validate=True).decode())
    except (binascii.Error, UnicodeDecodeError):
        raise ValueError("a `text-plain` block holds no UTF-8 text") from None


def _input_part(block: dict[Any, Any]) -> dict[Any, Any] | None:
    """A part of a message in the form of OpenAI's Responses API."""
    if block["type"] == "input_text":
        return _text(block.get("text"))
    if block["type"] == "input_image":
        if not block.get("image_url"):
            return None  # a file of OpenAI's, by its id
        image = {k: v for k, v in block.items() if k == "detail" and v}
        return {"type": "image_url", "image_url": {"url": block.get("image_url"), **image}}
    known = ("file_id", "file_data", "filename")
    return _file({"type": "file", "file": {k: block[k] for k in known if block.get(k)}})


def _custom_output(block: dict[Any, Any]) -> dict[Any, Any]:
    return _text(block.get("output"))


def _tool_result(block: dict[Any, Any]) -> dict[Any, Any]:
    content = block.get("content") or ""
    return {**block, "content": normalize_blocks(content) if isinstance(content, list) else content}


def _filename(mime_type: Any) -> str:
    return f"attachment{mimetypes.guess_extension(str(mime_type)) or ''}"


def _text(text: Any) -> dict[Any, Any]:
    return {"type": "text", "text": str(text or "")}


def _dict(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


_NORMALIZERS: dict[str | None, Callable[[dict[Any, Any]], dict[Any, Any] | None]] = {
    None: _untyped,
    "text": _typed_text,
    "image_url": _image_url,
    "image": _image,
    "file": _file,
    "audio": _audio,
    "document": _document,
    "text-plain": _plain_text,
    "tool_result": _tool_result,
    "input_text": _input_part,
    "input_image": _input_part,
    "input_file": _input_part,
    "custom_tool_call_output": _custom_output,
    "video_url": ForeignBlock,
    "audio_url": ForeignBlock,
}


class SourcedMessage(dict[str, Any]):
    """A chat-completions message that knows the LangChain message it was made of.

    What that holds besides, such as reasoning, goes back to the target that made it.

    Attributes:
        source: The LangChain message.
    """

    __slots__ = ("source",)

    def __init__(self, wire: dict[str, Any], source: BaseMessage) -> None:
        super().__init__(wire)
        self.source = source


_ROLES: dict[type, str] = {
    SystemMessage: "system",
    HumanMessage: "user",
    AIMessage: "assistant",
}


def to_chat_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Convert a conversation.

    What cannot be sent to another model is left out: reasoning, server-side tool calls, and
    whatever an assistant message holds besides text and tool calls.

    Args:
        messages: LangChain messages, whole or chunks.

    Returns:
        Chat-completions messages; more than were given, where one holds several tool results. If a
        block cannot be expressed (a video, a file by URL, a cache mark, ...), it stays as it is in
        them, as a `ForeignBlock`, and they are `ForeignMessages`.

    Raises:
        ValueError: If there are no messages, or a text block holds no text.
        TypeError: If one of them is no message that a model could read.

    Example:
        ```python
        to_chat_messages([HumanMessage("Hi")])  # [{'role': 'user', 'content': 'Hi'}]
        ```
    """
    if not messages:
        raise ValueError("`messages` is empty: a chat model needs at least one message")
    converted: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        # Nearly every message is a plain string, and this runs on every call.
        role = _ROLES.get(message.__class__)
        if role is not None:
            content = message.content
            if (
                content.__class__ is str
                and not message.additional_kwargs
                and not message.name
                and (role != "assistant" or not (message.tool_calls or message.invalid_tool_calls))  # type: ignore[attr-defined]
            ):
                converted.append({"role": role, "content": content})
                continue
        made = _convert(message, index)
        if made.__class__ is ForeignMessages and converted.__class__ is list:
            converted = ForeignMessages(converted)
        converted.extend(made)
    return converted


def _convert(message: BaseMessage, index: int) -> list[dict[str, Any]]:
    if isinstance(message, AIMessage):
        answer = _assistant(message)
        # Blocks may hold more than text and calls: reasoning, calls of the provider's own tools.
        if not isinstance(message.content, list):
            return [answer]
        if isinstance(answer, OwnedMessage):
            answer.source = message
        else:
            answer = SourcedMessage(answer, message)
        return ForeignMessages([answer]) if isinstance(answer["content"], list) else [answer]
    known = HumanMessage | SystemMessage | ToolMessage | FunctionMessage | ChatMessage
    if not isinstance(message, known):
        raise TypeError(
            f"messages[{index}] is a {type(message).__name__}, which no chat model can read; "
            "give HumanMessage, SystemMessage, AIMessage, ToolMessage or ChatMessage objects"
        )
    source = message
    if isinstance(message.content, list):
        blocks = normalize_blocks(message.content, f"messages[{index}].content")
        message = message.model_copy(update={"content": blocks})
    try:
        _refuse_foreign(message.content)
        converted = convert_to_openai_messages([message])
        if isinstance(message.content, list) and any(map(cache_mark, message.content)):
            converted = _with_foreign_blocks(message)
    except ValueError:
        converted = _with_foreign_blocks(message)
    # Results of tools must follow the call at once, before whatever the user adds to them.
    converted.sort(key=lambda m: m["role"] != "tool")
    normalized = [_normalize_message(m) for m in converted]
    if len(normalized) == 1 and _has_own_blocks(source):
        normalized = [SourcedMessage(normalized[0], source)]
    return normalized if converted.__class__ is list else ForeignMessages(normalized)


def _has_own_blocks(message: BaseMessage) -> bool:
    """Whether a message that is no answer holds blocks of the Responses API."""
    if message.additional_kwargs.get("type") == "computer_call_output":
        return True
    content = message.content if isinstance(message.content, list) else ()
    return any(isinstance(b, dict) and b.get("type") in _OWN_BLOCKS for b in content)


def _refuse_foreign(content: Any) -> None:
    """LangChain passes some of them through."""
    if isinstance(content, list) and any(isinstance(block, ForeignBlock) for block in content):
        raise UnsupportedContentError("a foreign block")


def _with_foreign_blocks(message: BaseMessage) -> list[dict[str, Any]]:
    """Convert a message block by block, and leave as it is what LangChain cannot convert.

    Raises:
        ValueError: If it is not the blocks that cannot be converted.
    """
    if not isinstance(message.content, list):
        return convert_to_openai_messages([message])
    (whole,) = convert_to_openai_messages([message.model_copy(update={"content": ""})])
    content: list[Any] = []
    others: list[dict[str, Any]] = []
    for block in message.content:
        try:
            _refuse_foreign([block])
            made = convert_to_openai_messages([message.model_copy(update={"content": [block]})])
        except ValueError:
            content.append(ForeignBlock(block) if isinstance(block, dict) else block)
            continue
        for one in made:
            if one["role"] == whole["role"]:
                part = one["content"]
                parts = [_text(part)] if isinstance(part, str) else part
                content.extend(_marked(parts, cache_mark(block)))
            else:
                others.append(one)  # the result of a tool
    return ForeignMessages([*others, {**whole, "content": content}])


def _marked(parts: list[Any], mark: Any) -> list[Any]:
    """Put a cache mark on the last of the parts that a block became."""
    if mark is None or not parts:
        return parts
    return [*parts[:-1], MarkedBlock({**parts[-1], CACHE_MARK: mark})]


def _normalize_message(message: dict[str, Any]) -> dict[str, Any]:
    if "name" in message:
        message["name"] = safe_name(message["name"])
    if "tool_call_id" in message:
        message["tool_call_id"] = safe_id(message["tool_call_id"])
    return message


def _assistant(message: AIMessage) -> dict[str, Any]:
    """Convert an answer, of any provider."""
    extras = message.additional_kwargs
    text, refusal, calls = assistant_blocks(message.content)
    wire: dict[str, Any] = {"role": "assistant", "content": text}
    if not calls and not message.invalid_tool_calls:
        wire["content"] = _marked_texts(message.content) or text
    if message.name:
        wire["name"] = safe_name(message.name)
    if tool_calls := _tool_calls(message, calls):
        wire["tool_calls"] = tool_calls
    elif extras.get("function_call"):
        wire["function_call"] = extras["function_call"]
    elif not text:
        _set_refusal_and_audio(wire, extras.get("refusal") or refusal, extras.get("audio"))
    if not text and wire.keys() & {"tool_calls", "function_call", "audio"}:
        wire["content"] = None
    return owned(wire, message, safe_id) if extras else wire


def _marked_texts(content: Any) -> list[dict[str, Any]]:
    """The texts of an answer as parts, where one has a cache mark."""
    if not isinstance(content, list) or not any(map(cache_mark, content)):
        return []
    texts = [(assistant_blocks([block])[0], cache_mark(block)) for block in content]
    return [part for text, mark in texts if text for part in _marked([_text(text)], mark)]


def _set_refusal_and_audio(wire: dict[str, Any], refusal: str, audio: Any) -> None:
    """Fill in what was said without text: as text, since only OpenAI has a place for it.

    OpenAI's own audio can be sent back by its id, for an hour; that is for want of a transcript.
    """
    spoken = audio if isinstance(audio, dict) else {}
    wire["content"] = refusal or spoken.get("transcript") or ""
    if not wire["content"] and spoken.get("id"):
        wire["audio"] = {"id": spoken["id"]}


def _tool_calls(message: AIMessage, from_blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All calls, the invalid too: a tool message that answers one must not be orphaned."""
    calls = [_call(c["id"], c["name"], _json(c["args"])) for c in message.tool_calls]
    calls += [_call(c["id"], c["name"], _json(c["args"])) for c in message.invalid_tool_calls]
    known = {call["id"] for call in calls}
    given = [_call(c.get("id"), c.get("name"), _json(c.get("args"))) for c in from_blocks]
    return calls + [call for call in given if call["id"] not in known]


def _call(id_: str | None, name: str | None, args: str) -> dict[str, Any]:
    function = {"name": function_name(name or "unknown"), "arguments": args}
    return {"type": "function", "id": safe_id(id_ or ""), "function": function}


def _json(args: Any) -> str:
    return writable_text(args) if args and isinstance(args, str) else json_text(args or {})


_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_MAX_NAME_LENGTH = 64
_MAX_ID_LENGTH = 40


def safe_name(name: str) -> str:
    """Fit a name into what OpenAI takes, `[a-zA-Z0-9_-]{1,64}`; most are returned as they are."""
    return _NAME.sub("_", name)[:_MAX_NAME_LENGTH]


def safe_id(id_: str) -> str:
    """Shorten the id of a tool call to OpenAI's 40 characters: the Responses API makes longer ones.

    The call and the message that answers it get the same.
    """
    if len(id_) <= _MAX_ID_LENGTH:
        return id_
    return f"call_{hashlib.sha256(id_.encode(errors='surrogatepass')).hexdigest()[:24]}"

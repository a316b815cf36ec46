"""LangChain messages to chat-completions messages.

The result goes to several providers, so it keeps to what all of them take: text as one string
where it is only text, no traces of another provider's reasoning, names and ids within OpenAI's
limits.
"""

from __future__ import annotations

import hashlib
import json
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

from langchain_resilient.wire.blocks import mend_blocks, said_blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

_ROLES: dict[type, str] = {
    SystemMessage: "system",
    HumanMessage: "user",
    AIMessage: "assistant",
}


def to_wire(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Convert a conversation.

    What cannot be sent to another model is left out: reasoning, server-side tool calls, cache
    marks, and whatever an assistant message holds besides text and tool calls.

    Args:
        messages: LangChain messages, whole or chunks.

    Returns:
        Chat-completions messages; more than were given, where one holds several tool results.

    Raises:
        ValueError: If there are no messages, or a block cannot be expressed (a file by URL, ...).
        TypeError: If one of them is no message that a model could read.

    Example:
        ```python
        to_wire([HumanMessage("Hi")])  # [{'role': 'user', 'content': 'Hi'}]
        ```
    """
    if not messages:
        raise ValueError("`messages` is empty: a chat model needs at least one message")
    found: list[dict[str, Any]] = []
    for place, message in enumerate(messages):
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
                found.append({"role": role, "content": content})
                continue
        found.extend(_convert(message, place))
    return found


def _convert(message: BaseMessage, place: int) -> list[dict[str, Any]]:
    if isinstance(message, AIMessage):
        return [_assistant(message)]
    known = HumanMessage | SystemMessage | ToolMessage | FunctionMessage | ChatMessage
    if not isinstance(message, known):
        raise TypeError(
            f"messages[{place}] is a {type(message).__name__}, which no chat model can read; "
            "give HumanMessage, SystemMessage, AIMessage, ToolMessage or ChatMessage objects"
        )
    if isinstance(message.content, list):
        message = message.model_copy(update={"content": mend_blocks(message.content)})
    converted = convert_to_openai_messages([message])
    # Results of tools must follow the call at once, before whatever the user adds to them.
    converted.sort(key=lambda m: m["role"] != "tool")
    return [_mend(m) for m in converted]


def _mend(message: dict[str, Any]) -> dict[str, Any]:
    if "name" in message:
        message["name"] = safe_name(message["name"])
    if "tool_call_id" in message:
        message["tool_call_id"] = safe_id(message["tool_call_id"])
    return message


def _assistant(message: AIMessage) -> dict[str, Any]:
    """Convert an answer, of any provider."""
    extras = message.additional_kwargs
    text, refusal, calls = said_blocks(message.content)
    wire: dict[str, Any] = {"role": "assistant", "content": text}
    if message.name:
        wire["name"] = safe_name(message.name)
    if tool_calls := _tool_calls(message, calls):
        wire["tool_calls"] = tool_calls
    elif extras.get("function_call"):
        wire["function_call"] = extras["function_call"]
    elif not text:
        _say_otherwise(wire, extras.get("refusal") or refusal, extras.get("audio"))
    if not text and wire.keys() & {"tool_calls", "function_call", "audio"}:
        wire["content"] = None
    return wire


def _say_otherwise(wire: dict[str, Any], refusal: str, audio: Any) -> None:
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
    function = {"name": safe_name(name or "unknown"), "arguments": args}
    return {"type": "function", "id": safe_id(id_ or ""), "function": function}


def _json(args: Any) -> str:
    return args if args and isinstance(args, str) else json.dumps(args or {}, ensure_ascii=False)


_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_MOST_NAME = 64
_MOST_ID = 40


def safe_name(name: str) -> str:
    """Fit a name into what OpenAI takes, `[a-zA-Z0-9_-]{1,64}`; most are returned as they are."""
    return _NAME.sub("_", name)[:_MOST_NAME]


def safe_id(id_: str) -> str:
    """Shorten the id of a tool call to OpenAI's 40 characters: the Responses API makes longer ones.

    The call and the message that answers it get the same.
    """
    if len(id_) <= _MOST_ID:
        return id_
    return f"call_{hashlib.sha256(id_.encode(errors='surrogatepass')).hexdigest()[:24]}"

"""Messages that an API does not take, in a form that it does: other roles, images elsewhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from langchain_resilient.wire.tool_calls import shorten_id

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    Message = dict[str, Any]

SWAPPED_ROLES = {"developer": "system", "system": "user"}
"""Roles that not every API knows, each with the one that comes nearest to it."""

_DEVELOPER = re.compile(r"\bdeveloper\b", re.IGNORECASE)
_SYSTEM = re.compile(
    r"['\"`]?system['\"`]? (?:role|messages?|prompts?)[^.]{0,40}(?:not|n't|un)[ -]?"
    r"(?:be )?(?:support|allow|accept|permit)|"
    r"not (?:support|allow|accept)[^.]{0,40}['\"`]system['\"`]|"
    r"(?:unknown|unsupported|invalid|unexpected) (?:role|variant|value)[: ]+['\"`]system['\"`]",
    re.IGNORECASE,
)
_ROLE = re.compile(r"\broles?\b", re.IGNORECASE)
_REFUSED = re.compile(
    r"invalid|un(?:known|supported|expected|recognized)|not|n't|must be|should be|only|expected",
    re.IGNORECASE,
)
_WANTS_TEXT = re.compile(
    r"(?:valid|expected a|must be a|should be a|only) string|invalid type: sequence|"
    r"content must be (?:a )?string|got (?:a )?(?:list|array)",
    re.IGNORECASE,
)
_IMAGE = re.compile(r"image", re.IGNORECASE)
_TOOL_MESSAGE = re.compile(r"\btool\b|role 'user'", re.IGNORECASE)


def refused_role(text: str, messages: Sequence[Mapping[str, Any]]) -> str | None:
    """Find the role of these messages that an error refuses; None if it is about something else.

    Args:
        text: The error's words, its parameter among them.
        messages: What was sent.
    """
    roles = {message.get("role") for message in messages}
    if "developer" in roles and _REFUSED.search(text):
        if _DEVELOPER.search(text) or _ROLE.search(text):
            return "developer"
        return None
    return "system" if "system" in roles and _SYSTEM.search(text) else None


def swap_roles(messages: list[Message], roles: Mapping[str, str]) -> list[Message]:
    """Send messages under other roles, one after another until it is one that is taken.

    What becomes a user's text joins the user's text that follows: many templates want the roles to
    alternate.
    """
    swapped: list[Message] = []
    to_join: Message | None = None
    for message in messages:
        role = message.get("role")
        new = role
        for _ in roles:
            new = roles.get(str(new), new)
        if new == role:
            joined = to_join is not None and role == "user" and _joined(to_join, message)
            if joined:
                swapped[-1] = joined
            else:
                swapped.append(message)
            to_join = None
            continue
        swapped.append({**message, "role": new})
        to_join = swapped[-1] if new == "user" else None
    return messages if swapped == messages else swapped


def _joined(first: Message, second: Message) -> Message | None:
    one, other = first.get("content"), second.get("content")
    if isinstance(one, str) and isinstance(other, str):
        return {**second, "content": f"{one}\n\n{other}"}
    if isinstance(one, str) and isinstance(other, list):
        return {**second, "content": [{"type": "text", "text": one}, *other]}
    return None


def has_names(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any message has a `name`."""
    return any("name" in message for message in messages)


def without_names(messages: Sequence[Message]) -> list[Message]:
    """Copy messages without their `name`."""
    return [{k: v for k, v in message.items() if k != "name"} for message in messages]


def refuses_tool_images(text: str, messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an error refuses an image in the result of a tool."""
    return bool(
        _IMAGE.search(text) and _TOOL_MESSAGE.search(text) and any(map(_has_image, messages))
    )


def _has_image(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return (
        message.get("role") == "tool" and isinstance(content, list) and any(map(_is_image, content))
    )


def refuses_lists(text: str, messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an error wants a text where these messages hold a list of texts."""
    return bool(_WANTS_TEXT.search(text)) and any(map(_is_list_of_texts, messages))


def without_lists(messages: list[Message]) -> list[Message]:
    """Write lists of texts as one text each; a user's as well, unless there is more than text."""
    if not any(map(_is_list_of_texts, messages)):
        return messages
    return [
        {**m, "content": "\n".join(map(_text, m["content"]))} if _is_list_of_texts(m) else m
        for m in messages
    ]


def _is_list_of_texts(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, list) and not any(map(_is_image, content))


def modern_calls(messages: list[Message]) -> list[Message]:
    """Write calls of functions, and their results, as those of tools: few APIs know the former."""
    modern: list[Message] = []
    for index, message in enumerate(messages):
        call = message.get("function_call")
        if call:
            rest = {k: v for k, v in message.items() if k != "function_call"}
            calls = [{"id": f"call_{index}", "type": "function", "function": call}]
            modern.append({**rest, "tool_calls": calls})
        elif message.get("role") == "function":
            modern.append({**message, "role": "tool", "tool_call_id": f"call_{index - 1}"})
        else:
            modern.append(message)
    return modern


def audio_by_url(messages: list[Message], formats: Collection[str]) -> list[Message]:
    """Write audio in other formats than these as `audio_url`, which says which it is."""
    return [
        {**m, "content": [_audio_by_url(block, formats) for block in m["content"]]}
        if isinstance(m.get("content"), list)
        else m
        for m in messages
    ]


def _audio_by_url(block: Any, formats: Collection[str]) -> Any:
    audio = block.get("input_audio") if isinstance(block, dict) else None
    if not isinstance(audio, dict) or audio.get("format") in formats:
        return block
    url = f"data:audio/{audio.get('format')};base64,{audio.get('data')}"
    return {"type": "audio_url", "audio_url": {"url": url}}


def _is_image(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") not in ("text", None)


def move_tool_images(messages: list[Message]) -> list[Message]:
    """Move the images of tools' results into a user's message after these results.

    Args:
        messages: In the chat-completions dialect; they stay as they are.

    Returns:
        The same list if no result holds any.
    """
    if not any(map(_has_image, messages)):
        return messages
    moved: list[Message] = []
    waiting: list[dict[str, Any]] = []
    for message in messages:
        if message.get("role") != "tool" and waiting:
            moved.append({"role": "user", "content": waiting})
            waiting = []
        if not _has_image(message):
            moved.append(message)
            continue
        text = "\n".join(_text(block) for block in message["content"] if not _is_image(block))
        images = [block for block in message["content"] if _is_image(block)]
        note = f"What the tool call {message.get('tool_call_id')} returned:"
        moved.append({**message, "content": text or "(what it returned is in the next message)"})
        waiting += [{"type": "text", "text": note}, *images]
    if waiting:
        moved.append({"role": "user", "content": waiting})
    return moved


def _text(block: Any) -> str:
    return block if isinstance(block, str) else str(block.get("text") or "")


# -- the same for LangChain's messages ------------------------------------------------------------

_ROLE_KEY = "__openai_role__"
"""Where LangChain keeps the role of a system message that has another."""


_ROLES = {"human": "user", "ai": "assistant"}


def outlines(messages: Sequence[BaseMessage]) -> list[Message]:
    """Say of LangChain's messages what an API may refuse: roles, names, ids, forms of content."""
    outlined = []
    for message in messages:
        role = _role(message)
        outline: Message = {"role": _ROLES.get(role, role), "content": message.content}
        if message.name:
            outline["name"] = message.name
        if isinstance(message, ToolMessage):
            outline["tool_call_id"] = message.tool_call_id
        outlined.append(outline)
    return outlined


def swap_source_roles(messages: list[BaseMessage], roles: Mapping[str, str]) -> list[BaseMessage]:
    """Do what `swap_roles` does to the messages of LangChain."""
    swapped: list[BaseMessage] = []
    to_join: BaseMessage | None = None
    for message in messages:
        role = new = _role(message)
        for _ in roles:
            new = roles.get(new, new)
        if new != role:
            kind = HumanMessage if new == "user" else SystemMessage
            swapped.append(kind(message.content))
            to_join = swapped[-1] if new == "user" else None
            continue
        joined = None
        if to_join is not None and isinstance(message, HumanMessage):
            pair = [{"content": one.content} for one in (to_join, message)]
            joined = _joined(*pair)
        if joined is None:
            swapped.append(message)
        else:
            swapped[-1] = message.model_copy(update=joined)
        to_join = None
    return swapped


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return message.role
    if isinstance(message, SystemMessage):
        return str(message.additional_kwargs.get(_ROLE_KEY) or "system")
    return message.type


def without_source_names(messages: list[BaseMessage]) -> list[BaseMessage]:
    """Copy messages without their `name`."""
    return [m.model_copy(update={"name": None}) if m.name else m for m in messages]


def source_without_lists(messages: list[BaseMessage]) -> list[BaseMessage]:
    """Do what `without_lists` does to the messages of LangChain."""

    def text_of(message: BaseMessage) -> BaseMessage:
        content = message.content
        if not isinstance(content, list) or any(map(_is_image, content)):
            return message
        return message.model_copy(update={"content": "\n".join(map(_text, content))})

    return list(map(text_of, messages))


def move_source_images(messages: list[BaseMessage]) -> list[BaseMessage]:
    """Do what `move_tool_images` does to the messages of LangChain."""
    moved: list[BaseMessage] = []
    waiting: list[Any] = []
    for message in messages:
        if not isinstance(message, ToolMessage):
            if waiting:
                moved.append(HumanMessage(waiting))
                waiting = []
            moved.append(message)
            continue
        one, *others = move_tool_images(
            [{"role": "tool", "tool_call_id": message.tool_call_id, "content": message.content}]
        )
        changed = bool(others)
        moved.append(message.model_copy(update={"content": one["content"]}) if changed else message)
        waiting += [block for other in others for block in other["content"]]
    return [*moved, HumanMessage(waiting)] if waiting else moved


def shorten_source_ids(messages: list[BaseMessage]) -> list[BaseMessage]:
    """Give the calls of tools, and their results, ids of nine letters and digits."""
    return [_with_calls(message, shorten_id, lambda name: name) for message in messages]


def rename_source_calls(
    messages: list[BaseMessage], rename: Callable[[str], str]
) -> list[BaseMessage]:
    """Give the calls of tools in LangChain's messages other names."""
    return [_with_calls(message, lambda id_: id_, rename) for message in messages]


def _with_calls(
    message: BaseMessage, new_id: Callable[[str], str], new_name: Callable[[str], str]
) -> BaseMessage:
    if isinstance(message, ToolMessage):
        update: dict[str, Any] = {"tool_call_id": new_id(message.tool_call_id)}
        if message.name:
            update["name"] = new_name(message.name)
        return message.model_copy(update=update)
    if not isinstance(message, AIMessage):
        return message
    pieces = getattr(message, "tool_call_chunks", None)
    if not (message.tool_calls or message.invalid_tool_calls or pieces):
        return message

    def changed(call: Any) -> Any:
        id_, name = call.get("id"), call.get("name")
        ids = {"id": new_id(id_)} if isinstance(id_, str) and id_ else {}
        return {**call, **ids, **({"name": new_name(name)} if name else {})}

    update = {
        "tool_calls": list(map(changed, message.tool_calls)),
        "invalid_tool_calls": list(map(changed, message.invalid_tool_calls)),
    }
    if pieces:
        update["tool_call_chunks"] = list(map(changed, pieces))
    if isinstance(message.content, list):
        update["content"] = [
            changed(b) if isinstance(b, dict) and b.get("type") in _CALLS else b
            for b in message.content
        ]
    return message.model_copy(update=update)


_CALLS = frozenset({"tool_call", "tool_call_chunk", "tool_use", "function_call"})
"""The types of the blocks that hold a call."""

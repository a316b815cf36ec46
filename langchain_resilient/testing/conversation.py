"""What the providers refuse in a conversation: roles, content blocks, and tools left unanswered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_resilient.testing.problems import invalid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from langchain_resilient.testing.problems import Problem

_ROLES = ("system", "assistant", "user", "function", "tool", "developer")
_BLOCKS = {
    "openai": ("text", "image_url", "input_audio", "refusal", "audio", "file"),
    "together": ("text", "image_url", "video_url", "audio_url", "input_audio"),
}
_TEXT_OR_PICTURE = ("text", "image_url")


def conversation_problems(dialect: str, body: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with a request's messages, in order.

    Args:
        dialect: `"openai"` or `"together"`.
        body: The request as JSON.
    """
    messages = body.get("messages")
    if messages is None:
        yield invalid(
            "Missing required parameter: 'messages'.", "messages", "missing_required_parameter"
        )
    elif not messages:
        yield invalid(
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an "
            "empty array instead.",
            "messages",
            "empty_array",
        )
    else:
        pending: list[str] = []
        for at, message in enumerate(messages):
            yield from _message(dialect, at, message)
            yield from _tool_answers(at, message, pending)
        if pending:
            yield _unanswered(len(messages), pending)


def _message(dialect: str, at: int, message: Any) -> Iterator[Problem]:
    role = message.get("role") if isinstance(message, dict) else None
    if role not in _ROLES:
        names = ", ".join(f"'{name}'" for name in _ROLES[:-1])
        yield invalid(
            f"Invalid value: '{role}'. Supported values are: {names}, and '{_ROLES[-1]}'.",
            f"messages[{at}].role",
            "invalid_value",
        )
        return
    content = message.get("content")
    if content is None and role != "assistant":
        yield invalid(
            "Invalid value for 'content': expected a string, got null.", f"messages.[{at}].content"
        )
    elif not isinstance(content, (str, list, type(None))):
        yield invalid(
            "Invalid type for 'content': expected one of a string or array of content parts.",
            f"messages.[{at}].content",
            "invalid_type",
        )
    for number, block in enumerate(content if isinstance(content, list) else ()):
        yield from _block(dialect, str(role), f"messages[{at}]", number, block)


def _block(dialect: str, role: str, where: str, number: int, block: Any) -> Iterator[Problem]:
    kind = block.get("type") if isinstance(block, dict) else None
    known = _BLOCKS[dialect]
    if kind not in known:
        names = ", ".join(f"'{name}'" for name in known[:-1])
        yield invalid(
            f"Invalid value: '{kind}'. Supported values are: {names}, and '{known[-1]}'.",
            f"{where}.content[{number}].type",
            "invalid_value",
        )
    elif role == "tool" and dialect == "openai" and kind not in _TEXT_OR_PICTURE:
        yield invalid(
            f"Invalid '{where}'. Content blocks are expected to be either text or image_url type.",
            where,
            "invalid_value",
        )
    elif kind == "text" and not isinstance(block.get("text"), str):
        yield invalid(
            f"Missing required parameter: '{where}.content[{number}].text'.",
            f"{where}.content[{number}].text",
            "missing_required_parameter",
        )


def _tool_answers(at: int, message: Mapping[str, Any], pending: list[str]) -> Iterator[Problem]:
    """Follow the tool calls that still want an answer, in `pending`."""
    if message["role"] == "tool":
        if message.get("tool_call_id") not in pending:
            yield invalid(
                "Invalid parameter: messages with role 'tool' must be a response to a preceeding "
                "message with 'tool_calls'.",
                f"messages.[{at}].role",
            )
        else:
            pending.remove(message["tool_call_id"])
        return
    if pending:
        yield _unanswered(at, pending)
    pending[:] = [str(call.get("id")) for call in message.get("tool_calls") or ()]


def _unanswered(at: int, pending: list[str]) -> Problem:
    return invalid(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to "
        "each 'tool_call_id'. The following tool_call_ids did not have response messages: "
        + ", ".join(pending),
        f"messages.[{at}].role",
    )

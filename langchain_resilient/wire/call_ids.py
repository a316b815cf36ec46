"""Ids of tool calls for models whose chat template takes only their own: Mistral's."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_SHORT = re.compile(r"[a-zA-Z0-9]{9}")

WANTED = re.compile(r"tool call ids?\b.*\blength (?:of )?9\b", re.IGNORECASE | re.DOTALL)
"""What a server says that wants them: Mistral's API, and the template of its models in vLLM."""


def short_ids(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give each tool call an id of nine letters and digits, and its result the same.

    Equal ids stay equal, in every turn, so that prompt caches hold. Ids that fit stay.

    Args:
        messages: In the chat-completions dialect; they stay as they are.

    Example:
        ```python
        short_ids([{"role": "tool", "tool_call_id": "call_1", "content": "3"}])
        ```
    """
    return [_short(message) for message in messages]


def _short(message: dict[str, Any]) -> dict[str, Any]:
    if "tool_call_id" in message:
        return {**message, "tool_call_id": _short_id(message["tool_call_id"])}
    if calls := message.get("tool_calls"):
        return {**message, "tool_calls": [{**c, "id": _short_id(c["id"])} for c in calls]}
    return message


def _short_id(id_: str) -> str:
    if _SHORT.fullmatch(id_):
        return id_
    return hashlib.sha256(id_.encode(errors="surrogatepass")).hexdigest()[:9]

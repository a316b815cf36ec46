"""Messages as JSON text and back. Nothing in a stored text can make anything run."""

from __future__ import annotations

import json
from typing import Any

from langchain_core.messages import AIMessage


def encode(message: AIMessage) -> str:
    """Write a message as ASCII JSON, whatever its text holds, halves of surrogate pairs too.

    Bytes, dates and other things that no provider sends, and that JSON cannot say, become strings.

    Example:
        ```python
        decode(encode(message)) == message
        ```
    """
    return json.dumps(message.model_dump(), default=str, separators=(",", ":"))


def decode(text: str) -> AIMessage:
    """Read a message that `encode` wrote.

    Raises:
        ValueError: If the text is no message.
    """
    return AIMessage.model_validate(_object(text))


def _object(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"not a message but {type(found).__name__}")  # noqa: TRY004  # of the text
    return found


def winner(message: AIMessage) -> str | None:
    """Name the target that answered, as the receipt in the message says."""
    receipt = message.response_metadata.get("resilience")
    found = receipt.get("winner") if isinstance(receipt, dict) else None
    return found if isinstance(found, str) else None

"""Where a batch meets its journal: how one is opened, and what a question is called in it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from os import PathLike
from pathlib import PurePath
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.language_models import BaseLanguageModel
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, ToolMessage
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, SecretBytes, SecretStr

from langchain_resilient.options import Target

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from langchain_resilient.batch.journal import Journal


UNIMPORTANT = frozenset(
    {
        "affinity",
        "hedge",
        "journal",
        "max_concurrency",
        "on_break",
        "priority",
        "progress",
        "stream",
        "timeout",
    }
)
"""Arguments of a call that change when its answer comes, and nothing in it."""


def request_key(
    model: BaseChatModel,
    messages: Sequence[BaseMessage],
    stop: Sequence[str] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> str:
    """Work out the key of one question.

    Args:
        model: Who is asked; only its `_identifying_params` count, which hold no secret.
        messages: The conversation.
        stop: Words before which the answer ends.
        kwargs: The call's other arguments: tools, response format, sampling, `model`.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: If something cannot be told from others of its kind; names the argument.

    Example:
        ```python
        request_key(llm, [HumanMessage("Why is the sky blue?")], kwargs={"temperature": 0})
        ```
    """
    return item_key(model_key(model, stop, kwargs), messages)


def model_key(
    model: BaseChatModel,
    stop: Sequence[str] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> str:
    """Work out the part of the key that all items of a batch share; see `request_key`."""
    given = {name: value for name, value in (kwargs or {}).items() if name not in UNIMPORTANT}
    identity = _text(model._identifying_params, "model")  # noqa: SLF001  # LangChain's name
    # Functions and foreign models say where they lie in memory, which differs in every process.
    texts = [_ADDRESS.sub("", identity), _text(stop or None, "stop")]
    texts += [f"{name}={_text(given[name], name)}" for name in sorted(given)]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")


def item_key(prefix: str, messages: Sequence[BaseMessage]) -> str:
    """Work out the key of one item.

    Args:
        prefix: What `model_key` gave.
        messages: The item's conversation.
    """
    said = [_message_parts(message) for message in messages]
    return hashlib.sha256(f"{prefix}\n{_text(said, 'messages')}".encode()).hexdigest()


def _message_parts(message: BaseMessage) -> dict[str, Any]:
    """What a model may see of a message: not its id, its receipt, its usage, its artifact."""
    found: dict[str, Any] = {"type": message.type, "content": _content_parts(message.content)}
    if message.name is not None:
        found["name"] = message.name
    if message.additional_kwargs:
        found["additional_kwargs"] = message.additional_kwargs
    if isinstance(message, AIMessage):
        found["tool_calls"] = message.tool_calls
        found["invalid_tool_calls"] = message.invalid_tool_calls
    elif isinstance(message, ToolMessage):
        found["tool_call_id"] = message.tool_call_id
        found["status"] = message.status
    elif isinstance(message, ChatMessage):
        found["role"] = message.role
    return found


def _content_parts(content: str | list[Any]) -> Any:
    return content if isinstance(content, str) else [_block(block) for block in content]


def _block(block: Any) -> Any:
    """Leave out an id that LangChain drew at random; it says so by its first letters."""
    if isinstance(block, dict) and str(block.get("id", "")).startswith("lc_"):
        return {name: value for name, value in block.items() if name != "id"}
    return block


# -- canonical JSON -------------------------------------------------------------------------------


def _text(value: Any, name: str) -> str:
    """Write a value as JSON: sorted, ASCII, the same in every process."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"`{name}` cannot be part of a journal's key: {error}. Give it as plain data "
            "(numbers, texts, lists, dicts, pydantic models, tools), or do without a journal"
        ) from error


_WRITERS: dict[type | tuple[type, ...], Callable[[Any], Any]] = {
    (SecretStr, SecretBytes): lambda _: None,  # a key changes who pays, not what is answered
    BaseMessage: _message_parts,
    BaseTool: convert_to_openai_tool,
    BaseLanguageModel: lambda model: _ADDRESS.sub("", str(model._identifying_params)),  # noqa: SLF001
    Target: Target.identity,
    BaseModel: dict,
    Enum: lambda member: member.value,
    Mapping: dict,
    AbstractSet: lambda members: sorted(_text(member, "set") for member in members),
    (bytes, bytearray): lambda data: data.hex(),
    (date, datetime, time): lambda moment: moment.isoformat(),
    (Decimal, PurePath, UUID, timedelta): str,
    (type, FunctionType, MethodType): convert_to_openai_tool,
}


def _plain(value: Any) -> Any:
    """Turn what JSON does not know into what it knows, with the name of its type."""
    for kind, write in _WRITERS.items():
        if isinstance(value, kind):
            return [type(value).__qualname__, write(value)]
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return [type(value).__qualname__, fields]
    raise TypeError(f"an object of {type(value).__qualname__} is not plain data")


Key = Callable[[Sequence["BaseMessage"]], str]


def as_journal(journal: Journal | str | PathLike[str] | None) -> Journal | None:
    """Take a journal, or make one of a path."""
    if isinstance(journal, str | PathLike):
        from langchain_resilient.batch.journal import Journal as File  # noqa: PLC0415  # sqlite3

        return File(journal)
    return journal


def keys_of(model: BaseChatModel, kwargs: Mapping[str, Any]) -> Key:
    """Make the function that names the questions of one batch.

    Args:
        model: Who is asked.
        kwargs: The arguments that all its calls share.
    """
    # Only where there is a journal.

    given = {name: value for name, value in kwargs.items() if name != "stop"}
    prefix = model_key(model, kwargs.get("stop"), given)
    return lambda messages: item_key(prefix, messages)

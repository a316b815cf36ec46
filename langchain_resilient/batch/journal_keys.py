"""The keys by which a journal recognises a request: hashes of what shapes its answer."""

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
from pathlib import PurePath
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from langchain_core.language_models import BaseLanguageModel
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, ToolMessage
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, SecretBytes, SecretStr

from langchain_resilient.options import Target

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel


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
"""Arguments of a call that change when its answer comes, but not what it says."""


def request_key(
    model: BaseChatModel,
    messages: Sequence[BaseMessage],
    stop: Sequence[str] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> str:
    """Compute the exact key of one request.

    Args:
        model: The model; only its `_identifying_params` count, which hold no secrets.
        messages: The conversation.
        stop: Stop sequences.
        kwargs: The call's other arguments: tools, response format, sampling, `model`.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: If an argument cannot be written as plain data; names the argument.

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
    """Compute the part of the exact key that all items of a batch share; see `request_key`."""
    identity = _text(model._identifying_params, "model")  # noqa: SLF001  # LangChain's name
    # Reprs of functions and foreign models hold addresses, which differ in every process.
    return _digest([_ADDRESS.sub("", identity), *_call_texts(stop, kwargs or {})])


def _call_texts(stop: Sequence[str] | None, kwargs: Mapping[str, Any]) -> list[str]:
    """Write down what a call says beside its prompt."""
    names = sorted(name for name in kwargs if name not in UNIMPORTANT)
    return [_text(stop or None, "stop"), *(f"{n}={_text(kwargs[n], n)}" for n in names)]


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")


def item_key(prefix: str, messages: Sequence[BaseMessage]) -> str:
    """Compute the key of one item.

    Args:
        prefix: The result of `model_key`.
        messages: The item's conversation.
    """
    return _digest([prefix, _messages_text(messages)])


def _messages_text(messages: Sequence[BaseMessage]) -> str:
    return _text([_message_parts(message) for message in messages], "messages")


def _message_parts(message: BaseMessage) -> dict[str, Any]:
    """Return what a model sees of a message: not its id, receipt, usage or artifact."""
    parts: dict[str, Any] = {"type": message.type, "content": _content_parts(message.content)}
    if message.name is not None:
        parts["name"] = message.name
    if message.additional_kwargs:
        parts["additional_kwargs"] = message.additional_kwargs
    if isinstance(message, AIMessage):
        parts["tool_calls"] = message.tool_calls
        parts["invalid_tool_calls"] = message.invalid_tool_calls
    elif isinstance(message, ToolMessage):
        parts["tool_call_id"] = message.tool_call_id
        parts["status"] = message.status
    elif isinstance(message, ChatMessage):
        parts["role"] = message.role
    return parts


def _content_parts(content: str | list[Any]) -> Any:
    return content if isinstance(content, str) else [_block(block) for block in content]


def _block(block: Any) -> Any:
    """Leave out an id that LangChain drew at random: one that begins with `lc_`."""
    if isinstance(block, dict) and str(block.get("id", "")).startswith("lc_"):
        return {name: value for name, value in block.items() if name != "id"}
    return block


# -- canonical JSON -------------------------------------------------------------------------------


def _text(value: Any, name: str) -> str:
    """Write a value as JSON that is the same in every process: sorted, ASCII."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"`{name}` cannot be part of a journal's key: {error}. Give it as plain data "
            "(numbers, texts, lists, dicts, pydantic models, tools), or do without a journal"
        ) from error


_WRITERS: dict[type | tuple[type, ...], Callable[[Any], Any]] = {
    (SecretStr, SecretBytes): lambda _: None,  # an API key changes who pays, not the answer
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
    """Turn an object that JSON does not know into plain data, with the name of its type."""
    for kind, write in _WRITERS.items():
        if isinstance(value, kind):
            return [type(value).__qualname__, write(value)]
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return [type(value).__qualname__, fields]
    raise TypeError(f"an object of {type(value).__qualname__} is not plain data")


class RequestKeys(NamedTuple):
    """What a journal knows a request by.

    Attributes:
        prompt: Of the prompt and what the call says beside it: whoever is asked.
        exact: Of the model too: its targets, their order, its parameters.
        text: The prompt in words, for who reads an export; media by their kind.
    """

    prompt: str
    exact: str
    text: str | None = None


KeyFunction = Callable[[Sequence["BaseMessage"]], RequestKeys]
"""Makes the keys of a conversation; see `key_function`."""


def key_function(model: BaseChatModel, kwargs: Mapping[str, Any]) -> KeyFunction:
    """Make the function that gives each prompt of a batch its keys.

    Args:
        model: The model that is asked.
        kwargs: The arguments that all calls of the batch share.
    """
    others = {name: value for name, value in kwargs.items() if name != "stop"}
    exact = model_key(model, kwargs.get("stop"), others)
    prompt = _digest(_call_texts(kwargs.get("stop"), others))

    def keys(messages: Sequence[BaseMessage]) -> RequestKeys:
        text = _messages_text(messages)
        words = _storable(_words_of(messages))
        return RequestKeys(_digest([prompt, text]), _digest([exact, text]), words)

    return keys


def _storable(text: str) -> str:
    """Join surrogate pairs, and replace what is half of one: no file can hold that as UTF-8."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _words_of(messages: Sequence[BaseMessage]) -> str:
    """A conversation as it is read: one prompt as it is, else who says what."""
    said = [(message.type, _words(message)) for message in messages]
    if len(said) == 1 and said[0][0] == "human":
        return said[0][1]
    return "\n".join(f"{who}: {words}" for who, words in said)


def _words(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    blocks = [block if isinstance(block, dict) else {"text": block} for block in message.content]
    return "\n".join(str(block.get("text") or f"[{block.get('type')}]") for block in blocks)

"""What a client asks for, whichever API it speaks, and what every request is checked for."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any, Protocol

from pydantic_core import to_json

from langchain_resilient.runtime.call import Receipts
from langchain_resilient.runtime.keywords import nearest_name
from langchain_resilient.sampling import OTHER_NAMES, SAMPLING_FIELDS
from langchain_resilient.service.failures import BadRequestError

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolCallChunk

    from langchain_resilient.service.failures import Failure


@dataclass(slots=True)
class Call:
    """One request, ready for the model.

    Attributes:
        messages: The conversation.
        params: Keyword arguments of the call.
        model: The model's name as the client gave it.
        stream: Whether the answer is wanted as events.
        answers: How many are wanted.
        usage: Whether the stream ends with token counts.
        sent: What the client sent, for what the answer repeats of it.
        id: The answer's own, without a prefix.
        receipts: Knows who answers, while it does.
        created: The time of the request, in seconds since 1970.
    """

    messages: list[BaseMessage]
    params: dict[str, Any]
    model: str
    stream: bool = False
    answers: int = 1
    usage: bool = False
    sent: dict[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: os.urandom(16).hex())
    receipts: Receipts = field(default_factory=Receipts)
    created: int = field(default_factory=lambda: int(time.time()))


class StreamWriter(Protocol):
    """Writes one answer as server-sent events."""

    def add(self, chunk: AIMessageChunk) -> bytes:
        """Write a chunk of the model's stream; empty if it says nothing."""
        ...

    def whole(self, messages: list[AIMessage]) -> bytes:
        """Write an answer that came as a whole, without the end of the stream."""
        ...

    def end(self, receipt: dict[str, Any] | None) -> bytes:
        """Write the end of the stream."""
        ...

    def failure(self, failure: Failure) -> bytes:
        """Write that the answer broke off."""
        ...


class API(Protocol):
    """One of the two APIs that clients speak."""

    def read(self, body: dict[str, Any]) -> Call:
        """Read a request.

        Raises:
            BadRequestError: If it is wrong; names the parameter.
        """
        ...

    def document(self, call: Call, messages: list[AIMessage]) -> dict[str, Any]:
        """Write a whole answer."""
        ...

    def writer(self, call: Call) -> StreamWriter:
        """Begin a streamed answer."""
        ...


# -- reading ---------------------------------------------------------------------------------------

NOT_FOR_CLIENTS = frozenset({"extra_headers", "extra_query", "extra_body", "model_kwargs"})
"""What only whoever configures the service may set: headers could carry anything upstream."""

SAMPLING = (frozenset(SAMPLING_FIELDS) | OTHER_NAMES.keys()) - NOT_FOR_CLIENTS - {"stream_usage"}
"""Parameters that the model checks."""

BOUND = frozenset({"tools", "tool_choice", "parallel_tool_calls", "response_format"})
"""Parameters that it converts for each target."""

MAX_OTHERS, MAX_NAME = 64, 128
"""Parameters that nobody here knows, and characters of a name: what is learned of them is kept."""

RESILIENCE = frozenset({"timeout", "hedge", "priority", "affinity"})
"""What a client may say under `resilience`, for its own call."""


def sort_params(body: dict[str, Any], taken: frozenset[str]) -> dict[str, Any]:
    """Make keyword arguments of the parameters of a request; those that are null are left out.

    Args:
        body: The request; it stays as it is.
        taken: Names that were read already.

    Raises:
        BadRequestError: If one is misspelt, not for clients, or of the wrong type.
    """
    params: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for name, value in body.items():
        if name in taken or value is None:
            continue
        if name not in SAMPLING:
            _check_name(name)
        (params if name in SAMPLING or name in BOUND else others)[name] = value
        if len(others) > MAX_OTHERS:
            msg = f"there are more than {MAX_OTHERS} parameters that this service does not know"
            raise BadRequestError(msg, name)
    if others:
        params["model_kwargs"] = others
    tools = params.get("tools")
    if "tools" in params and not tools:
        for name in ("tools", "tool_choice", "parallel_tool_calls"):  # OpenAI refuses them alone
            params.pop(name, None)
    elif tools is not None and not is_list_of(tools, dict):
        raise BadRequestError("tools must be a list of objects", "tools")
    if "stop" in params and not is_text(params["stop"]) and not is_list_of(params["stop"], str):
        raise BadRequestError("stop must be a text or a list of texts", "stop")
    return params


def _check_name(name: str) -> None:
    if len(name) > MAX_NAME:
        raise BadRequestError(f"{name[:MAX_NAME]}... is too long for the name of a parameter")
    if name in NOT_FOR_CLIENTS:
        raise BadRequestError(f"{name} is nothing that this service takes", name)
    if (meant := nearest_name(name)) is not None:
        raise BadRequestError(f"{name} is no parameter: did you mean {meant}?", name)


def resilience_params(body: dict[str, Any]) -> dict[str, Any]:
    """Read what a client says under `resilience`.

    Raises:
        BadRequestError: If it is no object, or holds something else.
    """
    given = body.get("resilience")
    if given is None:
        return {}
    if not isinstance(given, dict) or given.keys() - RESILIENCE:
        known = ", ".join(sorted(RESILIENCE))
        raise BadRequestError(f"resilience must be an object with {known}", "resilience")
    return {name: value for name, value in given.items() if value is not None}


def read_model(body: dict[str, Any]) -> str:
    """Read the model's name.

    Raises:
        BadRequestError: If there is none.
    """
    model = body.get("model")
    if not is_text(model) or not model:
        raise BadRequestError("you must provide a model parameter", "model", "missing_model")
    return str(model)


def read_flag(body: dict[str, Any], name: str) -> bool:
    """Read a parameter that is true or false; false where it is left out.

    Raises:
        BadRequestError: If it is something else.
    """
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequestError(f"{name} must be true or false", name)
    return bool(value)


def is_text(value: Any) -> bool:
    """Whether a value is a string."""
    return isinstance(value, str)


def is_list_of(value: Any, kind: type) -> bool:
    """Whether a value is a list, and all in it is of a type."""
    return isinstance(value, list) and all(isinstance(each, kind) for each in value)


# -- writing ---------------------------------------------------------------------------------------


def event(data: dict[str, Any], name: str | None = None) -> bytes:
    """Write a server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {as_json(data)}\n\n".encode()


_as_strict_json = json.JSONEncoder(separators=(",", ":"), default=str, allow_nan=False).encode


def as_json(value: Any) -> str:
    """Write JSON in ASCII; what is no number in JSON, as the logarithm of nothing, is null.

    It holds even half of a surrogate pair, and nothing that some client takes for the end of a line
    of events, as httpx does with U+2028.
    """
    try:
        return _as_strict_json(value)
    except ValueError:
        return _as_strict_json(_finite(value))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


def as_document(value: dict[str, Any]) -> bytes:
    """Write a whole document as JSON: in UTF-8, which is faster, where that can hold it."""
    try:
        return to_json(value, inf_nan_mode="null", fallback=str)
    except ValueError:
        return as_json(value).encode()


def details(usage: Any, name: str) -> dict[str, int]:
    """Read details of token counts; those of a service tier are named after it (`flex_...`)."""
    found: dict[str, int] = {}
    for key, value in ((usage or {}).get(name) or {}).items():
        found[key] = value
        for kind in ("cache_read", "cache_creation", "reasoning", "audio"):
            if key.endswith(f"_{kind}") and value:
                found[kind] = value
    return found


class CallKeys:
    """Tells the pieces of tool calls apart that a stream brings.

    Each has the index of its call. From a LangChain model it may have none: then each with a name
    or an id begins a call, and others belong to the one before.
    """

    def __init__(self) -> None:
        self._unnumbered: object = None

    def key(self, piece: ToolCallChunk) -> object:
        """The same for all pieces of one call."""
        if (index := piece.get("index")) is not None:
            return index
        if self._unnumbered is None or piece.get("name") or piece.get("id"):
            self._unnumbered = object()
        return self._unnumbered


def whole_calls(message: AIMessage) -> list[tuple[str, str, str]]:
    """The tool calls of an answer, those that cannot be read too: id, name and arguments."""
    calls = [
        (call["id"] or "", call["name"], json.dumps(call["args"], ensure_ascii=False))
        for call in message.tool_calls
    ]
    calls += [
        (bad["id"] or "", bad["name"] or "", bad["args"] or "")
        for bad in message.invalid_tool_calls
    ]
    return calls

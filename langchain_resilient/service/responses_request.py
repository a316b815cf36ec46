"""Requests of OpenAI's Responses API, as clients send them. Nothing is kept: each has all of it.

Which target a thought is of stands before its encrypted content, which no client reads: so it goes
back to that target alone, whichever the next request is sent to.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from langchain_resilient.service.calls import (
    Call,
    is_list_of,
    is_text,
    read_flag,
    read_model,
    resilience_params,
    sort_params,
)
from langchain_resilient.service.chat import read_maker, read_message
from langchain_resilient.service.failures import BadRequestError
from langchain_resilient.wire.messages import OWN_ITEMS
from langchain_resilient.wire.passthrough import FORM_KEY, RESPONSES_FORM
from langchain_resilient.wire.provider_state import CALLS_KEY, RECEIPT_KEY
from langchain_resilient.wire.responses import KEPT, reasoning_text
from langchain_resilient.wire.responses_request import ENCRYPTED

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

    Item = dict[str, Any]

_NEEDS_STORE = ("previous_response_id", "conversation", "background", "prompt")
_READ = frozenset(
    {"model", "input", "instructions", "stream", "stream_options", "store", "tools", "tool_choice",
     "text", "reasoning", "include", "max_output_tokens", "truncation", "resilience", *_NEEDS_STORE}
)  # fmt: skip
CALLS = frozenset({"function_call", "custom_tool_call"})
_OURS = frozenset({"extra_content", RECEIPT_KEY})
"""What stands in an item of a call for who made it alone."""
_LOGPROBS = "message.output_text.logprobs"


def read_request(body: dict[str, Any]) -> Call:
    """Read a request.

    Raises:
        BadRequestError: If it is wrong; names the parameter.
    """
    for name in _NEEDS_STORE:
        if body.get(name):
            msg = f"{name} needs answers that are kept, and this service keeps none: send all"
            raise BadRequestError(msg, name, "unsupported_parameter")
    messages = _conversation(body.get("input"))
    if instructions := body.get("instructions"):
        messages.insert(0, read_message({"role": "system", "content": instructions}, "input"))
    chat = _chat_params(body)
    params = sort_params({**body, **chat}, _READ - chat.keys())
    if "n" in params:
        raise BadRequestError("this API gives one answer", "n")
    return Call(
        messages,
        {**params, **resilience_params(body)},
        read_model(body),
        stream=read_flag(body, "stream"),
        sent=body,
    )


def _chat_params(body: dict[str, Any]) -> dict[str, Any]:
    """Write the parameters that chat completions name otherwise in their way."""
    params = _text_params(body)
    if (limit := body.get("max_output_tokens")) is not None:
        params["max_tokens"] = limit
    if tools := body.get("tools"):
        if not is_list_of(tools, dict):
            raise BadRequestError("tools must be a list of objects", "tools")
        params["tools"] = [_nested(tool) for tool in tools]
    if (choice := body.get("tool_choice")) is not None:
        params["tool_choice"] = _nested(choice) if isinstance(choice, dict) else choice
    reasoning = {k: v for k, v in _object(body, "reasoning").items() if v is not None}
    if effort := reasoning.pop("effort", None):
        params["reasoning_effort"] = effort
    if reasoning:
        params["reasoning"] = reasoning
    # The model asks for encrypted thoughts by itself, where nothing is kept.
    include = [each for each in body.get("include") or () if each != ENCRYPTED]
    if _LOGPROBS in include:
        include.remove(_LOGPROBS)
        params["logprobs"] = True
    if include:
        params["include"] = include
    if body.get("truncation") not in (None, "disabled"):
        params["truncation"] = body["truncation"]
    return params


def _text_params(body: dict[str, Any]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    text = _object(body, "text")
    if (shape := text.get("format")) and shape != {"type": "text"}:
        params["response_format"] = _shape(shape)
    if text.get("verbosity"):
        params["verbosity"] = text["verbosity"]
    return params


def _object(body: dict[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name) or {}
    if not isinstance(value, dict):
        raise BadRequestError(f"{name} must be an object", name)
    return value


def _nested(tool: dict[str, Any]) -> dict[str, Any]:
    """Write a function, or the choice of one, as chat completions do; others stay as they are."""
    kind = tool.get("type")
    if kind not in ("function", "custom") or isinstance(tool.get(kind), dict):
        return tool
    return {"type": kind, kind: {k: v for k, v in tool.items() if k != "type" and v is not None}}


def _shape(shape: Any) -> Any:
    if not isinstance(shape, dict) or shape.get("type") != "json_schema":
        return shape
    inner = {k: v for k, v in shape.items() if k != "type" and v is not None}
    return {"type": "json_schema", "json_schema": inner}


def _conversation(given: Any) -> list[BaseMessage]:
    if is_text(given) and given:
        return [HumanMessage(given)]
    if not is_list_of(given, dict) or not given:
        raise BadRequestError("input must be a text or a list of items, and not empty", "input")
    messages: list[BaseMessage] = []
    answer: list[Item] = []
    for number, item in enumerate(given):
        place = f"input[{number}]"
        kind = item.get("type") or ("message" if "role" in item else None)
        is_answer = kind in KEPT or kind == "function_call"
        if is_answer or (kind == "message" and item.get("role") == "assistant"):
            answer.append(item)
            continue
        if answer:
            messages.append(_answer(answer))
            answer = []
        messages.append(_said(item, kind, place))
    return [*messages, _answer(answer)] if answer else messages


def _said(item: Item, kind: str | None, place: str) -> BaseMessage:
    """Read an item that is no part of an answer."""
    if kind == "message":
        return read_message(item, place)
    if kind == "function_call_output":
        content = item.get("output") or ""
        return ToolMessage(content=content, tool_call_id=str(item.get("call_id") or ""))
    if kind == "custom_tool_call_output":
        block = {"type": kind, "output": item.get("output")}
        return ToolMessage(content=[block], tool_call_id=str(item.get("call_id") or ""))
    if kind in OWN_ITEMS:
        return HumanMessage(content=[item])
    if kind == "item_reference":
        raise BadRequestError(f"{place} refers to an item, and this service keeps none", place)
    raise BadRequestError(
        f"{place}.type is {str(kind)[:40]!r}, which is no item of an input", place
    )


def _answer(items: list[Item]) -> AIMessage:
    """Put the items of one answer together, as the model's own messages hold them."""
    content: list[Any] = []
    calls: list[dict[str, Any]] = []
    signed: dict[str, Any] = {}
    maker, thoughts = None, ""
    for item in items:
        kind = item.get("type") or "message"
        if kind == "message":
            content.extend(_parts(item))
            continue
        if kind == "reasoning":
            made_by, content_of = opened(item.get("encrypted_content"))
            maker = maker or made_by
            thoughts += reasoning_text(item) if made_by and not content_of else ""
            kept = {k: v for k, v in item.items() if k not in ("encrypted_content", "status")}
            content.append({**kept, "encrypted_content": content_of} if content_of else kept)
            continue
        if kind in CALLS:
            calls.append(_call_of(item))
            if extra := item.get("extra_content"):
                signed[calls[-1]["id"]] = extra
                maker = maker or read_maker(item).get(RECEIPT_KEY, {}).get("winner")
        content.append({k: v for k, v in item.items() if k not in _OURS})
    extras: dict[str, Any] = {"reasoning_content": thoughts} if thoughts else {}
    made = {RECEIPT_KEY: {"winner": maker}} if maker else {}
    return AIMessage(
        content=content,
        tool_calls=[call for call in calls if isinstance(call["args"], dict)],
        invalid_tool_calls=[
            {**call, "type": "invalid_tool_call", "error": "the arguments are not a JSON object"}
            for call in calls
            if not isinstance(call["args"], dict)
        ],
        additional_kwargs={**extras, CALLS_KEY: signed} if signed else extras,
        response_metadata={**made, FORM_KEY: RESPONSES_FORM},
    )


def _parts(item: Item) -> list[Item]:
    given = item.get("content")
    if is_text(given):
        return [{"type": "text", "text": given}]
    parts = [part for part in given or () if isinstance(part, dict)]
    more = {k: item[k] for k in ("id", "phase") if item.get(k)}
    made: list[Item] = []
    for part in parts:
        if part.get("type") == "refusal":
            made.append({"type": "refusal", "refusal": str(part.get("refusal") or ""), **more})
        else:
            annotations = part.get("annotations") or []
            text = str(part.get("text") or "")
            made.append({"type": "text", "text": text, "annotations": annotations, **more})
    return made


def _call_of(item: Item) -> dict[str, Any]:
    if item["type"] == "custom_tool_call":
        args: Any = {"__arg1": item.get("input") or ""}
    else:
        args = item.get("arguments") or "{}"
        try:
            parsed = json.loads(args) if is_text(args) else args
        except (ValueError, RecursionError):
            parsed = None
        args = parsed if isinstance(parsed, dict) else str(args)
    return {
        "name": str(item.get("name") or "unknown"),
        "args": args,
        "id": str(item.get("call_id") or ""),
        "type": "tool_call",
    }


def sealed(target: str, content: str) -> str:
    """Write who made a thought before its encrypted content."""
    return f"{base64.urlsafe_b64encode(target.encode()).decode()}.{content}"


def opened(content: Any) -> tuple[str | None, str]:
    """Read both back; what was not made here is nobody's, and left out.

    Example:
        ```python
        opened(sealed("openai:gpt-6-luna", "gAAAA"))  # ("openai:gpt-6-luna", "gAAAA")
        ```
    """
    if not is_text(content):
        return None, ""
    name, dot, rest = content.partition(".")
    try:
        target = base64.b64decode(name, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        return None, ""
    return (target, rest) if dot and target else (None, "")

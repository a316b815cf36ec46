"""Requests to the Responses API: translated to chat completions, and what they are refused for."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from langchain_resilient.testing.error_bodies import ErrorBody, invalid_request
from langchain_resilient.testing.request_validation import find_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ENCRYPTED = "reasoning.encrypted_content"
_LOGPROBS = "message.output_text.logprobs"

_PARAMETERS = (
    "background context_management conversation include input instructions max_output_tokens"
    " max_tool_calls metadata model moderation parallel_tool_calls previous_response_id prompt"
    " prompt_cache_key prompt_cache_retention reasoning safety_identifier service_tier store stream"
    " stream_options temperature text tool_choice tools top_logprobs top_p truncation user"
)
_KNOWN = frozenset(_PARAMETERS.split())
_SAME = (
    "model", "temperature", "top_p", "top_logprobs", "parallel_tool_calls", "metadata", "user",
    "service_tier", "store", "stream",
)  # fmt: skip
_NOT_REASONING = re.compile(r"(?:ft:)?(?:gpt-[34]|chatgpt)")
_PARTS = {"input_text": "text", "output_text": "text", "refusal": "text"}
_ROLES = ("system", "developer", "user", "assistant")


def as_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a request to chat completions.

    Args:
        body: The request as JSON; what is wrong with it is left out.
    """
    chat = {name: body[name] for name in _SAME if name in body}
    chat["messages"] = list(_messages(body))
    if "max_output_tokens" in body:
        chat["max_completion_tokens"] = body["max_output_tokens"]
    effort = _dict(body.get("reasoning")).get("effort")
    if effort is not None:
        chat["reasoning_effort"] = effort
    shape = _dict(_dict(body.get("text")).get("format"))
    if shape.get("type") == "json_schema":
        schema = {name: value for name, value in shape.items() if name != "type"}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif shape.get("type") == "json_object":
        chat["response_format"] = shape
    if tools := _list(body.get("tools")):
        chat["tools"] = [_tool(_dict(tool)) for tool in tools]
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and "name" in choice:
        choice = {"type": "function", "function": {"name": choice["name"]}}
    if choice is not None:
        chat["tool_choice"] = choice
    if _LOGPROBS in (_list(body.get("include"))):
        chat["logprobs"] = True
    else:
        chat.pop("top_logprobs", None)
    return chat


def _messages(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if instructions := body.get("instructions"):
        yield {"role": "system", "content": instructions}
    asked = body.get("input")
    items = [{"role": "user", "content": asked}] if isinstance(asked, str) else _list(asked)
    calls: list[dict[str, Any]] = []
    known = {item.get("call_id") for item in map(_dict, items) if "name" in item}
    for item in map(_dict, items):
        kind = item.get("type", "message")
        if kind in ("function_call", "custom_tool_call"):
            arguments = item.get("arguments", json.dumps({"input": item.get("input")}))
            function = {"name": item.get("name"), "arguments": arguments}
            calls.append({"id": item.get("call_id"), "type": "function", "function": function})
            continue
        if calls:
            yield {"role": "assistant", "content": None, "tool_calls": calls}
            calls = []
        if kind in ("function_call_output", "custom_tool_call_output"):
            content = _content(item.get("output"))
            if item.get("call_id") not in known:  # its call is in what is kept here
                yield {"role": "user", "content": content}
                continue
            yield {
                "role": "tool",
                "tool_call_id": item.get("call_id"),
                "content": _without_files(content),
            }
        elif kind == "message":
            yield {"role": item.get("role"), "content": _content(item.get("content"))}
    if calls:
        yield {"role": "assistant", "content": None, "tool_calls": calls}


def _content(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return [_part(_dict(part)) for part in content]


def _without_files(content: Any) -> Any:
    """Write files that a tool has returned, which chat completions refuse, as their names."""
    if not isinstance(content, list):
        return content
    return [
        {"type": "text", "text": str(part["file"].get("filename") or "a file")}
        if part.get("type") == "file"
        else part
        for part in content
    ]


def _part(part: dict[str, Any]) -> dict[str, Any]:
    kind = part.get("type")
    if kind in _PARTS:
        return {"type": "text", "text": part.get("text") or part.get("refusal") or ""}
    if kind == "input_image":
        return {"type": "image_url", "image_url": {"url": part.get("image_url")}}
    if kind == "input_file":
        return {"type": "file", "file": {k: v for k, v in part.items() if k != "type"}}
    return part


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") == "function":
        known = {k: v for k, v in tool.items() if k != "type"}
        return {"type": "function", "function": known}
    if tool.get("type") == "custom":
        said = {"type": "object", "properties": {"input": {"type": "string"}}}
        function: dict[str, Any] = {k: tool[k] for k in ("name", "description") if k in tool}
        function |= {"parameters": {**said, "required": ["input"]}}
        return {"type": "function", "function": function, "custom": True}
    return tool


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def find_responses_error(body: Mapping[str, Any], chat: Mapping[str, Any]) -> ErrorBody | None:
    """Return what OpenAI would refuse a request for, or None.

    Args:
        body: The request as JSON, with a `model`.
        chat: The same as `as_chat` made it.
    """
    return next(_errors(body), None) or find_error("openai", chat, api="responses")


def _errors(body: Mapping[str, Any]) -> Iterator[ErrorBody]:
    for name in body:
        if name not in _KNOWN:
            yield invalid_request(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
    asked = body.get("input")
    if asked is None:
        yield invalid_request(
            "Missing required parameter: 'input'.", "input", "missing_required_parameter"
        )
    elif not isinstance(asked, (str, list)):
        yield invalid_request(
            "Invalid type for 'input': expected a string or an array.", "input", "invalid_type"
        )
    model = str(body.get("model"))
    if ENCRYPTED in (_list(body.get("include"))) and _NOT_REASONING.match(model):
        yield invalid_request("Encrypted content is not supported with this model.", "include")
    for at, tool in enumerate(_list(body.get("tools"))):
        if _dict(tool).get("type") == "function" and not tool.get("name"):
            yield invalid_request(
                f"Missing required parameter: 'tools[{at}].name'.",
                f"tools[{at}].name",
                "missing_required_parameter",
            )
    if isinstance(asked, list):
        yield from _item_errors([_dict(item) for item in asked], model, body)


_ITEMS = frozenset(
    {"message", "reasoning", "function_call", "function_call_output", "custom_tool_call",
     "custom_tool_call_output", "web_search_call", "file_search_call", "code_interpreter_call",
     "computer_call", "computer_call_output", "image_generation_call", "mcp_call",
     "mcp_list_tools", "mcp_approval_request", "mcp_approval_response", "compaction",
     "item_reference"}
)  # fmt: skip


def _item_errors(
    items: list[dict[str, Any]], model: str, body: Mapping[str, Any]
) -> Iterator[ErrorBody]:
    open_calls: list[str] = []
    for at, item in enumerate(items):
        kind = item.get("type", "message")
        if kind not in _ITEMS:
            yield invalid_request(f"Invalid value: '{kind}'.", f"input[{at}]", "invalid_value")
        if kind == "message" and item.get("role") in _ROLES:
            yield from _part_errors(at, item)
        if kind == "reasoning":
            yield from _reasoning_errors(at, item, items[at + 1 :], model, body)
        if kind in ("function_call", "custom_tool_call"):
            open_calls.append(str(item.get("call_id")))
        elif kind in ("function_call_output", "custom_tool_call_output"):
            if item.get("call_id") not in open_calls and not body.get("previous_response_id"):
                yield invalid_request(
                    "No tool call found for function call output with call_id "
                    f"{item.get('call_id')}.",
                    "input",
                )
            else:
                open_calls = [id_ for id_ in open_calls if id_ != item.get("call_id")]
    if open_calls:
        yield invalid_request(f"No tool output found for function call {open_calls[0]}.", "input")


def _part_errors(at: int, item: Mapping[str, Any]) -> Iterator[ErrorBody]:
    content = item.get("content")
    said = item["role"] == "assistant"
    known = {"output_text", "refusal"} if said else {"input_text", "input_image", "input_file"}
    for number, part in enumerate(content if isinstance(content, list) else ()):
        if _dict(part).get("type") not in known:
            names = " and ".join(f"'{name}'" for name in sorted(known))
            yield invalid_request(
                f"Invalid value: '{_dict(part).get('type')}'. Supported values are: {names}.",
                f"input[{at}].content[{number}]",
                "invalid_value",
            )


def _reasoning_errors(
    at: int,
    item: Mapping[str, Any],
    following: list[dict[str, Any]],
    model: str,
    body: Mapping[str, Any],
) -> Iterator[ErrorBody]:
    encrypted, id_ = item.get("encrypted_content"), item.get("id")
    if body.get("store") is False and not encrypted:
        yield ErrorBody(
            404,
            f"Item with id '{id_}' not found. Items are not persisted when `store` is set to "
            "false. Try again with `store` set to true, or remove this item from your input.",
            param="input",
        )
    if encrypted and encrypted != f"gAAAA-{model}":
        yield invalid_request(
            f"The encrypted content for item {id_} could not be verified. Reason: Encrypted "
            "content could not be decrypted or parsed.",
            f"input[{at}]",
            "invalid_encrypted_content",
        )
    if not following or following[0].get("role") == "user":
        yield invalid_request(
            f"Item '{id_}' of type 'reasoning' was provided without its required following item.",
            "input",
        )

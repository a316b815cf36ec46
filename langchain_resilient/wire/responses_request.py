"""Requests in the form of OpenAI's Responses API, and which requests need it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from langchain_resilient.wire.responses_history import input_items

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from langchain_core.messages import AIMessage


ENCRYPTED = "reasoning.encrypted_content"
"""What is included so that reasoning can be sent back where the provider keeps nothing."""

_LOGPROBS = "message.output_text.logprobs"

STATEFUL = frozenset({"previous_response_id", "conversation", "background"})
"""Parameters that need answers to be kept at the provider."""

ONLY_HERE = STATEFUL | {
    "context_management",
    "include",
    "max_tool_calls",
    "prompt",
    "reasoning",
    "text",
    "truncation",
}
"""Parameters that chat completions do not have."""

NOT_HERE = frozenset(
    {"frequency_penalty", "presence_penalty", "logit_bias", "seed", "prediction", "modalities",
     "audio", "web_search_options", "top_k", "min_p", "repetition_penalty", "functions",
     "function_call"}
)  # fmt: skip
"""Parameters of chat completions that this API does not have."""

_ONLY_RESPONSES = re.compile(
    r"codex|deep-research|computer-use|^(?:gpt-[\d.]+|o\d)-pro|^gpt-5\.6-sol", re.IGNORECASE
)
"""Models that are served here alone."""

_REASONING_TOOLS = re.compile(r"^gpt-(?:5\.[4-9]|[6-9]|\d\d)(?![\d])", re.IGNORECASE)
"""Models whose chat completions refuse function tools unless reasoning is off."""


def needs_responses(body: Mapping[str, Any]) -> bool:
    """Whether a request cannot be made in chat completions: it has something that they lack.

    Args:
        body: A chat-completions body.

    Example:
        ```python
        needs_responses({"messages": [], "tools": [{"type": "web_search"}]})  # True
        ```
    """
    if not ONLY_HERE.isdisjoint(body):
        return True
    return any(tool.get("type", "function") != "function" for tool in body.get("tools") or ())


def prefers_responses(model: str, body: Mapping[str, Any]) -> bool:
    """Whether OpenAI would refuse a request in chat completions, by what is known of its models.

    Args:
        model: The model's id.
        body: A chat-completions body.
    """
    if (body.get("n") or 1) > 1:
        return False
    if _ONLY_RESPONSES.search(model):
        return True
    return bool(
        body.get("tools")
        and body.get("reasoning_effort") != "none"
        and _REASONING_TOOLS.search(model)
        and "chat" not in model
    )


def responses_body(
    body: dict[str, Any], is_own: Callable[[AIMessage], bool], *, encrypted: bool
) -> dict[str, Any]:
    """Convert a request.

    Args:
        body: A chat-completions body without `model` and `stream`; it is used up.
        is_own: Whether an answer in the conversation was made by the target that is asked now.
        encrypted: Whether encrypted reasoning is asked for, where the provider keeps nothing.

    Returns:
        The new body. It asks the provider not to keep the answer, unless `store` is in it or
        something that needs a kept one.
    """
    messages = body.pop("messages")
    body.pop("stream_options", None)
    if STATEFUL.isdisjoint(body):
        body.setdefault("store", False)
    is_stored = body.get("store") is not False
    body["input"] = input_items(messages, is_own, stored=is_stored)
    include = list(body.get("include") or ())
    if encrypted and not is_stored and ENCRYPTED not in include:
        include.append(ENCRYPTED)
    if body.pop("logprobs", None) and _LOGPROBS not in include:
        include.append(_LOGPROBS)
    if include:
        body["include"] = include
    _convert_limits(body)
    _convert_text(body)
    if tools := body.pop("tools", None):
        body["tools"] = [_tool(tool) for tool in tools]
    choice = body.pop("tool_choice", None)
    if choice is not None:
        body["tool_choice"] = _tool_choice(choice, body.get("tools") or ())
    return body


def _convert_limits(body: dict[str, Any]) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        if name in body:
            body["max_output_tokens"] = body.pop(name)
    if "reasoning_effort" in body:
        effort = body.pop("reasoning_effort")
        body["reasoning"] = {"effort": effort, **(body.get("reasoning") or {})}
    if body.get("n") == 1:
        del body["n"]


def _convert_text(body: dict[str, Any]) -> None:
    """Convert the form of the answer, and how much is said."""
    shape, verbosity = body.pop("response_format", None), body.pop("verbosity", None)
    text = dict(body.get("text") or {})
    if isinstance(shape, dict):
        inner = shape.get("json_schema")
        text["format"] = shape
        if shape.get("type") == "json_schema" and isinstance(inner, dict):
            text["format"] = {"type": "json_schema", **inner}
    if verbosity is not None:
        text["verbosity"] = verbosity
    if text:
        body["text"] = text


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """Convert a tool; a built-in one is written as it is."""
    for kind in ("function", "custom"):
        inner = tool.get(kind)
        if tool.get("type") == kind and isinstance(inner, dict):
            more = {k: v for k, v in tool.items() if k not in ("type", kind)}
            return {"type": kind, **inner, **more}
    return tool


def _tool_choice(choice: Any, tools: Any) -> Any:
    if not isinstance(choice, dict):
        return choice
    inner = choice.get("function") or choice.get("custom")
    if not isinstance(inner, dict):
        return choice
    name = inner.get("name")
    kinds = [t.get("type") for t in tools if t.get("name") == name]
    return {"type": kinds[0] if kinds else "function", "name": name}

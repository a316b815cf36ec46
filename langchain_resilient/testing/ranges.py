"""The types and the ranges of a chat request's fields, and how the providers complain of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_resilient.testing.problems import invalid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from langchain_resilient.testing.problems import Problem

_TYPES: dict[str, tuple[type, ...]] = {
    "messages": (list,),
    "tools": (list,),
    "tool_choice": (str, dict),
    "stop": (str, list),
    "response_format": (dict,),
    "stream": (bool,),
    "stream_options": (dict,),
    "parallel_tool_calls": (bool,),
    "reasoning_effort": (str,),
}
_WORDS = {
    bool: "boolean",
    dict: "object",
    float: "decimal",
    int: "integer",
    list: "array",
    str: "string",
}
_BOTH: dict[str, tuple[float, float | None]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "n": (1, 128),
    "max_tokens": (1, None),
}
_RANGES: dict[str, dict[str, tuple[float, float | None]]] = {
    "openai": {**_BOTH, "max_completion_tokens": (1, None), "top_logprobs": (0, 20)},
    "together": {**_BOTH, "logprobs": (0, 20), "top_k": (-1, None), "min_p": (0, 1)},
}
_WHOLE = {"n", "max_tokens", "max_completion_tokens", "top_logprobs", "logprobs", "top_k"}


def type_problems(body: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the fields that are of the wrong type.

    Args:
        body: The request as JSON.
    """
    for name, types in _TYPES.items():
        value = body.get(name)
        if value is not None and not isinstance(value, types):
            yield _wrong_type(name, types, value)
    for at, tool in enumerate(body.get("tools") or ()):
        yield from _function_problems(f"tools[{at}]", tool, {"parameters": dict})
    for at, message in enumerate(body.get("messages") or ()):
        calls = message.get("tool_calls") if isinstance(message, dict) else None
        if calls is not None and not isinstance(calls, list):
            yield _wrong_type(f"messages[{at}].tool_calls", (list,), calls)
        for number, call in enumerate(calls or ()):
            where = f"messages[{at}].tool_calls[{number}]"
            yield from _function_problems(where, call, {"arguments": str})
    stops = body.get("stop")
    for at, stop in enumerate(stops if isinstance(stops, list) else ()):
        if not isinstance(stop, str):
            yield _wrong_type(f"stop[{at}]", (str,), stop)
    shape = (body.get("response_format") or {}).get("json_schema")
    if shape is not None and not isinstance(shape, dict):
        yield _wrong_type("response_format.json_schema", (dict,), shape)


def _function_problems(where: str, holder: Any, parts: dict[str, type]) -> Iterator[Problem]:
    """Check what holds a `function` with a `name` and another part."""
    if isinstance(holder, dict) and holder.get("type", "function") != "function":
        return  # custom tools have parts of their own
    function = holder.get("function") if isinstance(holder, dict) else None
    if not isinstance(function, dict):
        yield _wrong_type(f"{where}.function", (dict,), function)
        return
    for name, kind in {"name": str, **parts}.items():
        value = function.get(name)
        if not isinstance(value, kind) and (value is not None or name == "name"):
            yield _wrong_type(f"{where}.function.{name}", (kind,), value)


def range_problems(dialect: str, body: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the numbers that are none, or too small or too large.

    Args:
        dialect: `"openai"` or `"together"`.
        body: The request as JSON.
    """
    for name, (low, high) in _RANGES[dialect].items():
        value = body.get(name)
        if value is None or isinstance(value, bool):
            continue
        kinds = (int,) if name in _WHOLE else (float, int)
        if not isinstance(value, kinds):
            yield _wrong_type(name, kinds[:1], value)
        elif value < low:
            yield _out_of_range(name, f"below minimum value. Expected a value >= {low}", value)
        elif high is not None and value > high:
            yield _out_of_range(name, f"above maximum value. Expected a value <= {high}", value)


def _wrong_type(name: str, types: tuple[type, ...], value: Any) -> Problem:
    wanted = " or ".join(_a(_WORDS[kind]) for kind in types)
    got = "null" if value is None else _a(_WORDS.get(type(value), "value"))
    message = f"Invalid type for '{name}': expected {wanted}, but got {got} instead."
    return invalid(message, name, "invalid_type")


def _a(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _out_of_range(name: str, fault: str, value: float) -> Problem:
    kind = "integer" if name in _WHOLE else "decimal"
    code = f"{kind}_{'below_min' if fault.startswith('below') else 'above_max'}_value"
    message = f"Invalid '{name}': {kind} {fault}, but got {value} instead."
    return invalid(message, name, code)

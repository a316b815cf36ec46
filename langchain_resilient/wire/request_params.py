"""Python objects in a call's arguments, as the plain parameters of a request.

`bind_tools` and `with_structured_output` convert what they are given; this is for what comes in
`invoke(tools=...)`, `bind(functions=...)` or `invoke(response_format=...)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_resilient.wire.json_values import encode
from langchain_resilient.wire.passthrough import GivenTool, as_given
from langchain_resilient.wire.schemas import to_function
from langchain_resilient.wire.structured_output import to_response_format
from langchain_resilient.wire.tool_calls import to_tool_choice, to_tools

_SCHEMA_TYPES = (None, "object", "array", "string", "number", "integer", "boolean", "null")
_CHOICES = ("auto", "none", "required")


def convert_params(params: dict[str, Any]) -> None:
    """Convert tools, functions, the choice among them and the format of the answer, in place.

    An empty list of tools is left out, and what is said of tools with it: APIs refuse it.

    Raises:
        ValueError: If one of them cannot be sent; says which and why.

    Example:
        ```python
        params = {"tools": [add], "tool_choice": {"type": "any"}}
        convert_params(params)
        params["tool_choice"]  # 'required'
        ```
    """
    for name in ("tools", "functions"):
        if not isinstance(params.get(name, ()), list | tuple | None):
            msg = f"{name} must be a list, not {params[name]!r}"
            raise ValueError(msg)  # noqa: TRY004  # as of all arguments of a call
    _convert_tools(params)
    if functions := params.get("functions"):
        params["functions"] = [_function(function, n) for n, function in enumerate(functions)]
    if "response_format" in params:
        params["response_format"] = _response_format(params["response_format"])
    for name in ("functions", "response_format"):
        if name in params:
            _check_json(name, params[name])


def _convert_tools(params: dict[str, Any]) -> None:
    if "tools" not in params:
        choice = params.get("tool_choice")
        if not isinstance(choice, str | bool | Mapping | None):
            to_tool_choice(choice, ())  # which says what it may be
        return
    tools = params["tools"]
    if not tools:
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            params.pop(name, None)
        return
    if not all(map(_is_bound, tools)):
        converted = to_tools(tools)
        _check_json("tools", converted)
        tools = params["tools"] = as_given(converted, tools)
    choice = params.pop("tool_choice", None)
    if choice is not None and (not isinstance(choice, str) or choice not in _CHOICES):
        choice = to_tool_choice(choice, tools)
    if choice is not None:
        params["tool_choice"] = choice


def _is_bound(tool: object) -> bool:
    """Whether a tool is converted already, by `bind_tools`."""
    return isinstance(tool, GivenTool)


def _function(function: Any, number: int) -> dict[str, Any]:
    try:
        return to_function(function)
    except (ValueError, TypeError, KeyError) as error:
        msg = f"functions[{number}] is no function: {error}"
        raise ValueError(msg) from error


def _response_format(given: Any) -> Any:
    if given is None or (isinstance(given, dict) and given.get("type") not in _SCHEMA_TYPES):
        return given
    if isinstance(given, type | dict):
        return to_response_format(given)
    msg = f"response_format={given!r} is none: it may be a class, a JSON schema or OpenAI's dict"
    raise ValueError(msg)


def _check_json(name: str, value: Any) -> None:
    try:
        encode({name: value})
    except ValueError as error:
        msg = f"{name}= cannot be sent: {error}"
        raise ValueError(msg) from error

"""What the providers refuse before they think: the checks of a chat request.

Each check yields the first thing it finds wrong, in the provider's own words. OpenAI is strict
about names: an unknown top-level parameter is an error. Together ignores what it does not know,
`max_completion_tokens` and `stream_options` among it, so those change nothing there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from langchain_resilient.testing.brain import is_reasoning_model
from langchain_resilient.testing.conversation import conversation_problems
from langchain_resilient.testing.problems import invalid
from langchain_resilient.testing.ranges import range_problems, type_problems
from langchain_resilient.testing.schema_faults import schema_fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from langchain_resilient.testing.problems import Problem

_PARAMETERS = (
    "audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens"
    " max_tokens messages metadata modalities model moderation n parallel_tool_calls prediction"
    " presence_penalty prompt_cache_key prompt_cache_options prompt_cache_retention"
    " reasoning_effort response_format safety_identifier seed service_tier stop store stream"
    " stream_options temperature tool_choice tools top_logprobs top_p user verbosity"
    " web_search_options"
)
_OPENAI_PARAMETERS = frozenset(_PARAMETERS.split())
_FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_MOST_STOPS = 4
# What the o-series and gpt-5 do not take, with the one value they put up with.
_UNSUPPORTED_WHEN_REASONING = ("max_tokens", "stop", "logit_bias", "logprobs", "top_logprobs")
_FIXED_WHEN_REASONING = {
    "temperature": 1,
    "top_p": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
}


def find_problem(dialect: str, body: Mapping[str, Any]) -> Problem | None:
    """Return what a provider would refuse a request for, or None.

    Args:
        dialect: `"openai"` or `"together"`.
        body: The request as JSON, with a `model`.

    Example:
        ```python
        find_problem("openai", {"model": "gpt-4", "messages": [], "top_k": 5}).message
        # "Unrecognized request argument supplied: top_k"
        ```
    """
    return next(_problems(dialect, body), None)


def _problems(dialect: str, body: Mapping[str, Any]) -> Iterator[Problem]:
    yield from type_problems(body)
    if dialect == "openai":
        yield from _unknown_parameters(body)
        yield from _reasoning_parameters(body)
    yield from range_problems(dialect, body)
    yield from conversation_problems(dialect, body)
    yield from _tools(dialect, body)
    yield from _response_format(dialect, body)
    if dialect == "openai":
        yield from _companions(body)


def _unknown_parameters(body: Mapping[str, Any]) -> Iterator[Problem]:
    unknown = [name for name in body if name not in _OPENAI_PARAMETERS]
    if unknown:
        plural = "s" if len(unknown) > 1 else ""
        yield invalid(f"Unrecognized request argument{plural} supplied: {', '.join(unknown)}")


def _reasoning_parameters(body: Mapping[str, Any]) -> Iterator[Problem]:
    if not is_reasoning_model(body["model"]):
        return
    for name in _UNSUPPORTED_WHEN_REASONING:
        if body.get(name):
            hint = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
            yield invalid(
                f"Unsupported parameter: '{name}' is not supported with this model.{hint}",
                name,
                "unsupported_parameter",
            )
    for name, default in _FIXED_WHEN_REASONING.items():
        if body.get(name) not in (None, default):
            yield invalid(
                f"Unsupported value: '{name}' does not support {body[name]} with this model. "
                f"Only the default ({default}) value is supported.",
                name,
                "unsupported_value",
            )


def _tools(dialect: str, body: Mapping[str, Any]) -> Iterator[Problem]:
    tools = body.get("tools")
    if tools == [] and dialect == "openai":
        yield invalid(
            "Invalid 'tools': empty array. Expected an array with minimum length 1, but got an "
            "empty array instead.",
            "tools",
            "empty_array",
        )
    for at, tool in enumerate(tools or ()):
        function = tool.get("function") or {}
        name = function.get("name") or ""
        if tool.get("type", "function") == "function" and not _FUNCTION_NAME.fullmatch(name):
            yield invalid(
                f"Invalid 'tools[{at}].function.name': string does not match pattern. Expected a "
                "string that matches the pattern '^[a-zA-Z0-9_-]+$'.",
                f"tools[{at}].function.name",
                "invalid_value",
            )
        strict = dialect == "openai" and bool(function.get("strict"))
        fault = schema_fault(function.get("parameters"), strict=strict)
        if fault:
            yield invalid(
                f"Invalid schema for function '{name}': {fault}",
                f"tools[{at}].function.parameters",
                "invalid_function_parameters",
            )
    choice = body.get("tool_choice")
    wanted = (choice.get("function") or {}).get("name") if isinstance(choice, dict) else None
    if wanted and wanted not in {(tool.get("function") or {}).get("name") for tool in tools or ()}:
        yield invalid(
            f"Invalid value for 'tool_choice': no function named '{wanted}' was specified in the "
            "'tools' parameter.",
            "tool_choice",
        )


def _response_format(dialect: str, body: Mapping[str, Any]) -> Iterator[Problem]:
    shape = body.get("response_format") or {}
    if (
        dialect == "openai"
        and shape.get("type") == "json_object"
        and "json" not in str(body["messages"]).lower()
    ):
        yield invalid(
            "'messages' must contain the word 'json' in some form, to use 'response_format' of "
            "type 'json_object'.",
            "messages",
        )
    inner = shape.get("json_schema") or {}
    strict = dialect == "openai" and bool(inner.get("strict"))
    fault = schema_fault(inner.get("schema"), strict=strict)
    if fault:
        yield invalid(
            f"Invalid schema for response_format '{inner.get('name')}': {fault}", "response_format"
        )


def _companions(body: Mapping[str, Any]) -> Iterator[Problem]:
    """Check the parameters that only go together with another."""
    for name, needed, words in (
        ("stream_options", "stream", "'stream' is enabled"),
        ("top_logprobs", "logprobs", "'logprobs' is enabled"),
        ("tool_choice", "tools", "'tools' are specified"),
        ("parallel_tool_calls", "tools", "'tools' are specified"),
    ):
        if body.get(name) is not None and not body.get(needed):
            yield invalid(
                f"Invalid value for '{name}': '{name}' is only allowed when {words}.", name
            )
    stops = body.get("stop")
    if isinstance(stops, list) and len(stops) > _MOST_STOPS:
        yield invalid(
            f"Invalid 'stop': array too long. Expected an array with maximum length {_MOST_STOPS}, "
            f"but got an array with length {len(stops)} instead.",
            "stop",
            "array_above_max_length",
        )

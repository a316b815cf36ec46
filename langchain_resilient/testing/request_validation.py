"""The checks of a chat request: what the providers refuse before they answer.

Each check yields the first thing it finds wrong, in the provider's own words. OpenAI is strict
about names: an unknown top-level parameter is an error. Together ignores what it does not know,
`max_completion_tokens` and `stream_options` among it, so those change nothing there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from langchain_resilient.testing.answer_generator import is_reasoning_model
from langchain_resilient.testing.error_bodies import ErrorBody, invalid_request
from langchain_resilient.testing.json_schemas import schema_fault

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
_MAX_STOPS = 4
_MAX_TOOLS = 128
# The longest answers of OpenAI's models in tokens; the first that a name begins with counts.
_MAX_ANSWERS = {
    "gpt-3.5": 4096,
    "gpt-4o": 16_384,
    "gpt-4.1": 32_768,
    "gpt-4-turbo": 4096,
    "gpt-4": 8192,
    "o1": 100_000,
    "o3": 100_000,
    "o4": 100_000,
    "": 128_000,
}
# What the o-series and gpt-5 do not take, with the one value that they accept.
_UNSUPPORTED_WHEN_REASONING = ("max_tokens", "stop", "logit_bias", "logprobs", "top_logprobs")
_FIXED_WHEN_REASONING = {
    "temperature": 1,
    "top_p": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
}


def find_error(dialect: str, body: Mapping[str, Any], *, api: str = "chat") -> ErrorBody | None:
    """Return what a provider would refuse a request for, or None.

    Args:
        dialect: `"openai"` or `"together"`.
        body: The request as JSON, with a `model`.
        api: `"responses"` if it came by OpenAI's other API and was translated.

    Example:
        ```python
        find_error("openai", {"model": "gpt-6-luna", "messages": [], "top_k": 5}).message
        # "Unrecognized request argument supplied: top_k"
        ```
    """
    if dialect == "openai" and api == "chat" and (refusal := _wants_responses(body)):
        return refusal
    return next(_errors(dialect, body, api), None)


def _wants_responses(body: Mapping[str, Any]) -> ErrorBody | None:
    """Refuse what OpenAI takes only by its other API."""
    model = body["model"]
    if _ONLY_RESPONSES.search(model):
        message = "This model is only supported in v1/responses and not in v1/chat/completions."
        return ErrorBody(404, message, param="model")
    given = body.get("tools")
    tools = given if isinstance(given, list) else []
    has_functions = any(isinstance(tool, dict) and tool.get("function") for tool in tools)
    if has_functions and body.get("reasoning_effort") != "none" and _REASONING_TOOLS.match(model):
        return invalid_request(
            f"Function tools with reasoning_effort are not supported for {model} in "
            "/v1/chat/completions. To use function tools, use /v1/responses or set "
            "reasoning_effort to 'none'.",
            "reasoning_effort",
        )
    return None


_ONLY_RESPONSES = re.compile(r"codex|^(?:gpt-[\d.]+|o\d)-pro")
_REASONING_TOOLS = re.compile(r"gpt-(?:5\.[4-9]|[6-9])(?!.*chat)")


def _errors(dialect: str, body: Mapping[str, Any], api: str) -> Iterator[ErrorBody]:
    yield from type_errors(body)
    if dialect == "openai":
        yield from _unknown_parameters(body)
        yield from _reasoning_parameters(body)
    yield from range_errors(dialect, body)
    if dialect == "openai":
        yield from _long_answers(body)
    yield from message_errors(dialect, body, api=api)
    if dialect == "together":
        yield from _unlisted(body)
    yield from _tools(dialect, body, api)
    yield from _response_format(dialect, body)
    if dialect == "openai":
        yield from _companions(body)


def _unknown_parameters(body: Mapping[str, Any]) -> Iterator[ErrorBody]:
    unknown = [name for name in body if name not in _OPENAI_PARAMETERS]
    if unknown:
        plural = "s" if len(unknown) > 1 else ""
        yield invalid_request(
            f"Unrecognized request argument{plural} supplied: {', '.join(unknown)}"
        )


def _reasoning_parameters(body: Mapping[str, Any]) -> Iterator[ErrorBody]:
    if not is_reasoning_model(body["model"]):
        return
    for name in _UNSUPPORTED_WHEN_REASONING:
        if body.get(name):
            hint = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
            yield invalid_request(
                f"Unsupported parameter: '{name}' is not supported with this model.{hint}",
                name,
                "unsupported_parameter",
            )
    for name, default in _FIXED_WHEN_REASONING.items():
        if body.get(name) not in (None, default):
            yield invalid_request(
                f"Unsupported value: '{name}' does not support {body[name]} with this model. "
                f"Only the default ({default}) value is supported.",
                name,
                "unsupported_value",
            )


def _tools(dialect: str, body: Mapping[str, Any], api: str) -> Iterator[ErrorBody]:
    tools = body.get("tools")
    if dialect == "openai" and api == "chat":
        yield from _built_in_tools(tools or ())
    if tools == [] and dialect == "openai":
        yield invalid_request(
            "Invalid 'tools': empty array. Expected an array with minimum length 1, but got an "
            "empty array instead.",
            "tools",
            "empty_array",
        )
    if len(tools or ()) > _MAX_TOOLS and dialect == "openai":
        yield _too_long("tools", _MAX_TOOLS, len(tools or ()))
    for at, tool in enumerate(tools or ()):
        function = tool.get("function") or {}
        name = function.get("name") or ""
        if tool.get("type", "function") == "function" and not _FUNCTION_NAME.fullmatch(name):
            yield invalid_request(
                f"Invalid 'tools[{at}].function.name': string does not match pattern. Expected a "
                "string that matches the pattern '^[a-zA-Z0-9_-]+$'.",
                f"tools[{at}].function.name",
                "invalid_value",
            )
        strict = dialect == "openai" and bool(function.get("strict"))
        fault = schema_fault(function.get("parameters"), strict=strict)
        if fault:
            yield invalid_request(
                f"Invalid schema for function '{name}': {fault}",
                f"tools[{at}].function.parameters",
                "invalid_function_parameters",
            )
    choice = body.get("tool_choice")
    yield from _tool_choice(dialect, choice)
    wanted = (choice.get("function") or {}).get("name") if isinstance(choice, dict) else None
    if wanted and wanted not in {(tool.get("function") or {}).get("name") for tool in tools or ()}:
        yield invalid_request(
            f"Invalid value for 'tool_choice': no function named '{wanted}' was specified in the "
            "'tools' parameter.",
            "tool_choice",
        )


_CHOICES = {
    # Together's own models take "any" for "required".
    "openai": ("none", "auto", "required"),
    "together": ("none", "auto", "required", "any"),
}
_CHOICE_TYPES = {
    "openai": ("function", "allowed_tools", "custom"),
    "together": ("function",),
}


def _tool_choice(dialect: str, choice: Any) -> Iterator[ErrorBody]:
    if choice is None:
        return
    known, value, where = _CHOICES[dialect], choice, "tool_choice"
    if isinstance(choice, dict):
        known, value, where = _CHOICE_TYPES[dialect], choice.get("type"), "tool_choice.type"
    if value not in known:
        *others, last = [f"'{name}'" for name in known]
        names = f"{', '.join(others)}, and {last}" if others else last
        yield invalid_request(
            f"Invalid value: '{value}'. Supported values are: {names}.", where, "invalid_value"
        )
    elif value == "function" and not (choice.get("function") or {}).get("name"):
        yield invalid_request(
            "Missing required parameter: 'tool_choice.function'.",
            "tool_choice.function",
            "missing_required_parameter",
        )


def _response_format(dialect: str, body: Mapping[str, Any]) -> Iterator[ErrorBody]:
    shape = body.get("response_format") or {}
    if (
        dialect == "openai"
        and shape.get("type") == "json_object"
        and "json" not in str(body["messages"]).lower()
    ):
        yield invalid_request(
            "'messages' must contain the word 'json' in some form, to use 'response_format' of "
            "type 'json_object'.",
            "messages",
        )
    inner = shape.get("json_schema") or {}
    strict = dialect == "openai" and bool(inner.get("strict"))
    fault = schema_fault(inner.get("schema"), strict=strict)
    if fault:
        yield invalid_request(
            f"Invalid schema for response_format '{inner.get('name')}': {fault}", "response_format"
        )


def _companions(body: Mapping[str, Any]) -> Iterator[ErrorBody]:
    """Check the parameters that are only allowed with another."""
    for name, needed, words in (
        ("stream_options", "stream", "'stream' is enabled"),
        ("top_logprobs", "logprobs", "'logprobs' is enabled"),
        ("tool_choice", "tools", "'tools' are specified"),
        ("parallel_tool_calls", "tools", "'tools' are specified"),
    ):
        if body.get(name) is not None and not body.get(needed):
            yield invalid_request(
                f"Invalid value for '{name}': '{name}' is only allowed when {words}.", name
            )
    stops = body.get("stop")
    if isinstance(stops, list) and len(stops) > _MAX_STOPS:
        yield _too_long("stop", _MAX_STOPS, len(stops))


def _too_long(name: str, limit: int, length: int) -> ErrorBody:
    return invalid_request(
        f"Invalid '{name}': array too long. Expected an array with maximum length {limit}, but got "
        f"an array with length {length} instead.",
        name,
        "array_above_max_length",
    )


# Types and ranges.

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
_SHARED_RANGES: dict[str, tuple[float, float | None]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "n": (1, 128),
    "max_tokens": (1, None),
}
_RANGES: dict[str, dict[str, tuple[float, float | None]]] = {
    "openai": {**_SHARED_RANGES, "max_completion_tokens": (1, None), "top_logprobs": (0, 20)},
    "together": {**_SHARED_RANGES, "logprobs": (0, 20), "top_k": (-1, None), "min_p": (0, 1)},
}
_INTEGERS = {"n", "max_tokens", "max_completion_tokens", "top_logprobs", "logprobs", "top_k"}


def type_errors(body: Mapping[str, Any]) -> Iterator[ErrorBody]:
    """Yield the fields of the wrong type.

    Args:
        body: The request as JSON.
    """
    for name, types in _TYPES.items():
        value = body.get(name)
        if value is not None and not isinstance(value, types):
            yield _wrong_type(name, types, value)
    for at, tool in enumerate(body.get("tools") or ()):
        yield from _function_errors(f"tools[{at}]", tool, {"parameters": dict})
    for at, message in enumerate(body.get("messages") or ()):
        calls = message.get("tool_calls") if isinstance(message, dict) else None
        if calls is not None and not isinstance(calls, list):
            yield _wrong_type(f"messages[{at}].tool_calls", (list,), calls)
        for number, call in enumerate(calls or ()):
            where = f"messages[{at}].tool_calls[{number}]"
            yield from _function_errors(where, call, {"arguments": str})
    stops = body.get("stop")
    for at, stop in enumerate(stops if isinstance(stops, list) else ()):
        if not isinstance(stop, str):
            yield _wrong_type(f"stop[{at}]", (str,), stop)
    shape = (body.get("response_format") or {}).get("json_schema")
    if shape is not None and not isinstance(shape, dict):
        yield _wrong_type("response_format.json_schema", (dict,), shape)


def _function_errors(where: str, holder: Any, parts: dict[str, type]) -> Iterator[ErrorBody]:
    """Check an object with a `function` that has a `name` and another part."""
    if isinstance(holder, dict) and holder.get("type", "function") != "function":
        return  # custom tools have other parts
    function = holder.get("function") if isinstance(holder, dict) else None
    if not isinstance(function, dict):
        yield _wrong_type(f"{where}.function", (dict,), function)
        return
    for name, kind in {"name": str, **parts}.items():
        value = function.get(name)
        if not isinstance(value, kind) and (value is not None or name == "name"):
            yield _wrong_type(f"{where}.function.{name}", (kind,), value)


def range_errors(dialect: str, body: Mapping[str, Any]) -> Iterator[ErrorBody]:
    """Yield the numbers that are not numbers, or too small or too large.

    Args:
        dialect: `"openai"` or `"together"`.
        body: The request as JSON.
    """
    for name, (low, high) in _RANGES[dialect].items():
        value = body.get(name)
        if value is None or isinstance(value, bool):
            continue
        kinds = (int,) if name in _INTEGERS else (float, int)
        if not isinstance(value, kinds):
            yield _wrong_type(name, kinds[:1], value)
        elif value < low:
            yield _out_of_range(name, f"below minimum value. Expected a value >= {low}", value)
        elif high is not None and value > high:
            yield _out_of_range(name, f"above maximum value. Expected a value <= {high}", value)


def _long_answers(body: Mapping[str, Any]) -> Iterator[ErrorBody]:
    """Check that an answer is not to be longer than any of the model's."""
    limit = next(n for name, n in _MAX_ANSWERS.items() if str(body["model"]).startswith(name))
    for name in ("max_tokens", "max_completion_tokens"):
        wanted = body.get(name)
        if isinstance(wanted, int) and wanted > limit:
            yield invalid_request(
                f"max_tokens is too large: {wanted}. This model supports at most {limit} "
                f"completion tokens, whereas you provided {wanted}.",
                name,
                "invalid_value",
            )


def _wrong_type(name: str, types: tuple[type, ...], value: Any) -> ErrorBody:
    wanted = " or ".join(_with_article(_WORDS[kind]) for kind in types)
    got = "null" if value is None else _with_article(_WORDS.get(type(value), "value"))
    message = f"Invalid type for '{name}': expected {wanted}, but got {got} instead."
    return invalid_request(message, name, "invalid_type")


def _with_article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _out_of_range(name: str, fault: str, value: float) -> ErrorBody:
    kind = "integer" if name in _INTEGERS else "decimal"
    code = f"{kind}_{'below_min' if fault.startswith('below') else 'above_max'}_value"
    message = f"Invalid '{name}': {kind} {fault}, but got {value} instead."
    return invalid_request(message, name, code)


# Messages.

_ROLES = {
    "openai": ("system", "assistant", "user", "function", "tool", "developer"),
    "together": ("system", "user", "assistant", "tool"),
}
_BLOCKS = {
    "openai": ("text", "image_url", "input_audio", "refusal", "audio", "file"),
    "together": ("text", "image_url", "video_url", "audio_url", "input_audio"),
}
_TEXT_OR_PICTURE = ("text", "image_url")
_NO_PICTURES = ("system", "assistant", "developer")
# These answer 200 to a picture in a tool's result, and neither see it nor bill it; older ones
# refuse it. (Recorded exchanges of gpt-4.1-nano and gpt-5-nano; openai-openapi#523.)
_BLIND_TO_TOOL_PICTURES = re.compile(r"gpt-(?:4\.1|[5-9])|o[3-9]")


def message_errors(
    dialect: str, body: Mapping[str, Any], *, api: str = "chat"
) -> Iterator[ErrorBody]:
    """Yield what is wrong with a request's messages, in order: roles, content, tool answers.

    Args:
        dialect: `"openai"` or `"together"`.
        body: The request as JSON.
        api: `"responses"` if it came by OpenAI's other API, whose tools' results may hold pictures.
    """
    without_pictures: tuple[str, ...] = _NO_PICTURES if dialect == "openai" else ()
    if dialect == "openai" and api == "chat":
        model = body.get("model")
        if not isinstance(model, str) or not _BLIND_TO_TOOL_PICTURES.match(model):
            without_pictures = (*_NO_PICTURES, "tool")
    messages = body.get("messages")
    if messages is None:
        yield invalid_request(
            "Missing required parameter: 'messages'.", "messages", "missing_required_parameter"
        )
    elif not messages:
        yield invalid_request(
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an "
            "empty array instead.",
            "messages",
            "empty_array",
        )
    else:
        pending: list[str] = []
        for at, message in enumerate(messages):
            yield from _message(dialect, at, message, without_pictures)
            yield from _tool_answers(at, message, pending)
        if pending:
            yield _unanswered(len(messages), pending)


def _message(
    dialect: str, at: int, message: Any, without_pictures: tuple[str, ...]
) -> Iterator[ErrorBody]:
    role = message.get("role") if isinstance(message, dict) else None
    known = _ROLES[dialect]
    if role not in known:
        names = ", ".join(f"'{name}'" for name in known[:-1])
        yield invalid_request(
            f"Invalid value: '{role}'. Supported values are: {names}, and '{known[-1]}'.",
            f"messages[{at}].role",
            "invalid_value",
        )
        return
    content = message.get("content")
    if content is None and role != "assistant":
        yield invalid_request(
            "Invalid value for 'content': expected a string, got null.", f"messages.[{at}].content"
        )
    elif not isinstance(content, (str, list, type(None))):
        yield invalid_request(
            "Invalid type for 'content': expected one of a string or array of content parts.",
            f"messages.[{at}].content",
            "invalid_type",
        )
    elif isinstance(content, list) and dialect == "together" and role != "user":
        yield invalid_request(
            f"messages[{at}].content: Input should be a valid string",
            f"messages[{at}].content",
            "invalid_type",
        )
    for number, block in enumerate(content if isinstance(content, list) else ()):
        no_pictures = role in without_pictures
        yield from _block(dialect, str(role), f"messages[{at}]", number, block, no_pictures)


def _block(  # noqa: PLR0917  # where a block stands, and what may stand there
    dialect: str, role: str, where: str, number: int, block: Any, no_pictures: bool
) -> Iterator[ErrorBody]:
    kind = block.get("type") if isinstance(block, dict) else None
    known = _BLOCKS[dialect]
    if kind not in known:
        names = ", ".join(f"'{name}'" for name in known[:-1])
        yield invalid_request(
            f"Invalid value: '{kind}'. Supported values are: {names}, and '{known[-1]}'.",
            f"{where}.content[{number}].type",
            "invalid_value",
        )
    elif no_pictures and kind == "image_url":
        yield invalid_request(
            f"Invalid '{where}'. Image URLs are only allowed for messages with role 'user', but "
            f"this message with role '{role}' contains an image URL.",
            where,
            "invalid_value",
        )
    elif role == "tool" and dialect == "openai" and kind not in _TEXT_OR_PICTURE:
        yield invalid_request(
            f"Invalid '{where}'. Content blocks are expected to be either text or image_url type.",
            where,
            "invalid_value",
        )
    elif kind == "text" and not isinstance(block.get("text"), str):
        yield invalid_request(
            f"Missing required parameter: '{where}.content[{number}].text'.",
            f"{where}.content[{number}].text",
            "missing_required_parameter",
        )


def _built_in_tools(tools: Iterable[Any]) -> Iterator[ErrorBody]:
    """Check for tools that only OpenAI's other API has."""
    for at, tool in enumerate(tools):
        kind = tool.get("type", "function")
        if kind not in ("function", "custom"):
            yield invalid_request(
                f"Invalid value: '{kind}'. Supported values are: 'function' and 'custom'.",
                f"tools[{at}].type",
                "invalid_value",
            )


_TOGETHER_EFFORTS = ("low", "medium", "high")


def _unlisted(body: Mapping[str, Any]) -> Iterator[ErrorBody]:
    """Check what Together's own types list the values of."""
    effort = body.get("reasoning_effort")
    if effort is not None and effort not in _TOGETHER_EFFORTS:
        yield _not_among("reasoning_effort", _TOGETHER_EFFORTS)
    for at, tool in enumerate(body.get("tools") or ()):
        if tool.get("type", "function") != "function":
            yield _not_among(f"tools[{at}].type", ("function",))
    for at, message in enumerate(body["messages"]):
        content = message.get("content")
        for number, block in enumerate(content if isinstance(content, list) else ()):
            audio = block.get("input_audio")
            if isinstance(audio, dict) and audio.get("format") != "wav":
                yield _not_among(f"messages[{at}].content[{number}].input_audio.format", ("wav",))


def _not_among(where: str, values: tuple[str, ...]) -> ErrorBody:
    *others, last = [f"'{value}'" for value in values]
    names = f"{', '.join(others)} or {last}" if others else last
    return invalid_request(f"{where}: Input should be {names}", where, "literal_error")


def _tool_answers(at: int, message: Mapping[str, Any], pending: list[str]) -> Iterator[ErrorBody]:
    """Keep `pending` up to date: the ids of the tool calls that have no answer yet."""
    if message["role"] == "tool":
        if message.get("tool_call_id") not in pending:
            yield invalid_request(
                "Invalid parameter: messages with role 'tool' must be a response to a preceeding "
                "message with 'tool_calls'.",
                f"messages.[{at}].role",
            )
        else:
            pending.remove(message["tool_call_id"])
        return
    if pending:
        yield _unanswered(at, pending)
    pending[:] = [str(call.get("id")) for call in message.get("tool_calls") or ()]


def _unanswered(at: int, pending: list[str]) -> ErrorBody:
    return invalid_request(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to "
        "each 'tool_call_id'. The following tool_call_ids did not have response messages: "
        + ", ".join(pending),
        f"messages.[{at}].role",
    )

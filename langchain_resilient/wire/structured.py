"""Structured output: what to ask for, and how to read the answer."""

from __future__ import annotations

import copy
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_openai_function
from langchain_core.utils.pydantic import is_basemodel_subclass

from langchain_resilient.wire.tools import to_tool_choice, to_tools

if TYPE_CHECKING:
    from langchain_core.language_models import LanguageModelInput
    from langchain_core.messages import AIMessage

    from langchain_resilient.wire.structure import Structure

Method = Literal["function_calling", "json_schema", "json_mode"]
Schema = dict[str, Any] | type

_METHODS = ("function_calling", "json_schema", "json_mode")


def structured_params(
    schema: Schema | None, method: Method, strict: bool | None = None
) -> dict[str, Any]:
    """Give the parameters that make a model answer in a schema: what `bind` takes.

    Args:
        schema: A pydantic class (of version 1 or 2), a TypedDict class, or a JSON schema; None only
            with `"json_mode"`, which cannot tell the model about it anyway.
        method: `"function_calling"` makes it the arguments of a tool that must be called, which the
            most models understand; `"json_schema"` and `"json_mode"` use `response_format`.
        strict: Whether the model must keep to the schema exactly. None: yes for pydantic classes
            with `"json_schema"`, else whatever the provider does by itself.

    Raises:
        ValueError: If the method is unknown, the schema is missing, or cannot be converted.

    Example:
        ```python
        llm.bind(**structured_params(Joke, "function_calling")) | structured_parser(Joke, ...)
        ```
    """
    _check(schema, method)
    traced = {"kwargs": {"method": method, "strict": strict}, "schema": _named(schema)}
    params: dict[str, Any] = {"ls_structured_output_format": traced}
    if method != "function_calling":
        return {**params, "response_format": to_response_format(schema, method, strict)}
    tools = to_tools([_named(schema)], strict)
    choice = to_tool_choice(tools[0]["function"]["name"], tools)
    return {**params, "tools": tools, "tool_choice": choice, "parallel_tool_calls": False}


def structured_parser(
    schema: Schema | None, method: Method, structure: Structure | None = None
) -> Runnable[Any, Any]:
    """Make the parser for answers to such a request.

    It gives objects of a pydantic class, dicts for any other schema, and partial ones in a stream.

    Args:
        schema: The same as for `structured_params`.
        method: The same too.
        structure: The judge, if it made it already.

    Returns:
        A parser of messages. It raises `OutputParserException` where the model refused, and where
        the whole answer does not fit.
    """
    from langchain_resilient.wire.structure import Structure  # noqa: PLC0415  # it needs this module

    _check(schema, method)
    judge = structure or Structure(schema, method)
    return RunnableGenerator(judge.checked, judge.achecked) | _parser(schema, method)


def _parser(schema: Any, method: Method) -> Runnable[Any, Any]:
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        if method == "function_calling":
            return PydanticToolsParser(tools=[schema], first_tool_only=True)
        return PydanticOutputParser(pydantic_object=schema)
    if method == "function_calling":
        return JsonOutputKeyToolsParser(key_name=tool_of(schema), first_tool_only=True)
    return JsonOutputParser()


def tool_of(schema: Schema | None) -> str:
    """Name the tool that `"function_calling"` makes of a schema."""
    name: str = to_tools([_named(schema)])[0]["function"]["name"]
    return name


def schema_of(schema: Schema | None) -> Any:
    """Give the JSON schema that an answer must fit."""
    if schema is None:
        return {"type": "object"}
    return to_response_format(schema)["json_schema"].get("schema", {})


def with_raw(
    llm: Runnable[LanguageModelInput, AIMessage], parser: Runnable[Any, Any]
) -> Runnable[LanguageModelInput, dict[str, Any]]:
    """Make a chain that gives `{"raw", "parsed", "parsing_error"}` and never raises the last."""
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    unparsed = RunnablePassthrough.assign(parsed=lambda _: None)
    safe = parsed.with_fallbacks([unparsed], exception_key="parsing_error")
    return RunnableMap(raw=llm) | safe


def to_response_format(
    schema: Schema | None, method: Method = "json_schema", strict: bool | None = None
) -> dict[str, Any]:
    """Convert a schema to the request's `response_format`.

    Args:
        schema: Any of `structured_params`, or a `response_format` in OpenAI's own form.
        method: `"json_schema"` or `"json_mode"`.
        strict: As for `structured_params`.

    Raises:
        ValueError: If the schema cannot be converted, or says something else about `strict`.
    """
    if method == "json_mode":
        return {"type": "json_object"}
    if isinstance(schema, dict) and schema.get("type") == "json_schema" and "json_schema" in schema:
        return _agreeing(schema, schema["json_schema"], strict)
    if isinstance(schema, dict) and "name" in schema and "schema" in schema:
        return _agreeing({"type": "json_schema", "json_schema": schema}, schema, strict)
    is_model = isinstance(schema, type) and is_basemodel_subclass(schema)
    if strict is None:
        given = schema.get("strict") if isinstance(schema, dict) else is_model
        strict = bool(given)
    function = convert_to_openai_function(_named(schema), strict=strict)
    body = function.pop("parameters", {"type": "object", "properties": {}})
    function["schema"] = _without_defaults(body) if strict else body
    return {"type": "json_schema", "json_schema": function}


def _agreeing(
    response_format: dict[str, Any], body: dict[str, Any], strict: bool | None
) -> dict[str, Any]:
    said = body.get("strict")
    if strict is not None and said is not None and said is not strict:
        raise ValueError(f"strict={strict} was given, but the schema itself says strict={said}")
    if strict is None or said is strict:
        return response_format
    return {**response_format, "json_schema": {**body, "strict": strict}}


def _without_defaults(schema: Any) -> Any:
    """Strict schemas may have no `default`: every field is required, and OpenAI refuses it."""
    if isinstance(schema, list):
        return [_without_defaults(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {}
    for name, part in schema.items():
        if name in {"properties", "$defs", "definitions"} and isinstance(part, dict):
            # In here the names are the user's own.
            found[name] = {field: _without_defaults(value) for field, value in part.items()}
        elif name in {"enum", "const"}:
            found[name] = copy.copy(part)
        elif name != "default":
            found[name] = _without_defaults(part)
    return found


def _named(schema: Any) -> Any:
    """A JSON schema needs a name to be a function or a format; not all have one."""
    if isinstance(schema, dict) and ("properties" in schema or schema.get("type") == "object"):
        return schema if schema.keys() & {"title", "name"} else {**schema, "title": "output"}
    return schema


def _check(schema: Schema | None, method: str) -> None:
    if method not in _METHODS:
        raise ValueError(
            f"method={method!r} is unknown; it may be {', '.join(map(repr, _METHODS))}"
        )
    if schema is None and method != "json_mode":
        raise ValueError(f"schema=None is possible only with method='json_mode', not {method!r}")

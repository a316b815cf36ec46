"""The JSON schemas of classes, functions and tools, as requests have them.

LangChain's converters write every reference out, so that a class that holds itself loses its
members, and close every object for `strict`, so that a dict may hold nothing. Both are undone here.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from langchain_core.utils.function_calling import convert_to_openai_function
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import TypeAdapter, create_model
from pydantic.errors import PydanticUserError
from pydantic.v1 import create_model as create_model_v1
from typing_extensions import is_typeddict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from langchain_core.tools import BaseTool

    Tool = Mapping[str, Any] | type | Callable[..., Any] | BaseTool

Schema = dict[str, Any]

VALUE = "value"
"""The property that holds a value which is no object: models answer with objects only."""

_MAPS = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLES = ("items", "additionalProperties", "not", "contains", "propertyNames")
_COMBINED = ("anyOf", "oneOf", "allOf", "not", "enum", "const", "$ref")
_SCHEMA_WORDS = frozenset({"type", "properties", "items", "additionalProperties", "$defs",
                           "definitions", *_COMBINED})  # fmt: skip
_LEGAL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def is_json_schema(source: object) -> bool:
    """Whether a dict is a bare JSON schema, and no description of a function."""
    return (
        isinstance(source, dict)
        and not source.keys() & {"name", "toolSpec", "function"}
        and bool(source.keys() & _SCHEMA_WORDS)
    )


def to_function(source: Tool, strict: bool | None = None) -> dict[str, Any]:
    """Convert to a function: a `name`, a `description`, `parameters`, and `strict` if it is given.

    What holds itself keeps its `$defs` and `$ref`. An object that may have any fields (a `dict`)
    cannot be strict, so `strict` becomes False where there is one.

    Args:
        source: A pydantic or TypedDict class, a function, a LangChain tool, or a dict: OpenAI's
            form, Anthropic's, Bedrock's, a JSON schema with a title.
        strict: Whether a model must keep to the schema exactly.

    Raises:
        ValueError: If it cannot be converted, or says something else about `strict`.

    Example:
        ```python
        to_function(Tree)["parameters"]["properties"]["children"]["items"]  # {'$ref': ...}
        ```
    """
    if isinstance(source, dict) and isinstance(source.get("function"), dict):
        source = source["function"]
    function = _converted(source)
    parameters = function.get("parameters")
    if isinstance(parameters, dict):
        function["parameters"] = completed(parameters)
    return with_strict(function, strict)


def with_strict(function: dict[str, Any], strict: bool | None) -> dict[str, Any]:
    """Say in a function whether it is strict, and make its schema so; the function is changed."""
    if strict is None:
        return function
    given = function.get("strict")
    if given is not None and given is not strict:
        msg = f"strict={strict} was given, but {function['name']!r} itself says strict={given}"
        raise ValueError(msg)
    parameters = function.get("parameters")
    parameters = parameters if isinstance(parameters, dict) else {"type": "object"}
    is_strict = strict and not is_open(parameters)
    function["strict"] = is_strict
    if is_strict:
        function["parameters"] = closed(parameters)
    return function


def _converted(source: Any) -> dict[str, Any]:
    if is_json_schema(source) and "title" in source:
        schema = {**source}
        function = {"name": schema.pop("title")}
        if description := schema.pop("description", None):
            function["description"] = description
        if "$ref" in schema:  # the root of parameters must be the object itself
            schema = {**_target(schema, schema), **_without(schema, "$ref")}
        return {**function, "parameters": schema}
    try:
        function = convert_to_openai_function(source)
    except RecursionError:  # a TypedDict class that holds itself
        return _recursive_typed_dict(source)
    raw = _raw_schema(source)
    if raw is not None and is_recursive(raw):
        function["parameters"] = _with_references(raw)
    return function


def _recursive_typed_dict(source: Any) -> dict[str, Any]:
    try:
        schema = TypeAdapter(source).json_schema()
    except PydanticUserError as error:
        msg = f"{source.__name__} holds itself: {error.message}"
        raise ValueError(msg) from None
    parameters = _with_references(schema)
    function = {"name": source.__name__, "parameters": parameters}
    if description := parameters.pop("description", None):
        function["description"] = description
    return function


def _raw_schema(source: Any) -> Schema | None:
    """Give the schema of a class, function or tool with its references."""
    from langchain_core.tools import (  # noqa: PLC0415  # it loads an HTTP client
        BaseTool,
        create_schema_from_function,
    )

    if isinstance(source, BaseTool):
        source = source.tool_call_schema
    elif not isinstance(source, type) and callable(source):
        source = create_schema_from_function(
            source.__name__, cast("Callable[..., Any]", source), filter_args=()
        )
    if isinstance(source, dict):
        return dict(source)
    if not (isinstance(source, type) and is_basemodel_subclass(source)):
        return None
    model: Any = source
    schema: Schema = model.model_json_schema() if hasattr(model, "model_fields") else model.schema()
    return schema


def _with_references(schema: Schema) -> Schema:
    """Give a schema its root, without titles; the references inside it stay."""
    whole = {**schema, **_target(schema, schema)} if "$ref" in schema else {**schema}
    whole.pop("$ref", None)
    whole.pop("description", None)
    untitled: Schema = rebuilt(whole, lambda part: _without(part, "title"))
    return untitled


# -- walking through a schema ----------------------------------------------------------------------


def parts(schema: Any) -> Iterator[Any]:
    """Yield all schemas in a schema, itself first."""
    yield schema
    if not isinstance(schema, dict):
        return
    for key in _MAPS:
        inner = schema.get(key)
        for part in inner.values() if isinstance(inner, dict) else ():
            yield from parts(part)
    for key in _LISTS:
        inner = schema.get(key)
        for part in inner if isinstance(inner, list) else ():
            yield from parts(part)
    for key in _SINGLES:
        if isinstance(schema.get(key), dict):
            yield from parts(schema[key])


def rebuilt(schema: Any, change: Callable[[Schema], Schema]) -> Any:
    """Build a schema anew, with each schema in it changed, the inner ones first."""
    if not isinstance(schema, dict):
        return schema
    new: Schema = {}
    for key, value in schema.items():
        if key in _MAPS and isinstance(value, dict):
            new[key] = {name: rebuilt(part, change) for name, part in value.items()}
        elif key in _LISTS and isinstance(value, list):
            new[key] = [rebuilt(part, change) for part in value]
        elif key in _SINGLES:
            new[key] = rebuilt(value, change)
        else:
            new[key] = value
    return change(new)


def _without(schema: Schema, *names: str) -> Schema:
    return {key: value for key, value in schema.items() if key not in names}


def _target(schema: Schema, root: Schema) -> Schema:
    """Follow the reference of a schema; {} if it leads nowhere."""
    found: Any = schema
    for _ in range(len(root) + 8):  # references may lead to references, but not for ever
        if not (isinstance(found, dict) and isinstance(found.get("$ref"), str)):
            break
        steps, found = found["$ref"].removeprefix("#").split("/")[1:], root
        for step in steps:
            name = step.replace("~1", "/").replace("~0", "~")
            found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) and "$ref" not in found else {}


def is_recursive(schema: Schema) -> bool:
    """Whether something in a schema holds itself."""
    names = {
        part["$ref"] for part in parts(schema) if isinstance(part, dict) and _has_reference(part)
    }
    inside = {
        name: {
            part["$ref"]
            for part in parts(_target({"$ref": name}, schema))
            if isinstance(part, dict) and _has_reference(part)
        }
        for name in names
    }
    return any(_reaches(name, name, inside) for name in names)


def _has_reference(schema: Schema) -> bool:
    return isinstance(schema.get("$ref"), str)


def _reaches(start: str, goal: str, inside: Mapping[str, set[str]]) -> bool:
    seen: set[str] = set()
    waiting = [*inside.get(start, ())]
    while waiting:
        name = waiting.pop()
        if name == goal:
            return True
        if name not in seen:
            seen.add(name)
            waiting.extend(inside.get(name, ()))
    return False


# -- objects that are open or closed ---------------------------------------------------------------


def is_open(schema: Schema) -> bool:
    """Whether anything in a schema may be a value or hold fields that it does not name.

    Strict schemas have no place for these. An object with `properties` that says nothing of others
    is not open: that is how schemas are written by hand.
    """
    return any(_is_open(part) for part in parts(schema) if isinstance(part, dict))


def _is_open(schema: Schema) -> bool:
    others = schema.get("additionalProperties")
    if others is True or isinstance(others, dict) or schema.get("patternProperties"):
        return True
    if any(key in schema for key in _COMBINED):
        return False
    kinds = schema.get("type")
    if kinds is None:
        return "properties" not in schema
    is_object = kinds == "object" or (isinstance(kinds, list) and "object" in kinds)
    return is_object and "properties" not in schema and others is not False


def closed(schema: Schema) -> Schema:
    """Make a schema strict: every field required and no others, no defaults, no `oneOf`."""
    closed_: Schema = rebuilt(schema, _closed)
    return closed_


def _closed(schema: Schema) -> Schema:
    new = _without(schema, "default", "title", "discriminator")
    if "oneOf" in new:
        new["anyOf"] = [*new.pop("oneOf"), *new.get("anyOf", ())]
    if "$ref" in new and len(new.keys() - {"$defs", "definitions"}) > 1:
        new = {"anyOf": [{"$ref": new.pop("$ref")}], **new}  # a reference must stand alone
    if new.get("type") == "object" or "properties" in new:
        new["properties"] = new.get("properties") or {}
        new["required"] = list(new["properties"])
        new["additionalProperties"] = False
    return new


def completed(schema: Schema) -> Schema:
    """Give objects their `properties` and arrays their `items`: OpenAI refuses them without.

    Nothing else is allowed or forbidden by it. A schema that lacks none is returned as it is.
    """
    if any(_lacks(part) for part in parts(schema) if isinstance(part, dict)):
        is_empty = _lacks(schema)
        schema = rebuilt(schema, _completed)
        if is_empty:  # a function without parameters, and no dict
            schema.pop("additionalProperties", None)
    if schema.get("type") == "object" and "properties" not in schema:
        schema = {**schema, "properties": {}}
    return schema


def _lacks(schema: Schema) -> bool:
    if any(key in schema for key in _COMBINED):
        return False
    kind = schema.get("type")
    return (kind == "object" and not schema.keys() & {"properties", "additionalProperties"}) or (
        kind == "array" and not schema.keys() & {"items", "prefixItems"}
    )


def _completed(schema: Schema) -> Schema:
    if not _lacks(schema):
        return schema
    if schema["type"] == "array":
        return {**schema, "items": {}}
    return {**schema, "properties": {}, "additionalProperties": True}


# -- answers that are no object --------------------------------------------------------------------


def needs_wrapping(schema: Any) -> bool:
    """Whether an answer in this schema is no plain object, or has no name that APIs take.

    Args:
        schema: A class, or a JSON schema with a name or a title.
    """
    if _is_plain_class(schema):
        return False
    function = to_function(schema)
    parameters = function.get("parameters")
    if isinstance(schema, type) and not _LEGAL_NAME.fullmatch(function["name"]):
        return True
    if not isinstance(parameters, dict):
        return False
    root = {**parameters, **_target(parameters, parameters)}
    if "properties" in root and not root.keys() & {"anyOf", "oneOf", "allOf", "not"}:
        return False
    return root.get("type") != "object" or bool(root.keys() & {"anyOf", "oneOf", "allOf", "not"})


def _is_plain_class(schema: Any) -> bool:
    """Whether this is a class whose schema need not be made to know that it is an object."""
    if not isinstance(schema, type) or not is_basemodel_subclass(schema):
        return is_typeddict(schema)
    model: Any = schema
    if not hasattr(model, "model_fields"):
        return "__root__" not in model.__fields__ and bool(_LEGAL_NAME.fullmatch(model.__name__))
    name = model.model_config.get("title") or model.__name__
    return not model.__pydantic_root_model__ and bool(_LEGAL_NAME.fullmatch(name))


@lru_cache(maxsize=256)
def wrapped_class(schema: type, name: str) -> type:
    """Make a pydantic class with one field that holds an object of another."""
    fields: Any = {VALUE: (schema, ...)}
    make: Any = create_model if hasattr(schema, "model_fields") else create_model_v1
    wrapper: type = make(name, **fields)
    wrapper.__doc__ = schema.__doc__
    return wrapper


def wrapped_schema(schema: Schema) -> Schema:
    """Make the schema of an object with one property that holds the value."""
    definitions: Schema = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    inner = rebuilt(_without(schema, "$defs", "definitions"), _moved)
    for key, named in definitions.items():
        definitions[key] = {name: rebuilt(part, _moved) for name, part in named.items()}
    return {
        "type": "object",
        "properties": {VALUE: inner},
        "required": [VALUE],
        "additionalProperties": False,
        **definitions,
    }


def _moved(schema: Schema) -> Schema:
    """Let a reference from the root lead to where that is now."""
    target = schema.get("$ref")
    if not isinstance(target, str) or target.startswith(("#/$defs/", "#/definitions/")):
        return schema
    return {**schema, "$ref": f"#/properties/{VALUE}{target.removeprefix('#')}"}

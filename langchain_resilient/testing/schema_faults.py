"""What is wrong with a JSON schema: keywords without sense, and OpenAI's rules for strict ones."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MAPS = ("properties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_KINDS = {"array", "boolean", "integer", "null", "number", "object", "string"}


def schema_fault(schema: Any, *, strict: bool) -> str | None:
    """Return what is wrong with a function's or response format's schema, or None.

    Args:
        schema: The JSON schema; None is fine.
        strict: Whether `strict: true` was asked for: then every object must forbid additional
            properties and require all of its own.

    Example:
        ```python
        schema_fault({"type": "object", "properties": {}}, strict=True)
        # "In context=(), 'additionalProperties' is required to be supplied and to be false."
        ```
    """
    if schema is None:
        return None
    fault = _nonsense(schema, ())
    if fault is None and strict:
        return _strict_fault(schema, ())
    if fault is None and schema.get("type") == "object" and "properties" not in schema:
        return "In context=(), object schema missing properties."
    return fault


def _nonsense(schema: Any, context: tuple[str, ...]) -> str | None:
    """Find a keyword whose value it cannot have."""
    if not isinstance(schema, dict):
        return f"In context={context}, schema is not of type 'object'."
    bad = next((key for key, value in schema.items() if not _sensible(key, value)), None)
    if bad is not None:
        return f"In context={context}, '{bad}' has a value that is not allowed."
    for part, where in _parts(schema):
        fault = _nonsense(part, (*context, *where))
        if fault:
            return fault
    return None


def _parts(schema: dict[str, Any]) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Yield the schemas inside a schema, and where they stand."""
    for key in _MAPS:
        for name, part in (schema.get(key) or {}).items():
            yield part, (key, name)
    for key in _LISTS:
        for at, part in enumerate(schema.get(key) or ()):
            yield part, (key, str(at))
    if isinstance(schema.get("items"), dict):
        yield schema["items"], ("items",)


def _sensible(key: str, value: Any) -> bool:
    check = _CHECKS.get(key)
    return check is None or check(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _is_kind(value: Any) -> bool:
    kinds = value if isinstance(value, list) else [value]
    return bool(kinds) and all(isinstance(kind, str) and kind in _KINDS for kind in kinds)


def _is_expression(value: Any) -> bool:
    try:
        re.compile(value)
    except (re.error, TypeError):
        return False
    return isinstance(value, str)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(_MAPS, lambda value: isinstance(value, dict)),
    **dict.fromkeys(_LISTS, lambda value: isinstance(value, list) and bool(value)),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _is_number),
    **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength"), _is_number),
    **dict.fromkeys(("$ref", "format"), lambda value: isinstance(value, str)),
    "enum": lambda value: isinstance(value, list) and bool(value),
    "items": lambda value: isinstance(value, (dict, bool)),
    "multipleOf": lambda value: _is_number(value) and value > 0,
    "pattern": _is_expression,
    "required": lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value),
    "type": _is_kind,
}


def _strict_fault(schema: dict[str, Any], context: tuple[str, ...]) -> str | None:
    if schema.get("type") == "object" or "properties" in schema:
        fault = _object_fault(schema, context)
        if fault:
            return fault
    for part, where in _parts(schema):
        fault = _strict_fault(part, (*context, *where))
        if fault:
            return fault
    return None


def _object_fault(schema: dict[str, Any], context: tuple[str, ...]) -> str | None:
    if schema.get("additionalProperties") is not False:
        return (
            f"In context={context}, 'additionalProperties' is required to be supplied and to be "
            "false."
        )
    missing = [
        name
        for name in schema.get("properties") or {}
        if name not in (schema.get("required") or ())
    ]
    if missing:
        return (
            f"In context={context}, 'required' is required to be supplied and to be an array "
            f"including every key in properties. Missing '{missing[0]}'."
        )
    return None

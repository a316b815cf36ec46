"""JSON schemas: values that fit one, taken from the prompt, and what is wrong with one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from langchain_resilient.testing.answers import answer_to
from langchain_resilient.testing.prompt_entities import PromptEntities

Schema = dict[str, Any]

_MAX_DEPTH = 8  # a schema may contain itself
_FORMATS = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "12:00:00",
    "duration": "PT1H",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def make_instance(schema: Mapping[str, Any], entities: PromptEntities) -> Any:
    """Make a value that fits a JSON schema.

    Understands `type` (also lists), `enum`, `const`, `default`, `properties`, `required`,
    `additionalProperties`, `items`, `prefixItems`, `anyOf`, `oneOf`, `allOf`, `$ref` into
    `$defs` or `definitions`, bounds, lengths and the common `format`s. Only required properties
    are filled in, and optional ones that the prompt speaks of.

    Args:
        schema: The JSON schema.
        entities: What the prompt mentions; suitable values are taken from it.

    Returns:
        A value that can be written as JSON.

    Example:
        ```python
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        make_instance(schema, PromptEntities("What is magic_function(3)?"))  # {"a": 3}
        ```
    """
    return _InstanceMaker(dict(schema), entities).make(dict(schema), "")


def resolved(schema: Schema, root: Schema) -> Schema:
    """Follow a `$ref` inside one document and merge `allOf`."""
    for _ in range(_MAX_DEPTH):
        reference = schema.get("$ref")
        if isinstance(reference, str):
            part: Any = root
            for key in reference.removeprefix("#").strip("/").split("/"):
                part = part.get(key, {}) if key and isinstance(part, dict) else part
            schema = {**(part if isinstance(part, dict) else {}), **_without(schema, "$ref")}
        elif "allOf" in schema:
            merged = _without(schema, "allOf")
            for option in schema["allOf"]:
                merged = _merged(merged, resolved(option, root))
            schema = merged
        else:
            return schema
    return {}


class _InstanceMaker:
    """Makes a value for one schema document."""

    def __init__(self, root: Schema, entities: PromptEntities) -> None:
        self.root = root
        self.entities = entities
        self.depth = 0

    def make(self, schema: Schema, name: str) -> Any:
        schema = resolved(schema, self.root)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._one_of(schema["enum"])
        for union in ("anyOf", "oneOf"):
            if schema.get(union):
                return self.make(self._variant(schema[union], name), name)
        kind = self._kind(schema, name)
        self.depth += 1
        try:
            return self._of_kind(kind, schema, name)
        finally:
            self.depth -= 1

    def _kind(self, schema: Schema, name: str) -> str:
        kind = schema.get("type")
        if isinstance(kind, list):
            wanted = [k for k in kind if k != "null"]
            kind = "null" if not wanted or self.entities.denies(name) else wanted[0]
        if kind is None:
            kind = (
                "object" if "properties" in schema else "array" if "items" in schema else "string"
            )
        return str(kind)

    def _of_kind(self, kind: str, schema: Schema, name: str) -> Any:
        match kind:
            case "object":
                return self._object(schema)
            case "array":
                return self._array(schema, name)
            case "integer" | "number":
                return self._number(kind, schema)
            case "boolean":
                return bool(schema.get("default", not self.entities.denies(name)))
            case "null":
                return None
            case _:
                return self._string(schema, name)

    def _variant(self, variants: list[Schema], name: str) -> Schema:
        """Choose the first alternative that is not null, unless the prompt asks for none."""
        options = [resolved(variant, self.root) for variant in variants]
        nulls = [option for option in options if option.get("type") == "null"]
        others = [option for option in options if option.get("type") != "null"]
        if nulls and (not others or self.entities.denies(name) or self.depth > _MAX_DEPTH):
            return nulls[0]
        flat = [option for option in others if "properties" not in option and "items" not in option]
        return (flat or others)[0] if self.depth > _MAX_DEPTH else others[0]

    def _one_of(self, values: list[Any]) -> Any:
        mentioned = [v for v in values if isinstance(v, str) and self.entities.mentions(v)]
        return (mentioned or values)[0]

    def _object(self, schema: Schema) -> dict[str, Any]:
        properties: dict[str, Schema] = schema.get("properties") or {}
        required = schema.get("required") or []
        made: dict[str, Any] = {}
        for name, part in properties.items():
            if name in required or (self.depth <= _MAX_DEPTH and self._is_mentioned(name, part)):
                made[name] = self.make(part, name)
        for name in required:
            if name not in made:
                made[name] = self.make({}, name)
        return made

    def _is_mentioned(self, name: str, part: Schema) -> bool:
        values = resolved(part, self.root).get("enum") or []
        if any(isinstance(value, str) and self.entities.mentions(value) for value in values):
            return True
        word = name.replace("_", " ")
        return self.entities.mentions(word) and not self.entities.denies(word)

    def _array(self, schema: Schema, name: str) -> list[Any]:
        fixed = [self.make(part, name) for part in schema.get("prefixItems") or []]
        items = schema.get("items")
        if not isinstance(items, dict):
            return fixed
        fewest = max(schema.get("minItems", 0) - len(fixed), 0)
        if self.depth > _MAX_DEPTH:
            return fixed
        kind = resolved(items, self.root).get("type")
        available = {"string": len(self.entities.names), "integer": len(self.entities.numbers)}
        count = max(fewest, available.get(str(kind), 1), 1 - len(fixed))
        count = min(count, max(schema.get("maxItems", count), fewest))
        return fixed + [self.make(items, name) for _ in range(count)]

    def _number(self, kind: str, schema: Schema) -> int | float:
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        step = schema.get("multipleOf") or 1
        number = self.entities.number()
        if number is None:
            number = schema.get("default", 1)
        number = int(number) if kind == "integer" else float(number)
        if low is not None and (number < low or number == schema.get("exclusiveMinimum")):
            number = low + (step if "exclusiveMinimum" in schema else 0)
        if high is not None and (number > high or number == schema.get("exclusiveMaximum")):
            number = high - (step if "exclusiveMaximum" in schema else 0)
        if schema.get("multipleOf"):
            number = number // step * step
        return int(number) if kind == "integer" or float(number).is_integer() else number

    def _string(self, schema: Schema, name: str) -> str:
        shape = schema.get("format")
        value = self.entities.name(name, str(shape or ""))
        if shape in _FORMATS and (value is None or shape in {"uuid", "time", "duration"}):
            value = _FORMATS[shape]
        pattern = schema.get("pattern")
        if pattern and not re.search(pattern, value or ""):
            value = _matching(pattern, value)
        if value is None:
            value = str(schema.get("default") or self._sentence(name))
        shortest = schema.get("minLength", 0)
        padded: str = value + "x" * (shortest - len(value))
        return padded[: schema.get("maxLength")]

    def _sentence(self, name: str) -> str:
        """Repeat the beginning of the prompt, which shows that the prompt was read."""
        excerpt = " ".join(self.entities.text.split())[:60]
        return f"{name or 'answer'}: {excerpt}" if excerpt else answer_to(name, words=3)


def _matching(pattern: str, value: str | None) -> str | None:
    """Return the first of a few values that the pattern allows."""
    tries = ["1", "12", "123", "12345", "2026-01-01", "abc", "ABC", "Abc", "a1", "A-1", "a@b.co"]
    return next((t for t in tries if re.search(pattern, t)), value)


def _without(schema: Schema, key: str) -> Schema:
    return {name: value for name, value in schema.items() if name != key}


def _merged(one: Schema, other: Schema) -> Schema:
    merged = {**one, **other}
    for key in ("properties", "$defs"):
        if key in one and key in other:
            merged[key] = {**one[key], **other[key]}
    if "required" in one and "required" in other:
        merged["required"] = [*one["required"], *other["required"]]
    return merged


# Faults of a schema.

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
    fault = _keyword_fault(schema, ())
    kind = schema.get("type") if isinstance(schema, dict) else None
    if fault is None and strict and kind != "object":
        return f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{kind}\"'."
    if fault is None and strict:
        return _strict_fault(schema, ())
    if fault is None and kind == "object" and "properties" not in schema:
        return "In context=(), object schema missing properties."
    return fault


def _keyword_fault(schema: Any, context: tuple[str, ...]) -> str | None:
    """Find a keyword with a value that is not allowed."""
    if not isinstance(schema, dict):
        return f"In context={context}, schema is not of type 'object'."
    bad = next((key for key, value in schema.items() if not _is_valid(key, value)), None)
    if bad is not None:
        return f"In context={context}, '{bad}' has a value that is not allowed."
    if schema.get("type") == "array" and "items" not in schema and "prefixItems" not in schema:
        return f"In context={context}, array schema missing items."
    for part, where in _parts(schema):
        fault = _keyword_fault(part, (*context, *where))
        if fault:
            return fault
    return None


def _parts(schema: dict[str, Any]) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Yield the schemas inside a schema, with their path."""
    for key in _MAPS:
        for name, part in (schema.get(key) or {}).items():
            yield part, (key, name)
    for key in _LISTS:
        for at, part in enumerate(schema.get(key) or ()):
            yield part, (key, str(at))
    if isinstance(schema.get("items"), dict):
        yield schema["items"], ("items",)


def _is_valid(key: str, value: Any) -> bool:
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

"""Instances of JSON schemas, with the obvious values taken from the prompt."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from langchain_resilient.testing.text import answer_to

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_resilient.testing.clues import Clues

Schema = dict[str, Any]

_DEEPEST = 8  # a schema may contain itself
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


def instance(schema: Mapping[str, Any], clues: Clues) -> Any:
    """Make a value that fits a JSON schema.

    Understands `type` (also lists), `enum`, `const`, `default`, `properties`, `required`,
    `additionalProperties`, `items`, `prefixItems`, `anyOf`, `oneOf`, `allOf`, `$ref` into
    `$defs` or `definitions`, bounds, lengths and the common `format`s. Only required properties
    are filled in, and optional ones that the prompt speaks of.

    Args:
        schema: The JSON schema.
        clues: The prompt, where obvious values are looked for first.

    Returns:
        A value that can be written as JSON.

    Example:
        ```python
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        instance(schema, Clues("What is magic_function(3)?"))  # {"a": 3}
        ```
    """
    return _Maker(dict(schema), clues).make(dict(schema), "")


def resolved(schema: Schema, root: Schema) -> Schema:
    """Follow a `$ref` inside one document and merge `allOf`."""
    for _ in range(_DEEPEST):
        reference = schema.get("$ref")
        if isinstance(reference, str):
            found: Any = root
            for part in reference.removeprefix("#").strip("/").split("/"):
                found = found.get(part, {}) if part and isinstance(found, dict) else found
            schema = {**(found if isinstance(found, dict) else {}), **_without(schema, "$ref")}
        elif "allOf" in schema:
            merged = _without(schema, "allOf")
            for part in schema["allOf"]:
                merged = _merged(merged, resolved(part, root))
            schema = merged
        else:
            return schema
    return {}


class _Maker:
    """Walks one schema document."""

    def __init__(self, root: Schema, clues: Clues) -> None:
        self.root = root
        self.clues = clues
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
            kind = "null" if not wanted or self.clues.denies(name) else wanted[0]
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
                return bool(schema.get("default", not self.clues.denies(name)))
            case "null":
                return None
            case _:
                return self._string(schema, name)

    def _variant(self, variants: list[Schema], name: str) -> Schema:
        """Choose the first alternative that is not null, unless the prompt wants none."""
        options = [resolved(variant, self.root) for variant in variants]
        nulls = [option for option in options if option.get("type") == "null"]
        others = [option for option in options if option.get("type") != "null"]
        if nulls and (not others or self.clues.denies(name) or self.depth > _DEEPEST):
            return nulls[0]
        flat = [option for option in others if "properties" not in option and "items" not in option]
        return (flat or others)[0] if self.depth > _DEEPEST else others[0]

    def _one_of(self, values: list[Any]) -> Any:
        mentioned = [v for v in values if isinstance(v, str) and self.clues.mentions(v)]
        return (mentioned or values)[0]

    def _object(self, schema: Schema) -> dict[str, Any]:
        properties: dict[str, Schema] = schema.get("properties") or {}
        required = schema.get("required") or []
        made: dict[str, Any] = {}
        for name, part in properties.items():
            if name in required or (self.depth <= _DEEPEST and self._speaks_of(name, part)):
                made[name] = self.make(part, name)
        for name in required:
            if name not in made:
                made[name] = self.make({}, name)
        return made

    def _speaks_of(self, name: str, part: Schema) -> bool:
        values = resolved(part, self.root).get("enum") or []
        if any(isinstance(value, str) and self.clues.mentions(value) for value in values):
            return True
        word = name.replace("_", " ")
        return self.clues.mentions(word) and not self.clues.denies(word)

    def _array(self, schema: Schema, name: str) -> list[Any]:
        fixed = [self.make(part, name) for part in schema.get("prefixItems") or []]
        items = schema.get("items")
        if not isinstance(items, dict):
            return fixed
        fewest = max(schema.get("minItems", 0) - len(fixed), 0)
        if self.depth > _DEEPEST:
            return fixed
        kind = resolved(items, self.root).get("type")
        available = {"string": len(self.clues.names), "integer": len(self.clues.numbers)}
        count = max(fewest, available.get(str(kind), 1), 1 - len(fixed))
        count = min(count, max(schema.get("maxItems", count), fewest))
        return fixed + [self.make(items, name) for _ in range(count)]

    def _number(self, kind: str, schema: Schema) -> int | float:
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        step = schema.get("multipleOf") or 1
        number = self.clues.number()
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
        value = self.clues.name(name, str(shape or ""))
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
        """Say something about the prompt, for it shows that the prompt was read."""
        about = " ".join(self.clues.text.split())[:60]
        return f"{name or 'answer'}: {about}" if about else answer_to(name, words=3)


def _matching(pattern: str, value: str | None) -> str | None:
    """Try a few values that common patterns allow."""
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

"""Whether a value fits a JSON schema: the part of the language that providers can hold a model to.

A whole validator is a dependency of megabytes; models are asked with the few keywords below, which
are those of OpenAI's structured outputs and of llama.cpp's grammars. A keyword that is not known
here forbids nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Schema = Mapping[str, Any]
    Check = Callable[[Any, Schema, "_Location"], Iterator[str]]


Method = Literal["function_calling", "json_schema", "json_mode"]
"""The ways to ask a model for what fits a schema, by LangChain's names."""

_MAX_DEPTH = 12  # a schema may lead back into itself without the value getting any smaller


def schema_mismatch(value: Any, schema: Any) -> str | None:
    """Say what is wrong with a value; the first thing found.

    Args:
        value: Decoded JSON.
        schema: Of drafts 7 to 2020-12, with `$ref` into itself.

    Returns:
        The place and the problem, without the value itself; None if it fits.

    Example:
        ```python
        schema_mismatch(
            {"n": "1"}, {"properties": {"n": {"type": "integer"}}}
        )  # 'n: not of type integer'
        ```
    """
    root = schema if isinstance(schema, dict) else {}
    return next(_problems(value, schema, _Location(root, "", 0)), None)


class _Location:
    """Where in a value and in a schema a check stands."""

    __slots__ = ("depth", "path", "root")

    def __init__(self, root: Schema, path: str, depth: int) -> None:
        self.root = root
        self.path = path
        self.depth = depth

    def at(self, step: str | int) -> _Location:
        """Go to a member."""
        return _Location(self.root, f"{self.path}.{step}" if self.path else str(step), 0)

    def deeper(self) -> _Location:
        """Stay, in another part of the schema."""
        return _Location(self.root, self.path, self.depth + 1)

    def says(self, problem: str) -> str:
        """Put the place before a problem."""
        return f"{self.path or 'the answer'}: {problem}"


def _problems(value: Any, schema: Any, location: _Location) -> Iterator[str]:
    if schema is False:
        yield location.says("not allowed")
    if not isinstance(schema, dict) or location.depth > _MAX_DEPTH:
        return
    for keyword, check in _CHECKS.items():
        if keyword in schema:
            yield from check(value, schema, location)


def _matches_schema(value: Any, schema: Any, location: _Location) -> bool:
    return next(_problems(value, schema, location.deeper()), None) is None


def _reference(value: Any, schema: Schema, location: _Location) -> Iterator[str]:
    target: Any = location.root
    for step in str(schema["$ref"]).removeprefix("#").split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")  # noqa: PLW2901  # RFC 6901
        target = target.get(step) if isinstance(target, dict) else None
    yield from _problems(value, target, location.deeper())


def _type(value: Any, schema: Schema, location: _Location) -> Iterator[str]:
    wanted = schema["type"]
    wanted = wanted if isinstance(wanted, list) else [wanted]
    if not any(_TYPES.get(name, _anything)(value) for name in wanted):
        yield location.says(f"not of type {' or '.join(map(str, wanted))}")


def _enum(value: Any, schema: Schema, location: _Location) -> Iterator[str]:
    if not any(_same(value, option) for option in schema["enum"]):
        yield location.says(f"not one of {schema['enum']!r}")


def _const(value: Any, schema: Schema, location: _Location) -> Iterator[str]:
    if not _same(value, schema["const"]):
        yield location.says(f"not {schema['const']!r}")


def _same(value: Any, other: Any) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _required(value: Any, schema: Schema, location: _Location) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (
            location.says(f"{n!r} is missing") for n in schema["required"] if n not in value
        )


def _properties(value: Any, schema: Schema, location: _Location) -> Iterator[str]:
    if isinstance(value, dict):
        for name, part in schema["properties"].items():
            if name in value:
                yield from _problems(value[name], part, location.at(name))


def _others(value: Any, schema: Schema, location: _Location) -> Iterator[str]:
    if isinstance(value, dict):
        known, patterns = schema.get("properties") or {}, schema.get("patternProperties") or ()
        for name, item in value.items():
            if name not in known and not any(_matches(p, name) for p in patterns):
                yield from _problems(item, schema["additionalProperties"], location.at(name))


def _items(value: Any, schema: Schema, location: _Location) -> Iterator[str]:
    if isinstance(value, list) and isinstance(schema["items"], dict | bool):
        for number in range(len(schema.get("prefixItems") or ()), len(value)):
            yield from _problems(value[number], schema["items"], location.at(number))


def _prefix(value: Any, schema: Schema, location: _Location) -> Iterator[str]:
    if isinstance(value, list):
        for number, (item, part) in enumerate(zip(value, schema["prefixItems"], strict=False)):
            yield from _problems(item, part, location.at(number))


def _all_of(value: Any, schema: Schema, location: _Location) -> Iterator[str]:
    for part in schema["allOf"]:
        yield from _problems(value, part, location.deeper())


def _any_of(value: Any, schema: Schema, location: _Location) -> Iterator[str]:
    if not any(_matches_schema(value, part, location) for part in schema["anyOf"]):
        yield location.says("fits none of what it may be")


def _one_of(value: Any, schema: Schema, location: _Location) -> Iterator[str]:
    fitting = sum(_matches_schema(value, part, location) for part in schema["oneOf"])
    if fitting != 1:
        yield location.says(f"fits {fitting or 'none'} of what it may be one of")


def _not(value: Any, schema: Schema, location: _Location) -> Iterator[str]:
    if _matches_schema(value, schema["not"], location):
        yield location.says("is what it must not be")


def _pattern(value: Any, schema: Schema, location: _Location) -> Iterator[str]:
    if isinstance(value, str) and not _matches(schema["pattern"], value):
        yield location.says(f"does not match {schema['pattern']!r}")


def _matches(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error:  # JavaScript's dialect, which JSON Schema means, has things that ours has not
        return True


def _bound(
    keyword: str, kind: Callable[[Any], bool], size: Callable[[Any], Any], sign: int
) -> Check:
    """Make the check of a limit on a number, or on the length of a text, list or object.

    Args:
        keyword: Its name in a schema.
        kind: What it speaks of.
        size: What is compared.
        sign: 1 for a largest, -1 for a smallest.
    """

    def check(value: Any, schema: Schema, location: _Location) -> Iterator[str]:
        limit = schema[keyword]
        if kind(value) and _is_number(limit):
            over = (size(value) - limit) * sign
            if over > 0 or (over == 0 and keyword.startswith("exclusive")):
                yield location.says(f"{keyword} is {limit}")

    return check


def _unique(value: Any, schema: Schema, location: _Location) -> Iterator[str]:
    items = value if schema["uniqueItems"] and isinstance(value, list) else []
    if any(_same(item, other) for n, item in enumerate(items) for other in items[:n]):
        yield location.says("holds something twice")


def _multiple(value: Any, schema: Schema, location: _Location) -> Iterator[str]:
    step = schema["multipleOf"]
    if _is_number(value) and abs(value / step - round(value / step)) > 1e-9:  # noqa: PLR2004
        yield location.says(f"no multiple of {step}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _anything(_: Any) -> bool:
    return True


_TYPES: dict[Any, Callable[[Any], bool]] = {
    "object": _is(dict),
    "array": _is(list),
    "string": _is(str),
    "boolean": _is(bool),
    "null": lambda value: value is None,
    "number": _is_number,
    # 1.0 is an integer in JSON (JSON Schema, draft 6 and later).
    "integer": lambda value: _is_number(value) and value % 1 == 0,
}

_CHECKS: dict[str, Check] = {
    "$ref": _reference,
    "type": _type,
    "enum": _enum,
    "const": _const,
    "required": _required,
    "properties": _properties,
    "additionalProperties": _others,
    "items": _items,
    "prefixItems": _prefix,
    "allOf": _all_of,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
    "pattern": _pattern,
    "uniqueItems": _unique,
    "multipleOf": _multiple,
    "minimum": _bound("minimum", _is_number, float, -1),
    "maximum": _bound("maximum", _is_number, float, 1),
    "exclusiveMinimum": _bound("exclusiveMinimum", _is_number, float, -1),
    "exclusiveMaximum": _bound("exclusiveMaximum", _is_number, float, 1),
    "minLength": _bound("minLength", _is(str), len, -1),
    "maxLength": _bound("maxLength", _is(str), len, 1),
    "minItems": _bound("minItems", _is(list), len, -1),
    "maxItems": _bound("maxItems", _is(list), len, 1),
    "minProperties": _bound("minProperties", _is(dict), len, -1),
    "maxProperties": _bound("maxProperties", _is(dict), len, 1),
}

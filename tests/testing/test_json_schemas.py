"""Values that fit a JSON schema."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_resilient.testing.json_schemas import make_instance
from langchain_resilient.testing.prompt_entities import PromptEntities

TEXT = {"type": "string"}


WHOLE = {"type": "integer"}


NUMBER = {"type": "number"}


JOKE = {
    "type": "object",
    "properties": {"setup": TEXT, "punchline": {"anyOf": [TEXT, {"type": "null"}]}},
    "required": ["setup", "punchline"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("prompt", "schema", "expected"),
    [
        ("3 of 5", {"type": "array", "items": WHOLE}, [3, 5]),
        ("", {"enum": ["a", "b"]}, "a"),
        ("in celsius please", {"enum": ["fahrenheit", "celsius"]}, "celsius"),
        ("", {"const": 7}, 7),
        ("", {"type": ["null", "integer"], "minimum": 5}, 5),
        ("-9", {"type": "integer", "exclusiveMinimum": 0}, 1),
        ("", {"type": "string", "format": "date"}, "2026-01-01"),
        ("mail bob@example.org", {"type": "string", "format": "email"}, "bob@example.org"),
        ("", {"type": "boolean"}, True),
        ("", {"type": "object", "properties": {"a": TEXT}}, {}),
        ("", {"type": "array", "items": WHOLE, "minItems": 3}, [1, 1, 1]),
        ("", {"allOf": [{"properties": {"a": WHOLE}, "required": ["a"]}]}, {"a": 1}),
        ("name: Bob", {"properties": {"name": TEXT}, "required": ["name"]}, {"name": "Bob"}),
    ],
)
def test_instances(prompt: str, schema: dict[str, Any], expected: Any) -> None:
    """Values from the prompt where they are obvious, minimal ones elsewhere."""
    assert make_instance(schema, PromptEntities(prompt)) == expected


def test_a_schema_may_contain_itself() -> None:
    """References are followed, and recursion ends."""
    node = {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
        "required": ["next"],
    }
    value = make_instance({"$ref": "#/$defs/Node", "$defs": {"Node": node}}, PromptEntities("x"))
    while value is not None:
        value = value["next"]


def test_what_the_prompt_does_not_want_is_null() -> None:
    """Saying "no punchline" leaves an optional one out."""
    assert (
        make_instance(JOKE, PromptEntities("The setup to a joke, no punchline."))["punchline"]
        is None
    )
    assert make_instance(JOKE, PromptEntities("A joke about cats."))["punchline"] is not None


SCALARS = st.sampled_from(
    [TEXT, WHOLE, NUMBER, {"type": "boolean"}, {"type": "null"}, {"enum": [1, "a"]}]
)


SCHEMAS = st.recursive(
    SCALARS,
    lambda part: st.one_of(
        st.builds(
            lambda items, n: {"type": "array", "items": items, "minItems": n},
            part,
            st.integers(0, 3),
        ),
        st.builds(lambda parts: {"anyOf": parts}, st.lists(part, min_size=1, max_size=3)),
        st.builds(
            lambda parts: {"type": "object", "properties": parts, "required": [*parts]},
            st.dictionaries(st.sampled_from("abcd"), part, max_size=3),
        ),
    ),
    max_leaves=8,
)


@given(SCHEMAS, st.text(max_size=30))
def test_every_instance_fits_its_schema(schema: dict[str, Any], prompt: str) -> None:
    """For any schema and any prompt."""
    assert fits(make_instance(schema, PromptEntities(prompt)), schema)


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """A validator for the schemas above."""
    if "enum" in schema:
        return value in schema["enum"]
    if "anyOf" in schema:
        return any(fits(value, part) for part in schema["anyOf"])
    match schema["type"]:
        case "object":
            parts = schema["properties"]
            return value.keys() == parts.keys() and all(fits(value[k], parts[k]) for k in parts)
        case "array":
            return len(value) >= schema["minItems"] and all(fits(v, schema["items"]) for v in value)
        case kind:
            kinds = {
                "string": str,
                "integer": int,
                "number": (int, float),
                "boolean": bool,
                "null": type(None),
            }
            return isinstance(value, kinds[kind])

"""Whether values fit JSON schemas."""

from __future__ import annotations

from typing import Any

import pytest

from langchain_resilient.wire.json_schema import schema_mismatch

TREE: dict[str, Any] = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "of": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["name"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}

FITS = [
    ({"type": "integer"}, 1.0),
    ({"type": "number"}, 1),
    ({"type": ["string", "null"]}, None),
    ({"enum": ["a", 1]}, 1),
    ({"const": None}, None),
    ({"required": ["a"]}, "no object"),
    ({"properties": {"a": {"type": "string"}}}, {"b": 1}),
    ({"additionalProperties": {"type": "integer"}}, {"b": 1}),
    ({"patternProperties": {"^x": True}, "additionalProperties": False}, {"x1": 1}),
    ({"prefixItems": [{"type": "string"}], "items": {"type": "integer"}}, ["a", 1]),
    ({"anyOf": [{"type": "string"}, {"type": "null"}]}, None),
    ({"oneOf": [{"type": "string"}, {"type": "null"}]}, None),
    ({"allOf": [{"minimum": 1}, {"maximum": 3}]}, 2),
    ({"pattern": "^a"}, "ab"),
    ({"minimum": 1, "maximum": 1}, 1),
    ({"multipleOf": 0.1}, 0.3),
    ({"uniqueItems": True}, [1, True, "1"]),
    ({"format": "whatever", "unknown": 1}, "x"),
    ({"pattern": "(?<name>x)"}, "y"),
    ({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}, 1),
    (True, 1),
    (TREE, {"name": "a", "of": [{"name": "b", "of": []}]}),
    ({"$ref": "#"}, 1),
    ({"properties": {"a/b": {"type": "string"}}, "$ref": "#/properties/a~1b"}, "x"),
]
MISFITS = [
    ({"type": "integer"}, True, "not of type integer"),
    ({"type": "integer"}, 1.5, "not of type integer"),
    ({"type": "integer"}, float("inf"), "not of type integer"),
    ({"type": ["string", "null"]}, 1, "not of type string or null"),
    ({"enum": [1]}, True, "not one of [1]"),
    ({"const": 1}, 2, "not 1"),
    ({"required": ["a"]}, {}, "'a' is missing"),
    ({"additionalProperties": False}, {"b": 1}, "b: not allowed"),
    ({"additionalProperties": {"type": "string"}}, {"b": 1}, "b: not of type string"),
    ({"items": {"type": "string"}}, ["a", 1], "1: not of type string"),
    ({"prefixItems": [{"type": "string"}]}, [1], "0: not of type string"),
    ({"anyOf": [{"type": "string"}]}, 1, "fits none of what it may be"),
    ({"oneOf": [{"type": "integer"}, {"minimum": 0}]}, 1, "fits 2 of"),
    ({"oneOf": [{"type": "string"}]}, 1, "fits none of"),
    ({"allOf": [{"minimum": 1}, {"maximum": 3}]}, 4, "maximum is 3"),
    ({"not": {"type": "string"}}, "x", "is what it must not be"),
    ({"pattern": "^a"}, "b", "does not match '^a'"),
    ({"minimum": 1}, 0, "minimum is 1"),
    ({"exclusiveMinimum": 1}, 1, "exclusiveMinimum is 1"),
    ({"exclusiveMaximum": 1}, 1, "exclusiveMaximum is 1"),
    ({"minLength": 2}, "a", "minLength is 2"),
    ({"maxLength": 0}, "a", "maxLength is 0"),
    ({"minItems": 1}, [], "minItems is 1"),
    ({"maxItems": 0}, [1], "maxItems is 0"),
    ({"minProperties": 1}, {}, "minProperties is 1"),
    ({"maxProperties": 0}, {"a": 1}, "maxProperties is 0"),
    ({"multipleOf": 2}, 3, "no multiple of 2"),
    ({"uniqueItems": True}, [1, 1.0], "holds something twice"),
    (False, 1, "not allowed"),
    (TREE, {"name": "a", "of": [{"of": []}]}, "of.0: 'name' is missing"),
]


@pytest.mark.parametrize(("schema", "value"), FITS)
def test_what_fits(schema, value):
    """Nothing is said."""
    assert schema_mismatch(value, schema) is None


@pytest.mark.parametrize(("schema", "value", "wording"), MISFITS)
def test_what_does_not_fit(schema, value, wording):
    """The place and the problem are named."""
    assert wording in (schema_mismatch(value, schema) or "")


def test_values_are_not_repeated():
    """They belong in no log."""
    assert "secret" not in (
        schema_mismatch({"a": "secret"}, {"properties": {"a": {"type": "null"}}}) or ""
    )

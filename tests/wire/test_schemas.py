"""Schemas of classes, functions and tools: recursive, open, and without an object at the root."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import RunnableGenerator, RunnableLambda
from langchain_core.tools import tool
from pydantic import BaseModel, ConfigDict, RootModel
from pydantic.v1 import BaseModel as BaseModelV1
from typing_extensions import TypedDict

from langchain_resilient import ResilientChatModel
from langchain_resilient.testing.json_schemas import schema_fault
from langchain_resilient.wire.schemas import is_open, is_recursive, to_function
from langchain_resilient.wire.structured_output import (
    OutputSpec,
    structured_params,
    structured_parser,
)
from langchain_resilient.wire.tool_calls import to_tools

METHODS = ["function_calling", "json_schema"]


class Tree(BaseModel):
    """A tree."""

    name: str
    children: list[Tree] = []


class Link(BaseModel):
    """One of a list."""

    number: int
    next: Link | None = None


class Egg(BaseModel):
    """What was first?"""

    laid_by: Hen | None = None


class Hen(BaseModel):
    """The other."""

    hatched_from: Egg | None = None


class TypedTree(TypedDict):
    """A tree."""

    name: str
    children: list[TypedTree]


JSON_TREE: dict[str, Any] = {
    "title": "my tree",
    "$defs": {
        "T": {
            "type": "object",
            "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/T"}}},
        }
    },
    "$ref": "#/$defs/T",
}
RECURSIVE = [
    (
        Tree,
        {"name": "a", "children": [{"name": "b", "children": []}]},
        {"name": "a", "children": [{}]},
    ),
    (
        Link,
        {"number": 1, "next": {"number": 2, "next": None}},
        {"number": 1, "next": {"number": "x"}},
    ),
    (Egg, {"laid_by": {"hatched_from": None}}, {"laid_by": 3}),
    (TypedTree, {"name": "a", "children": []}, {"name": "a", "children": [{"name": 1}]}),
    (JSON_TREE, {"children": [{"children": []}]}, {"children": [{"children": 3}]}),
]


class Counts(BaseModel):
    """How many of each."""

    counts: dict[str, int]


class Bag(BaseModel):
    """Anything."""

    things: list[dict]


class Perhaps(BaseModel):
    """Something or nothing."""

    counts: dict[str, int] | None = None


class Hens(BaseModel):
    """By their names."""

    hens: dict[str, Link]


class Loose(BaseModel):
    """With whatever else."""

    model_config = ConfigDict(extra="allow")
    number: int


class Free(BaseModel):
    """A value of any kind."""

    value: Any


class Table(RootModel[dict[str, int]]):
    """A table."""


class TypedCounts(TypedDict):
    """How many of each."""

    counts: dict[str, int]


JSON_COUNTS = {"title": "Counts", "type": "object", "properties": {"counts": {"type": "object"}}}
OPEN = [
    (Counts, {"counts": {"a": 1}}, {"counts": {"a": "x"}}),
    (Bag, {"things": [{"a": 1}]}, {"things": [1]}),
    (Perhaps, {"counts": {"a": 1}}, {"counts": {"a": "x"}}),
    (Hens, {"hens": {"a": {"number": 1, "next": None}}}, {"hens": {"a": {}}}),
    (Loose, {"number": 1, "more": 2}, {"more": 2}),
    (Free, {"value": {"a": 1}}, {}),
    (Table, {"a": 1}, {"a": "x"}),
    (TypedCounts, {"counts": {"a": 1}}, {"counts": {"a": "x"}}),
    (JSON_COUNTS, {"counts": {"a": 1}}, {"counts": 1}),
]


class Numbers(RootModel[list[int]]):
    """Some numbers."""


class OldNumbers(BaseModelV1):
    """Some numbers."""

    __root__: list[int]


LIST = {"title": "Numbers", "type": "array", "items": {"type": "integer"}}
UNION = {"anyOf": [{"type": "integer"}, {"type": "null"}]}
SELF: dict[str, Any] = {"title": "Nest", "type": "array", "items": {"$ref": "#"}}
READY = {"name": "numbers", "schema": {"type": "array", "items": {"type": "integer"}}}
NO_OBJECTS = [
    (Numbers, [1, 2], ["x"]),
    (RootModel[list[int]], [1, 2], ["x"]),
    (RootModel[Tree | Link], {"number": 1, "next": None}, {"neither": 1}),
    (OldNumbers, [1, 2], ["x"]),
    (LIST, [1, 2], ["x"]),
    (UNION, 3, "x"),
    (SELF, [[], [[]]], [1]),
    (READY, [1, 2], ["x"]),
    ({"type": "json_schema", "json_schema": READY}, [1, 2], ["x"]),
]


def asked(schema: Any, method: str, strict: bool | None = None) -> dict[str, Any]:
    """What a request says of a schema: its name, the schema itself, strict."""
    params = structured_params(schema, method, strict)
    if method == "json_schema":
        inner: dict[str, Any] = params["response_format"]["json_schema"]
        return inner
    function = params["tools"][0]["function"]
    return {**function, "schema": function["parameters"]}


def answered(schema: Any, method: str, value: Any) -> AIMessage:
    """An answer with a value in the form that was asked for."""
    if method != "function_calling":
        return AIMessage(json.dumps(value))
    call = {"name": asked(schema, method)["name"], "args": value, "id": "1"}
    return AIMessage("", tool_calls=[call])


def plain(value: Any) -> Any:
    """A parsed answer as JSON."""
    if isinstance(value, BaseModelV1):
        return value.dict().get("__root__", value.dict())
    return value.model_dump() if isinstance(value, BaseModel) else value


@pytest.mark.parametrize("strict", [None, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("schema", "good", "bad"), RECURSIVE)
def test_what_holds_itself_keeps_its_references(schema, good, bad, method, strict):
    """And its root is an object; a strict one is what OpenAI takes."""
    sent = asked(schema, method, strict)
    assert sent["schema"]["type"] == "object"
    assert is_recursive(sent["schema"])
    assert "{}" not in json.dumps(sent["schema"]).replace('"properties": {}', "")
    assert schema_fault(sent["schema"], strict=bool(sent.get("strict"))) is None
    assert strict is None or sent["strict"] is True
    judge = OutputSpec(schema, method)
    assert judge.fault(answered(schema, method, good)) is None
    assert judge.fault(answered(schema, method, bad)) is not None
    assert plain(structured_parser(schema, method).invoke(answered(schema, method, good))) == good


@pytest.mark.parametrize("method", [*METHODS, "json_mode"])
@pytest.mark.parametrize(("schema", "good"), [row[:2] for row in RECURSIVE])
def test_what_holds_itself_is_answered_through_a_model(schema, good, method):
    """LangChain converts it once more, for traces."""

    def answer(_: Any) -> AIMessage:
        return answered(schema, method, good)

    llm = ResilientChatModel(targets=[RunnableLambda(answer)])
    assert plain(llm.with_structured_output(schema, method=method).invoke("json")) == good


@pytest.mark.parametrize("strict", [None, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("schema", "good", "bad"), OPEN)
def test_an_open_object_stays_open(schema, good, bad, method, strict):
    """It cannot be strict, whoever asks for it: a strict one may hold nothing."""
    sent = asked(schema, method, strict)
    assert not sent.get("strict")
    assert is_open(sent["schema"])
    assert schema_fault(sent["schema"], strict=False) is None
    judge = OutputSpec(schema, method)
    assert judge.fault(answered(schema, method, good)) is None
    assert judge.fault(answered(schema, method, bad)) is not None
    assert plain(structured_parser(schema, method).invoke(answered(schema, method, good))) == good


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("schema", "good", "bad"), NO_OBJECTS)
def test_what_is_no_object_is_wrapped_and_unwrapped(schema, good, bad, method):
    """Models answer with objects only; the caller sees the value itself."""
    sent = asked(schema, method)
    assert sent["schema"]["type"] == "object"
    assert list(sent["schema"]["properties"]) == ["value"]
    assert schema_fault(sent["schema"], strict=bool(sent.get("strict"))) is None
    judge = OutputSpec(schema, method)
    assert judge.fault(answered(schema, method, {"value": good})) is None
    for wrong in ({"value": bad}, {}, {"other": 1}):
        assert judge.fault(answered(schema, method, wrong)) is not None
    parser = structured_parser(schema, method)
    value = parser.invoke(answered(schema, method, {"value": good}))
    assert plain(value) == good
    assert not isinstance(schema, type) or isinstance(value, schema)
    with pytest.raises(OutputParserException):
        parser.invoke(answered(schema, method, {}))


async def test_a_wrapped_value_grows_in_a_stream():
    """In both kinds of streams."""

    def chunks(_):
        for piece in ['{"val', 'ue": [1', ", 2", "]}"]:
            yield AIMessageChunk(piece)

    async def achunks(_):
        for piece in chunks(_):
            yield piece

    chain = RunnableGenerator(chunks, achunks) | structured_parser(LIST, "json_schema")
    assert list(chain.stream("")) == [[1], [1, 2]]
    assert [value async for value in chain.astream("")] == [[1], [1, 2]]


@pytest.mark.parametrize(("schema", "good", "bad"), NO_OBJECTS)
def test_json_mode_asks_for_no_wrapper(schema, good, bad):
    """It cannot tell the model of one."""
    judge = OutputSpec(schema, "json_mode")
    assert judge.fault(AIMessage(json.dumps(good))) is None
    for wrong in (bad, {"value": good}, {}):
        assert judge.fault(AIMessage(json.dumps(wrong))) is not None
    parsed = structured_parser(schema, "json_mode").invoke(AIMessage(json.dumps(good)))
    assert plain(parsed) == good


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("title", ["my joke", "über", "a/b"])
def test_names_are_such_as_apis_take(method, title):
    """A title is written for people."""
    schema = {"title": title, "type": "object", "properties": {"a": {"type": "string"}}}
    assert asked(schema, method)["name"] == asked(schema, method)["name"].encode().decode("ascii")
    assert structured_parser(schema, method).invoke(answered(schema, method, {"a": "x"})) == {
        "a": "x"
    }


@pytest.mark.parametrize("schema", [list[int], dict[str, int], int | None, 3, "text"])
def test_what_is_no_schema_is_said(schema):
    """Before anything is asked."""
    with pytest.raises(ValueError, match="is no schema; it may be"):
        structured_params(schema, "json_schema")


def plant(tree: Tree, labels: dict[str, str]) -> str:
    """Plant a tree."""
    return f"{tree.name} {labels}"


@pytest.mark.parametrize("source", [plant, tool(plant)])
@pytest.mark.parametrize("strict", [None, True])
def test_tools_keep_references_and_open_objects(source, strict):
    """As functions and as LangChain's tools."""
    (made,) = to_tools([source], strict)
    parameters = made["function"]["parameters"]
    assert is_recursive(parameters)
    assert parameters["properties"]["labels"]["additionalProperties"] != False  # noqa: E712
    assert not made["function"].get("strict")


def test_what_openai_refuses_is_completed():
    """Objects get `properties`, arrays get `items`, and neither forbids anything by it."""
    parts = {"a": {"type": "array"}, "b": {"type": "object"}, "c": {"anyOf": [{"type": "array"}]}}
    given = {"name": "f", "parameters": {"type": "object", "properties": parts}}
    for source in (given, {"type": "function", "function": given}):
        assert to_function(source)["parameters"]["properties"] == {
            "a": {"type": "array", "items": {}},
            "b": {"type": "object", "properties": {}, "additionalProperties": True},
            "c": {"anyOf": [{"type": "array", "items": {}}]},
        }
    assert parts["a"] == {"type": "array"}
    assert to_function({"name": "f", "parameters": {"type": "object"}})["parameters"] == {
        "type": "object",
        "properties": {},
    }

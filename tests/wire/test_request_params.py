"""Python objects in a call's arguments become plain parameters, or one ValueError."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.tools import tool
from pydantic import BaseModel

from langchain_resilient.wire.request_params import convert_params


class Person(BaseModel):
    """A person."""

    name: str


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


READY = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {}}
CHOSEN = {"type": "function", "function": {"name": "add"}}


def converted(**params: Any) -> dict[str, Any]:
    """The parameters that are sent."""
    convert_params(params)
    return params


FORMS = {"function": add, "tool": tool(add), "class": Person, "dict": READY}


@pytest.mark.parametrize("given", FORMS.values(), ids=FORMS)
def test_tools_in_every_form(given):
    """A function, a LangChain tool, a class, a dict."""
    (made,) = converted(tools=[given])["tools"]
    assert made["type"] == "function"
    assert made["function"]["name"] in ("add", "Person")
    assert "properties" in made["function"]["parameters"]


def test_functions_and_formats():
    """As `functions=` and `response_format=` take them at OpenAI."""
    assert converted(functions=[add])["functions"][0]["name"] == "add"
    made = converted(response_format=Person)["response_format"]
    assert made["json_schema"]["name"] == "Person"
    schema = {"title": "Person", "type": "object", "properties": {"name": {"type": "string"}}}
    made = converted(response_format=schema)["response_format"]
    assert (made["type"], made["json_schema"]["name"]) == ("json_schema", "Person")
    for ready in ({"type": "json_object"}, {"type": "regex", "pattern": "a"}, None):
        assert converted(response_format=ready)["response_format"] is ready


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "any"}, "required"),
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "add"}, CHOSEN),
        ({"type": "function", "name": "add"}, CHOSEN),
        ({"function": {"name": "add"}}, CHOSEN),
        ({"name": "add"}, CHOSEN),
        ({"any": {}}, "required"),
        ({"auto": {}}, "auto"),
        ({"tool": {"name": "add"}}, CHOSEN),
        ({"function_calling_config": {"mode": "ANY"}}, "required"),
        ({"function_calling_config": {"mode": "NONE"}}, "none"),
        (CHOSEN, CHOSEN),
        ("any", "required"),
        (True, "required"),
        ("add", CHOSEN),
        ("required", "required"),
        (ALLOWED, ALLOWED),
    ],
)  # fmt: skip
def test_choices_of_every_provider(choice, expected):
    """OpenAI's two forms, Anthropic's, Amazon's, Google's."""
    assert converted(tools=[add], tool_choice=choice)["tool_choice"] == expected


@pytest.mark.parametrize("choice", [None, False])
def test_no_choice_is_none(choice):
    """It is left out."""
    assert "tool_choice" not in converted(tools=[add], tool_choice=choice)


@pytest.mark.parametrize("tools", [[], None, ()])
def test_no_tools_are_left_out(tools):
    """With all that is said of them: OpenAI refuses an empty list."""
    given = {"tools": tools, "tool_choice": "auto", "parallel_tool_calls": False, "seed": 1}
    assert converted(**given) == {"seed": 1}


def test_a_choice_without_tools_stays():
    """The tools may be a target's own."""
    assert converted(tool_choice="auto") == {"tool_choice": "auto"}


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"tools": [3]}, r"tools\[0\] \(int\) is no tool"),
        ({"functions": [3]}, r"functions\[0\] is no function"),
        ({"tools": [{**READY, "x": object()}]}, r"tools= cannot be sent"),
        ({"response_format": 3}, "response_format=3 is none"),
        ({"response_format": {"type": "regex", "pattern": object()}}, "response_format= cannot be"),
        ({"tools": [add], "tool_choice": {"type": "tool", "name": "sub"}}, "'sub', which is not"),
        ({"tools": [add], "tool_choice": 3}, "tool_choice=3 is not possible"),
    ],
)  # fmt: skip
def test_what_cannot_be_sent_is_said(params, words):
    """Once, by name, before anybody is asked."""
    with pytest.raises(ValueError, match=words):
        convert_params(params)

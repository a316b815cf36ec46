"""Tools and the choice among them."""

from typing import TypedDict

import pytest
from langchain_core.tools import tool
from pydantic import BaseModel

from langchain_resilient.wire.tool_calls import to_tool_choice, to_tools


class Person(BaseModel):
    """A person."""

    name: str


class Pet(TypedDict):
    """A pet."""

    name: str


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


ANTHROPIC = {"name": "pick", "description": "Pick.", "input_schema": {"type": "object"}}
TOOLS = to_tools([add, Person])


@pytest.mark.parametrize(
    ("thing", "name"),
    [(add, "add"), (tool(add), "add"), (Person, "Person"), (Pet, "Pet"), (ANTHROPIC, "pick")],
)
def test_all_kinds_of_tools(thing, name):
    """Functions, LangChain tools, classes and dicts become functions with names."""
    (result,) = to_tools([thing])
    assert result["type"] == "function"
    assert result["function"]["name"] == name


def test_strict_tools():
    """`strict` is said only where it is given."""
    assert "strict" not in to_tools([add])[0]["function"]
    assert to_tools([add], strict=True)[0]["function"]["strict"] is True


def test_no_tool():
    """What is no tool is named by its place and type."""
    with pytest.raises(ValueError, match=r"tools\[1\] \(int\) is no tool"):
        to_tools([add, 3])


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, None),
        (False, None),
        (True, "required"),
        ("any", "required"),
        ("required", "required"),
        ("auto", "auto"),
        ("none", "none"),
        ("add", {"type": "function", "function": {"name": "add"}}),
        (
            {"type": "function", "function": {"name": "Person"}},
            {"type": "function", "function": {"name": "Person"}},
        ),
        ({"type": "allowed_tools"}, {"type": "allowed_tools"}),
    ],
)
def test_choices(choice, expected):
    """Each way to choose becomes OpenAI's."""
    assert to_tool_choice(choice, TOOLS) == expected


def test_a_tool_named_like_a_mode():
    """The name of a tool goes before the name of a mode."""
    tools = [{"type": "function", "function": {"name": "any"}}]
    assert to_tool_choice("any", tools) == {"type": "function", "function": {"name": "any"}}


def test_built_in_tools():
    """A provider's own tool is chosen by its type."""
    assert to_tool_choice("web_search", [{"type": "web_search"}]) == {"type": "web_search"}


@pytest.mark.parametrize("choice", ["sub", 3, {"type": "function", "function": {"name": "sub"}}])
def test_impossible_choices(choice):
    """A wrong choice is refused with the names that are possible."""
    with pytest.raises(ValueError, match=r"tool_choice.*bound.*'add', 'Person'"):
        to_tool_choice(choice, TOOLS)


@pytest.mark.parametrize("tool", [
    {"type": "web_search_20250305", "name": "web_search", "max_uses": 3},
    {"type": "mcp", "server_label": "x", "server_url": "https://example.org"},
    {"type": "custom", "custom": {"name": "shell"}},
], ids=lambda tool: tool["type"])  # fmt: skip
def test_a_providers_own_tool_stays_what_it_is(tool):
    """It is no function without arguments."""
    assert to_tools([tool]) == [tool]


def test_a_custom_tool_of_the_responses_api_is_one_of_chat_completions():
    """Which puts what it is called one level below."""
    (tool,) = to_tools([{"type": "custom", "name": "shell", "description": "Run."}])
    assert tool == {"type": "custom", "custom": {"name": "shell", "description": "Run."}}


def test_anthropics_custom_tools_are_functions():
    """The same word in another sense: they have a schema."""
    (tool,) = to_tools([{"type": "custom", **ANTHROPIC}])
    assert tool["type"] == "function"
    assert tool["function"]["name"] == "pick"

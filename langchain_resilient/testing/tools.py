"""Whether the simulated model calls tools, which ones, and with what.

The rule:

- A forced tool is called. With `required` (or `any`) the best fitting tool is called, whatever
  the prompt says. With `none`, or without tools, nothing is called.
- With `auto` a tool is called for each of these: the prompt names it (`magic_function(3)`, "use
  magic_function"); it shares a telling word with the tool's name or description ("weather" and
  `get_weather`), where the tool with most of them wins; or the tool wants only numbers and the
  prompt has enough of them ("What is 1 + 2" and `my_adder_tool`).
- A prompt with several values for a tool's only argument makes one call for each
  ("the weather in Paris and Rome"), at once or, without `parallel_tool_calls`, one a turn.
- With `auto`, what was called since the last user message is not called again.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_resilient.testing.clues import Clues
from langchain_resilient.testing.schemas import instance, resolved

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_resilient.testing.schemas import Schema

_OPERATORS = {
    "+": ("add", "sum", "plus"),
    "*": ("mul", "times", "product"),
    "-": ("sub", "minus", "diff"),
    "/": ("div", "ratio"),
}
_DULL_WORDS = (
    "about add after also answer arguments argument asked based before call called calculate"
    " current data execute fetch find from function functions generate get gets given have info"
    " information input into list lookup make name number output particular perform please provide"
    " provided query question result results return returns returned search send should specific"
    " string that their them this tool tools type used useful user using value values what when"
    " which will with word words your"
)
_WORD = re.compile(r"[a-zA-Z]{4,}")
_TELLING = 6  # a word of a description must be this long to tell anything


def _stem(word: str) -> str:
    """Take the plural off, so that "jokes" and "joke" are one word."""
    word = word.lower()
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


_DULL = {_stem(word) for word in _DULL_WORDS.split()}


@dataclass(frozen=True)
class ToolCall:
    """One call of a tool.

    Attributes:
        name: The tool.
        arguments: Its arguments as JSON text; anything else than text is turned into it.
        id: What a tool message answers to; made up where it is empty.

    Example:
        ```python
        Reply(tool_calls=[ToolCall("get_weather", {"location": "Paris"})])
        ```
    """

    name: str
    arguments: str = "{}"
    id: str = ""

    def __init__(self, name: str, arguments: Mapping[str, Any] | str = "{}", id: str = "") -> None:  # noqa: A002 - the API's own word
        text = arguments if isinstance(arguments, str) else _json(arguments)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "arguments", text)
        object.__setattr__(self, "id", id)

    @classmethod
    def of(cls, call: ToolCall | Mapping[str, Any]) -> ToolCall:
        """Read a call in any of the usual shapes: LangChain's `args` or the API's `arguments`."""
        if isinstance(call, ToolCall):
            return call
        inner = call.get("function", call)
        arguments = inner.get("args", inner.get("arguments", "{}"))
        return cls(inner["name"], arguments, call.get("id") or "")


def planned_calls(body: Mapping[str, Any], prompt: str) -> list[ToolCall]:
    """Decide which tools to call now.

    Args:
        body: The request.
        prompt: Its last user message.

    Returns:
        The calls, without ids; none to answer with text.
    """
    tools = _functions(body)
    choice = body.get("tool_choice") or "auto"
    if not tools or choice == "none":
        return []
    allowed = choice.get("allowed_tools") if isinstance(choice, dict) else None
    if allowed:
        names = {tool.get("function", tool).get("name") for tool in allowed.get("tools", [])}
        tools = {name: tool for name, tool in tools.items() if name in names}
        choice = allowed.get("mode", "auto")
    if isinstance(choice, dict):
        name = (choice.get("function") or choice).get("name")
        return _calls(tools[name], prompt)[:1] if name in tools else []
    chosen = _chosen(tools, prompt)
    if not chosen and choice in {"required", "any"}:
        chosen = [next(iter(tools))]
    calls = [call for name in chosen for call in _calls(tools[name], prompt)]
    if choice == "auto":
        calls = calls[_calls_made(body.get("messages") or []) :]
    return calls[:1] if body.get("parallel_tool_calls") is False else calls


def forces_one_tool(body: Mapping[str, Any]) -> bool:
    """Tell whether `tool_choice` names one tool."""
    choice = body.get("tool_choice")
    return isinstance(choice, dict) and "allowed_tools" not in choice


def _functions(body: Mapping[str, Any]) -> dict[str, Schema]:
    found = {}
    for tool in body.get("tools") or []:
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            found[function["name"]] = function
    return found


def _calls_made(messages: Sequence[Mapping[str, Any]]) -> int:
    """Count the calls since the last user message."""
    made = 0
    for message in reversed(messages):
        if message.get("role") == "user":
            break
        made += len(message.get("tool_calls") or [])
    return made


def _chosen(tools: dict[str, Schema], prompt: str) -> list[str]:
    clues = Clues(prompt)
    named = [name for name in tools if clues.mentions(name)]
    if named:
        return sorted(named, key=lambda name: prompt.lower().find(name.lower()))
    said = {_stem(word) for word in _WORD.findall(prompt)}
    shared = {name: _telling_words(tool) & said for name, tool in tools.items()}
    chosen: list[str] = []
    covered: set[str] = set()
    for name in sorted(tools, key=lambda name: -len(shared[name])):
        if shared[name] - covered:
            chosen.append(name)
            covered |= shared[name]
    return chosen or _calculator(tools, clues)


def _calculator(tools: dict[str, Schema], clues: Clues) -> list[str]:
    """Find the tool that wants nothing but numbers, by its operator if there are several."""
    fitting = [
        name
        for name, tool in tools.items()
        if (kinds := _required_kinds(tool))
        and set(kinds) <= {"integer", "number"}
        and len(kinds) <= len(clues.numbers)
    ]
    for sign, stems in _OPERATORS.items():
        if re.search(rf"\d ?{re.escape(sign)} ?\d", clues.text):
            known = [name for name in fitting if any(stem in name.lower() for stem in stems)]
            return (known or fitting)[:1]
    return fitting[:1]


def _required_kinds(tool: Schema) -> list[str]:
    parameters = _parameters(tool)
    properties = parameters.get("properties") or {}
    wanted = parameters.get("required") or list(properties)
    return [
        str(resolved(properties.get(name, {}), parameters).get("type", "string")) for name in wanted
    ]


def _calls(tool: Schema, prompt: str) -> list[ToolCall]:
    name = tool["name"]
    parameters = _parameters(tool)
    written = re.findall(rf"(?<!\w){re.escape(name)}\(([^()]*)\)", prompt)
    if written and any(written):
        texts = list(dict.fromkeys(written))
        return [ToolCall(name, _json(instance(parameters, Clues(text)))) for text in texts]
    kinds = _required_kinds(tool)
    clues = Clues(prompt)
    several = {"string": len(clues.places or clues.quoted), "integer": len(clues.numbers)}
    count = max(several.get(kinds[0], 1), 1) if len(kinds) == 1 else 1
    return [ToolCall(name, _json(instance(parameters, clues))) for _ in range(count)]


def _parameters(tool: Schema) -> Schema:
    parameters = tool.get("parameters")
    return parameters if isinstance(parameters, dict) else {"type": "object", "properties": {}}


def _telling_words(tool: Schema) -> set[str]:
    name = re.sub(r"([a-z])([A-Z])", r"\1 \2", tool["name"]).replace("_", " ")
    words = set(_WORD.findall(name))
    words |= {w for w in _WORD.findall(str(tool.get("description") or "")) if len(w) >= _TELLING}
    return {_stem(word) for word in words} - _DULL


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

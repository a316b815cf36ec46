"""The ways to have JSON from a model, and from each to the answer that another would have given.

One request asks in one way: `response_format` with a schema, a tool that must be called, or JSON
mode. Not every model takes each of them, but any can be asked in the others, and in plain words.
What comes back is turned, chunk by chunk, into what was asked for: whoever reads the answer need
not know how it was had.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from langchain_resilient.wire.chunk_parser import parse_choice
from langchain_resilient.wire.tool_calls import ToolCallAssembler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_resilient.exchange import Chunk


_THINKS, _THOUGHT = "<think>", "</think>"


class JSONExtractor:
    r"""Passes on the first JSON object of a text that comes in pieces.

    It knows brackets and strings, and nothing else of JSON: whether it is valid, the reader says.

    Example:
        ```python
        text = JSONText()
        text.feed('Sure: ```json\n{"a": ')  # '{"a": '
        text.feed("1}\n``` Anything else?")  # '1}'
        ```
    """

    __slots__ = ("_before", "_depth", "_escaped", "_in_string", "_over")

    def __init__(self) -> None:
        self._before = ""
        self._depth = 0
        self._escaped = False
        self._in_string = False
        self._over = False

    def feed(self, piece: str) -> str:
        """Take a piece, give what of it belongs to the object."""
        if self._over:
            return ""
        if not self._depth:
            piece = self._beginning(piece)
        return piece[: self._end(piece)]

    def rest(self) -> str:
        """At the end: all that was said if it held no object, for the reader to complain about."""
        said, self._before = self._before, ""
        return "" if self._depth or self._over else said

    def _beginning(self, piece: str) -> str:
        self._before += piece
        _, closed, after = self._before.rpartition(_THOUGHT)
        if not closed and self._before.lstrip().startswith(_THINKS):
            return ""
        return after[after.find("{") :] if "{" in after else ""

    def _end(self, piece: str) -> int:
        """Find where the object ends; the length of the piece if it does not end in it."""
        for place, letter in enumerate(piece):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = letter == "\\"
                self._in_string = letter != '"'
            elif letter == '"':
                self._in_string = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if not self._depth:
                    self._over = True
                    return place + 1
        return len(piece)


JSONMode = Literal["json_schema", "tools", "json_object", "prompt"]


_FORCED = ("tool_choice", "parallel_tool_calls")


@dataclass(frozen=True, slots=True)
class RequestedJSON:
    """The JSON that a request asks for.

    Attributes:
        asked: The way it is asked for.
        ways: All ways to ask for it, that one first.
        name: Of the schema or the tool.
        description: What it is for.
        schema: The JSON schema; None in JSON mode, which knows none.
    """

    asked: JSONMode
    ways: tuple[JSONMode, ...]
    name: str = "output"
    description: str | None = None
    schema: Mapping[str, Any] | None = None


def requested_json(body: Mapping[str, Any]) -> RequestedJSON | None:
    """Find out whether a request asks for JSON; None if any text, or any tool, would do.

    Args:
        body: In the chat-completions dialect.
    """
    shape = body.get("response_format")
    if isinstance(shape, dict):
        return _requested_text(shape, offers_tools=bool(body.get("tools")))
    tool = _forced_tool(body)
    if tool is None:
        return None
    ways: tuple[JSONMode, ...] = ("tools", "json_schema", "json_object", "prompt")
    schema = tool.get("parameters") or {"type": "object", "properties": {}}
    return RequestedJSON("tools", ways, tool["name"], tool.get("description"), schema)


def _requested_text(shape: Mapping[str, Any], *, offers_tools: bool) -> RequestedJSON | None:
    if shape.get("type") == "json_object":
        return RequestedJSON("json_object", ("json_object", "prompt"), schema=shape.get("schema"))
    inner = shape.get("json_schema")
    if shape.get("type") != "json_schema" or not isinstance(inner, dict):
        return None
    # Beside an agent's own tools one more could not be forced without forbidding those.
    tools: tuple[JSONMode, ...] = () if offers_tools else ("tools",)
    ways: tuple[JSONMode, ...] = ("json_schema", *tools, "json_object", "prompt")
    name = inner.get("name") or "output"
    return RequestedJSON("json_schema", ways, name, inner.get("description"), inner.get("schema"))


def _forced_tool(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """Find the one function that must be called."""
    choice, tools = body.get("tool_choice"), body.get("tools") or ()
    if not choice or choice in ("auto", "none"):
        return None
    functions = [f for t in tools if isinstance(f := t.get("function"), dict) and f.get("name")]
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name")
        functions = [f for f in functions if f["name"] == name]
    return functions[0] if len(functions) == 1 else None


def reshape(body: dict[str, Any], want: RequestedJSON, way: JSONMode) -> dict[str, Any]:
    """Ask for the same in another way.

    Args:
        body: As `requested_json` saw it; it stays as it is.
        want: What that found.
        way: One of `want.ways`.

    Returns:
        A new body, which shares what did not change.
    """
    if way == want.asked:
        return body
    left_out = {"response_format"}
    if want.asked == "tools":
        left_out |= {"tools", *_FORCED}
    new = {name: value for name, value in body.items() if name not in left_out}
    described = {"description": want.description} if want.description else {}
    if way == "tools":
        # Strict schemas know less than others: what refused one way might refuse the other for it.
        function = {"name": want.name, **described, "parameters": want.schema or {}}
        new["tools"] = [{"type": "function", "function": function}]
        new["tool_choice"] = {"type": "function", "function": {"name": want.name}}
    elif way == "json_schema":
        inner = {"name": want.name, **described, "schema": want.schema, "strict": False}
        new["response_format"] = {"type": "json_schema", "json_schema": inner}
    elif way == "json_object":
        new["response_format"] = {"type": "json_object"}
    if said := instruction(want, way):
        new["messages"] = with_instruction(new.get("messages") or [], said)
    return new


def instruction(want: RequestedJSON, way: JSONMode) -> str | None:
    """Say in words what is wanted, where the API is not told."""
    if way not in ("json_object", "prompt") or way == want.asked:
        return None
    if want.schema is None:
        return "Answer with one JSON object and nothing else: no explanation, no Markdown."
    purpose = f" ({want.description})" if want.description else ""
    schema = json.dumps(want.schema, ensure_ascii=False)
    return (
        f"Answer with one JSON object {want.name!r}{purpose} and nothing else: no explanation, no "
        f"Markdown. It must be an instance of this JSON schema, not the schema itself:\n{schema}"
    )


def with_instruction(messages: Sequence[dict[str, Any]], said: str) -> list[dict[str, Any]]:
    """Add an instruction to the end of a conversation.

    It goes into the user's own message if that is the last one: many chat templates want the roles
    to take turns.
    """
    last = messages[-1] if messages else {}
    if last.get("role") != "user":
        return [*messages, {"role": "user", "content": said}]
    content = last.get("content") or ""
    if isinstance(content, str):
        new: Any = f"{content}\n\n{said}"
    else:
        new = [*content, {"type": "text", "text": said}]
    return [*messages[:-1], {**last, "content": new}]


class JSONModeConverter:
    """Turns the answer to one way of asking into the answer to another. Each answer needs its own.

    Args:
        want: What was asked for.
        way: How it was had instead.
    """

    __slots__ = ("_choices", "_want", "_way")

    def __init__(self, want: RequestedJSON, way: JSONMode) -> None:
        self._want = want
        self._way: JSONMode = way
        self._choices: dict[Any, _ChoiceConverter] = {}

    def turn(self, chunk: Chunk) -> Chunk:
        """Turn one chunk, or one whole completion, in place."""
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                index = choice.get("index")
                self._state(index if isinstance(index, int | float) else 0).turn(choice)
        return chunk

    def _state(self, index: Any) -> _ChoiceConverter:
        found = self._choices.get(index)
        if found is None:
            found = self._choices[index] = _ChoiceConverter(self._want, self._way)
        return found


class _ChoiceConverter:
    """The state of one choice."""

    def __init__(self, want: RequestedJSON, way: JSONMode) -> None:
        self._calls = way == "tools"
        self._name = want.name if want.asked == "tools" else None
        self._json = JSONExtractor()
        self._said = ""
        self._tools = ToolCallAssembler()
        self._begun = False

    def turn(self, choice: dict[str, Any]) -> None:
        """Turn one choice of one chunk, in place."""
        choice.pop("text", None)  # what Together repeats beside the delta
        reason = choice.get("finish_reason")
        for place in ("delta", "message"):
            part = choice.get(place)
            if isinstance(part, dict):
                self._turn(part, ends=place == "message" or bool(reason))
        if reason in ("stop", "tool_calls", "eos"):
            choice["finish_reason"] = "tool_calls" if self._name and self._begun else "stop"

    def _turn(self, part: dict[str, Any], *, ends: bool) -> None:
        said = part.pop("content", None)
        said = said if isinstance(said, str) else ""
        text = self._arguments(part, said) if self._calls else self._json.feed(said)
        rest = ""
        if ends:
            if self._calls and not self._begun:  # it was said, not called
                text, self._said = self._json.feed(self._said), ""
            rest = self._json.rest()
        if self._name is None:
            part["content"] = text + rest
        else:
            part["content"] = rest
            if text:
                part["tool_calls"] = [self._call(text)]

    def _arguments(self, part: dict[str, Any], text: str) -> str:
        """Read the first call's arguments; what is said before it is a remark."""
        self._said += text
        fragments = parse_choice({"delta": {"tool_calls": part.pop("tool_calls", None)}}).calls
        added = [self._tools.add(fragment) for fragment in fragments]
        found = "".join(args for place, _, _, args in added if not place and args)
        self._begun = self._begun or bool(found)
        return found

    def _call(self, text: str) -> dict[str, Any]:
        if self._begun:
            return {"index": 0, "function": {"arguments": text}}
        self._begun = True
        function = {"name": self._name, "arguments": text}
        return {"index": 0, "type": "function", "function": function}

"""Ask for JSON in another mode than the caller did, and convert the answer back.

There are four modes: `response_format` with a schema, a tool that must be called, JSON mode, and
plain words in the prompt. Not every model takes every mode, so `reshape` rewrites a request from
one to another, and `JSONModeConverter` turns the answer, chunk by chunk, into the form that the
caller asked for: nobody downstream has to know which mode was used.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from langchain_resilient.wire.chunk_parser import parse_choice
from langchain_resilient.wire.tool_call_assembler import ToolCallAssembler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_resilient.exchange import Chunk


_THINKS, _THOUGHT = "<think>", "</think>"


class JSONExtractor:
    r"""Extracts the first JSON object from a text that comes in pieces.

    It only tracks brackets and strings. Whether the object is valid JSON is for the parser to say.

    Example:
        ```python
        extractor = JSONExtractor()
        extractor.feed('Sure: ```json\n{"a": ')  # '{"a": '
        extractor.feed("1}\n``` Anything else?")  # '1}'
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
        """Return the part of a piece that belongs to the object."""
        if self._over:
            return ""
        if not self._depth:
            piece = self._beginning(piece)
        return piece[: self._end(piece)]

    def rest(self) -> str:
        """Return, at the end, all of the text if it held no object: the parser will say so."""
        text, self._before = self._before, ""
        return "" if self._depth or self._over else text

    def _beginning(self, piece: str) -> str:
        self._before += piece
        _, closed, after = self._before.rpartition(_THOUGHT)
        if not closed and self._before.lstrip().startswith(_THINKS):
            return ""
        return after[after.find("{") :] if "{" in after else ""

    def _end(self, piece: str) -> int:
        """Return the index at which the object ends; the length of the piece if it goes on."""
        for position, character in enumerate(piece):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = character == "\\"
                self._in_string = character != '"'
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if not self._depth:
                    self._over = True
                    return position + 1
        return len(piece)


JSONMode = Literal["json_schema", "tools", "json_object", "prompt"]
_FORCED = ("tool_choice", "parallel_tool_calls")


@dataclass(frozen=True, slots=True)
class RequestedJSON:
    """The JSON that a request asks for.

    Attributes:
        original_mode: The mode in which the caller asks.
        modes: All modes in which it can be asked for, the original one first.
        name: The name of the schema or the tool.
        description: Its description.
        schema: The JSON schema; None in JSON mode, which has none.
    """

    original_mode: JSONMode
    modes: tuple[JSONMode, ...]
    name: str = "output"
    description: str | None = None
    schema: Mapping[str, Any] | None = None


def requested_json(body: Mapping[str, Any]) -> RequestedJSON | None:
    """Return the JSON that a request asks for; None if any text, or any tool, would do.

    Args:
        body: In the chat-completions dialect.
    """
    shape = body.get("response_format")
    if isinstance(shape, dict):
        return _requested_text(shape, offers_tools=bool(body.get("tools")))
    tool = _forced_tool(body)
    if tool is None:
        return None
    modes: tuple[JSONMode, ...] = ("tools", "json_schema", "json_object", "prompt")
    schema = tool.get("parameters") or {"type": "object", "properties": {}}
    return RequestedJSON("tools", modes, tool["name"], tool.get("description"), schema)


def _requested_text(shape: Mapping[str, Any], *, offers_tools: bool) -> RequestedJSON | None:
    if shape.get("type") == "json_object":
        return RequestedJSON("json_object", ("json_object", "prompt"), schema=shape.get("schema"))
    inner = shape.get("json_schema")
    if shape.get("type") != "json_schema" or not isinstance(inner, dict):
        return None
    # Beside an agent's own tools one more could not be forced without forbidding those.
    tools: tuple[JSONMode, ...] = () if offers_tools else ("tools",)
    modes: tuple[JSONMode, ...] = ("json_schema", *tools, "json_object", "prompt")
    name = inner.get("name") or "output"
    return RequestedJSON("json_schema", modes, name, inner.get("description"), inner.get("schema"))


def _forced_tool(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the one function that must be called, if there is one."""
    choice, tools = body.get("tool_choice"), body.get("tools") or ()
    if not choice or choice in ("auto", "none"):
        return None
    functions = [f for t in tools if isinstance(f := t.get("function"), dict) and f.get("name")]
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name")
        functions = [f for f in functions if f["name"] == name]
    return functions[0] if len(functions) == 1 else None


def reshape(body: dict[str, Any], requested: RequestedJSON, mode: JSONMode) -> dict[str, Any]:
    """Rewrite a request so that it asks for the same JSON in another mode.

    Args:
        body: The body that `requested_json` read; it is not changed.
        requested: What `requested_json` returned.
        mode: One of `requested.modes`.

    Returns:
        A new body, which shares whatever did not change.
    """
    if mode == requested.original_mode:
        return body
    left_out = {"response_format"}
    if requested.original_mode == "tools":
        left_out |= {"tools", *_FORCED}
    new = {name: value for name, value in body.items() if name not in left_out}
    described = {"description": requested.description} if requested.description else {}
    if mode == "tools":
        # Not strict: strict schemas allow fewer keywords, so the target might refuse this one too.
        function = {"name": requested.name, **described, "parameters": requested.schema or {}}
        new["tools"] = [{"type": "function", "function": function}]
        new["tool_choice"] = {"type": "function", "function": {"name": requested.name}}
    elif mode == "json_schema":
        inner = {"name": requested.name, **described, "schema": requested.schema, "strict": False}
        new["response_format"] = {"type": "json_schema", "json_schema": inner}
    elif mode == "json_object":
        new["response_format"] = {"type": "json_object"}
    if text := instruction(requested, mode):
        new["messages"] = with_instruction(new.get("messages") or [], text)
    return new


def instruction(requested: RequestedJSON, mode: JSONMode) -> str | None:
    """Describe the wanted JSON in words, for the modes whose API parameters do not."""
    if mode not in ("json_object", "prompt") or mode == requested.original_mode:
        return None
    if requested.schema is None:
        return "Answer with one JSON object and nothing else: no explanation, no Markdown."
    purpose = f" ({requested.description})" if requested.description else ""
    name, schema = requested.name, json.dumps(requested.schema, ensure_ascii=False)
    return (
        f"Answer with one JSON object {name!r}{purpose} and nothing else: no explanation, no "
        f"Markdown. It must be an instance of this JSON schema, not the schema itself:\n{schema}"
    )


def with_instruction(messages: Sequence[dict[str, Any]], added: str) -> list[dict[str, Any]]:
    """Add an instruction to the end of a conversation.

    It is added to the last message if that is the user's: many chat templates require the roles to
    alternate.
    """
    last = messages[-1] if messages else {}
    if last.get("role") != "user":
        return [*messages, {"role": "user", "content": added}]
    content = last.get("content") or ""
    if isinstance(content, str):
        new: Any = f"{content}\n\n{added}"
    else:
        new = [*content, {"type": "text", "text": added}]
    return [*messages[:-1], {**last, "content": new}]


class JSONModeConverter:
    """Converts an answer from the mode that was used to the one that the caller asked for.

    Each answer needs a converter of its own.

    Args:
        requested: What the caller asked for.
        mode: The mode in which the target was asked.
    """

    __slots__ = ("_choices", "_mode", "_requested")

    def __init__(self, requested: RequestedJSON, mode: JSONMode) -> None:
        self._requested = requested
        self._mode: JSONMode = mode
        self._choices: dict[Any, _ChoiceConverter] = {}

    def convert(self, chunk: Chunk) -> Chunk:
        """Convert one chunk, or one whole completion, in place."""
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                index = choice.get("index")
                self._choice_converter(index if isinstance(index, int | float) else 0).convert(
                    choice
                )
        return chunk

    def _choice_converter(self, index: Any) -> _ChoiceConverter:
        converter = self._choices.get(index)
        if converter is None:
            converter = self._choices[index] = _ChoiceConverter(self._requested, self._mode)
        return converter


class _ChoiceConverter:
    """Converts one choice of an answer."""

    def __init__(self, requested: RequestedJSON, mode: JSONMode) -> None:
        self._calls = mode == "tools"
        self._name = requested.name if requested.original_mode == "tools" else None
        self._json = JSONExtractor()
        self._remarks = ""
        self._tools = ToolCallAssembler()
        self._has_begun = False

    def convert(self, choice: dict[str, Any]) -> None:
        """Convert one choice of one chunk, in place."""
        choice.pop("text", None)  # what Together repeats beside the delta
        reason = choice.get("finish_reason")
        for key in ("delta", "message"):
            part = choice.get(key)
            if isinstance(part, dict):
                self._convert(part, ends=key == "message" or bool(reason))
        if reason in ("stop", "tool_calls", "eos"):
            choice["finish_reason"] = "tool_calls" if self._name and self._has_begun else "stop"

    def _convert(self, part: dict[str, Any], *, ends: bool) -> None:
        content = part.pop("content", None)
        content = content if isinstance(content, str) else ""
        text = self._arguments(part, content) if self._calls else self._json.feed(content)
        rest = ""
        if ends:
            if self._calls and self._tools.calls and (held := self._tools.calls[0].held):
                text, self._has_begun = text + held, True
            if self._calls and not self._has_begun:  # the JSON came as text, not as a call
                text, self._remarks = self._json.feed(self._remarks), ""
            rest = self._json.rest()
        if self._name is None:
            part["content"] = text + rest
        else:
            part["content"] = rest
            if text:
                part["tool_calls"] = [self._call(text)]

    def _arguments(self, part: dict[str, Any], text: str) -> str:
        """Return the new arguments of the first tool call; text before it is only a remark."""
        self._remarks += text
        fragments = parse_choice({"delta": {"tool_calls": part.pop("tool_calls", None)}}).calls
        added = [self._tools.add(fragment) for fragment in fragments]
        arguments = "".join(args for index, _, _, args in added if not index and args)
        self._has_begun = self._has_begun or bool(arguments)
        return arguments

    def _call(self, text: str) -> dict[str, Any]:
        if self._has_begun:
            return {"index": 0, "function": {"arguments": text}}
        self._has_begun = True
        function = {"name": self._name, "arguments": text}
        return {"index": 0, "type": "function", "function": function}

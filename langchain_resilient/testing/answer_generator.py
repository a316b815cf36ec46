"""The deterministic model behind the simulator: one request in, one whole answer out.

It decides in this order: what the step's `Reply` prescribes; the rest of its last answer, if that
is incomplete and the user asks to continue or the conversation ends with it; tools to call; JSON
that fits `response_format` (`json_schemas.py`); what the tools just said; and else `answer_to` the
last user message. `max_tokens`, `stop` and `n` are honoured; `seed` and `temperature` change
nothing, for the answer is the same every time anyway.

Which tools it calls, and with what:

- A forced tool is called. With `required` (or `any`) the best fitting tool is called, whatever
  the prompt says; after a tool's result the last one that was not called yet, so that agents end.
  With `none`, or without tools, nothing is called.
- With `auto` a tool is called for each of these: the prompt names it (`magic_function(3)`, "use
  magic_function"); it shares a significant word with the tool's name or description ("weather"
  and `get_weather`), where the tool with most of them wins; or the tool wants only numbers and the
  prompt has enough of them ("What is 1 + 2" and `my_adder_tool`).
- A prompt with several values for a tool's only argument makes one call for each
  ("the weather in Paris and Rome"), at once or, without `parallel_tool_calls`, one per message.
- With `auto`, what was called since the last user message is not called again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from langchain_resilient.testing.answers import (
    Answer,
    AnswerChoice,
    AnswerUsage,
    ReplyOptions,
    ToolCall,
    answer_to,
    compact_json,
    count_prompt_tokens,
    tokens,
)
from langchain_resilient.testing.json_schemas import Schema, make_instance, resolved
from langchain_resilient.testing.prompt_entities import PromptEntities

_ASKS_TO_CONTINUE = re.compile(
    r"\b(?:continu\w+|go on|carry on|left off|resume|pick up|interrupted|cut off)\b",
    re.IGNORECASE,
)
_KEY = re.compile(r"['\"`](\w+)['\"`]")
_TOKENS_PER_MESSAGE = 4
_TOKENS_PER_PICTURE = 85
_REASONING_TOKENS = {"none": 0, "minimal": 0, "low": 32, "high": 256}
_REASONING_BY_DEFAULT = 64
_REASONING_MODEL = re.compile(r"(?:o\d|gpt-[5-9])(?!.*chat)")


class TextMessage(NamedTuple):
    """The role and the text of a message, without pictures and tool calls."""

    role: str
    text: str


def is_reasoning_model(model: str) -> bool:
    """Tell whether OpenAI would serve this model as a reasoning model (o-series, gpt-5 and on)."""
    return bool(_REASONING_MODEL.match(model))


def text_messages(body: Mapping[str, Any]) -> list[TextMessage]:
    """Read a request's messages as plain text."""
    return [TextMessage(m.get("role", ""), text_of(m.get("content"))) for m in body["messages"]]


def text_of(content: Any) -> str:
    """Read the text of a message's content, be it a string or a list of blocks."""
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else ()
    return "".join(str(block.get("text") or "") for block in blocks if isinstance(block, dict))


def prompt_tokens(body: Mapping[str, Any]) -> int:
    """Count the tokens of a prompt: one per four characters, 85 per picture or file."""
    count = 3
    for message in body["messages"]:
        content = message.get("content")
        count += _TOKENS_PER_MESSAGE + count_prompt_tokens(text_of(content))
        if isinstance(content, list):
            count += sum(_TOKENS_PER_PICTURE for b in content if b.get("type") != "text")
        if message.get("tool_calls"):
            count += count_prompt_tokens(str(message["tool_calls"]))
    return count + sum(count_prompt_tokens(str(tool)) for tool in body.get("tools") or ())


def max_answer_tokens(body: Mapping[str, Any]) -> int | None:
    """Return the token limit that a request sets, or None."""
    limit = body.get("max_completion_tokens")
    return body.get("max_tokens") if limit is None else limit


def generate_answer(
    body: Mapping[str, Any], reply: ReplyOptions, *, limit: int | None = None, reasons: bool = False
) -> Answer:
    """Work out the answer to a request.

    Args:
        body: The request, already checked.
        reply: What the script prescribes.
        limit: The most tokens the answer may have, or None.
        reasons: Whether the model spends hidden reasoning tokens, as o-series and gpt-5 do.

    Returns:
        The same answer every time for the same arguments.
    """
    messages = text_messages(body)
    effort = str(body.get("reasoning_effort") or "")
    hidden = _REASONING_TOKENS.get(effort, _REASONING_BY_DEFAULT) if reasons else 0
    rest = _rest(body, messages, reply)
    fixed = _prescribed(reply) or (_tool_calls(body, messages) if rest is None else None)
    if fixed:
        choices = [fixed] * (body.get("n") or 1)
    else:
        room = None if limit is None else max(0, limit - hidden)
        choices = [
            _limited(text, body.get("stop"), room, reply)
            for index in range(body.get("n") or 1)
            for text in [_text(body, messages, reply, index) if rest is None else rest]
        ]
    visible = sum(_size(choice) for choice in choices)
    reasoning = hidden + sum(len(tokens(choice.reasoning)) for choice in choices)
    usage = AnswerUsage(prompt_tokens(body), visible + reasoning, reasoning)
    return Answer(tuple(choices), usage)


def _prescribed(reply: ReplyOptions) -> AnswerChoice | None:
    """Return exactly what the script prescribes, neither shortened nor stopped, if it does."""
    reasoning = reply.reasoning or ""
    if reply.refusal is not None:
        return AnswerChoice(None, reply.finish_reason or "stop", (), reasoning, reply.refusal)
    if reply.tool_calls:
        finish = reply.finish_reason or "tool_calls"
        return AnswerChoice(reply.text, finish, reply.tool_calls, reasoning)
    if reply.text is not None:
        return AnswerChoice(reply.text, reply.finish_reason or "stop", (), reasoning)
    return None


def _tool_calls(body: Mapping[str, Any], messages: Sequence[TextMessage]) -> AnswerChoice | None:
    if not body.get("tools"):
        return None
    calls = planned_calls(body, _question(messages))
    finish = "stop" if forces_one_tool(body) else "tool_calls"
    return AnswerChoice(None, finish, tuple(calls)) if calls else None


def _text(
    body: Mapping[str, Any], messages: Sequence[TextMessage], reply: ReplyOptions, index: int
) -> str:
    question = _question(messages)
    shape = body.get("response_format") or {}
    if shape.get("type") == "json_schema":
        schema = (shape.get("json_schema") or {}).get("schema") or shape.get("schema") or {}
        return _json(make_instance(schema, PromptEntities(question)))
    if shape.get("type") == "json_object":
        schema = shape.get("schema") or _schema_of_keys(messages)
        return _json(make_instance(schema, PromptEntities(question)))
    if messages[-1].role == "tool":
        return _tool_results(body["messages"])
    return answer_to(question, words=reply.words, choice=index)


def _rest(
    body: Mapping[str, Any], messages: Sequence[TextMessage], reply: ReplyOptions
) -> str | None:
    """Continue the last answer, if the last message asks for that or is that answer.

    It may have broken off more than once. The whole is worked out from the messages before it.
    """
    end = len(messages)
    if messages[-1].role == "assistant" and end > 1:
        end -= 1
    while end > 2 and _asks_to_continue(messages[end - 2], messages[end - 1]):  # noqa: PLR2004 - and a question
        end -= 2
    partial = "".join(message.text for message in messages[end:] if message.role == "assistant")
    if not partial:
        return None
    earlier = {**body, "messages": body["messages"][:end]}
    whole = _text(earlier, messages[:end], reply, 0)
    if not whole.startswith(partial):
        return None
    return whole[max(0, len(partial) - reply.overlap) :]


def _asks_to_continue(answer: TextMessage, question: TextMessage) -> bool:
    return (
        (answer.role, question.role) == ("assistant", "user")
        and bool(answer.text)
        and _ASKS_TO_CONTINUE.search(question.text) is not None
    )


def _question(messages: Sequence[TextMessage]) -> str:
    """Return the last user message, or the last message where there is none."""
    return next(
        (message.text for message in reversed(messages) if message.role == "user"),
        messages[-1].text,
    )


def _schema_of_keys(messages: Sequence[TextMessage]) -> dict[str, Any]:
    """Read the wanted keys out of a prompt: "a JSON with 'setup' and 'punchline' keys"."""
    keys = [key for message in messages for key in _KEY.findall(message.text)] or ["answer"]
    return {"type": "object", "properties": {k: {"type": "string"} for k in keys}, "required": keys}


def _tool_results(messages: Sequence[Mapping[str, Any]]) -> str:
    """Repeat what the tools have just said."""
    names = {
        call.get("id"): call["function"]["name"]
        for message in messages
        for call in message.get("tool_calls") or ()
    }
    lines = []
    for message in reversed(messages):
        if message.get("role") != "tool":
            break
        name = names.get(message.get("tool_call_id")) or "the tool"
        lines.append(f"{name} says: {text_of(message.get('content'))}")
    return "\n".join(reversed(lines))


def _limited(text: str, stop: Any, room: int | None, reply: ReplyOptions) -> AnswerChoice:
    """End the text at a stop sequence or where the tokens run out."""
    finish = "stop"
    for sequence in [stop] if isinstance(stop, str) else stop or ():
        text = text.partition(sequence)[0] if sequence else text
    if room is not None:
        pieces = tokens(text)
        if len(pieces) > room:
            text, finish = "".join(pieces[:room]), "length"
    return AnswerChoice(text, reply.finish_reason or finish, (), reply.reasoning or "")


def _size(choice: AnswerChoice) -> int:
    """Count the tokens that a client gets to see."""
    count = len(tokens(choice.text or choice.refusal or ""))
    for call in choice.tool_calls:
        count += len(tokens(call.name)) + len(tokens(call.arguments))
    return count


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# Which tools to call.

_OPERATORS = {
    "+": ("add", "sum", "plus"),
    "*": ("mul", "times", "product"),
    "-": ("sub", "minus", "diff"),
    "/": ("div", "ratio"),
}
_COMMON_WORDS = (
    "about add after also answer arguments argument asked based before call called calculate"
    " current data execute fetch find from function functions generate get gets given have info"
    " information input into list lookup make name number output particular perform please provide"
    " provided query question result results return returns returned search send should specific"
    " string that their them this tool tools type used useful user using value values what when"
    " which will with word words your"
)
_WORD = re.compile(r"[a-zA-Z]{4,}")
_MIN_SIGNIFICANT = 6  # letters; shorter words of a description say too little


def _stem(word: str) -> str:
    """Cut off the plural, so that "jokes" and "joke" are one word."""
    word = word.lower()
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


_COMMON_STEMS = {_stem(word) for word in _COMMON_WORDS.split()}


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
    called = _names_called(body.get("messages") or [])
    if called and choice in {"required", "any"}:
        # An agent that must always call one tells its answer by a tool, the last of them.
        chosen = [name for name in tools if name not in called][-1:] or [list(tools)[-1]]
    else:
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
    functions = {}
    for tool in body.get("tools") or []:
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            functions[function["name"]] = function
    return functions


def _names_called(messages: Sequence[Mapping[str, Any]]) -> set[str]:
    """Name the tools that were called since the last user message, if the last has answered."""
    names: set[str] = set()
    if not messages or messages[-1].get("role") != "tool":
        return names
    for message in reversed(messages):
        if message.get("role") == "user":
            break
        calls = message.get("tool_calls") or []
        names.update(str((call.get("function") or {}).get("name")) for call in calls)
    return names


def _calls_made(messages: Sequence[Mapping[str, Any]]) -> int:
    """Count the calls since the last user message."""
    count = 0
    for message in reversed(messages):
        if message.get("role") == "user":
            break
        count += len(message.get("tool_calls") or [])
    return count


def _chosen(tools: dict[str, Schema], prompt: str) -> list[str]:
    entities = PromptEntities(prompt)
    named = [name for name in tools if entities.mentions(name)]
    if named:
        return sorted(named, key=lambda name: prompt.lower().find(name.lower()))
    words = {_stem(word) for word in _WORD.findall(prompt)}
    shared = {name: _significant_words(tool) & words for name, tool in tools.items()}
    chosen: list[str] = []
    covered: set[str] = set()
    for name in sorted(tools, key=lambda name: -len(shared[name])):
        if shared[name] - covered:
            chosen.append(name)
            covered |= shared[name]
    return chosen or _calculator(tools, entities)


def _calculator(tools: dict[str, Schema], entities: PromptEntities) -> list[str]:
    """Choose the tool that wants only numbers, by its operator if there are several."""
    fitting = [
        name
        for name, tool in tools.items()
        if (types := _required_types(tool))
        and set(types) <= {"integer", "number"}
        and len(types) <= len(entities.numbers)
    ]
    for sign, stems in _OPERATORS.items():
        if re.search(rf"\d ?{re.escape(sign)} ?\d", entities.text):
            matching = [name for name in fitting if any(stem in name.lower() for stem in stems)]
            return (matching or fitting)[:1]
    return fitting[:1]


def _required_types(tool: Schema) -> list[str]:
    parameters = _parameters(tool)
    properties = parameters.get("properties") or {}
    required = parameters.get("required") or list(properties)
    return [
        str(resolved(properties.get(name, {}), parameters).get("type", "string"))
        for name in required
    ]


def _calls(tool: Schema, prompt: str) -> list[ToolCall]:
    name = tool["name"]
    parameters = _parameters(tool)
    literal = re.findall(rf"(?<!\w){re.escape(name)}\(([^()]*)\)", prompt)
    if literal and any(literal):
        texts = list(dict.fromkeys(literal))
        return [
            ToolCall(name, compact_json(make_instance(parameters, PromptEntities(text))))
            for text in texts
        ]
    types = _required_types(tool)
    entities = PromptEntities(prompt)
    several = {"string": len(entities.places or entities.quoted), "integer": len(entities.numbers)}
    count = max(several.get(types[0], 1), 1) if len(types) == 1 else 1
    return [ToolCall(name, compact_json(make_instance(parameters, entities))) for _ in range(count)]


def _parameters(tool: Schema) -> Schema:
    parameters = tool.get("parameters")
    return parameters if isinstance(parameters, dict) else {"type": "object", "properties": {}}


def _significant_words(tool: Schema) -> set[str]:
    name = re.sub(r"([a-z])([A-Z])", r"\1 \2", tool["name"]).replace("_", " ")
    words = set(_WORD.findall(name))
    words |= {
        w for w in _WORD.findall(str(tool.get("description") or "")) if len(w) >= _MIN_SIGNIFICANT
    }
    return {_stem(word) for word in words} - _COMMON_STEMS

"""The deterministic model behind the simulator: one request in, one whole answer out.

It decides in this order: what the step's `Reply` prescribes; the rest of whatever it said last, if
the user asks to go on with that; tools to call (`tools.py`); JSON that fits `response_format`
(`schemas.py`); what the tools just said; a code word mentioned earlier; the continuation of an
answer that is quoted or was said before; and else `answer_to` the last user message (`text.py`).
`max_tokens`, `stop` and `n` are honoured; `seed` and `temperature` change nothing, for the answer
is the same every time anyway.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_resilient.testing.clues import Clues
from langchain_resilient.testing.schemas import instance
from langchain_resilient.testing.text import (
    Turn,
    answer_to,
    asks_to_continue,
    continuation,
    count_prompt_tokens,
    rest_of,
    tokens,
)
from langchain_resilient.testing.tools import ToolCall, forces_one_tool, planned_calls

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_resilient.testing.steps.reply import Reply

_CODE_WORD = re.compile(r"code ?word is:? [\"'“]?([\w-]+)", re.IGNORECASE)
_KEY = re.compile(r"['\"`](\w+)['\"`]")
_TOKENS_PER_MESSAGE = 4
_TOKENS_PER_PICTURE = 85
_REASONING_TOKENS = {"none": 0, "minimal": 0, "low": 32, "high": 256}
_REASONING_BY_DEFAULT = 64
_REASONING_MODEL = re.compile(r"(?:o\d|gpt-5)(?!.*chat)")


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer costs, in tokens; `reasoning` is part of `completion`."""

    prompt: int
    completion: int
    reasoning: int = 0
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the `n` answers to a request.

    Attributes:
        text: What is said, or None where only tools are called or the model refuses.
        finish_reason: In OpenAI's words: `stop`, `length`, `tool_calls`, `content_filter`.
        tool_calls: The tools called.
        reasoning: What is thought aloud before.
        refusal: What is said instead of an answer.
    """

    text: str | None
    finish_reason: str | None
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything the model has to say to one request."""

    choices: tuple[Choice, ...]
    usage: Usage


def is_reasoning_model(model: str) -> bool:
    """Tell whether OpenAI would serve this model as a reasoning model (o-series, gpt-5)."""
    return bool(_REASONING_MODEL.match(model))


def turns_of(body: Mapping[str, Any]) -> list[Turn]:
    """Read a request's messages as plain text."""
    return [Turn(m.get("role", ""), text_of(m.get("content"))) for m in body["messages"]]


def text_of(content: Any) -> str:
    """Read the text of a message's content, be it a string or a list of blocks."""
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else ()
    return "".join(str(block.get("text") or "") for block in blocks if isinstance(block, dict))


def prompt_tokens(body: Mapping[str, Any]) -> int:
    """Count what a request costs to read: four characters a token, 85 a picture or file."""
    count = 3
    for message in body["messages"]:
        content = message.get("content")
        count += _TOKENS_PER_MESSAGE + count_prompt_tokens(text_of(content))
        if isinstance(content, list):
            count += sum(_TOKENS_PER_PICTURE for b in content if b.get("type") != "text")
        if message.get("tool_calls"):
            count += count_prompt_tokens(str(message["tool_calls"]))
    return count + sum(count_prompt_tokens(str(tool)) for tool in body.get("tools") or ())


def longest_answer(body: Mapping[str, Any]) -> int | None:
    """Return the token limit that a request sets, or None."""
    limit = body.get("max_completion_tokens")
    return body.get("max_tokens") if limit is None else limit


def think(
    body: Mapping[str, Any], reply: Reply, *, limit: int | None = None, thinks: bool = False
) -> Answer:
    """Work out the answer to a request.

    Args:
        body: The request, already found valid.
        reply: What the script prescribes.
        limit: The most tokens the answer may have, or None.
        thinks: Whether the model spends hidden reasoning tokens, as o-series and gpt-5 do.

    Returns:
        The same answer every time for the same arguments.
    """
    turns = turns_of(body)
    effort = str(body.get("reasoning_effort") or "")
    hidden = _REASONING_TOKENS.get(effort, _REASONING_BY_DEFAULT) if thinks else 0
    rest = _rest(body, turns, reply)
    said = _prescribed(reply) or (_tool_calls(body, turns) if rest is None else None)
    if said:
        choices = [said] * (body.get("n") or 1)
    else:
        room = None if limit is None else max(0, limit - hidden)
        choices = [
            _cut(text, body.get("stop"), room, reply)
            for index in range(body.get("n") or 1)
            for text in [_speech(body, turns, reply, index) if rest is None else rest]
        ]
    visible = sum(_size(choice) for choice in choices)
    reasoning = hidden + sum(len(tokens(choice.reasoning)) for choice in choices)
    usage = Usage(prompt_tokens(body), visible + reasoning, reasoning)
    return Answer(tuple(choices), usage)


def _prescribed(reply: Reply) -> Choice | None:
    """Say exactly what the script wants, neither shortened nor stopped."""
    reasoning = reply.reasoning or ""
    if reply.refusal is not None:
        return Choice(None, reply.finish_reason or "stop", (), reasoning, reply.refusal)
    if reply.tool_calls:
        finish = reply.finish_reason or "tool_calls"
        return Choice(reply.text, finish, reply.tool_calls, reasoning)
    if reply.text is not None:
        return Choice(reply.text, reply.finish_reason or "stop", (), reasoning)
    return None


def _tool_calls(body: Mapping[str, Any], turns: Sequence[Turn]) -> Choice | None:
    if not body.get("tools"):
        return None
    calls = planned_calls(body, _question(turns))
    finish = "stop" if forces_one_tool(body) else "tool_calls"
    return Choice(None, finish, tuple(calls)) if calls else None


def _speech(body: Mapping[str, Any], turns: Sequence[Turn], reply: Reply, index: int) -> str:
    question = _question(turns)
    shape = body.get("response_format") or {}
    if shape.get("type") == "json_schema":
        schema = (shape.get("json_schema") or {}).get("schema") or shape.get("schema") or {}
        return _json(instance(schema, Clues(question)))
    if shape.get("type") == "json_object":
        schema = shape.get("schema") or _schema_of_keys(turns)
        return _json(instance(schema, Clues(question)))
    if turns[-1].role == "tool":
        return _tool_results(body["messages"])
    code_word = _code_word(turns, question)
    if code_word:
        return f"The code word is {code_word}."
    rest = continuation(turns, words=reply.words, overlap=reply.overlap)
    return answer_to(question, words=reply.words, choice=index) if rest is None else rest


def _rest(body: Mapping[str, Any], turns: Sequence[Turn], reply: Reply) -> str | None:
    """Go on with the last answer, if that is what the last message asks for.

    It may have broken off more than once. Its whole is worked out from what was asked before it.
    """
    at = len(turns)
    while at > 2 and _breaks_off(turns[at - 2], turns[at - 1]):  # noqa: PLR2004 - and a question
        at -= 2
    if at == len(turns):
        return None
    said = "".join(turn.text for turn in turns[at::2])
    earlier = {**body, "messages": body["messages"][:at]}
    return rest_of(_speech(earlier, turns[:at], reply, 0), said, reply.overlap)


def _breaks_off(said: Turn, asking: Turn) -> bool:
    roles = (said.role, asking.role)
    return roles == ("assistant", "user") and bool(said.text) and asks_to_continue(asking.text)


def _question(turns: Sequence[Turn]) -> str:
    """Return the last user message, or the last message where there is none."""
    return next((turn.text for turn in reversed(turns) if turn.role == "user"), turns[-1].text)


def _schema_of_keys(turns: Sequence[Turn]) -> dict[str, Any]:
    """Read the wanted keys out of a prompt: "a JSON with 'setup' and 'punchline' keys"."""
    keys = [key for turn in turns for key in _KEY.findall(turn.text)] or ["answer"]
    return {"type": "object", "properties": {k: {"type": "string"} for k in keys}, "required": keys}


def _tool_results(messages: Sequence[Mapping[str, Any]]) -> str:
    """Repeat what the tools have just said."""
    names = {
        call.get("id"): call["function"]["name"]
        for message in messages
        for call in message.get("tool_calls") or ()
    }
    said = []
    for message in reversed(messages):
        if message.get("role") != "tool":
            break
        name = names.get(message.get("tool_call_id")) or "the tool"
        said.append(f"{name} says: {text_of(message.get('content'))}")
    return "\n".join(reversed(said))


def _code_word(turns: Sequence[Turn], question: str) -> str | None:
    """Remember a code word, so that a test can see whether the conversation was sent."""
    if "code word" not in question.lower() or _CODE_WORD.search(question):
        return None
    told = [match[1] for turn in turns for match in _CODE_WORD.finditer(turn.text)]
    return told[-1] if told else None


def _cut(text: str, stop: Any, room: int | None, reply: Reply) -> Choice:
    """End the text where a stop sequence stands or the tokens run out."""
    finish = "stop"
    for sequence in [stop] if isinstance(stop, str) else stop or ():
        text = text.partition(sequence)[0] if sequence else text
    if room is not None:
        pieces = tokens(text)
        if len(pieces) > room:
            text, finish = "".join(pieces[:room]), "length"
    return Choice(text, reply.finish_reason or finish, (), reply.reasoning or "")


def _size(choice: Choice) -> int:
    """Count the tokens a client gets to see."""
    count = len(tokens(choice.text or choice.refusal or ""))
    for call in choice.tool_calls:
        count += len(tokens(call.name)) + len(tokens(call.arguments))
    return count


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

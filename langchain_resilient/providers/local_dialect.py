"""From the chat-completions dialect to what a small llama.cpp model can do, and back.

Pure functions: nothing here loads a model. The embedded model's chat template knows only the roles
system, user and assistant with text, so that images, tool calls and tool results become text. It
cannot choose tools either; a tool that *must* be called is had by constraining the text to the JSON
schema of its arguments, and handing the text on as the call.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_resilient.wire.accumulator import ResponseAccumulator

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from langchain_resilient.exchange import Chunk

MAX_TOKENS = 512
"""The longest answer, in tokens, where the request sets no limit: a small model may never stop."""

SLOTS = 2
"""Answers a model writes at the same time, and so the most choices (`n`) of one request."""

_DEFAULTS = {"temperature": 0.2, "top_p": 0.9}
"""As SmolLM2's makers advise."""

# "Don't Repeat Yourself" (text-generation-webui #5677) breaks the loops that a small model falls
# into at a low temperature; unlike a repetition penalty it leaves the question's words usable.
_AGAINST_LOOPS = {"dry_multiplier": 0.8}
_PENALTIES = ("frequency_penalty", "presence_penalty", "repeat_penalty", "dry_multiplier")

_TAKEN = frozenset(
    {"messages", "max_tokens", "temperature", "top_p", "top_k", "min_p", "typical_p", "stop",
     "seed", "n", "frequency_penalty", "presence_penalty", "repeat_penalty", "repeat_last_n",
     "logit_bias", "logprobs", "top_logprobs", "response_format", "grammar", "mirostat",
     "mirostat_tau", "mirostat_eta", "dry_multiplier", "dry_base", "dry_allowed_length",
     "dry_penalty_last_n", "xtc_probability", "xtc_threshold", "chat_template_kwargs", "tools",
     "tool_choice"}
)  # fmt: skip
_WITHOUT_EFFECT = frozenset(
    {"model", "stream", "stream_options", "parallel_tool_calls", "service_tier", "store",
     "metadata", "user", "safety_identifier", "prompt_cache_key"}
)  # fmt: skip
_SEEDS = 2**32 - 1  # llama.cpp's seeds have 32 bits, and the largest means "random"


@dataclass(frozen=True, slots=True)
class LocalRequest:
    """A request as llama.cpp takes it.

    Attributes:
        body: For `xllamacpp.Server.handle_chat_completions`.
        dropped: What was left out although it would have changed the answer.
        forced: The tools of which one must be called; empty if the answer is text.
    """

    body: dict[str, Any]
    dropped: tuple[str, ...] = ()
    forced: tuple[str, ...] = ()


def adapt(body: dict[str, Any], *, embedded: bool) -> LocalRequest:
    """Turn a chat-completions body into one for llama.cpp; the answer is always streamed.

    Args:
        body: From `ChatRequest.body`; its outermost dict is changed, nothing inside it.
        embedded: Whether it is the model of this package. Any other may know tools, so its chat
            template gets them as they are.
    """
    body = {k: v for k, v in body.items() if v is not None}
    for theirs, ours in (
        ("max_completion_tokens", "max_tokens"),
        ("repetition_penalty", "repeat_penalty"),
    ):
        if theirs in body:
            body[ours] = body.pop(theirs)
    dropped = sorted(body.keys() - _TAKEN - _WITHOUT_EFFECT)
    body = {k: v for k, v in body.items() if k in _TAKEN}
    tools, hint = _forced_tools(body), None
    if tools:
        body["response_format"], hint = _call_format(tools), _hint(tools)
        body["n"] = 1
    if embedded or tools or body.get("tool_choice") == "none":
        if body.pop("tools", None) and not tools and body.get("tool_choice") != "none":
            dropped.append("tools")
        body.pop("tool_choice", None)
    if body.get("n", 1) > SLOTS:
        dropped.append("n")
        body["n"] = SLOTS
    body["messages"] = flatten(body["messages"], tools_too=embedded, hint=hint)
    body |= _sampling(body, embedded=embedded) | {
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    # Progress reports while the prompt is read are the only moments at which a request can be
    # stopped before its first token.
    body["return_progress"] = True
    return LocalRequest(body, tuple(dropped), tuple(t["name"] for t in tools))


def _sampling(body: Mapping[str, Any], *, embedded: bool) -> dict[str, Any]:
    """What is to be added, since the request does not say it."""
    found: dict[str, Any] = {"max_tokens": MAX_TOKENS}
    if embedded:
        found |= _DEFAULTS
        # Keys of JSON objects repeat by right.
        if not body.keys() & {"response_format", "grammar", *_PENALTIES}:
            found |= _AGAINST_LOOPS
    found = {k: v for k, v in found.items() if k not in body}
    if "seed" in body:
        # A prompt that is partly cached is computed in other batches, and rounds otherwise.
        found |= {"seed": body["seed"] % _SEEDS, "cache_prompt": False}
    return found


def _forced_tools(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the functions of which one must be called, if the request says so."""
    functions = [t["function"] for t in body.get("tools", ()) if "function" in t]
    choice = body.get("tool_choice", "auto")
    if choice in ("auto", "none"):
        return []
    if choice in ("required", "any"):
        return functions
    name = choice.get("function", {}).get("name") if isinstance(choice, dict) else choice
    return [f for f in functions if f["name"] == name]


def _call_format(functions: list[dict[str, Any]]) -> dict[str, Any]:
    """Build the schema of the arguments; with several tools, of a name and arguments."""
    schemas = [f.get("parameters") or {"type": "object", "properties": {}} for f in functions]
    schema = schemas[0]
    if len(functions) > 1:
        schema = {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {
                        "name": {"const": f["name"]},
                        "arguments": {"$ref": f"#/$defs/{n}"},
                    },
                    "required": ["name", "arguments"],
                    "additionalProperties": False,
                }
                for n, f in enumerate(functions)
            ],
            "$defs": {str(n): _rebase(s, f"#/$defs/{n}") for n, s in enumerate(schemas)},
        }
    return {"type": "json_schema", "json_schema": {"name": "call", "schema": schema}}


def _rebase(schema: Any, root: str) -> Any:
    """Make references of a schema good for its place inside another."""
    if isinstance(schema, list):
        return [_rebase(item, root) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        k: root + v[1:] if k == "$ref" and isinstance(v, str) and v[:1] == "#" else _rebase(v, root)
        for k, v in schema.items()
    }


def _hint(functions: list[dict[str, Any]]) -> str:
    told = "; ".join(f"{f['name']}: {f.get('description') or 'no description'}" for f in functions)
    return f"Answer with a JSON call of a function and nothing else. {told}"


def flatten(
    messages: Iterable[Mapping[str, Any]], *, tools_too: bool = True, hint: str | None = None
) -> list[dict[str, Any]]:
    """Reduce messages to text in the roles that every chat template knows.

    Args:
        messages: In the chat-completions dialect; not changed.
        tools_too: Whether tool calls and tool results become text as well.
        hint: Added to the last message of the user.

    Example:
        ```python
        flatten([{"role": "tool", "tool_call_id": "1", "content": "rain"}])
        # [{'role': 'user', 'content': 'Result of the tool: rain'}]
        ```
    """
    found: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for message in messages:
        role, text = message["role"], _text(message.get("content"))
        calls = message.get("tool_calls") or ()
        names |= {c["id"]: c["function"]["name"] for c in calls if c.get("id")}
        if not tools_too:
            new = {**message, "content": text}
        elif role in ("tool", "function"):
            name = names.get(message.get("tool_call_id", "")) or message.get("name") or "the tool"
            new = {"role": "user", "content": f"Result of {name}: {text}"}
        else:
            said = [f"Calling {c['function']['name']}({c['function']['arguments']})" for c in calls]
            new = {"role": role, "content": "\n".join([text, *said] if text else said)}
        if role == "developer":
            new["role"] = "system"
        found.append(new)
    if hint and found:
        last = max((n for n, m in enumerate(found) if m["role"] == "user"), default=len(found) - 1)
        found[last]["content"] += f"\n\n{hint}"
    return found


def _text(content: Any) -> str:
    """Join the text of content blocks; what cannot be read is named, for the model to know."""
    if isinstance(content, list):
        return "\n".join(block if isinstance(block, str) else _block(block) for block in content)
    return content or ""


def _block(block: Mapping[str, Any]) -> str:
    text = block.get("text") or block.get("refusal")
    if isinstance(text, str):
        return text
    kind = str(block.get("type", "block")).partition("_")[0]
    return f"({kind} left out: this model reads only text)"


class ForcedCall:
    """Turns the streamed JSON of a forced tool call into `tool_calls` deltas.

    Args:
        names: The tools; with one the text is its arguments, with more it names the tool as well.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._name = names[0] if len(names) == 1 else None
        self._held = ""
        self._begun = False

    def turn(self, chunk: Chunk) -> Chunk:
        """Turn one chunk, in place."""
        for choice in chunk.get("choices", ()):
            delta = choice["delta"]
            piece = delta.pop("content", None)
            if piece and self._name:
                delta["tool_calls"] = [self._call(piece)]
            elif piece:
                self._held += piece
            if choice["finish_reason"]:
                self._finish(choice)
        return chunk

    def _call(self, piece: str) -> dict[str, Any]:
        if self._begun:
            return {"index": 0, "function": {"arguments": piece}}
        self._begun = True
        function = {"name": self._name, "arguments": piece}
        return {
            "index": 0,
            "id": f"call_{uuid.uuid4().hex}",
            "type": "function",
            "function": function,
        }

    def _finish(self, choice: dict[str, Any]) -> None:
        if self._held:
            try:
                call = json.loads(self._held, strict=False)
            except ValueError:  # cut at the limit of tokens: the half of it is still worth showing
                choice["delta"]["content"] = self._held
                return
            self._name = call["name"]
            choice["delta"]["tool_calls"] = [self._call(json.dumps(call["arguments"]))]
        if choice["finish_reason"] == "stop":
            choice["finish_reason"] = "tool_calls"


def whole(chunks: Iterable[Chunk]) -> Chunk:
    """Fold the chunks of an answer into one `chat.completion`."""
    response, head = ResponseAccumulator(), dict[str, Any]()
    for chunk in chunks:
        response.add(chunk)
        head = head or chunk
    choices = []
    for index, choice in sorted(response.choices.items()):
        calls = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.args}}
            for c in choice.tools.calls
        ]
        message = {"role": "assistant", "content": choice.text or None}
        choices.append(
            {
                "index": index,
                "message": message | ({"tool_calls": calls} if calls else {}),
                "logprobs": choice.logprobs,
                "finish_reason": choice.finish_reason,
            }
        )
    shared = {k: v for k, v in head.items() if k in ("id", "created", "model")}
    return {**shared, "object": "chat.completion", "choices": choices, "usage": response.usage}

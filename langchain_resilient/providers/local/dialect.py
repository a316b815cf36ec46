"""From the chat-completions dialect to what a small llama.cpp model can do, and back.

Pure functions: nothing here loads a model. The embedded model's chat template knows only the roles
system, user and assistant, with text, so images, tool calls and tool results become text. The model
cannot choose between tools either. When a tool *must* be called, the answer is constrained to the
JSON schema of the tool's arguments and returned as the call.
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

DEFAULT_MAX_TOKENS = 512
"""The longest answer, in tokens, when the request sets no limit: a small model may never stop."""

SLOTS = 2
"""Answers that a model writes at the same time (llama.cpp's slots), and so the largest `n`."""

_EMBEDDED_DEFAULTS = {"temperature": 0.2, "top_p": 0.9}
"""As SmolLM2's makers advise."""

# The "Don't Repeat Yourself" sampler (text-generation-webui #5677) breaks the loops that a small
# model falls into at a low temperature; unlike a repetition penalty it spares the question's words.
_LOOP_GUARD = {"dry_multiplier": 0.8}
_PENALTIES = ("frequency_penalty", "presence_penalty", "repeat_penalty", "dry_multiplier")

_RENAMED = {"max_completion_tokens": "max_tokens", "repetition_penalty": "repeat_penalty"}
_SUPPORTED = frozenset(
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
_SEED_MODULUS = 2**32 - 1  # llama.cpp's seeds have 32 bits, and the largest means "random"


@dataclass(frozen=True, slots=True)
class LlamaRequest:
    """A request in llama.cpp's dialect.

    Attributes:
        body: For `xllamacpp.Server.handle_chat_completions`.
        dropped: Parameters that were left out although they would have changed the answer.
        forced_tools: Names of the tools of which one must be called; empty if the answer is text.
    """

    body: dict[str, Any]
    dropped: tuple[str, ...] = ()
    forced_tools: tuple[str, ...] = ()


def to_llama_request(body: dict[str, Any], *, embedded: bool) -> LlamaRequest:
    """Turn a chat-completions body into one for llama.cpp; the answer is always streamed.

    Args:
        body: From `ChatRequest.body`; not changed.
        embedded: Whether it is for the embedded model. Another model may know tools, so its chat
            template gets them unchanged.
    """
    body = {k: v for k, v in body.items() if v is not None}
    for name, llama_name in _RENAMED.items():
        if name in body:
            body[llama_name] = body.pop(name)
    dropped = sorted(body.keys() - _SUPPORTED - _WITHOUT_EFFECT)
    body = {k: v for k, v in body.items() if k in _SUPPORTED}
    tools, hint = _forced_tools(body), None
    if tools:
        body["response_format"], hint = _call_format(tools), _call_hint(tools)
        body["n"] = 1
    if embedded or tools or body.get("tool_choice") == "none":
        if body.pop("tools", None) and not tools and body.get("tool_choice") != "none":
            dropped.append("tools")
        body.pop("tool_choice", None)
    if body.get("n", 1) > SLOTS:
        dropped.append("n")
        body["n"] = SLOTS
    body["messages"] = flatten(body["messages"], flatten_tools=embedded, hint=hint)
    body = _sampling_defaults(body, embedded=embedded) | body
    if "seed" in body:
        # A prompt that is partly cached is computed in other batches, and rounds differently.
        body |= {"seed": body["seed"] % _SEED_MODULUS, "cache_prompt": False}
    body |= {
        "stream": True,
        "stream_options": {"include_usage": True},
        # Before the first token, a request can be stopped only when it reports its progress.
        "return_progress": True,
    }
    return LlamaRequest(body, tuple(dropped), tuple(t["name"] for t in tools))


def _sampling_defaults(body: Mapping[str, Any], *, embedded: bool) -> dict[str, Any]:
    defaults: dict[str, Any] = {"max_tokens": DEFAULT_MAX_TOKENS}
    if embedded:
        defaults |= _EMBEDDED_DEFAULTS
        # In JSON, keys have to repeat.
        if not body.keys() & {"response_format", "grammar", *_PENALTIES}:
            defaults |= _LOOP_GUARD
    return defaults


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
    """Make a schema's references valid after it has moved into another schema."""
    if isinstance(schema, list):
        return [_rebase(item, root) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        k: root + v[1:] if k == "$ref" and isinstance(v, str) and v[:1] == "#" else _rebase(v, root)
        for k, v in schema.items()
    }


def _call_hint(functions: list[dict[str, Any]]) -> str:
    tools = "; ".join(f"{f['name']}: {f.get('description') or 'no description'}" for f in functions)
    return f"Answer with a JSON call of a function and nothing else. {tools}"


def flatten(
    messages: Iterable[Mapping[str, Any]], *, flatten_tools: bool = True, hint: str | None = None
) -> list[dict[str, Any]]:
    """Reduce messages to text in the roles that every chat template knows.

    Args:
        messages: In the chat-completions dialect; not changed.
        flatten_tools: Whether tool calls and tool results become text as well.
        hint: Text to add to the user's last message.

    Example:
        ```python
        flatten([{"role": "tool", "tool_call_id": "1", "content": "rain"}])
        # [{'role': 'user', 'content': 'Result of the tool: rain'}]
        ```
    """
    flat: list[dict[str, Any]] = []
    tool_names: dict[str, str] = {}
    for message in messages:
        role, text = message["role"], _text(message.get("content"))
        calls = message.get("tool_calls") or ()
        tool_names |= {c["id"]: c["function"]["name"] for c in calls if c.get("id")}
        if not flatten_tools:
            new = {**message, "content": text}
        elif role in ("tool", "function"):
            tool = tool_names.get(message.get("tool_call_id", "")) or message.get("name")
            new = {"role": "user", "content": f"Result of {tool or 'the tool'}: {text}"}
        else:
            lines = [
                f"Calling {c['function']['name']}({c['function']['arguments']})" for c in calls
            ]
            new = {"role": role, "content": "\n".join([text, *lines] if text else lines)}
        if role == "developer":
            new["role"] = "system"
        flat.append(new)
    if hint and flat:
        last = max((n for n, m in enumerate(flat) if m["role"] == "user"), default=-1)
        flat[last]["content"] += f"\n\n{hint}"
    return flat


def _text(content: Any) -> str:
    """Join the text of content blocks; a block that cannot be read is named for the model."""
    if isinstance(content, list):
        return "\n".join(b if isinstance(b, str) else _block_text(b) for b in content)
    return content or ""


def _block_text(block: Mapping[str, Any]) -> str:
    text = block.get("text") or block.get("refusal")
    if isinstance(text, str):
        return text
    kind = str(block.get("type", "block")).partition("_")[0]
    return f"({kind} left out: this model reads only text)"


class ForcedToolCall:
    """Turns the streamed JSON of a forced tool call into `tool_calls` deltas.

    Args:
        names: The tools. The text of a single tool is its arguments; with several tools it is an
            object with the tool's name and arguments, which has to be complete to be converted.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._name = names[0] if len(names) == 1 else None
        self._buffer = ""
        self._started = False

    def convert(self, chunk: Chunk) -> Chunk:
        """Convert one chunk in place."""
        for choice in chunk.get("choices", ()):
            delta = choice["delta"]
            piece = delta.pop("content", None)
            if piece and self._name:
                delta["tool_calls"] = [self._tool_call(piece)]
            elif piece:
                self._buffer += piece
            if choice["finish_reason"]:
                self._finish(choice)
        return chunk

    def _tool_call(self, arguments: str) -> dict[str, Any]:
        if self._started:
            return {"index": 0, "function": {"arguments": arguments}}
        self._started = True
        return {
            "index": 0,
            "id": f"call_{uuid.uuid4().hex}",
            "type": "function",
            "function": {"name": self._name, "arguments": arguments},
        }

    def _finish(self, choice: dict[str, Any]) -> None:
        if self._buffer:
            try:
                call = json.loads(self._buffer, strict=False)
            except ValueError:  # cut off at the token limit: half of it is still worth showing
                choice["delta"]["content"] = self._buffer
                return
            self._name = call["name"]
            choice["delta"]["tool_calls"] = [self._tool_call(json.dumps(call["arguments"]))]
        if choice["finish_reason"] == "stop":
            choice["finish_reason"] = "tool_calls"


def to_completion(chunks: Iterable[Chunk]) -> Chunk:
    """Fold the chunks of an answer into one `chat.completion`."""
    response, first = ResponseAccumulator(), dict[str, Any]()
    for chunk in chunks:
        response.add(chunk)
        first = first or chunk
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
    shared = {k: v for k, v in first.items() if k in ("id", "created", "model")}
    return {**shared, "object": "chat.completion", "choices": choices, "usage": response.usage}

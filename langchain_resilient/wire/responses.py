"""Reads answers of OpenAI's Responses API, whole or as events, into chunks like any other.

A chunk made here has, beside what chat completions would say, the content as LangChain's own class
for OpenAI writes it (`output_version="responses/v1"`): `blocks` in a delta, `block` for the number
of the one that a piece of plain text belongs to, and `response` with the finished answer.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from langchain_resilient.exchange import Chunk


ENDS = frozenset({"response.completed", "response.incomplete"})
"""The events after which an answer is complete."""

FAILURES = frozenset({"error", "response.failed", "response.cancelled"})
"""The events that say an answer will not be."""

FINISH_REASONS = {"max_output_tokens": "length", "max_tokens": "length"}
"""Reasons of an incomplete answer under the names of chat completions."""

ASKING = frozenset(
    {"custom_tool_call", "computer_call", "mcp_approval_request", "image_generation_call",
     "apply_patch_call", "apply_patch_call_output", "shell_call", "local_shell_call"}
)  # fmt: skip
"""Items beside text and function calls that are an answer: they ask for something, or show it."""

KEPT = ASKING | {
    "reasoning",
    "compaction",
    "web_search_call",
    "file_search_call",
    "code_interpreter_call",
    "mcp_call",
    "mcp_list_tools",
    "tool_search_call",
    "tool_search_output",
}
"""Items that become blocks as they are."""

_FIELDS = ("created_at", "incomplete_details", "metadata", "object", "status", "user")
"""What `response_metadata` tells of an answer beside its id, model and tier."""


class FinishedResponse(NamedTuple):
    """A complete answer.

    Attributes:
        content: Its content blocks.
        metadata: What the answer says of itself.
    """

    content: list[dict[str, Any]]
    metadata: dict[str, Any]


# -- whole answers ---------------------------------------------------------------------------------


def whole_chunk(response: Mapping[str, Any]) -> Chunk:
    """Convert a whole answer to one chunk.

    Args:
        response: A `response` object that has not failed.

    Example:
        ```python
        whole_chunk({"id": "resp_1", "status": "completed", "output": []})["id"]  # 'resp_1'
        ```
    """
    items = _items(response)
    trailer = _trailer(response, items)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(part["text"] for part in _parts(items, "output_text")),
        "refusal": "".join(part["refusal"] for part in _parts(items, "refusal")),
        "tool_calls": [_whole_call(item) for item in items if item.get("type") in _CALLS],
        "blocks": trailer["response"].content,
    }
    logprobs = [p for part in _parts(items, "output_text") for p in part.get("logprobs") or ()]
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": finish_reason(response, items),
        "logprobs": {"content": logprobs} if logprobs else None,
    }
    return {**_head(response), **trailer, "choices": [choice]}


def content_blocks(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Convert the items of an answer to content blocks."""
    blocks: list[dict[str, Any]] = []
    for item in items:
        kind = item.get("type")
        if kind == "message":
            blocks.extend(_message_blocks(item))
        elif kind == "function_call" or kind in KEPT:
            block = without_none(item)
            if kind == "reasoning" and not item.get("summary") and item.get("content"):
                # A model that shows its thoughts themselves, such as gpt-oss behind vLLM.
                block["reasoning"] = reasoning_text(item)
            blocks.append(block)
    return blocks


def reasoning_text(block: Mapping[str, Any]) -> str:
    """The thoughts in a block, as far as they can be read; empty for any other block."""
    if block.get("type") != "reasoning":
        return ""
    parts = block.get("summary") or block.get("content") or ()
    text = "".join(part["text"] for part in parts if isinstance(part, dict) and part.get("text"))
    return text or block.get("reasoning") or ""


def finish_reason(response: Mapping[str, Any], items: list[dict[str, Any]]) -> str:
    """Say why an answer ended, in the words of chat completions."""
    if response.get("status") == "incomplete":
        reason = (response.get("incomplete_details") or {}).get("reason") or "incomplete"
        return FINISH_REASONS.get(reason, str(reason))
    return "tool_calls" if any(item.get("type") in _CALLS for item in items) else "stop"


def chat_usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Write token counts under the names of chat completions."""
    names = {
        "prompt_tokens": "input_tokens",
        "completion_tokens": "output_tokens",
        "total_tokens": "total_tokens",
        "prompt_tokens_details": "input_tokens_details",
        "completion_tokens_details": "output_tokens_details",
    }
    return {ours: usage[theirs] for ours, theirs in names.items() if usage.get(theirs) is not None}


def without_none(value: Any) -> Any:
    """Leave out, at every depth, what is null."""
    if isinstance(value, dict):
        return {name: without_none(item) for name, item in value.items() if item is not None}
    return [without_none(item) for item in value] if isinstance(value, list) else value


_CALLS = frozenset({"function_call", "custom_tool_call"})


def _items(response: Mapping[str, Any]) -> list[dict[str, Any]]:
    output = response.get("output")
    return [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []


def _parts(items: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The parts of one kind of all messages among the items."""
    name = "text" if kind == "output_text" else kind
    return [
        part
        for item in items
        if item.get("type") == "message"
        for part in item.get("content") or ()
        if part.get("type") == kind and isinstance(part.get(name), str)
    ]


def _message_blocks(item: dict[str, Any]) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    for part in item.get("content") or ():
        if part.get("type") == "output_text":
            found = part.get("annotations")
            annotations = [_annotation(a) for a in found] if isinstance(found, list) else []
            block = {"type": "text", "text": part.get("text") or "", "annotations": annotations}
        elif part.get("type") == "refusal":
            block = {"type": "refusal", "refusal": part.get("refusal") or ""}
        else:
            continue
        block["id"] = item.get("id")
        if item.get("phase") is not None:
            block["phase"] = item["phase"]
        blocks.append(block)
    return blocks


def _annotation(annotation: dict[str, Any]) -> dict[str, Any]:
    """Rename the `index` of a file's citation: LangChain adds up chunks by that word."""
    if annotation.get("type") == "file_citation" and "index" in annotation:
        renamed = dict(annotation)
        renamed["file_index"] = renamed.pop("index")
        return renamed
    return annotation


def _whole_call(item: dict[str, Any]) -> dict[str, Any]:
    function = {"name": item.get("name"), "arguments": _arguments(item)}
    return {"id": _call_id(item), "type": "function", "function": function}


def _arguments(item: dict[str, Any]) -> str:
    if item.get("type") == "custom_tool_call":
        return json.dumps({"__arg1": item.get("input") or ""}, ensure_ascii=False)
    return item.get("arguments") or ""


def _call_id(item: dict[str, Any]) -> str | None:
    return item.get("call_id") or item.get("id")


def _head(response: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": response.get("id"), "model": response.get("model")}


def _trailer(response: Mapping[str, Any], items: list[dict[str, Any]]) -> dict[str, Any]:
    usage = response.get("usage")
    fields = {name: response[name] for name in _FIELDS if response.get(name) is not None}
    return {
        "usage": chat_usage(usage) if usage and isinstance(usage, dict) else None,
        "service_tier": response.get("service_tier"),
        "response": FinishedResponse(content_blocks(items), without_none(fields)),
    }


# -- events ----------------------------------------------------------------------------------------


class EventConverter:
    """Converts the events of one streamed answer to chunks.

    Blocks are numbered as LangChain's own class for OpenAI does: a new number for each item, and
    for each part of a message.

    Example:
        ```python
        converter = EventConverter()
        converter.convert({"type": "response.output_text.delta", "delta": "Hi"})
        # {'choices': [{'index': 0, 'delta': {'content': 'Hi', 'block': 0}, ...}]}
        ```
    """

    __slots__ = ("_begun", "_block", "_finished", "_item", "_last", "_places", "_received", "_sub")

    def __init__(self) -> None:
        self._block = self._item = self._sub = -1
        self._last: str | None = None  # the item that is under way
        self._places: dict[str, int] = {}
        self._finished: dict[int, dict[str, Any]] = {}
        # Whether the current part or call came in pieces: else its end has all of it.
        self._received = False
        self._begun: set[str] = set()

    def convert(self, event: Mapping[str, Any]) -> Chunk | None:
        """Convert one event; None for one that does not even show that the model works."""
        kind = event.get("type")
        if kind == "response.output_text.delta":
            text, part = event.get("delta"), event.get("content_index") or 0
            if part != self._sub or event.get("item_id") != self._last or self._last is None:
                self._advance(event, part)
            self._received = True
            choice: dict[str, Any] = {
                "index": 0,
                "delta": {"content": text, "block": self._block},
                "finish_reason": None,
            }
            if logprobs := event.get("logprobs"):
                choice["logprobs"] = {"content": logprobs}
            return {"choices": [choice]}
        handler = self._handlers.get(kind) if isinstance(kind, str) else None
        if handler is not None:
            return handler(self, event)
        if isinstance(kind, str) and kind.startswith("response."):
            return _alive(kind)
        return None

    def _advance(self, event: Mapping[str, Any], sub: int | None = None) -> None:
        """Go on to the block that an event is about."""
        item = self._last = event.get("item_id") or (event.get("item") or {}).get("id")
        place = event.get("output_index") or 0
        if item is not None:
            # After several built-in tools a later place may stand in the last events of an item.
            place = self._places.setdefault(item, place)
        if place != self._item or (sub is not None and sub != self._sub):
            self._block += 1
        if sub is not None:
            self._sub = sub
        self._item = place

    def _created(self, event: Mapping[str, Any]) -> Chunk | None:
        kind = event["type"]
        response = event.get("response") or {}
        # Said again and again it would only keep a connection open.
        if kind in self._begun:
            return None
        self._begun.add(kind)
        return {**_head(response), "event": kind, "choices": []}

    def _item_added(self, event: Mapping[str, Any]) -> Chunk:
        item = event.get("item") or {}
        kind = item.get("type")
        if kind == "function_call":
            self._advance(event)
            arguments = item.get("arguments") or ""
            self._received = bool(arguments)
            block = {
                "type": "function_call",
                "name": item.get("name"),
                "arguments": arguments,
                "call_id": _call_id(item),
                "id": item.get("id"),
                "index": self._block,
            }
            extra = {k: item[k] for k in ("namespace", "async") if item.get(k) is not None}
            return self._call(item.get("name"), _call_id(item), arguments, {**block, **extra})
        if kind == "reasoning":
            self._advance(event)
            self._sub = 0
            block = without_none(item)
            # It is complete only at the end of the item; the two would be joined.
            block.pop("encrypted_content", None)
            return _blocks({**block, "index": self._block})
        if kind == "message":
            self._received = False
            if item.get("phase"):
                self._advance(event, 0)
                phase = {"type": "text", "text": "", "phase": item["phase"], "index": self._block}
                return _blocks(phase)
        return _alive(event["type"])

    def _item_done(self, event: Mapping[str, Any]) -> Chunk:
        item = event.get("item") or {}
        kind = item.get("type")
        self._finished[event.get("output_index") or 0] = item
        if kind == "reasoning":
            if not item.get("encrypted_content"):
                return _alive(event["type"])
            self._advance(event)
            return _blocks(
                {
                    "type": "reasoning",
                    "id": item.get("id"),
                    "summary": [],
                    "encrypted_content": item["encrypted_content"],
                    "index": self._block,
                }
            )
        if kind not in KEPT:
            return _alive(event["type"])
        self._advance(event)
        block = {**without_none(item), "index": self._block}
        if kind == "custom_tool_call":
            return self._call(item.get("name"), _call_id(item), _arguments(item), block)
        return _blocks(block)

    def _call(
        self, name: str | None, id_: str | None, arguments: str, block: dict[str, Any]
    ) -> Chunk:
        function = {"name": name, "arguments": arguments}
        fragment = {"index": self._block, "id": id_, "type": "function", "function": function}
        return _blocks(block, tool_calls=[fragment])

    def _arguments_delta(self, event: Mapping[str, Any]) -> Chunk:
        self._advance(event)
        self._received = True
        return self._more_arguments(event.get("delta") or "")

    def _arguments_done(self, event: Mapping[str, Any]) -> Chunk:
        if self._received:
            return _alive(event["type"])
        self._advance(event)
        return self._more_arguments(event.get("arguments") or "")

    def _more_arguments(self, arguments: str) -> Chunk:
        block = {"type": "function_call", "arguments": arguments, "index": self._block}
        fragment = {"index": self._block, "function": {"arguments": arguments}}
        return _blocks(block, tool_calls=[fragment])

    def _text_done(self, event: Mapping[str, Any]) -> Chunk:
        self._advance(event, event.get("content_index") or 0)
        # Some servers give a short text at once, without pieces.
        text = "" if self._received else event.get("text") or ""
        self._received = False
        block = {"type": "text", "text": text, "id": event.get("item_id"), "index": self._block}
        return _blocks(block, content=text)

    def _annotation_added(self, event: Mapping[str, Any]) -> Chunk:
        self._advance(event, event.get("content_index") or 0)
        annotation = _annotation(without_none(event.get("annotation") or {}))
        return _blocks({"type": "text", "annotations": [annotation], "index": self._block})

    def _refusal_delta(self, event: Mapping[str, Any]) -> Chunk:
        self._received = True
        return _delta({"refusal": event.get("delta"), "blocks": []})

    def _refusal_done(self, event: Mapping[str, Any]) -> Chunk:
        refusal = event.get("refusal") or ""
        whole = {} if self._received else {"refusal": refusal}
        self._received = False
        return _delta({**whole, "blocks": [{"type": "refusal", "refusal": refusal}]})

    def _summary_added(self, event: Mapping[str, Any]) -> Chunk:
        return self._summary(event, "", {"id": event.get("item_id")})

    def _summary_delta(self, event: Mapping[str, Any]) -> Chunk:
        return self._summary(event, event.get("delta") or "", {})

    def _summary(self, event: Mapping[str, Any], text: str, more: dict[str, Any]) -> Chunk:
        self._advance(event)
        part = {"index": event.get("summary_index") or 0, "type": "summary_text", "text": text}
        return _blocks({"type": "reasoning", "summary": [part], "index": self._block, **more})

    def _thoughts_delta(self, event: Mapping[str, Any]) -> Chunk:
        """Pieces of thoughts that are shown themselves, not as a summary."""
        self._advance(event)
        text = event.get("delta") or ""
        block: dict[str, Any] = {"type": "reasoning", "reasoning": text, "summary": []}
        block["index"] = self._block
        return _blocks(block)

    def _end(self, event: Mapping[str, Any]) -> Chunk:
        response = event.get("response") or {}
        items = _items(response) or [item for _, item in sorted(self._finished.items())]
        if event["type"] == "response.incomplete":
            response = {"status": "incomplete", **response}
        choice = {"index": 0, "delta": {}, "finish_reason": finish_reason(response, items)}
        return {**_head(response), **_trailer(response, items), "choices": [choice]}

    _handlers: ClassVar[dict[str, Callable[[EventConverter, Mapping[str, Any]], Chunk | None]]] = {
        "response.created": _created,
        "response.queued": _created,
        "response.in_progress": _created,
        "response.output_item.added": _item_added,
        "response.output_item.done": _item_done,
        "response.function_call_arguments.delta": _arguments_delta,
        "response.function_call_arguments.done": _arguments_done,
        "response.output_text.done": _text_done,
        "response.output_text.annotation.added": _annotation_added,
        "response.refusal.delta": _refusal_delta,
        "response.refusal.done": _refusal_done,
        "response.reasoning_summary_part.added": _summary_added,
        "response.reasoning_summary_text.delta": _summary_delta,
        "response.reasoning_text.delta": _thoughts_delta,
        "response.completed": _end,
        "response.incomplete": _end,
    }
    """By type of event; text, which comes most, is read in `convert` itself."""


def _alive(kind: str) -> Chunk:
    """A chunk that shows that the model works, and nothing else."""
    return {"event": kind, "choices": []}


def _blocks(block: dict[str, Any], **more: Any) -> Chunk:
    return _delta({"blocks": [block], **more})


def _delta(delta: dict[str, Any]) -> Chunk:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}

"""Answers of OpenAI's Responses API, as clients read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk

from langchain_resilient.service.calls import CallKeys, details, event, whole_calls
from langchain_resilient.service.chat import finish_reason, thoughts_in
from langchain_resilient.service.responses_request import CALLS, read_request, sealed
from langchain_resilient.wire.finish_reasons import REASON_KEYS
from langchain_resilient.wire.provider_state import CALLS_KEY, RECEIPT_KEY
from langchain_resilient.wire.responses import KEPT, reasoning_text

if TYPE_CHECKING:
    from langchain_resilient.service.calls import Call
    from langchain_resilient.service.failures import Failure

    Item = dict[str, Any]


class Responses:
    """The API of `/v1/responses`."""

    def read(self, body: dict[str, Any]) -> Call:
        """Read a request; see `API.read`."""
        return read_request(body)

    def document(self, call: Call, messages: list[AIMessage]) -> dict[str, Any]:
        """Write a whole answer; see `API.document`."""
        writer = ResponseStream(call)
        writer.whole(messages)
        writer.end(None)
        return writer.response

    def writer(self, call: Call) -> ResponseStream:
        """Begin a streamed answer."""
        return ResponseStream(call)


class ResponseStream:
    """Writes one answer as events; see `StreamWriter`.

    Attributes:
        response: The whole answer, once it has ended.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._number = -1
        self._begun = False
        self._items: list[Item] = []
        self._keys = CallKeys()
        self._open: dict[object, int] = {}
        self._by_id: dict[Any, int] = {}
        self._kind = ""
        self._last: AIMessage = AIMessageChunk(content="")
        self.response: dict[str, Any] = {}

    # What the endpoint calls.

    def add(self, chunk: AIMessageChunk) -> bytes:
        """Write a chunk."""
        written = b"" if self._begun else self._opening()
        metadata = chunk.response_metadata
        if not metadata.keys().isdisjoint(REASON_KEYS) or chunk.usage_metadata is not None:
            self._last = chunk
        logprobs = (metadata.get("logprobs") or {}).get("content") or []
        blocks: list[Any] = chunk.content if isinstance(chunk.content, list) else [chunk.content]
        thoughts = chunk.additional_kwargs.get("reasoning_content")
        if thoughts and isinstance(chunk.content, str):  # else they stand among the blocks
            written += self._thoughts(str(thoughts))
        for block in blocks:
            if isinstance(block, dict):
                written += self._block(block, logprobs)
            elif block:
                written += self._text(block, "output_text", logprobs)
        return written + self._beside(chunk, blocks)

    def _beside(self, chunk: AIMessageChunk, blocks: list[Any]) -> bytes:
        """Write what of a chunk stands beside its content."""
        written, extras = b"", chunk.additional_kwargs
        if refusal := extras.get("refusal"):
            written += self._text(str(refusal), "refusal")
        if not _holds_calls(blocks):
            for piece in chunk.tool_call_chunks:
                name, args = piece.get("name"), piece.get("args") or ""
                written += self._arguments(self._keys.key(piece), name, piece.get("id"), args)
        for note in extras.get("annotations") or ():
            written += self._text("", "output_text") + self._annotation(_flat(note))
        for id_, extra in (extras.get(CALLS_KEY) or {}).items():
            self._sign(id_, extra)
        return written

    def whole(self, messages: list[AIMessage]) -> bytes:
        """Write an answer that came as a whole."""
        message = messages[0]
        chunk = AIMessageChunk(
            content=message.content,
            additional_kwargs=message.additional_kwargs,
            response_metadata=message.response_metadata,
            usage_metadata=message.usage_metadata,
        )
        chunk.tool_call_chunks = [
            tool_call_chunk(index=n, id=id_, name=name, args=args)
            for n, (id_, name, args) in enumerate(whole_calls(message))
        ]
        return self.add(chunk)

    def end(self, receipt: dict[str, Any] | None) -> bytes:
        """Write the ends of what is open, and the whole answer."""
        written = b"" if self._begun else self._opening()
        written += self._close() + self._close_calls()
        reason = finish_reason(self._last)
        why = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(reason)
        status = "incomplete" if why else "completed"
        self.response = self._response(status, why)
        if receipt:
            self.response["resilience"] = receipt
        return written + self._event(f"response.{status}", response=self.response)

    def failure(self, failure: Failure) -> bytes:
        """Write that the answer broke off."""
        written = b"" if self._begun else self._opening()
        error = {"code": failure.code or failure.kind, "message": failure.message}
        response = {**self._response("failed", None), "error": error}
        return written + self._event("response.failed", response=response)

    # The parts of an answer.

    def _block(self, block: Item, logprobs: list[Any]) -> bytes:
        """Write a block of an answer, as the same API has it or a LangChain model."""
        kind = block.get("type")
        if kind == "text":
            text, notes = block.get("text") or "", block.get("annotations") or []
            written = self._text(text, "output_text", logprobs, block) if text or notes else b""
            return written + b"".join(self._annotation(note) for note in notes)
        if kind == "refusal":
            # In a stream its pieces came before it.
            known = self._kind == "refusal"
            return b"" if known else self._text(block.get("refusal") or "", "refusal")
        if kind == "reasoning":
            return self._reasoning(block)
        if kind == "function_call":
            id_, args = block.get("call_id"), block.get("arguments") or ""
            key = block.get("index", id_)
            return self._arguments(key, block.get("name"), id_, args)
        if kind not in KEPT:
            thoughts = thoughts_in(block)
            return self._thoughts(thoughts) if thoughts else b""
        item = {k: v for k, v in block.items() if k != "index"}
        item.setdefault("id", self._id("item"))
        return self._close() + self._add_item(item) + self._done(len(self._items) - 1)

    def _text(
        self,
        text: Any,
        kind: str,
        logprobs: list[Any] | None = None,
        block: Item | None = None,
    ) -> bytes:
        """Write a piece of what is said: `output_text` or `refusal`."""
        written = b""
        if self._kind != kind:
            written = self._close()
            phase = {"phase": block["phase"]} if block and block.get("phase") else {}
            message: Item = {
                "id": self._id("msg"), "type": "message", "status": "in_progress",
                "role": "assistant", "content": [], **phase,
            }  # fmt: skip
            written += self._add_item(message)
            self._kind = kind
            part: Item = {"type": kind, "refusal": ""}
            if kind == "output_text":
                part = {"type": kind, "text": "", "annotations": [], "logprobs": []}
            self._items[-1]["content"].append(part)
            written += self._on_part("response.content_part.added", part=dict(part))
        part = self._items[-1]["content"][0]
        if kind == "refusal":
            part["refusal"] += text
            return written + self._on_part("response.refusal.delta", delta=text)
        part["text"] += text
        part["logprobs"].extend(logprobs or ())
        if not text:
            return written
        more = {"logprobs": logprobs or []}
        return written + self._on_part("response.output_text.delta", delta=text, **more)

    def _annotation(self, note: Item) -> bytes:
        part = self._items[-1]["content"][0]
        note = {("index" if k == "file_index" else k): v for k, v in note.items()}
        number = len(part["annotations"])
        part["annotations"].append(note)
        kind = "response.output_text.annotation.added"
        return self._on_part(kind, annotation=note, annotation_index=number)

    def _thoughts(self, text: str) -> bytes:
        """Write a piece of thoughts that are shown themselves."""
        written = self._open_reasoning()
        item, number = self._items[-1], len(self._items) - 1
        if "content" not in item:
            item["content"] = [{"type": "reasoning_text", "text": ""}]
        item["content"][0]["text"] += text
        return written + self._event(
            "response.reasoning_text.delta",
            item_id=item["id"], output_index=number, content_index=0, delta=text,
        )  # fmt: skip

    def _reasoning(self, block: Item) -> bytes:
        """Write a piece of an item of reasoning, as another server of this API sent it."""
        written = self._open_reasoning(block.get("id"))
        item, number = self._items[-1], len(self._items) - 1
        for part in block.get("summary") or ():
            place = part.get("index", len(item["summary"]))
            at = {"item_id": item["id"], "output_index": number, "summary_index": place}
            while len(item["summary"]) <= place:
                item["summary"].append({"type": "summary_text", "text": ""})
                new = {**at, "summary_index": len(item["summary"]) - 1}
                part_added = {"type": "summary_text", "text": ""}
                written += self._event(
                    "response.reasoning_summary_part.added", part=part_added, **new
                )
            if text := part.get("text"):
                item["summary"][place]["text"] += text
                written += self._event("response.reasoning_summary_text.delta", delta=text, **at)
        if not block.get("summary") and (text := reasoning_text(block)):
            written += self._thoughts(text)
        if block.get("encrypted_content"):
            item["encrypted_content"] = block["encrypted_content"]
        return written

    def _open_reasoning(self, id_: str | None = None) -> bytes:
        if self._kind == "reasoning" and id_ in (None, self._items[-1]["id"]):
            return b""
        written = self._close()
        item = {"id": id_ or self._id("rs"), "type": "reasoning", "summary": []}
        written += self._add_item(item)
        self._kind = "reasoning"
        return written

    def _arguments(self, key: Any, name: Any, id_: Any, args: str) -> bytes:
        """Write a piece of a call; several may be open."""
        written = b""
        if key not in self._open:
            if self._kind:
                written = self._close()
            call: Item = {
                "id": self._id("fc"), "type": "function_call", "status": "in_progress",
                "call_id": id_ or self._id("call"), "name": name or "", "arguments": "",
            }  # fmt: skip
            written += self._add_item(call)
            self._open[key] = len(self._items) - 1
        number = self._open[key]
        if id_:  # one that is made here comes last
            self._by_id[id_] = number
        item = self._items[number]
        item["arguments"] += args
        if not args:
            return written
        kind = "response.function_call_arguments.delta"
        return written + self._event(kind, item_id=item["id"], output_index=number, delta=args)

    def _sign(self, id_: str, extra: Any) -> None:
        """Let a call hold what its provider wants back with it, and who that is."""
        maker, number = self._call.receipts.answering, self._by_id.get(id_)
        if maker and number is not None:
            signed = {"extra_content": extra, RECEIPT_KEY: {"winner": maker}}
            self._items[number].update(signed)

    # The events around them.

    def _opening(self) -> bytes:
        self._begun = True
        begun = self._response("in_progress", None)
        written = self._event("response.created", response=begun)
        return written + self._event("response.in_progress", response=begun)

    def _add_item(self, item: Item) -> bytes:
        self._items.append(item)
        number = len(self._items) - 1
        return self._event("response.output_item.added", output_index=number, item=item)

    def _on_part(self, kind: str, **fields: Any) -> bytes:
        number = len(self._items) - 1
        at = {"item_id": self._items[-1]["id"], "output_index": number, "content_index": 0}
        return self._event(kind, **at, **fields)

    def _close(self) -> bytes:
        """Write the end of the text, refusal or thoughts that are open."""
        kind, self._kind = self._kind, ""
        written = b""
        if kind == "reasoning":
            written += self._close_reasoning()
        elif kind:
            part = self._items[-1]["content"][0]
            name = "text" if kind == "output_text" else "refusal"
            more = {"logprobs": part["logprobs"]} if name == "text" else {}
            written += self._on_part(f"response.{kind}.done", **{name: part[name]}, **more)
            written += self._on_part("response.content_part.done", part=part)
            written += self._done(len(self._items) - 1)
        return written

    def _close_calls(self) -> bytes:
        """Write the ends of the calls: until the end of all, more of them may come."""
        written = b""
        for number in self._open.values():
            item = self._items[number]
            written += self._event(
                "response.function_call_arguments.done",
                item_id=item["id"], output_index=number, name=item["name"],
                arguments=item["arguments"],
            )  # fmt: skip
            written += self._done(number)
        return written

    def _close_reasoning(self) -> bytes:
        item, number = self._items[-1], len(self._items) - 1
        at = {"item_id": item["id"], "output_index": number}
        written = b""
        for place, part in enumerate(item["summary"]):
            here = {**at, "summary_index": place}
            written += self._event(
                "response.reasoning_summary_text.done", text=part["text"], **here
            )
            written += self._event("response.reasoning_summary_part.done", part=part, **here)
        for place, part in enumerate(item.get("content") or ()):
            written += self._event(
                "response.reasoning_text.done", text=part["text"], content_index=place, **at
            )
        maker = self._call.receipts.answering
        if maker:
            item["encrypted_content"] = sealed(maker, item.get("encrypted_content") or "")
        return written + self._done(number)

    def _done(self, number: int) -> bytes:
        item = self._items[number]
        if item.get("status") == "in_progress":
            item["status"] = "completed"
        return self._event("response.output_item.done", output_index=number, item=item)

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        return event({"type": kind, "sequence_number": self._number, **fields}, kind)

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._call.id}{len(self._items):04x}"

    def _response(self, status: str, why: str | None) -> dict[str, Any]:
        sent, known = self._call.sent, self._last.response_metadata
        ended = status in ("completed", "incomplete")
        return {
            "id": f"resp_{self._call.id}",
            "object": "response",
            "created_at": self._call.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": why} if why else None,
            "instructions": sent.get("instructions"),
            "max_output_tokens": sent.get("max_output_tokens"),
            "metadata": sent.get("metadata") or {},
            "model": str(known.get("model_name") or self._call.model),
            "output": [*self._items] if ended else [],
            "parallel_tool_calls": sent.get("parallel_tool_calls") is not False,
            "previous_response_id": None,
            "reasoning": sent.get("reasoning") or {"effort": None, "summary": None},
            "service_tier": known.get("service_tier") or "default",
            "store": False,
            "temperature": sent.get("temperature"),
            "text": sent.get("text") or {"format": {"type": "text"}},
            "tool_choice": sent.get("tool_choice") or "auto",
            "tools": sent.get("tools") or [],
            "top_p": sent.get("top_p"),
            "truncation": sent.get("truncation") or "disabled",
            "usage": _usage(self._last) if ended else None,
        }


def _holds_calls(blocks: list[Any]) -> bool:
    """Whether the calls of an answer of this API stand among its blocks."""
    return any(isinstance(block, dict) and block.get("type") in CALLS for block in blocks)


def _flat(note: Item) -> Item:
    """Write an annotation of chat completions as this API has it."""
    kind = note.get("type")
    inner = note.get(kind) if isinstance(kind, str) else None
    return {"type": kind, **inner} if isinstance(inner, dict) else note


def _usage(message: AIMessage) -> dict[str, Any] | None:
    usage = message.usage_metadata
    if usage is None:
        return None
    given, made = details(usage, "input_token_details"), details(usage, "output_token_details")
    return {
        "input_tokens": usage["input_tokens"],
        "input_tokens_details": {"cached_tokens": given.get("cache_read", 0)},
        "output_tokens": usage["output_tokens"],
        "output_tokens_details": {"reasoning_tokens": made.get("reasoning", 0)},
        "total_tokens": usage["total_tokens"],
    }

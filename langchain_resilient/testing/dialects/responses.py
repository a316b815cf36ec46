"""OpenAI's Responses API on the wire."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from langchain_resilient.testing.answer_generator import is_reasoning_model
from langchain_resilient.testing.answers import tokens
from langchain_resilient.testing.dialects.base import (
    CREATED,
    SERIAL,
    AnswerPiece,
    RenderedAnswer,
    call_id,
    logprob,
    quoted,
)
from langchain_resilient.testing.dialects.openai import OpenAIDialect
from langchain_resilient.testing.responses_request import ENCRYPTED, as_chat, find_responses_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from langchain_resilient.testing.answers import Answer, AnswerChoice, AnswerUsage, ReplyOptions
    from langchain_resilient.testing.dialects.base import IncomingRequest
    from langchain_resilient.testing.error_bodies import ErrorBody

_MESSAGE_ID, _REASONING_ID = f"msg_{SERIAL}", f"rs_{SERIAL}"
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ResponsesDialect(OpenAIDialect):
    """Speaks as api.openai.com/v1/responses does; targets are `"openai:..."` here too.

    A web search that is offered is made before each answer. Reasoning models think before theirs,
    and give that encrypted where it is asked for; only the same model takes it back.
    """

    chat_path = "/openai/v1/responses"
    text_key = b'"text":'

    def chat_body(self, body: dict[str, Any]) -> dict[str, Any]:
        """Translate a request to chat completions, which the model behind all dialects reads."""
        return as_chat(body)

    def find_error(self, body: Mapping[str, Any], chat: Mapping[str, Any]) -> ErrorBody | None:
        """Return what a request would be refused for, or None."""
        return find_responses_error(body, chat)

    def document(
        self, request: IncomingRequest, answer: Answer, reply: ReplyOptions
    ) -> dict[str, Any]:
        """Return the body of a plain answer."""
        return _response(request, answer, reply)

    def stream(
        self, request: IncomingRequest, answer: Answer, reply: ReplyOptions
    ) -> RenderedAnswer:
        """Return a streamed answer."""
        return _ResponsesStream(request, reply).render(answer)

    def failure(self, error: Mapping[str, Any], *, named: bool) -> str:
        """Return the event that tells of a failure inside a stream."""
        if named:
            data = {"type": "error", **error, "sequence_number": 0}
            return f"event: error\ndata: {json.dumps(data)}\n\n"
        response = {"id": f"resp_{SERIAL}", "status": "failed", "error": error, "output": []}
        data = {"type": "response.failed", "response": response}
        return f"event: response.failed\ndata: {json.dumps(data)}\n\n"


def _response(request: IncomingRequest, answer: Answer, reply: ReplyOptions) -> dict[str, Any]:
    """The whole answer, as plain requests and the last event have it."""
    choice = answer.choices[0]
    reason = choice.finish_reason
    status = "incomplete" if reason in _INCOMPLETE else "completed"
    sent = request.sent or {}
    return {
        "id": f"resp_{SERIAL}",
        "object": "response",
        "created_at": CREATED,
        "status": "in_progress" if reason is None else status,
        "error": None,
        "incomplete_details": {"reason": _INCOMPLETE[reason]} if reason in _INCOMPLETE else None,
        "model": request.model,
        "output": list(_items(request, choice)),
        "parallel_tool_calls": True,
        "previous_response_id": sent.get("previous_response_id"),
        "service_tier": request.tier,
        "store": sent.get("store") is not False,
        "tool_choice": "auto",
        "usage": _usage(answer.usage) if reply.usage else None,
        "user": None,
        "metadata": {},
    }


def _items(request: IncomingRequest, choice: AnswerChoice) -> Iterator[dict[str, Any]]:
    """The items of an answer, in order."""
    tools = [tool.get("type", "") for tool in request.body.get("tools") or ()]
    if choice.reasoning or is_reasoning_model(request.model):
        parts = [{"type": "summary_text", "text": choice.reasoning}] if choice.reasoning else []
        item: dict[str, Any] = {"id": _REASONING_ID, "type": "reasoning", "summary": parts}
        if ENCRYPTED in ((request.sent or {}).get("include") or ()):
            item["encrypted_content"] = f"gAAAA-{request.model}"
        yield item
    if any(kind.startswith("web_search") for kind in tools):
        action = {"type": "search", "query": "simulated"}
        ended = {"status": "completed", "action": action}
        yield {"id": f"ws_{SERIAL}", "type": "web_search_call", **ended}
    if choice.text is not None or choice.refusal is not None:
        yield {
            "id": _MESSAGE_ID,
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [_part(request, choice)],
        }
    custom = {tool["function"]["name"] for tool in request.body.get("tools") or () if _custom(tool)}
    for at, call in enumerate(choice.tool_calls):
        known = {"status": "completed", "call_id": call.id or call_id(at), "name": call.name}
        if call.name in custom:
            said = json.loads(call.arguments).get("input", call.arguments)
            yield {
                "id": f"ctc_{SERIAL}{at}",
                "type": "custom_tool_call",
                **known,
                "input": str(said),
            }
        else:
            arguments = {"arguments": call.arguments}
            yield {"id": f"fc_{SERIAL}{at}", "type": "function_call", **known, **arguments}


def _custom(tool: Mapping[str, Any]) -> bool:
    return bool(tool.get("custom"))


def _part(request: IncomingRequest, choice: AnswerChoice) -> dict[str, Any]:
    if choice.refusal is not None:
        return {"type": "refusal", "refusal": choice.refusal}
    text = choice.text or ""
    return {
        "type": "output_text",
        "annotations": [],
        "logprobs": _logprobs(request, tokens(text), 0),
        "text": text,
    }


def _logprobs(request: IncomingRequest, pieces: list[str], first: int) -> list[dict[str, Any]]:
    if not request.body.get("logprobs"):
        return []
    count = request.body.get("top_logprobs") or 0
    return [
        {
            **_token(piece, logprob(at)),
            "top_logprobs": [
                _token(piece + "'" * rank, logprob(at) - 2.0 * rank) for rank in range(count)
            ],
        }
        for at, piece in enumerate(pieces, first)
    ]


def _token(text: str, value: float) -> dict[str, Any]:
    return {"token": text, "logprob": value, "bytes": list(text.encode())}


def _usage(usage: AnswerUsage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }


class _ResponsesStream:
    """Writes the events of one streamed answer."""

    def __init__(self, request: IncomingRequest, reply: ReplyOptions) -> None:
        self.request = request
        self.reply = reply
        self.count = 0

    def render(self, answer: Answer) -> RenderedAnswer:
        whole = _response(self.request, answer, self.reply)
        begun = {**whole, "status": "in_progress", "output": [], "usage": None}
        opening = self.event("response.created", response=begun)
        opening += self.event("response.in_progress", response=begun)
        pieces: list[AnswerPiece] = []
        for place, item in enumerate(whole["output"]):
            pieces.extend(self.item(place, item))
        # What ends the last item comes with the end of the answer.
        ending: list[bytes] = []
        while pieces and not pieces[-1].text and not pieces[-1].early:
            ending.insert(0, pieces.pop().data)
        kind = "incomplete" if whole["status"] == "incomplete" else "completed"
        finish = b"".join([*ending, self.event(f"response.{kind}", response=whole)])
        return RenderedAnswer(opening=opening, pieces=pieces, finish=finish)

    def event(self, kind: str, **fields: Any) -> bytes:
        self.count += 1
        data = {"type": kind, "sequence_number": self.count - 1, **fields}
        if self.reply.quirks and kind.endswith(".delta"):
            data["obfuscation"] = "aB3dE5gH7jK9"[: self.count % 12]
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        return f"event: {kind}\ndata: {text}\n\n".encode()

    def item(self, place: int, item: dict[str, Any]) -> Iterator[AnswerPiece]:
        kind = item["type"]
        early = kind in ("reasoning", "web_search_call")
        at = {"output_index": place}
        begun = {k: v for k, v in item.items() if k not in ("encrypted_content", "action")}
        begun |= {name: [] for name in ("content", "summary") if name in item}
        begun |= {name: "" for name in ("arguments", "input") if name in item}
        if "status" in item:
            begun["status"] = "in_progress"
        yield AnswerPiece(self.event("response.output_item.added", **at, item=begun), early=early)
        inside = {**at, "item_id": item["id"]}
        if kind == "message":
            yield from self.message(inside, item["content"][0])
        elif kind == "reasoning":
            yield from self.reasoning(inside, item["summary"])
        elif kind == "web_search_call":
            for state in ("in_progress", "searching", "completed"):
                data = self.event(f"response.web_search_call.{state}", **inside)
                yield AnswerPiece(data, early=True)
        else:
            name = "input" if kind == "custom_tool_call" else "arguments"
            stem = "response.function_call_arguments"
            stem = "response.custom_tool_call_input" if name == "input" else stem
            for piece in tokens(item[name]):
                yield AnswerPiece(self.event(f"{stem}.delta", **inside, delta=piece), piece)
            yield AnswerPiece(self.event(f"{stem}.done", **inside, **{name: item[name]}))
        yield AnswerPiece(self.event("response.output_item.done", **at, item=item), early=early)

    def message(self, inside: dict[str, Any], part: dict[str, Any]) -> Iterator[AnswerPiece]:
        inside = {**inside, "content_index": 0}
        name = "refusal" if part["type"] == "refusal" else "text"
        begun = {**part, name: "", **({"logprobs": []} if name == "text" else {})}
        yield AnswerPiece(self.event("response.content_part.added", **inside, part=begun))
        pieces = tokens(part[name])
        logged = name == "text" and bool(self.request.body.get("logprobs"))
        stem = f"response.{part['type']}"
        for at, piece in enumerate(pieces):
            extra = {"logprobs": _logprobs(self.request, [piece], at)} if logged else {}
            if name == "text" and not logged and not self.reply.quirks:
                yield AnswerPiece(self.text(inside, piece), piece)
                continue
            yield AnswerPiece(self.event(f"{stem}.delta", **inside, delta=piece, **extra), piece)
        whole = {name: part[name], **({"logprobs": part["logprobs"]} if logged else {})}
        yield AnswerPiece(self.event(f"{stem}.done", **inside, **whole))
        yield AnswerPiece(self.event("response.content_part.done", **inside, part=part))

    def text(self, inside: dict[str, Any], piece: str) -> bytes:
        """The most frequent event, written by hand: ten times as fast as by `json`."""
        self.count += 1
        return (
            "event: response.output_text.delta\n"
            f'data: {{"type":"response.output_text.delta","sequence_number":{self.count - 1},'
            f'"item_id":"{inside["item_id"]}","output_index":{inside["output_index"]},'
            f'"content_index":0,"delta":{quoted(piece)},"logprobs":[]}}\n\n'
        ).encode()

    def reasoning(
        self, inside: dict[str, Any], summary: list[dict[str, Any]]
    ) -> Iterator[AnswerPiece]:
        stem = "response.reasoning_summary"
        for number, part in enumerate(summary):
            inside = {**inside, "summary_index": number}
            begun = {**part, "text": ""}
            yield AnswerPiece(self.event(f"{stem}_part.added", **inside, part=begun), early=True)
            for piece in tokens(part["text"]):
                data = self.event(f"{stem}_text.delta", **inside, delta=piece)
                yield AnswerPiece(data, early=True)
            data = self.event(f"{stem}_text.done", **inside, text=part["text"])
            data += self.event(f"{stem}_part.done", **inside, part=part)
            yield AnswerPiece(data, early=True)

"""OpenAI's chat completions on the wire."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_resilient.testing.answers import (
    Answer,
    AnswerChoice,
    AnswerUsage,
    ReplyOptions,
    tokens,
)
from langchain_resilient.testing.dialects.base import (
    CREATED,
    DONE,
    SERIAL,
    AnswerPiece,
    Dialect,
    IncomingRequest,
    RateLimitState,
    RenderedAnswer,
    call_id,
    event,
    go_duration,
    logprob,
    quoted,
)
from langchain_resilient.testing.error_bodies import OPENAI, ErrorBody
from langchain_resilient.testing.http import Headers

_FINGERPRINT = "fp_51d3a17e00"
_FULL = (RateLimitState(10_000, 9_999, 0.006), RateLimitState(2_000_000, 1_999_950, 0.001))
_HEADERS: Headers = (
    ("x-request-id", f"req_{SERIAL}{SERIAL}"),
    ("openai-organization", "org-simulated"),
    ("openai-processing-ms", "42"),
    ("openai-version", "2020-10-01"),
    ("server", "cloudflare"),
)


class OpenAIDialect(Dialect):
    """Speaks as api.openai.com does; `quirks` adds `obfuscation` and nulls."""

    name = "openai"
    base_path = "/openai/v1"
    chat_path = "/openai/v1/chat/completions"
    models_path = "/openai/v1/models"
    errors = OPENAI

    def document(
        self, request: IncomingRequest, answer: Answer, reply: ReplyOptions
    ) -> dict[str, Any]:
        """Return the body of a plain answer."""
        document: dict[str, Any] = {
            "id": f"chatcmpl-{SERIAL}",
            "object": "chat.completion",
            "created": CREATED,
            "model": request.model,
            "choices": [
                {
                    "index": index,
                    "message": _message(choice),
                    "logprobs": _logprobs(request, choice.text or ""),
                    "finish_reason": choice.finish_reason,
                }
                for index, choice in enumerate(answer.choices)
            ],
            "usage": _usage(answer.usage),
            "service_tier": request.tier,
            "system_fingerprint": _FINGERPRINT,
        }
        if not reply.usage:
            del document["usage"]
        return document

    def stream(
        self, request: IncomingRequest, answer: Answer, reply: ReplyOptions
    ) -> RenderedAnswer:
        """Return a streamed answer: the choices one after another, as recorded."""
        return _OpenAIStream(self, request, reply).render(answer)

    def error_object(self, error: ErrorBody) -> dict[str, Any]:
        """Return `{"error": {message, type, param, code}}`."""
        return {"error": error.fields()}

    def error_content(self, error: ErrorBody) -> tuple[str, bytes]:
        """Return an error, pretty-printed as OpenAI does."""
        if error.text is not None:
            return super().error_content(error)
        return self.content_type, json.dumps(self.error_object(error), indent=2).encode() + b"\n"

    def ok_headers(self, requests: RateLimitState | None, tokens: RateLimitState | None) -> Headers:
        """Return the headers of a success: six of them on the rate limits."""
        meters = {"requests": requests or _FULL[0], "tokens": tokens or _FULL[1]}
        headers = list(_HEADERS)
        for kind, meter in meters.items():
            headers.append((f"x-ratelimit-limit-{kind}", str(meter.limit)))
            headers.append((f"x-ratelimit-remaining-{kind}", str(meter.remaining)))
            headers.append((f"x-ratelimit-reset-{kind}", go_duration(meter.reset)))
        return tuple(headers)

    def error_headers(self) -> Headers:
        """Return the headers of any error."""
        return _HEADERS

    def reset_headers(self, reset: float | str, limit: int) -> Headers:
        """Return the three headers on requests, the reset as a Go duration."""
        text = reset if isinstance(reset, str) else go_duration(reset)
        return (
            ("x-ratelimit-limit-requests", str(limit)),
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", text),
        )

    def wait_headers(self, seconds: float) -> dict[str, str]:
        """Return the time to wait in seconds and, exactly, in milliseconds."""
        return {**super().wait_headers(seconds), "retry-after-ms": str(math.ceil(seconds * 1000))}

    def models(self, names: Sequence[str], shutdown_dates: Mapping[str, str | None]) -> Any:
        """Return the list of models."""
        data = [
            {
                "id": name,
                "object": "model",
                "created": CREATED,
                "owned_by": "simulator",
                "shutdown_date": shutdown_dates.get(name),
            }
            for name in names
        ]
        return {"object": "list", "data": data}


class _OpenAIStream:
    """Writes the events of one streamed answer."""

    def __init__(
        self, dialect: OpenAIDialect, request: IncomingRequest, reply: ReplyOptions
    ) -> None:
        self.dialect = dialect
        self.request = request
        self.reply = reply
        options = request.body.get("stream_options") or {}
        self.with_usage = bool(options.get("include_usage")) and reply.usage
        self.start = (
            f'{{"id":"chatcmpl-{SERIAL}","object":"chat.completion.chunk","created":{CREATED},'
            f'"model":{json.dumps(request.model)},"service_tier":"{request.tier}",'
            f'"system_fingerprint":"{_FINGERPRINT}","choices":['
        )
        self.end = "]" + (',"usage":null' if self.with_usage else "")
        self.count = 0

    def render(self, answer: Answer) -> RenderedAnswer:
        pieces = [
            piece
            for index, choice in enumerate(answer.choices)
            for piece in (self.opening(index, choice), *self.pieces(index, choice))
        ]
        finish = b"".join(
            self.chunk(index, {}, finish=choice.finish_reason)
            for index, choice in enumerate(answer.choices)
        )
        usage = f'{self.start}],"usage":{json.dumps(_usage(answer.usage))}'
        return RenderedAnswer(
            # A single tool call comes with the role: then nothing stands before the answer.
            opening=pieces.pop(0).data if pieces[0].early else b"",
            pieces=pieces,
            finish=finish,
            usage=self.closed(usage) if self.with_usage else b"",
            done=DONE,
        )

    def chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        finish: str | None = None,
        piece: str = "",
        at: int = 0,
    ) -> bytes:
        logprobs = _logprobs(self.request, piece, at) if piece else None
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        text = json.dumps(choice, ensure_ascii=False, separators=(",", ":"))
        return self.closed(self.start + text + self.end)

    def closed(self, text: str) -> bytes:
        self.count += 1
        if self.reply.quirks:
            text += f',"obfuscation":"{"aB3dE5gH7jK9"[: self.count % 12]}"'
        return event(text.encode() + b"}")

    def opening(self, index: int, choice: AnswerChoice) -> AnswerPiece:
        delta: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
        if choice.refusal is not None:
            delta = {"role": "assistant", "content": None, "refusal": ""}
        elif choice.text is None or self.reply.quirks:
            delta["content"] = None
        single = choice.text is None and len(choice.tool_calls) == 1
        if single:
            delta["tool_calls"] = [_opened(choice, 0)]
        return AnswerPiece(self.chunk(index, delta), early=not single)

    def pieces(self, index: int, choice: AnswerChoice) -> Iterator[AnswerPiece]:
        for piece in tokens(choice.reasoning):
            yield AnswerPiece(self.chunk(index, {"reasoning_content": piece}), early=True)
        logged = bool(self.request.body.get("logprobs"))
        for at, piece in enumerate(tokens(choice.text or "")):
            # The most frequent chunk is written by hand, ten times as fast as by `json`.
            yield AnswerPiece(
                self.chunk(index, {"content": piece}, piece=piece, at=at)
                if logged
                else self.closed(
                    f'{self.start}{{"index":{index},"delta":{{"content":{quoted(piece)}}},'
                    f'"logprobs":null,"finish_reason":null}}{self.end}'
                ),
                piece,
            )
        for piece in tokens(choice.refusal or ""):
            yield AnswerPiece(self.chunk(index, {"refusal": piece}), piece)
        for at, tool_call in enumerate(choice.tool_calls):
            if choice.text is not None or len(choice.tool_calls) > 1:
                yield AnswerPiece(self.chunk(index, {"tool_calls": [_opened(choice, at)]}))
            for piece in tokens(tool_call.arguments):
                delta = {"tool_calls": [{"index": at, "function": {"arguments": piece}}]}
                yield AnswerPiece(self.chunk(index, delta), piece)


def _message(choice: AnswerChoice) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": choice.text,
        "refusal": choice.refusal,
        "annotations": [],
    }
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if choice.tool_calls:
        message["tool_calls"] = [
            {
                "id": tool_call.id or call_id(at),
                "type": "function",
                "function": {"name": tool_call.name, "arguments": tool_call.arguments},
            }
            for at, tool_call in enumerate(choice.tool_calls)
        ]
    return message


def _opened(choice: AnswerChoice, at: int) -> dict[str, Any]:
    tool_call = choice.tool_calls[at]
    function = {"name": tool_call.name, "arguments": ""}
    return {
        "index": at,
        "id": tool_call.id or call_id(at),
        "type": "function",
        "function": function,
    }


def _usage(usage: AnswerUsage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _logprobs(request: IncomingRequest, text: str, first: int = 0) -> dict[str, Any] | None:
    if not request.body.get("logprobs"):
        return None
    alternatives = request.body.get("top_logprobs") or 0
    content = []
    for at, piece in enumerate(tokens(text), first):
        top = [_token(piece + "'" * rank, logprob(at) - 2.0 * rank) for rank in range(alternatives)]
        content.append({**_token(piece, logprob(at)), "top_logprobs": top})
    return {"content": content, "refusal": None}


def _token(text: str, value: float) -> dict[str, Any]:
    return {"token": text, "logprob": value, "bytes": list(text.encode())}

"""OpenAI's chat completions on the wire."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from langchain_resilient.testing.dialects.base import (
    CREATED,
    DONE,
    SERIAL,
    Dialect,
    Fragment,
    Meter,
    Parts,
    call_id,
    event,
    go_duration,
    logprob,
    quoted,
)
from langchain_resilient.testing.problems import OPENAI
from langchain_resilient.testing.text import tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_resilient.testing.brain import Answer, Choice, Usage
    from langchain_resilient.testing.dialects.base import Call
    from langchain_resilient.testing.http import Headers
    from langchain_resilient.testing.problems import Problem
    from langchain_resilient.testing.steps.reply import Reply

_FINGERPRINT = "fp_51d3a17e00"
_FULL = (Meter(10_000, 9_999, 0.006), Meter(2_000_000, 1_999_950, 0.001))
_HEADERS: Headers = (
    ("x-request-id", f"req_{SERIAL}{SERIAL}"),
    ("openai-organization", "org-simulated"),
    ("openai-processing-ms", "42"),
    ("openai-version", "2020-10-01"),
    ("server", "cloudflare"),
)


class OpenAI(Dialect):
    """Speaks as api.openai.com does; `quirks` adds `obfuscation`, nulls and odd key orders."""

    name = "openai"
    base_path = "/openai/v1"
    chat_path = "/openai/v1/chat/completions"
    models_path = "/openai/v1/models"
    problems = OPENAI

    def document(self, call: Call, answer: Answer, reply: Reply) -> dict[str, Any]:
        """Return the body of a plain answer."""
        document: dict[str, Any] = {
            "id": f"chatcmpl-{SERIAL}",
            "object": "chat.completion",
            "created": CREATED,
            "model": call.model,
            "choices": [
                {
                    "index": index,
                    "message": _message(choice),
                    "logprobs": _logprobs(call, choice.text or ""),
                    "finish_reason": choice.finish_reason,
                }
                for index, choice in enumerate(answer.choices)
            ],
            "usage": _usage(answer.usage),
            "service_tier": "default",
            "system_fingerprint": _FINGERPRINT,
        }
        if not reply.usage:
            del document["usage"]
        return document

    def stream(self, call: Call, answer: Answer, reply: Reply) -> Parts:
        """Return a streamed answer: the choices one after another, as recorded."""
        return _Stream(self, call, reply).parts(answer)

    def error_object(self, problem: Problem) -> dict[str, Any]:
        """Return `{"error": {message, type, param, code}}`."""
        return {
            "error": {
                "message": problem.message,
                "type": problem.type,
                "param": problem.param,
                "code": problem.code,
            }
        }

    def error_body(self, problem: Problem) -> tuple[str, bytes]:
        """Return an error, pretty-printed as OpenAI does."""
        if problem.text is not None:
            return super().error_body(problem)
        return self.content_type, json.dumps(self.error_object(problem), indent=2).encode() + b"\n"

    def ok_headers(self, requests: Meter | None, tokens: Meter | None) -> Headers:
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

    def models(self, names: Sequence[str]) -> Any:
        """Return the list of models."""
        data = [
            {"id": name, "object": "model", "created": CREATED, "owned_by": "simulator"}
            for name in names
        ]
        return {"object": "list", "data": data}


class _Stream:
    """Writes the events of one streamed answer."""

    def __init__(self, dialect: OpenAI, call: Call, reply: Reply) -> None:
        self.dialect = dialect
        self.call = call
        self.reply = reply
        options = call.body.get("stream_options") or {}
        self.with_usage = bool(options.get("include_usage")) and reply.usage
        self.start = (
            f'{{"id":"chatcmpl-{SERIAL}","object":"chat.completion.chunk","created":{CREATED},'
            f'"model":{json.dumps(call.model)},"service_tier":"default",'
            f'"system_fingerprint":"{_FINGERPRINT}","choices":['
        )
        self.end = "]" + (',"usage":null' if self.with_usage else "")
        self.count = 0

    def parts(self, answer: Answer) -> Parts:
        fragments = [
            fragment
            for index, choice in enumerate(answer.choices)
            for fragment in (self.opening(index, choice), *self.fragments(index, choice))
        ]
        finish = b"".join(
            self.chunk(index, {}, finish=choice.finish_reason)
            for index, choice in enumerate(answer.choices)
        )
        usage = f'{self.start}],"usage":{json.dumps(_usage(answer.usage))}'
        return Parts(
            # A single tool call comes with the role: then nothing stands before the answer.
            opening=fragments.pop(0).data if fragments[0].early else b"",
            fragments=fragments,
            finish=finish,
            usage=self.closed(usage) if self.with_usage else b"",
            done=DONE,
        )

    def chunk(
        self, index: int, delta: dict[str, Any], *, finish: str | None = None, piece: str = ""
    ) -> bytes:
        logprobs = _logprobs(self.call, piece, self.count) if piece else None
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        text = json.dumps(choice, ensure_ascii=False, separators=(",", ":"))
        return self.closed(self.start + text + self.end)

    def closed(self, text: str) -> bytes:
        self.count += 1
        if self.reply.quirks:
            text += f',"obfuscation":"{"aB3dE5gH7jK9"[: self.count % 12]}"'
        return event(text.encode() + b"}")

    def opening(self, index: int, choice: Choice) -> Fragment:
        delta: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
        if choice.refusal is not None:
            delta = {"role": "assistant", "content": None, "refusal": ""}
        elif choice.text is None or self.reply.quirks:
            delta["content"] = None
        single = choice.text is None and len(choice.tool_calls) == 1
        if single:
            delta["tool_calls"] = [_opened(choice, 0)]
        return Fragment(self.chunk(index, delta), early=not single)

    def fragments(self, index: int, choice: Choice) -> Iterator[Fragment]:
        for piece in tokens(choice.reasoning):
            yield Fragment(self.chunk(index, {"reasoning_content": piece}), early=True)
        logged = bool(self.call.body.get("logprobs"))
        for piece in tokens(choice.text or ""):
            # The one chunk that there are many of is written by hand: it is ten times as fast.
            yield Fragment(
                self.chunk(index, {"content": piece}, piece=piece)
                if logged
                else self.closed(
                    f'{self.start}{{"index":{index},"delta":{{"content":{quoted(piece)}}},'
                    f'"logprobs":null,"finish_reason":null}}{self.end}'
                ),
                piece,
            )
        for piece in tokens(choice.refusal or ""):
            yield Fragment(self.chunk(index, {"refusal": piece}), piece)
        for at, tool_call in enumerate(choice.tool_calls):
            if choice.text is not None or len(choice.tool_calls) > 1:
                yield Fragment(self.chunk(index, {"tool_calls": [_opened(choice, at)]}))
            for piece in tokens(tool_call.arguments):
                delta = {"tool_calls": [{"index": at, "function": {"arguments": piece}}]}
                yield Fragment(self.chunk(index, delta), piece)


def _message(choice: Choice) -> dict[str, Any]:
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


def _opened(choice: Choice, at: int) -> dict[str, Any]:
    tool_call = choice.tool_calls[at]
    function = {"name": tool_call.name, "arguments": ""}
    return {
        "index": at,
        "id": tool_call.id or call_id(at),
        "type": "function",
        "function": function,
    }


def _usage(usage: Usage) -> dict[str, Any]:
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


def _logprobs(call: Call, text: str, first: int = 0) -> dict[str, Any] | None:
    if not call.body.get("logprobs"):
        return None
    alternatives = call.body.get("top_logprobs") or 0
    content = []
    for at, piece in enumerate(tokens(text), first):
        top = [_token(piece + "'" * rank, logprob(at) - 2.0 * rank) for rank in range(alternatives)]
        content.append({**_token(piece, logprob(at)), "top_logprobs": top})
    return {"content": content, "refusal": None}


def _token(text: str, value: float) -> dict[str, Any]:
    return {"token": text, "logprob": value, "bytes": list(text.encode())}

"""Together's chat completions on the wire."""

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
    logprob,
    quoted,
)
from langchain_resilient.testing.error_bodies import TOGETHER, ErrorBody
from langchain_resilient.testing.http import Headers

_SEED = 4_808_121_030_298_457_000
_ODD_SEED = 9_876_543_210_987_654_321  # above 2**63, as seen
_HEADERS: Headers = (
    ("x-inference-version", "v2"),
    ("cf-ray", f"{SERIAL}-AMS"),
    ("server", "cloudflare"),
)


class TogetherDialect(Dialect):
    """Speaks as api.together.ai does.

    Always: the role in every delta, `text` beside it, usage without being asked, `prompt: []`,
    `seed`, and a `retry-after` on successes. `quirks` adds what only some routes do: `eos`,
    several finish reasons for one choice, a float tool index, a `seed` above 2**63, `warnings`,
    and the usage in a chunk without choices.
    """

    name = "together"
    base_path = "/together"
    chat_path = "/together/v1/chat/completions"
    models_path = "/together/v1/models"
    content_type = "application/json; charset=utf-8"
    stream_type = "text/event-stream;charset=utf-8"
    errors = TOGETHER

    def document(
        self, request: IncomingRequest, answer: Answer, reply: ReplyOptions
    ) -> dict[str, Any]:
        """Return the body of a plain answer."""
        document: dict[str, Any] = {
            "id": SERIAL,
            "object": "chat.completion",
            "created": CREATED,
            "model": request.model,
            "prompt": [],
            "choices": [
                {
                    "index": index,
                    "logprobs": _logprobs(request, choice.text or ""),
                    "finish_reason": _finish(choice, reply),
                    "seed": _ODD_SEED if reply.quirks else _SEED,
                    "message": _message(choice, reply),
                }
                for index, choice in enumerate(answer.choices)
            ],
        }
        if reply.usage:
            document["usage"] = _usage(answer.usage)
        if reply.quirks:
            document["warnings"] = [{"message": "Model supports only tool_choice auto"}]
        return document

    def stream(
        self, request: IncomingRequest, answer: Answer, reply: ReplyOptions
    ) -> RenderedAnswer:
        """Return a streamed answer."""
        return _TogetherStream(request, reply).render(answer)

    def error_object(self, error: ErrorBody) -> dict[str, Any]:
        """Return `{"id", "error": {message, type, param, code}}`."""
        return {"id": SERIAL, "error": error.fields()}

    def ok_headers(self, requests: RateLimitState | None, tokens: RateLimitState | None) -> Headers:
        """Return the headers of a success, with a `retry-after`; limits are per second."""
        headers = [*_HEADERS, ("retry-after", "2"), ("x-ratelimit", "false")]
        for suffix, meter, usual in (
            ("", requests, ("10", "19")),
            ("-tokens", tokens, ("3000",) * 2),
        ):
            limit, remaining = usual
            if meter:
                limit, remaining = str(math.ceil(meter.limit / 60)), str(meter.remaining)
            headers.append((f"x-ratelimit-limit{suffix}", limit))
            headers.append((f"x-ratelimit-remaining{suffix}", remaining))
        headers.append(("x-ratelimit-reset", str(math.ceil(requests.reset) if requests else 2)))
        return tuple(headers)

    def error_headers(self) -> Headers:
        """Return the headers of any error."""
        return _HEADERS

    def reset_headers(self, reset: float | str, limit: int) -> Headers:
        """Return the headers on requests, the reset in seconds."""
        text = reset if isinstance(reset, str) else f"{reset:g}"
        return (
            ("x-ratelimit-limit", str(math.ceil(limit / 60))),
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", text),
        )

    def wait_headers(self, seconds: float) -> dict[str, str]:
        """Return the time to wait, and as the reset."""
        return {**super().wait_headers(seconds), "x-ratelimit-reset": str(math.ceil(seconds))}

    def models(
        self,
        names: Sequence[str],
        shutdown_dates: Mapping[str, str | None],  # noqa: ARG002  # Together says none
    ) -> Any:
        """Return the list of models: a bare list."""
        return [
            {"id": name, "object": "model", "created": CREATED, "type": "chat"} for name in names
        ]


class _TogetherStream:
    """Writes the events of one streamed answer."""

    def __init__(self, request: IncomingRequest, reply: ReplyOptions) -> None:
        self.request = request
        self.reply = reply
        self.start = (
            f'{{"id":"{SERIAL}","object":"chat.completion.chunk","created":{CREATED},"choices":['
        )
        self.model = json.dumps(request.model)
        self.count = 0

    def render(self, answer: Answer) -> RenderedAnswer:
        pieces = [
            piece
            for index, choice in enumerate(answer.choices)
            for piece in (
                AnswerPiece(self.chunk(index, {}), early=True),
                *self.pieces(index, choice),
            )
        ]
        usage = json.dumps(_usage(answer.usage)) if self.reply.usage else "null"
        apart = self.reply.quirks and self.reply.usage
        last = len(answer.choices) - 1
        finish = b"".join(
            chunk
            for index, choice in enumerate(answer.choices)
            for chunk in self.finish(index, choice, "null" if apart or index < last else usage)
        )
        return RenderedAnswer(
            opening=pieces[0].data,
            pieces=pieces[1:],
            finish=finish,
            usage=self.closed("", usage) if apart else b"",
            done=DONE,
        )

    def chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        finish: str | None = None,
        usage: str = "null",
        piece: str = "",
    ) -> bytes:
        choice: dict[str, Any] = {
            "index": index,
            "text": delta.get("content") or "",
            "logprobs": None,
            "finish_reason": finish,
            "seed": None if finish is None else _ODD_SEED if self.reply.quirks else _SEED,
            "delta": {"token_id": self.count + 100, "role": "assistant", "content": "", **delta},
        }
        asked = self.request.body.get("logprobs")
        if piece and asked:
            choice["logprobs"] = logprob(self.count)
            choice["top_logprobs"] = _top([piece], int(asked), self.count)
        return self.closed(json.dumps(choice, ensure_ascii=False, separators=(",", ":")), usage)

    def closed(self, choice: str, usage: str) -> bytes:
        self.count += 1
        return event(f'{self.start}{choice}],"model":{self.model},"usage":{usage}}}'.encode())

    def pieces(self, index: int, choice: AnswerChoice) -> Iterator[AnswerPiece]:
        for piece in tokens(choice.reasoning):
            yield AnswerPiece(self.chunk(index, {"reasoning": piece}), early=True)
        logged = bool(self.request.body.get("logprobs"))
        for piece in tokens(choice.text or choice.refusal or ""):
            # The most frequent chunk is written by hand, ten times as fast as by `json`.
            text = quoted(piece)
            yield AnswerPiece(
                self.chunk(index, {"content": piece}, piece=piece)
                if logged
                else self.closed(
                    f'{{"index":{index},"text":{text},"logprobs":null,"finish_reason":null,'
                    f'"seed":null,"delta":{{"token_id":{self.count + 100},"role":"assistant",'
                    f'"content":{text}}}}}',
                    "null",
                ),
                piece,
            )
        for at, tool_call in enumerate(choice.tool_calls):
            opened = self.tool(at, tool_call.id or call_id(at), tool_call.name, "")
            yield AnswerPiece(self.chunk(index, {"tool_calls": [opened]}))
            pieces = tokens(tool_call.arguments)
            for number, piece in enumerate(pieces, 1):
                early = self.reply.quirks and number == len(pieces)
                delta = {"tool_calls": [self.tool(at, None, None, piece)]}
                finish = "tool_calls" if early else None
                yield AnswerPiece(self.chunk(index, delta, finish=finish), piece)

    def tool(self, at: int, id_: str | None, name: str | None, arguments: str) -> dict[str, Any]:
        index: float = float(at) if self.reply.quirks else at
        function = {"name": name, "arguments": arguments}
        return {"id": id_, "index": index, "type": "function", "function": function}

    def finish(self, index: int, choice: AnswerChoice, usage: str) -> Iterator[bytes]:
        finish = _finish(choice, self.reply)
        if self.reply.quirks and choice.tool_calls:
            yield self.chunk(index, {}, finish=finish)
            finish = "stop"
        yield self.chunk(index, {}, finish=finish, usage=usage)


def _finish(choice: AnswerChoice, reply: ReplyOptions) -> str | None:
    """Return the reason in Together's words; a forced tool ends with `tool_calls` here."""
    if reply.finish_reason is not None:
        return reply.finish_reason
    if choice.tool_calls and choice.finish_reason:
        return "tool_calls"
    return "eos" if reply.quirks and choice.finish_reason == "stop" else choice.finish_reason


def _message(choice: AnswerChoice, reply: ReplyOptions) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": choice.refusal if choice.text is None else choice.text,
        "tool_calls": [
            {
                "index": -1 if reply.quirks else at,
                "id": tool_call.id or call_id(at),
                "type": "function",
                "function": {"arguments": tool_call.arguments, "name": tool_call.name},
            }
            for at, tool_call in enumerate(choice.tool_calls)
        ],
    }
    if choice.reasoning:
        message["reasoning"] = choice.reasoning
    return message


def _usage(usage: AnswerUsage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "cached_tokens": usage.cached,
    }


def _logprobs(request: IncomingRequest, text: str) -> dict[str, Any] | None:
    asked = request.body.get("logprobs")
    if not asked:
        return None
    pieces = tokens(text)
    return {
        "tokens": pieces,
        "token_logprobs": [logprob(at) for at in range(len(pieces))],
        "token_ids": [at + 100 for at in range(len(pieces))],
        "top_logprobs": _top(pieces, int(asked)),
    }


def _top(pieces: Sequence[str], alternatives: int, first: int = 0) -> dict[str, float]:
    return {
        piece + "'" * rank: logprob(at) - 2.0 * rank
        for at, piece in enumerate(pieces, first)
        for rank in range(alternatives)
    }

"""What the dialects share: a request, an answer rendered for the wire, and the errors."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any, NamedTuple

from langchain_resilient.testing.answers import Answer, ReplyOptions, tokens
from langchain_resilient.testing.error_bodies import ErrorBody
from langchain_resilient.testing.http import Headers, reason
from langchain_resilient.testing.request_validation import find_error

CREATED = 1_767_225_600
"""The `created` time of every answer, in seconds since 1970: the first day of 2026."""

SERIAL = "S3r1aLs3r1aL0000"
"""Stands for a request's number in rendered bytes, so that these can be reused (`with_serial`)."""

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class IncomingRequest:
    """A chat request, parsed and checked.

    Attributes:
        dialect: The API that the client speaks.
        model: The model asked; empty if the request named none.
        body: The request as JSON, empty if it is not a JSON object; shared, so never change it.
            In chat completions, whatever the dialect.
        stream: Whether the answer is to be streamed.
        error: What the provider refuses the request for, whatever the script says.
        sent: The request as it was sent, where that was not in chat completions.
    """

    dialect: Dialect
    model: str
    body: dict[str, Any]
    stream: bool
    error: ErrorBody | None = None
    sent: dict[str, Any] | None = None

    @property
    def target(self) -> str:
        """The model as targets are written: `"openai:gpt-6-luna"`."""
        return f"{self.dialect.name}:{self.model}"

    @property
    def tier(self) -> str:
        """The service tier that it is served in: the one that was asked for, where that is paid."""
        wanted = (self.sent or self.body).get("service_tier")
        return wanted if wanted in ("flex", "priority") else "default"


class AnswerPiece(NamedTuple):
    """A piece of an answer on the wire.

    Attributes:
        data: The bytes: an event of a stream, or a part of a plain body.
        text: Its visible text or tool arguments. A piece without any is sent together with the next
            one that has some.
        early: Whether it may come before the first text is due, as reasoning does.
    """

    data: bytes
    text: str = ""
    early: bool = False


@dataclass(slots=True)
class RenderedAnswer:
    """An answer as bytes, in pieces, from the first byte of the body to the last.

    A plain body is cut like a stream: `opening` reaches up to the text, `pieces` are the text,
    `finish` is what follows, and `usage` and `done` are empty.

    Attributes:
        opening: The role chunk, or the start of the body.
        pieces: The pieces of the answer, a token each.
        finish: What carries `finish_reason`.
        usage: The chunk with the usage, where it has one of its own.
        done: `data: [DONE]`.
    """

    opening: bytes
    pieces: list[AnswerPiece]
    finish: bytes = b""
    usage: bytes = b""
    done: bytes = b""

    @property
    def all(self) -> list[bytes]:
        """Everything, in order."""
        pieces = (piece.data for piece in self.pieces)
        return [self.opening, *pieces, self.finish, self.usage, self.done]

    @property
    def texts(self) -> list[str]:
        """The pieces of text (or tool arguments)."""
        return [piece.text for piece in self.pieces if piece.text]


@dataclass(frozen=True, slots=True)
class RateLimitState:
    """The state of a rate limit, for requests or for tokens.

    Attributes:
        limit: How many per minute.
        remaining: How many are left now.
        reset: Seconds until all of them are back.
    """

    limit: int
    remaining: int
    reset: float


class Dialect(ABC):
    """One provider's API: its paths, bodies, streams, headers and errors."""

    name: str
    base_path: str
    chat_path: str
    models_path: str
    content_type = "application/json"
    stream_type = "text/event-stream; charset=utf-8"
    text_key = b'"content":'
    """What stands before the text in a plain body."""
    errors: Mapping[str, ErrorBody]

    def chat_body(self, body: dict[str, Any]) -> dict[str, Any]:
        """Translate a request to chat completions, which the model behind all dialects reads."""
        return body

    def find_error(self, body: Mapping[str, Any], chat: Mapping[str, Any]) -> ErrorBody | None:  # noqa: ARG002 - the dialects that differ need both
        """Return what a request would be refused for, or None.

        Args:
            body: The request as it was sent, with a `model`.
            chat: The same in chat completions.
        """
        return find_error(self.name, chat)

    def failure(self, error: Mapping[str, Any], *, named: bool) -> str:
        """Return the event that tells of a failure inside a stream.

        Args:
            error: The error object.
            named: Whether the event is called `error`.
        """
        name = "event: error\n" if named else ""
        return f"{name}data: {self.dumps({'error': error}).decode()}\n\n"

    @abstractmethod
    def document(
        self, request: IncomingRequest, answer: Answer, reply: ReplyOptions
    ) -> dict[str, Any]:
        """Return the body of a plain answer."""

    @abstractmethod
    def stream(
        self, request: IncomingRequest, answer: Answer, reply: ReplyOptions
    ) -> RenderedAnswer:
        """Return a streamed answer."""

    @abstractmethod
    def error_object(self, error: ErrorBody) -> dict[str, Any]:
        """Return the error as JSON."""

    @abstractmethod
    def ok_headers(self, requests: RateLimitState | None, tokens: RateLimitState | None) -> Headers:
        """Return the headers of a success, with the state of the rate limits if there are any."""

    @abstractmethod
    def error_headers(self) -> Headers:
        """Return the headers of any error."""

    @abstractmethod
    def reset_headers(self, reset: float | str, limit: int) -> Headers:
        """Return the rate-limit headers that say when to come back.

        Args:
            reset: Seconds, or the text to send.
            limit: Requests per minute.
        """

    def wait_headers(self, seconds: float) -> dict[str, str]:
        """Return the headers that tell a request over its limit how long to wait."""
        return {"retry-after": str(math.ceil(seconds))}

    @abstractmethod
    def models(self, names: Sequence[str], shutdown_dates: Mapping[str, str | None]) -> Any:
        """Return the body of the list of models, with the days on which some are shut down."""

    def dumps(self, value: Any) -> bytes:
        """Write JSON as this provider does."""
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()

    def plain(
        self, request: IncomingRequest, answer: Answer, reply: ReplyOptions
    ) -> RenderedAnswer:
        """Return a plain answer in one piece."""
        text = answer.choices[0].text or answer.choices[0].refusal or ""
        return RenderedAnswer(
            b"", [AnswerPiece(self.dumps(self.document(request, answer, reply)), text)]
        )

    def plain_in_pieces(
        self, request: IncomingRequest, answer: Answer, reply: ReplyOptions
    ) -> RenderedAnswer:
        """Return a plain answer cut up where its text begins and ends, and at every token."""
        body = self.dumps(self.document(request, answer, reply))
        choice = answer.choices[0]
        text, key = choice.text or "", self.text_key
        if choice.refusal and self.name == "openai":
            text, key = choice.refusal, b'"refusal":'
        if not text and choice.tool_calls:
            text, key = choice.tool_calls[0].arguments, b'"arguments":'
        pieces = [AnswerPiece(_escaped(token), token) for token in tokens(text)]
        escaped = b"".join(piece.data for piece in pieces)
        start = body.find(b'"' + escaped, body.find(key) + len(key)) + 1 if escaped else 0
        if not start:
            return RenderedAnswer(body, [])
        return RenderedAnswer(body[:start], pieces, body[start + len(escaped) :])

    def error(
        self,
        kind: str,
        request: IncomingRequest | None,
        details: Mapping[str, object] | None = None,
    ) -> ErrorBody:
        """Look up an error, and fill in what it speaks of.

        Args:
            kind: Its key in `errors`.
            request: The request, unless it is not for a chat.
            details: What else the message speaks of.
        """
        known = {
            "model": request.model if request else "unknown",
            "host": "api.openai.com" if self.name == "openai" else "api.together.ai",
            "serial": SERIAL,
            "code": 502,
            "reason": reason(502),
        }
        return self.errors[kind].filled({**known, **(details or {})})

    def error_content(self, error: ErrorBody) -> tuple[str, bytes]:
        """Return the content type and the body of an error."""
        if error.text is not None:
            kind = "text/html; charset=UTF-8" if error.html else "text/plain; charset=utf-8"
            return kind, error.text.encode()
        return self.content_type, self.dumps(self.error_object(error))


def with_serial(data: bytes, serial: bytes) -> bytes:
    """Put a request's number into rendered bytes; it is as long as its placeholder."""
    return data.replace(_SERIAL, serial)


_SERIAL = SERIAL.encode()


def event(data: bytes) -> bytes:
    """Frame one server-sent event."""
    return b"data: " + data + b"\n\n"


def call_id(index: int) -> str:
    """Return the id of a request's n-th tool call."""
    return f"call_{SERIAL}{index:08d}"


def logprob(index: int) -> float:
    """Return the log probability of the n-th token: made up, but always the same."""
    return -((index * 37) % 100 + 1) / 1000


def go_duration(seconds: float) -> str:
    """Write a duration as Go does: `6ms`, `8.64s`, `1m7.606s`, `83h10m39.057s`.

    Args:
        seconds: At least 0; more than a day stays hours.
    """
    if seconds <= 0:
        return "0s"
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    hours, minutes = divmod(int(minutes), 60)
    tail = f"{rest:.3f}".rstrip("0").rstrip(".") + "s"
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + tail


def quoted(text: str) -> str:
    """Write a text as JSON, quotation marks included."""
    return encode_basestring(text)


def _escaped(text: str) -> bytes:
    return quoted(text)[1:-1].encode()

"""What the two dialects share: a call, the parts of an answer on the wire, and how errors look."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_resilient.testing.http import reason
from langchain_resilient.testing.text import tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_resilient.testing.brain import Answer
    from langchain_resilient.testing.http import Headers
    from langchain_resilient.testing.problems import Problem
    from langchain_resilient.testing.steps.reply import Reply

CREATED = 1_767_225_600
"""The `created` time of every answer, in seconds since 1970: the first day of 2026."""

SERIAL = "S3r1aLs3r1aL0000"
"""Stands for a request's number in rendered bytes, so that they serve again: see `numbered`."""

DONE = b"data: [DONE]\n\n"


class Call(NamedTuple):
    """A chat request that a provider has accepted.

    Attributes:
        dialect: How the provider talks.
        model: The model asked.
        body: The request as JSON; shared, so never change it.
        stream: Whether the answer is to be streamed.
    """

    dialect: Dialect
    model: str
    body: dict[str, Any]
    stream: bool

    @property
    def target(self) -> str:
        """The model in the words of this project: `"openai:gpt-4"`."""
        return f"{self.dialect.name}:{self.model}"


class Fragment(NamedTuple):
    """A piece of an answer on the wire.

    Attributes:
        data: The bytes: an event of a stream, or a part of a plain body.
        text: What it says: visible text or tool arguments. Empty where it only prepares for it;
            such a fragment goes with the next one that says something.
        early: Whether it may come before the first text is due, as reasoning does.
    """

    data: bytes
    text: str = ""
    early: bool = False


@dataclass(slots=True)
class Parts:
    """An answer cut up for the wire, from the first byte of the body to the last.

    A plain body is cut like a stream: `opening` reaches up to the text, `fragments` are the text,
    `finish` is what follows, and `usage` and `done` are empty.

    Attributes:
        opening: The role chunk, or the start of the body.
        fragments: The pieces of the answer, a token each.
        finish: What carries `finish_reason`.
        usage: The chunk with the usage, where it has one of its own.
        done: `data: [DONE]`.
    """

    opening: bytes
    fragments: list[Fragment]
    finish: bytes = b""
    usage: bytes = b""
    done: bytes = b""

    @property
    def all(self) -> list[bytes]:
        """Everything, in order."""
        told = (fragment.data for fragment in self.fragments)
        return [self.opening, *told, self.finish, self.usage, self.done]

    @property
    def pieces(self) -> list[str]:
        """The pieces of text (or tool arguments) that it says."""
        return [fragment.text for fragment in self.fragments if fragment.text]


@dataclass(frozen=True, slots=True)
class Meter:
    """What a rate limit stands at: one kind of thing, requests or tokens.

    Attributes:
        limit: How many a minute.
        remaining: How many are left now.
        reset: Seconds until all of them are back.
    """

    limit: int
    remaining: int
    reset: float


class Dialect(ABC):
    """One provider's way to talk: its paths, bodies, streams, headers and errors."""

    name: str
    base_path: str
    chat_path: str
    models_path: str
    content_type = "application/json"
    stream_type = "text/event-stream; charset=utf-8"
    problems: Mapping[str, Problem]

    @abstractmethod
    def document(self, call: Call, answer: Answer, reply: Reply) -> dict[str, Any]:
        """Return the body of a plain answer."""

    @abstractmethod
    def stream(self, call: Call, answer: Answer, reply: Reply) -> Parts:
        """Return a streamed answer."""

    @abstractmethod
    def error_object(self, problem: Problem) -> dict[str, Any]:
        """Return the error as JSON."""

    @abstractmethod
    def ok_headers(self, requests: Meter | None, tokens: Meter | None) -> Headers:
        """Return the headers of a success, with the state of the rate limits if there are any."""

    @abstractmethod
    def error_headers(self) -> Headers:
        """Return the headers of any error."""

    @abstractmethod
    def reset_headers(self, reset: float | str, limit: int) -> Headers:
        """Return the rate-limit headers that say when to come back.

        Args:
            reset: Seconds, or the text to send.
            limit: Requests a minute.
        """

    def wait_headers(self, seconds: float) -> dict[str, str]:
        """Return the headers that tell a request over its limit how long to wait."""
        return {"retry-after": str(math.ceil(seconds))}

    @abstractmethod
    def models(self, names: Sequence[str]) -> Any:
        """Return the body of the list of models."""

    def dumps(self, value: Any) -> bytes:
        """Write JSON as this provider does."""
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()

    def plain(self, call: Call, answer: Answer, reply: Reply) -> Parts:
        """Return a plain answer in one part."""
        text = answer.choices[0].text or answer.choices[0].refusal or ""
        return Parts(b"", [Fragment(self.dumps(self.document(call, answer, reply)), text)])

    def plain_in_parts(self, call: Call, answer: Answer, reply: Reply) -> Parts:
        """Return a plain answer cut up where its text begins and ends, and at every token."""
        body = self.dumps(self.document(call, answer, reply))
        choice = answer.choices[0]
        said, key = choice.text or "", b'"content":'
        if choice.refusal and self.name == "openai":
            said, key = choice.refusal, b'"refusal":'
        if not said and choice.tool_calls:
            said, key = choice.tool_calls[0].arguments, b'"arguments":'
        fragments = [Fragment(_escaped(piece), piece) for piece in tokens(said)]
        text = b"".join(fragment.data for fragment in fragments)
        at = body.find(b'"' + text, body.find(key) + len(key)) + 1 if text else 0
        if not at:
            return Parts(body, [])
        return Parts(body[:at], fragments, body[at + len(text) :])

    def problem(
        self, kind: str, call: Call | None, details: Mapping[str, object] | None = None
    ) -> Problem:
        """Look a problem up, and fill in what it speaks of.

        Args:
            kind: Its key in `problems`.
            call: The request, if it got so far.
            details: What else the message speaks of.
        """
        known = {
            "model": call.model if call else "unknown",
            "host": "api.openai.com" if self.name == "openai" else "api.together.ai",
            "serial": SERIAL,
            "code": 502,
            "reason": reason(502),
        }
        return self.problems[kind].filled({**known, **(details or {})})

    def error_body(self, problem: Problem) -> tuple[str, bytes]:
        """Return the content type and the body of an error."""
        if problem.text is not None:
            kind = "text/html; charset=UTF-8" if problem.html else "text/plain; charset=utf-8"
            return kind, problem.text.encode()
        return self.content_type, self.dumps(self.error_object(problem))


def numbered(data: bytes, serial: bytes) -> bytes:
    """Put a request's number into rendered bytes; both are equally long, so lengths stay true."""
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

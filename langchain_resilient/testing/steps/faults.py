"""Faults: answers that break, stall, lie or say nothing, and bytes that are not HTTP.

Most work for streams and for plain requests. `after` is the number of pieces of the answer that
get through, a token each: 0 breaks right after the role chunk of a stream, or right before the
text of a plain body. `reply` is the answer that goes wrong, with its pace.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from langchain_resilient.testing.answers import AnswerChoice
from langchain_resilient.testing.dialects.base import IncomingRequest
from langchain_resilient.testing.exchange import Exchange, ResponseWriter
from langchain_resilient.testing.steps.base import AT_ONCE, Reply, Step


@dataclass(frozen=True, repr=False)
class Broken(Step):
    """The base of the answers that begin well.

    Attributes:
        after: How many pieces of the answer get through first.
        reply: The answer that goes wrong, with its pace.
    """

    after: int | None = 0
    reply: Reply = field(default=AT_ONCE, kw_only=True)

    async def begin(self, exchange: Exchange) -> ResponseWriter:
        """Send the answer as far as it goes well."""
        writer = exchange.prepare(self.reply)
        await writer.open()
        await writer.write_pieces(self.after)
        return writer


@dataclass(frozen=True, repr=False)
class Cut(Broken):
    """The connection is closed in the middle of the body: it is incomplete for HTTP too."""

    async def play(self, exchange: Exchange) -> None:
        """Begin, and close."""
        await self.begin(exchange)
        exchange.close()


@dataclass(frozen=True, repr=False)
class Reset(Broken):
    """The connection is reset (RST): before any header, or after some pieces.

    On a loop without real sockets it ends abruptly instead.

    Attributes:
        after: None resets before the response head.
    """

    after: int | None = None

    async def play(self, exchange: Exchange) -> None:
        """Begin, if at all, and reset."""
        if self.after is None:
            await exchange.sleep(self.reply.latency)
        else:
            await self.begin(exchange)
        exchange.reset()


@dataclass(frozen=True, repr=False)
class Stall(Broken):
    """The answer stops coming, for ever or for a while, with the connection open.

    Attributes:
        seconds: How long; None for ever. Afterwards the rest of the answer follows.
    """

    seconds: float | None = None

    async def play(self, exchange: Exchange) -> None:
        """Begin, wait, and send the rest."""
        writer = await self.begin(exchange)
        await exchange.sleep(math.inf if self.seconds is None else self.seconds)
        await writer.write_pieces()
        writer.finish()


@dataclass(frozen=True, repr=False)
class CleanEnd(Broken):
    """The body ends properly for HTTP, but without `finish_reason` and `[DONE]`.

    A plain answer is cut to the same pieces, and its `finish_reason` is null.

    Attributes:
        done: Whether `[DONE]` comes all the same, as from servers that know no `finish_reason`.
    """

    done: bool = False

    async def play(self, exchange: Exchange) -> None:
        """Begin, and end as if that were all."""
        if exchange.request.stream:
            writer = await self.begin(exchange)
            if self.done:
                writer.inject("data: [DONE]\n\n")
            writer.end_body()
        else:
            choice = exchange.shortened(self.reply, self.after, None)
            await exchange.prepare(self.reply, choice).write_all()


@dataclass(frozen=True, repr=False)
class NoDone(Broken):
    """A whole stream without `[DONE]` at its end; a plain answer is whole anyway.

    Attributes:
        hold: Whether the connection is then held open for ever, instead of a proper end.
        reset: Whether it is reset right after `finish_reason`, before a usage chunk.
    """

    after: int | None = None
    hold: bool = False
    reset: bool = False

    def __post_init__(self) -> None:
        if self.hold and self.reset:
            msg = "a connection that is reset cannot be held"
            raise ValueError(msg)

    async def play(self, exchange: Exchange) -> None:
        """Send everything but the last line."""
        writer = await self.begin(exchange)
        await writer.write_pieces()
        if not exchange.request.stream or not (self.hold or self.reset):
            writer.finish(done=False)
            return
        writer.write_ending(usage=not self.reset, done=False)
        if self.hold:
            await exchange.sleep(math.inf)
        exchange.reset()


@dataclass(frozen=True, repr=False)
class Malformed(Broken):
    """One data line of the stream is not JSON; a plain body turns into garbage halfway.

    Attributes:
        resume: Whether the rest of the stream follows.
        garbage: The line.
        replaces: Whether it takes the place of a piece: that piece's own line, broken off in the
            middle of the text, so that a client that skips it loses text.
    """

    resume: bool = False
    garbage: str = 'data: {"id":"chatcmpl-broken","choices":[{"ind\n\n'
    replaces: bool = False

    async def play(self, exchange: Exchange) -> None:
        """Begin, and insert the garbage."""
        writer = await self.begin(exchange)
        if not exchange.request.stream:
            writer.fill_up(self.garbage)
            return
        writer.inject(self.line(writer))
        if self.resume:
            await writer.write_pieces()
            writer.finish()
        else:
            writer.end_body()

    def line(self, writer: ResponseWriter) -> str:
        """Return what does not belong there."""
        return (writer.break_next_piece() if self.replaces else None) or self.garbage


@dataclass(frozen=True, repr=False)
class HtmlInside(Malformed):
    """A proxy's error page in the middle of the body, between the pieces or in place of one."""

    garbage: str = "<html><body><h1>502 Bad Gateway</h1></body></html>\n\n"

    def line(self, writer: ResponseWriter) -> str:
        """Return the page."""
        if self.replaces:
            writer.break_next_piece()
        return self.garbage


@dataclass(frozen=True, repr=False)
class SseError(Broken):
    """An error object inside a 200: an event of the stream, or the plain body.

    Attributes:
        message: The error's `message`.
        type: The error's `type`.
        code: The error's `code`.
        named: Whether the event is called `error` (`event: error`), and ends the stream.
        done: Whether a usage chunk of zeros and `[DONE]` follow, as was seen once.
    """

    message: str = "The server had an error while processing your request. Sorry about that!"
    type: str = "server_error"
    code: str | int | None = None
    named: bool = False
    done: bool = False

    async def play(self, exchange: Exchange) -> None:
        """Begin, and report a failure."""
        error = {"message": self.message, "type": self.type, "param": None, "code": self.code}
        body = exchange.request.dialect.dumps({"error": error}).decode()
        if not exchange.request.stream:
            await exchange.sleep(self.reply.latency)
            exchange.respond(200, body.encode())
            return
        writer = await self.begin(exchange)
        writer.inject(exchange.request.dialect.failure(error, named=self.named))
        if self.done:
            writer.inject(_no_usage(exchange.request))
        writer.end_body()


def _no_usage(request: IncomingRequest) -> str:
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    chunk = {
        "id": "chatcmpl-failed",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": request.model,
        "choices": [],
        "usage": zeros,
    }
    return f"data: {request.dialect.dumps(chunk).decode()}\n\ndata: [DONE]\n\n"


@dataclass(frozen=True, repr=False)
class KeepAlives(Step):
    """A 200 with keep-alives instead of text: every byte resets a read timeout, none is an answer.

    A stream gets SSE comments, a plain request blank lines before its JSON, as real servers do.

    Attributes:
        interval: Seconds between two of them.
        count: None sends them for ever; else the answer follows after this number.
        comment: The comment line.
        reply: The answer that may follow.
    """

    interval: float = 0.1
    count: int | None = None
    comment: str = ": keep-alive"
    reply: Reply = AT_ONCE

    async def play(self, exchange: Exchange) -> None:
        """Keep the client waiting."""
        writer = exchange.prepare(self.reply)
        await writer.open_without_length()
        beat = f"{self.comment}\n\n" if exchange.request.stream else "\n"
        sent = 0
        while self.count is None or sent < self.count:
            writer.inject(beat)
            await exchange.drain()
            await exchange.sleep(self.interval)
            sent += 1
        writer.write_opening()
        await writer.write_pieces()
        writer.finish()


@dataclass(frozen=True, repr=False)
class Whitespace(Step):
    """An answer of white space only, or only from some point on.

    Attributes:
        forever: Whether it never ends; a plain request then gets blanks before its JSON.
        interval: Seconds between two blanks, if they never end.
        after: How many pieces of the answer come first.
    """

    forever: bool = False
    interval: float = 0.01
    after: int = 0

    async def play(self, exchange: Exchange) -> None:
        """Send white space."""
        beginning = exchange.shortened(AT_ONCE, self.after, None).text or ""
        if not self.forever:
            await Reply(f"{beginning} \n \n ").play(exchange)
            return
        writer = exchange.prepare(Reply(f"{beginning} "))
        await writer.open_without_length()
        blank = " "
        if exchange.request.stream:
            writer.write_opening()
            *pieces, last = writer.rendered.pieces
            await writer.write_pieces(len(pieces))
            blank = last.data.decode()
        while True:
            writer.inject(blank)
            await exchange.drain()
            await exchange.sleep(self.interval)


@dataclass(frozen=True, repr=False)
class SlowHeaders(Step):
    """The response head trickles in, then the answer follows at once.

    Attributes:
        seconds: How long the head takes.
        reply: The answer.
        parts: The number of writes in which the head comes.
    """

    seconds: float = 1.0
    reply: Reply = AT_ONCE
    parts: int = 10

    async def play(self, exchange: Exchange) -> None:
        """Trickle."""
        writer = exchange.prepare(self.reply)
        head = writer.head()
        size = -(-len(head) // self.parts)
        for at in range(0, len(head), size):
            await exchange.sleep(self.seconds / self.parts)
            exchange.write(head[at : at + size])
        writer.write_opening()
        await writer.write_pieces()
        writer.finish()


@dataclass(frozen=True, repr=False)
class NoAnswer(Step):
    """The request is read, and nothing comes back.

    Attributes:
        seconds: None waits for ever; after a time the connection is closed.
    """

    seconds: float | None = None

    async def play(self, exchange: Exchange) -> None:
        """Wait."""
        await exchange.sleep(math.inf if self.seconds is None else self.seconds)
        exchange.close()


@dataclass(frozen=True, repr=False)
class Raw(Step):
    """Any bytes in place of the HTTP response.

    Attributes:
        data: What to send.
        then: What becomes of the connection: `"close"`, `"reset"`, `"hang"`, or `"keep"` if the
            bytes are a whole response.
    """

    data: bytes
    then: Literal["close", "reset", "hang", "keep"] = "close"

    async def play(self, exchange: Exchange) -> None:
        """Send, and leave."""
        exchange.write(self.data)
        if self.then == "hang":
            await exchange.sleep(math.inf)
        elif self.then == "reset":
            exchange.reset()
        elif self.then == "close":
            exchange.close()
        else:
            exchange.end()


@dataclass(frozen=True, repr=False)
class Empty(Step):
    """A 200 without text or tool calls, with `finish_reason: stop`.

    Attributes:
        null: Whether the content is null instead of `""`.
    """

    null: bool = False

    async def play(self, exchange: Exchange) -> None:
        """Say nothing."""
        await exchange.prepare(Reply(), AnswerChoice(None if self.null else "", "stop")).write_all()


_GARBAGE: dict[str, tuple[str, bytes]] = {
    "object": ("application/json", b'{"unexpected":true}'),
    "choices": ("application/json", b'{"id":"x","object":"chat.completion","choices":[]}'),
    "list": ("application/json", b"[]"),
    "null": ("application/json", b"null"),
    "broken": ("application/json", b'{"id":"x","choices":[{"message":'),
    "text": ("text/plain", b"OK"),
    "nothing": ("application/json", b""),
}


@dataclass(frozen=True, repr=False)
class Garbage(Step):
    """A 200 whose body is not a chat completion, whether or not a stream was wanted.

    Attributes:
        shape: `"object"`, `"choices"` (an empty list), `"list"`, `"null"`, `"broken"` (not JSON),
            `"text"` or `"nothing"`.
    """

    shape: Literal["object", "choices", "list", "null", "broken", "text", "nothing"] = "object"

    async def play(self, exchange: Exchange) -> None:
        """Send it."""
        content_type, body = _GARBAGE[self.shape]
        exchange.respond(200, body, content_type)

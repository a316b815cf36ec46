"""Faults: answers that begin well and then break, stall or lie.

Each works for streams and for plain requests. `after` counts the pieces of the answer that get
through, a token each: 0 breaks right after the role chunk of a stream, or right before the text
of a plain body. `reply` is the answer that goes wrong, with its pace.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from langchain_resilient.testing.steps.base import Step
from langchain_resilient.testing.steps.reply import AT_ONCE

if TYPE_CHECKING:
    from langchain_resilient.testing.dialects.base import Call
    from langchain_resilient.testing.exchange import Exchange
    from langchain_resilient.testing.steps.reply import Reply
    from langchain_resilient.testing.telling import Telling


@dataclass(frozen=True, repr=False)
class Broken(Step):
    """The base of the answers that begin well.

    Attributes:
        after: How many pieces of the answer get through first.
        reply: The answer that goes wrong, with its pace.
    """

    after: int | None = 0
    reply: Reply = field(default=AT_ONCE, kw_only=True)

    async def begin(self, exchange: Exchange) -> Telling:
        """Tell the answer as far as it goes well."""
        telling = exchange.tell(self.reply)
        await telling.open()
        await telling.say(self.after)
        return telling


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
        seconds: How long; None for ever. Afterwards the answer goes on to its end.
    """

    seconds: float | None = None

    async def play(self, exchange: Exchange) -> None:
        """Begin, wait, and go on."""
        telling = await self.begin(exchange)
        await exchange.sleep(math.inf if self.seconds is None else self.seconds)
        await telling.say()
        telling.finish()


@dataclass(frozen=True, repr=False)
class CleanEnd(Broken):
    """The body ends properly for HTTP, but without `finish_reason` and `[DONE]`.

    A plain answer is cut to the same pieces, and its `finish_reason` is null.
    """

    async def play(self, exchange: Exchange) -> None:
        """Begin, and end as if that were all."""
        if exchange.call.stream:
            (await self.begin(exchange)).end_body()
        else:
            choice = exchange.shortened(self.reply, self.after, None)
            await exchange.tell(self.reply, choice).give()


@dataclass(frozen=True, repr=False)
class NoDone(Broken):
    """A whole stream without `[DONE]` at its end; a plain answer has nothing to miss.

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
        """Tell everything but the last line."""
        telling = await self.begin(exchange)
        await telling.say()
        if not exchange.call.stream or not (self.hold or self.reset):
            telling.finish(done=False)
            return
        telling.conclude(usage=not self.reset, done=False)
        if self.hold:
            await exchange.sleep(math.inf)
        exchange.reset()


@dataclass(frozen=True, repr=False)
class Malformed(Broken):
    """One data line of the stream is no JSON; a plain body turns into garbage halfway.

    Attributes:
        resume: Whether the stream goes on properly afterwards.
        garbage: The line.
        eats: Whether it stands in place of a piece: that piece's own line, broken off in the middle
            of the text, so that whoever skips it loses what it says.
    """

    resume: bool = False
    garbage: str = 'data: {"id":"chatcmpl-broken","choices":[{"ind\n\n'
    eats: bool = False

    async def play(self, exchange: Exchange) -> None:
        """Begin, and put the garbage in."""
        telling = await self.begin(exchange)
        if not exchange.call.stream:
            telling.fill(self.garbage)
            return
        telling.inject(self.line(telling))
        if self.resume:
            await telling.say()
            telling.finish()
        else:
            telling.end_body()

    def line(self, telling: Telling) -> str:
        """Return what does not belong there."""
        return (telling.cut_short() if self.eats else None) or self.garbage


@dataclass(frozen=True, repr=False)
class HtmlInside(Malformed):
    """A proxy's error page in the middle of the body, besides the pieces or in place of one."""

    garbage: str = "<html><body><h1>502 Bad Gateway</h1></body></html>\n\n"

    def line(self, telling: Telling) -> str:
        """Return the page."""
        if self.eats:
            telling.cut_short()
        return self.garbage


@dataclass(frozen=True, repr=False)
class SseError(Broken):
    """An error object inside a 200: an event of the stream, or the plain body.

    Attributes:
        message: What it says.
        type: The error's `type`.
        code: The error's `code`.
        named: Whether the event is called `error` (`event: error`), and ends the stream.
        goes_on: Whether a usage chunk of zeros and `[DONE]` follow, as was seen once.
    """

    message: str = "The server had an error while processing your request. Sorry about that!"
    type: str = "server_error"
    code: str | int | None = None
    named: bool = False
    goes_on: bool = False

    async def play(self, exchange: Exchange) -> None:
        """Begin, and say that it failed."""
        error = {"message": self.message, "type": self.type, "param": None, "code": self.code}
        body = exchange.call.dialect.dumps({"error": error}).decode()
        if not exchange.call.stream:
            await exchange.sleep(self.reply.latency)
            exchange.respond(200, body.encode())
            return
        telling = await self.begin(exchange)
        name = "event: error\n" if self.named else ""
        telling.inject(f"{name}data: {body}\n\n")
        if self.goes_on:
            telling.inject(_no_usage(exchange.call))
        telling.end_body()


def _no_usage(call: Call) -> str:
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    chunk = {
        "id": "chatcmpl-failed",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": call.model,
        "choices": [],
        "usage": zeros,
    }
    return f"data: {call.dialect.dumps(chunk).decode()}\n\ndata: [DONE]\n\n"

"""Silences: connections that stay open and say nothing of use, and bytes that are not HTTP."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from langchain_resilient.testing.steps.base import Step
from langchain_resilient.testing.steps.reply import AT_ONCE, Reply

if TYPE_CHECKING:
    from langchain_resilient.testing.exchange import Exchange


@dataclass(frozen=True, repr=False)
class KeepAlives(Step):
    """A 200 with keep-alives instead of text: every byte resets a read timeout, none is an answer.

    A stream gets SSE comments, a plain request blank lines before its JSON, as is done in the
    field.

    Attributes:
        interval: Seconds between two of them.
        count: None sends them for ever; after a number of them the answer follows.
        comment: The comment line.
        reply: The answer that may follow.
    """

    interval: float = 0.1
    count: int | None = None
    comment: str = ": keep-alive"
    reply: Reply = AT_ONCE

    async def play(self, exchange: Exchange) -> None:
        """Keep the client waiting."""
        telling = exchange.tell(self.reply)
        await telling.open_head()
        beat = f"{self.comment}\n\n" if exchange.call.stream else "\n"
        sent = 0
        while self.count is None or sent < self.count:
            telling.inject(beat)
            await exchange.drain()
            await exchange.sleep(self.interval)
            sent += 1
        telling.begin()
        await telling.say()
        telling.finish()


@dataclass(frozen=True, repr=False)
class Whitespace(Step):
    """An answer of nothing but white space, or of nothing else from some point on.

    Attributes:
        forever: Whether it never ends; a plain request then gets blanks before its JSON.
        interval: Seconds between two blanks, if they never end.
        after: How many pieces of the answer come first.
    """

    forever: bool = False
    interval: float = 0.01
    after: int = 0

    async def play(self, exchange: Exchange) -> None:
        """Say nothing at length."""
        begun = exchange.shortened(AT_ONCE, self.after, None).text or ""
        if not self.forever:
            await Reply(f"{begun} \n \n ").play(exchange)
            return
        telling = exchange.tell(Reply(f"{begun} "))
        await telling.open_head()
        blank = " "
        if exchange.call.stream:
            telling.begin()
            *pieces, last = telling.parts.fragments
            await telling.say(len(pieces))
            blank = last.data.decode()
        while True:
            telling.inject(blank)
            await exchange.drain()
            await exchange.sleep(self.interval)


@dataclass(frozen=True, repr=False)
class SlowHeaders(Step):
    """The response head trickles in, then the answer follows at once.

    Attributes:
        seconds: How long the head takes.
        reply: The answer.
        parts: In how many writes the head comes.
    """

    seconds: float = 1.0
    reply: Reply = AT_ONCE
    parts: int = 10

    async def play(self, exchange: Exchange) -> None:
        """Trickle."""
        telling = exchange.tell(self.reply)
        head = telling.head()
        size = -(-len(head) // self.parts)
        for at in range(0, len(head), size):
            await exchange.sleep(self.seconds / self.parts)
            exchange.write(head[at : at + size])
        telling.begin()
        await telling.say()
        telling.finish()


@dataclass(frozen=True, repr=False)
class NoAnswer(Step):
    """The request is taken, and nothing comes back.

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
    """Any bytes at all in place of the HTTP response.

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

"""A telling: one answer on its way out, piece by piece, at the pace of its `Reply`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_resilient.testing.dialects.base import quoted
from langchain_resilient.testing.http import LAST_CHUNK, chunk, head

if TYPE_CHECKING:
    from langchain_resilient.testing.delays import Delay
    from langchain_resilient.testing.dialects.base import Call, Fragment, Parts
    from langchain_resilient.testing.exchange import Exchange
    from langchain_resilient.testing.http import Headers
    from langchain_resilient.testing.steps.reply import Reply


def response_head(call: Call, reply: Reply, length: int | None, ok_headers: Headers) -> bytes:
    """Write the head of a good answer.

    Args:
        call: The request.
        reply: How it is answered.
        length: The length of the body in bytes, or None if it comes in chunks.
        ok_headers: The dialect's headers for a success.
    """
    kind = call.dialect.stream_type if call.stream else call.dialect.content_type
    framing = ("content-length", str(length))
    if length is None:
        framing = ("transfer-encoding", "chunked")
    return head(reply.status, (("content-type", kind), framing, *ok_headers, *reply.headers))


def whole_response(call: Call, reply: Reply, parts: Parts, ok_headers: Headers) -> bytes:
    """Write a good answer that goes out at once, each event of a stream as a chunk of its own."""
    if call.stream:
        body = b"".join([chunk(part) for part in parts.all if part] + [LAST_CHUNK])
        return response_head(call, reply, None, ok_headers) + body
    body = b"".join(parts.all)
    return response_head(call, reply, len(body), ok_headers) + body


class Telling:
    """Tells an answer as a stream or as a plain body, as far as the step wants.

    A whole answer is `await telling.give()`. A step that wants something to go wrong tells it in
    parts: `open`, `say` some pieces, then `finish`, `end_body`, `fill` or nothing.

    Attributes:
        parts: The answer on the wire.
    """

    def __init__(self, exchange: Exchange, reply: Reply, parts: Parts) -> None:
        self.parts = parts
        self._exchange = exchange
        self._reply = reply
        self._chunked = exchange.call.stream
        self._at = 0  # the next fragment
        self._speaks = False  # whether the first text was due
        self._left = 0  # bytes to send before a body with a length is whole

    async def give(self) -> None:
        """Give the whole answer, a plain one after the time it takes to think it out."""
        if self._exchange.call.stream:
            await self.open()
            await self.say()
            self.finish()
            return
        exchange, gap = self._exchange, self._reply.gap
        seconds = exchange.seconds(self._reply.latency) + exchange.seconds(self._reply.first_text)
        if gap is not None:
            seconds += sum(exchange.seconds(gap) for _ in self.parts.fragments)
        await exchange.sleep(seconds)
        exchange.write(self.head() + b"".join(self.parts.all))
        exchange.said(self.parts.pieces)
        exchange.end(close=self._reply.close)

    def head(self) -> bytes:
        """Write the response head: chunked for a stream, else with the length of the body."""
        exchange, reply = self._exchange, self._reply
        exchange.seen.status = reply.status
        self._left = sum(map(len, self.parts.all))
        length = None if self._chunked else self._left
        return response_head(exchange.call, reply, length, exchange.ok_headers)

    async def open(self) -> None:
        """Send the response head and what stands before the answer."""
        await self._exchange.sleep(self._reply.latency)
        self._exchange.write(self.head())
        self.begin()

    async def open_head(self) -> None:
        """Send the head alone, of a body so long as you like; `begin` sends what follows."""
        self._chunked = True
        await self._exchange.sleep(self._reply.latency)
        self._exchange.write(self.head())

    def begin(self) -> None:
        """Send what stands before the answer: the role chunk, or the JSON up to the text."""
        self._send(self.parts.opening)

    async def say(self, count: int | None = None) -> None:
        """Send pieces of the answer at their pace.

        Args:
            count: How many; None for all that are left.
        """
        exchange, paced = self._exchange, self._reply.gap is not None
        together: list[bytes] = []
        said: list[str] = []
        while self._at < len(self.parts.fragments) and (count is None or len(said) < count):
            fragment = self.parts.fragments[self._at]
            self._at += 1
            delay = self._delay_of(fragment)
            if delay is not None:
                self._flush(together)
                await exchange.drain()
                await exchange.sleep(delay)
            together.append(fragment.data)
            if fragment.text:
                said.append(fragment.text)
                if paced:  # a client may go away before the next piece
                    self._flush(together)
                    exchange.said([fragment.text])
        self._flush(together)
        if not paced:
            exchange.said(said)

    def _delay_of(self, fragment: Fragment) -> Delay | None:
        """Return how long to wait before a fragment, or None if it goes with the one before."""
        if not fragment.early and not self._speaks:
            self._speaks = True
            return self._reply.first_text or None
        return self._reply.gap if fragment.text or fragment.early else None

    def _flush(self, together: list[bytes]) -> None:
        if together:
            self._send(*together)
            together.clear()

    def finish(self, *, done: bool = True) -> None:
        """Send the ending and close the body.

        Args:
            done: Whether a stream ends with `[DONE]`.
        """
        self.conclude(done=done)
        self.end_body()

    def conclude(self, *, usage: bool = True, done: bool = True) -> None:
        """Send the ending, and leave the body open.

        Args:
            usage: Whether the usage follows `finish_reason`, where it has a chunk of its own.
            done: Whether a stream ends with `[DONE]`.
        """
        parts = self.parts
        self._send(parts.finish, *([parts.usage] * usage), *([parts.done] * done))

    def end_body(self) -> None:
        """Close the body properly for HTTP, whatever it lacks, and leave the connection open."""
        if self._chunked:
            self._exchange.write(LAST_CHUNK)
        self._exchange.end(close=self._reply.close)

    def inject(self, text: str) -> None:
        """Put something into the body that does not belong there.

        A plain body with a length keeps it, so what is put into it pushes its end out.
        """
        self._send(text.encode())

    def cut_short(self) -> str | None:
        """Take the next piece off the answer; return its line, broken off within the text.

        Returns:
            None if all pieces were told.
        """
        while self._at < len(self.parts.fragments):
            data, text, _ = self.parts.fragments[self._at]
            self._at += 1
            if text:
                line, half = data.decode(), quoted(text[: (len(text) + 1) // 2])[1:-1]
                start = line.rfind(quoted(text)[1:-1])
                return line[: start + len(half)] + "\n\n"
            self._send(data)
        return None

    def fill(self, garbage: str) -> None:
        """Fill a plain body up to its length with garbage, and end it."""
        data = garbage.encode()
        self._exchange.write((data * (self._left // max(len(data), 1) + 1))[: self._left])
        self._exchange.end()

    def _send(self, *parts: bytes) -> None:
        if self._chunked:
            self._exchange.write(b"".join(chunk(part) for part in parts if part))
            return
        data = b"".join(parts)[: self._left]
        self._left -= len(data)
        self._exchange.write(data)

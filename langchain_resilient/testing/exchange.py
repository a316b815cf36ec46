"""One request being answered: what a step may do, and how an answer is written piece by piece."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable, Mapping
from random import Random
from typing import Any

from langchain_resilient.testing.answers import Answer, AnswerChoice, ReplyOptions, tokens
from langchain_resilient.testing.delays import Delay, draw
from langchain_resilient.testing.dialects.base import (
    AnswerPiece,
    IncomingRequest,
    RenderedAnswer,
    quoted,
    with_serial,
)
from langchain_resilient.testing.error_bodies import ErrorBody
from langchain_resilient.testing.http import LAST_CHUNK, Headers, chunk, head
from langchain_resilient.testing.request_log import RecordedRequest
from langchain_resilient.testing.server import Connection


class Exchange:
    """A request being answered. The simulator makes one for each step that it plays.

    Not safe to use from other threads or loops than the simulator's own.

    Attributes:
        request: The request.
        record: What the simulator records of it.
        random: The only source of chance allowed.
        elapsed: Seconds between the simulator's start and the request.
        ok_headers: The dialect's headers for a success, with the state of the rate limits.
        wall_clock: Gives the seconds since 1970, for dates only.
        ended: Whether the response is over, complete or not.
    """

    def __init__(
        self,
        connection: Connection,
        request: IncomingRequest,
        record: RecordedRequest,
        *,
        elapsed: float,
        random: Random,
        ok_headers: Headers,
        generate: Callable[[IncomingRequest, ReplyOptions], Answer],
        wall_clock: Callable[[], float],
        on_end: Callable[[RecordedRequest, bool], None],
    ) -> None:
        self.request = request
        self.record = record
        self.random = random
        self.elapsed = elapsed
        self.ok_headers = ok_headers
        self.wall_clock = wall_clock
        self.ended: bool = False
        self._connection = connection
        self._serial = record.serial
        self._generate = generate
        self._on_end = on_end
        self._task: asyncio.Task[None] | None = None
        self._pieces: list[str] = []
        record.pieces = self._pieces

    def start(self, playing: Coroutine[Any, Any, None]) -> None:
        """Run what a step does in a task of its own, and hold the connection until it ends."""
        self._task = self._connection.hold(self._run(playing), self._on_lost)

    async def _run(self, playing: Coroutine[Any, Any, None]) -> None:
        try:
            await playing
        finally:
            # A step that fails or forgets to end must not leave the client waiting for ever.
            if not self.ended:
                self.close()

    def _on_lost(self, aborted: bool) -> None:
        """Stop, for the connection is gone; `aborted` says whether the client closed it."""
        self._end(aborted=aborted)
        if self._task is not None:
            self._task.cancel()

    # What a step may use.

    def seconds(self, delay: Delay) -> float:
        """Draw a delay."""
        return draw(delay, self.random)

    async def sleep(self, delay: Delay) -> None:
        """Wait; 0 seconds let others run, `math.inf` waits for ever."""
        seconds = self.seconds(delay)
        if seconds == math.inf:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(seconds)

    def prepare(self, reply: ReplyOptions, choice: AnswerChoice | None = None) -> ResponseWriter:
        """Work out the answer and get ready to write it.

        Args:
            reply: How to answer.
            choice: What to answer, instead of what the model works out.
        """
        answer = self._generate(self.request, reply)
        if choice is not None:
            answer = Answer((choice,), answer.usage)
        dialect = self.request.dialect
        render = dialect.stream if self.request.stream else dialect.plain_in_pieces
        return ResponseWriter(self, reply, render(self.request, answer, reply))

    def shortened(
        self, reply: ReplyOptions, pieces: int | None, finish_reason: str | None
    ) -> AnswerChoice:
        """Return the first pieces of the answer as if they were all of it."""
        text = self._generate(self.request, reply).choices[0].text or ""
        return AnswerChoice("".join(tokens(text)[:pieces]), finish_reason)

    def respond(
        self,
        status: int,
        body: bytes,
        content_type: str = "application/json",
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ) -> None:
        """Send a whole response."""
        self.record.status = status
        failed = status >= 400  # noqa: PLR2004 - errors begin there
        pairs = {
            "content-type": content_type,
            "content-length": str(len(body)),
            **dict(self.request.dialect.error_headers() if failed else self.ok_headers),
            **dict(headers),
        }
        self.write(head(status, pairs.items()) + body)
        self.end()

    def refuse(self, error: ErrorBody, hints: Mapping[str, str] | None = None) -> None:
        """Send an error in the dialect's words, with further headers."""
        content_type, body = self.request.dialect.error_content(error)
        self.respond(error.status, body, content_type, hints or {})

    def record_pieces(self, pieces: Iterable[str]) -> None:
        """Record which pieces of the answer went out."""
        self._pieces.extend(pieces)

    def write(self, data: bytes) -> None:
        """Send bytes, with the request's number in place of its placeholder."""
        self._connection.write(with_serial(data, self._serial))

    async def drain(self) -> None:
        """Wait while the client does not read."""
        await self._connection.drain()

    def end(self, *, close: bool = False) -> None:
        """Complete the response: the connection may take the next request, or is closed."""
        if not self.ended:
            self._end()
            self._connection.release(close=close)

    def close(self) -> None:
        """Close the connection after what was written, complete or not."""
        self._end()
        self._connection.close()

    def reset(self) -> None:
        """Reset the connection (RST)."""
        self._end()
        self._connection.reset()

    def _end(self, *, aborted: bool = False) -> None:
        if not self.ended:
            self.ended = True
            self._on_end(self.record, aborted)


class ResponseWriter:
    """Writes an answer as a stream or as a plain body, as far as the step wants.

    `await writer.write_all()` sends a whole answer. A step that wants something to go wrong sends
    parts of it: `open`, some `write_pieces`, then `finish`, `end_body`, `fill_up` or nothing.

    Attributes:
        rendered: The answer as bytes.
    """

    def __init__(self, exchange: Exchange, reply: ReplyOptions, rendered: RenderedAnswer) -> None:
        self.rendered = rendered
        self._exchange = exchange
        self._reply = reply
        self._chunked = exchange.request.stream
        self._next = 0  # the index of the next piece
        self._first_text_due = False  # whether the delay before the first text was waited for
        self._bytes_left = 0  # until a body with a length is whole

    async def write_all(self) -> None:
        """Send the whole answer, a plain one after the time that it takes to generate it."""
        if self._exchange.request.stream:
            await self.open()
            await self.write_pieces()
            self.finish()
            return
        exchange, gap = self._exchange, self._reply.gap
        seconds = exchange.seconds(self._reply.latency) + exchange.seconds(self._reply.first_text)
        if gap is not None:
            seconds += sum(exchange.seconds(gap) for _ in self.rendered.pieces)
        await exchange.sleep(seconds)
        exchange.write(self.head() + b"".join(self.rendered.all))
        exchange.record_pieces(self.rendered.texts)
        exchange.end(close=self._reply.close)

    def head(self) -> bytes:
        """Render the response head: chunked for a stream, else with the length of the body."""
        exchange, reply = self._exchange, self._reply
        exchange.record.status = reply.status
        self._bytes_left = sum(map(len, self.rendered.all))
        length = None if self._chunked else self._bytes_left
        return _response_head(exchange.request, reply, length, exchange.ok_headers)

    async def open(self) -> None:
        """Send the response head and what precedes the answer."""
        await self._exchange.sleep(self._reply.latency)
        self._exchange.write(self.head())
        self.write_opening()

    async def open_without_length(self) -> None:
        """Send the head alone, of a body of any length; `write_opening` sends what follows."""
        self._chunked = True
        await self._exchange.sleep(self._reply.latency)
        self._exchange.write(self.head())

    def write_opening(self) -> None:
        """Send what precedes the answer: the role chunk, or the JSON up to the text."""
        self._send(self.rendered.opening)

    async def write_pieces(self, count: int | None = None) -> None:
        """Send pieces of the answer at their pace.

        Args:
            count: How many; None for all that are left.
        """
        exchange, paced = self._exchange, self._reply.gap is not None
        unsent: list[bytes] = []
        texts: list[str] = []
        while self._next < len(self.rendered.pieces) and (count is None or len(texts) < count):
            piece = self.rendered.pieces[self._next]
            self._next += 1
            delay = self._delay_before(piece)
            if delay is not None:
                self._flush(unsent)
                await exchange.drain()
                await exchange.sleep(delay)
            unsent.append(piece.data)
            if piece.text:
                texts.append(piece.text)
                if paced:  # a client may go away before the next piece
                    self._flush(unsent)
                    exchange.record_pieces([piece.text])
        self._flush(unsent)
        if not paced:
            exchange.record_pieces(texts)

    def _delay_before(self, piece: AnswerPiece) -> Delay | None:
        """Return how long to wait before a piece, or None if it goes with the one before."""
        if not piece.early and not self._first_text_due:
            self._first_text_due = True
            return self._reply.first_text or None
        return self._reply.gap if piece.text or piece.early else None

    def _flush(self, unsent: list[bytes]) -> None:
        if unsent:
            self._send(*unsent)
            unsent.clear()

    def finish(self, *, done: bool = True) -> None:
        """Send the ending and close the body.

        Args:
            done: Whether a stream ends with `[DONE]`.
        """
        self.write_ending(done=done)
        self.end_body()

    def write_ending(self, *, usage: bool = True, done: bool = True) -> None:
        """Send the ending, and leave the body open.

        Args:
            usage: Whether the usage follows `finish_reason`, where it has a chunk of its own.
            done: Whether a stream ends with `[DONE]`.
        """
        rendered = self.rendered
        self._send(rendered.finish, *([rendered.usage] * usage), *([rendered.done] * done))

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

    def break_next_piece(self) -> str | None:
        """Take the next piece off the answer; return its line, broken off within the text.

        Returns:
            None if no piece is left.
        """
        while self._next < len(self.rendered.pieces):
            data, text, _ = self.rendered.pieces[self._next]
            self._next += 1
            if text:
                line, half = data.decode(), quoted(text[: (len(text) + 1) // 2])[1:-1]
                start = line.rfind(quoted(text)[1:-1])
                return line[: start + len(half)] + "\n\n"
            self._send(data)
        return None

    def fill_up(self, garbage: str) -> None:
        """Fill a plain body up to its length with garbage, and end it."""
        data, left = garbage.encode(), self._bytes_left
        self._exchange.write((data * (left // max(len(data), 1) + 1))[:left])
        self._exchange.end()

    def _send(self, *parts: bytes) -> None:
        if self._chunked:
            self._exchange.write(b"".join(chunk(part) for part in parts if part))
            return
        data = b"".join(parts)[: self._bytes_left]
        self._bytes_left -= len(data)
        self._exchange.write(data)


def render_response(
    request: IncomingRequest, reply: ReplyOptions, rendered: RenderedAnswer, ok_headers: Headers
) -> bytes:
    """Render a good answer that goes out at once, each event of a stream as its own chunk."""
    if request.stream:
        body = b"".join([chunk(part) for part in rendered.all if part] + [LAST_CHUNK])
        return _response_head(request, reply, None, ok_headers) + body
    body = b"".join(rendered.all)
    return _response_head(request, reply, len(body), ok_headers) + body


def _response_head(
    request: IncomingRequest, reply: ReplyOptions, length: int | None, ok_headers: Headers
) -> bytes:
    """Render the head of a good answer; the body comes in chunks if its length is None."""
    kind = request.dialect.stream_type if request.stream else request.dialect.content_type
    framing = ("content-length", str(length))
    if length is None:
        framing = ("transfer-encoding", "chunked")
    return head(reply.status, (("content-type", kind), framing, *ok_headers, *reply.headers))

"""One request and the ways to answer it: the stage on which a step plays."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from langchain_resilient.testing.brain import Answer, Choice
from langchain_resilient.testing.delays import draw
from langchain_resilient.testing.dialects.base import numbered
from langchain_resilient.testing.http import head
from langchain_resilient.testing.telling import Telling
from langchain_resilient.testing.text import tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from random import Random

    from langchain_resilient.testing.delays import Delay
    from langchain_resilient.testing.dialects.base import Call
    from langchain_resilient.testing.http import Headers
    from langchain_resilient.testing.problems import Problem
    from langchain_resilient.testing.records import Seen
    from langchain_resilient.testing.server import Connection
    from langchain_resilient.testing.steps.base import Step
    from langchain_resilient.testing.steps.reply import Reply


class Exchange:
    """A request being answered. Steps get one to play on; nobody else makes them.

    Not safe to use from other threads or loops than the simulator's own.

    Attributes:
        call: The request.
        seen: What the simulator remembers of it.
        random: Where all chance must come from.
        at: When the request came, in seconds since the simulator's start.
        ok_headers: The dialect's headers for a success, with the state of the rate limits.
        wall_clock: Gives the seconds since 1970, for dates only.
    """

    def __init__(
        self,
        connection: Connection,
        call: Call,
        seen: Seen,
        *,
        at: float,
        random: Random,
        ok_headers: Headers,
        think: Callable[[Call, Reply], Answer],
        wall_clock: Callable[[], float],
        on_end: Callable[[Seen, bool], None],
    ) -> None:
        self.call = call
        self.seen = seen
        self.random = random
        self.at = at
        self.ok_headers = ok_headers
        self.wall_clock = wall_clock
        self._connection = connection
        self._serial = seen.serial
        self._think = think
        self._on_end = on_end
        self._task: asyncio.Task[None] | None = None
        self._pieces: list[str] = []
        seen.pieces = self._pieces
        self.ended: bool = False

    def start(self, step: Step) -> asyncio.Task[None]:
        """Play a step in a task of its own."""
        self._task = asyncio.get_running_loop().create_task(self._play(step))
        return self._task

    async def _play(self, step: Step) -> None:
        try:
            await step.play(self)
        finally:
            # A step that fails or forgets to end must not leave the client waiting for ever.
            if not self.ended:
                self.close()

    def abandon(self, *, aborted: bool) -> None:
        """Stop playing, for the connection is gone.

        Args:
            aborted: Whether it was the client that went away.
        """
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

    def tell(self, reply: Reply, choice: Choice | None = None) -> Telling:
        """Work out the answer and get ready to tell it.

        Args:
            reply: How to answer.
            choice: What to answer, if not what the model thinks out.
        """
        answer = self._think(self.call, reply)
        if choice is not None:
            answer = Answer((choice,), answer.usage)
        dialect = self.call.dialect
        cut_up = dialect.stream if self.call.stream else dialect.plain_in_parts
        return Telling(self, reply, cut_up(self.call, answer, reply))

    def shortened(self, reply: Reply, pieces: int | None, finish_reason: str | None) -> Choice:
        """Return the first pieces of the answer as if they were all of it."""
        text = self._think(self.call, reply).choices[0].text or ""
        return Choice("".join(tokens(text)[:pieces]), finish_reason)

    def respond(
        self,
        status: int,
        body: bytes,
        content_type: str = "application/json",
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ) -> None:
        """Send a whole response."""
        self.seen.status = status
        pairs = {
            "content-type": content_type,
            "content-length": str(len(body)),
            **dict(self.call.dialect.error_headers() if status >= 400 else self.ok_headers),  # noqa: PLR2004 - errors begin there
            **dict(headers),
        }
        self.write(head(status, pairs.items()) + body)
        self.end()

    def refuse(self, problem: Problem, hints: Mapping[str, str] | None = None) -> None:
        """Send an error in the dialect's words, with further headers."""
        content_type, body = self.call.dialect.error_body(problem)
        self.respond(problem.status, body, content_type, hints or {})

    def said(self, pieces: Iterable[str]) -> None:
        """Note down which pieces of the answer went out."""
        self._pieces.extend(pieces)

    def write(self, data: bytes) -> None:
        """Put bytes on the wire, with the request's number where they leave a place for it."""
        self._connection.write(numbered(data, self._serial))

    async def drain(self) -> None:
        """Wait while the client does not read."""
        await self._connection.drain()

    def end(self, *, close: bool = False) -> None:
        """The response is complete: the connection may take the next request, or is closed."""
        self._end()
        self._connection.release(self, close=close)

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
            self._on_end(self.seen, aborted)

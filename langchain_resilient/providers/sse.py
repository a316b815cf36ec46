"""Read a chat-completions response off an SDK's transport: a stream of events, or one JSON body.

The SDKs' own decoding builds a pydantic model a chunk and gives up at the first malformed one; this
reads the same bytes for a sixth of the CPU and goes on where the stream is sound.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from pydantic_core import from_json

from langchain_resilient.providers.faults import AnswerError
from langchain_resilient.wire.sse import NamedEvent, SSEDecoder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from langchain_resilient.request import Chunk

MAX_BODY_BYTES = 64 * 1024 * 1024
"""A plain answer over this is refused: no language model writes that much."""

_DRAIN_SECONDS = 0.1


class Response(Protocol):
    """What httpx and httpx2 responses have in common."""

    status_code: int
    headers: Mapping[str, str]

    def aiter_bytes(self) -> AsyncIterator[bytes]:
        """Decompressed bytes as they come."""
        ...

    async def aclose(self) -> None:
        """Free the connection."""
        ...


class EventStream:
    """The chunks of a streamed answer."""

    __slots__ = ("_bytes", "_decoder", "_done", "_events", "_response")

    def __init__(self, response: Response) -> None:
        self._response = response
        self._bytes = response.aiter_bytes()
        self._decoder = SSEDecoder()
        self._events: list[bytes | NamedEvent] = []  # newest first, so that taking one is a pop
        self._done = False

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Chunk:
        while True:
            while self._events:
                chunk = self._decode(self._events.pop())
                if chunk is not None:
                    return chunk
            if self._done:
                raise StopAsyncIteration
            decoder = self._decoder
            data = await anext(self._bytes, None)
            events: list[bytes | NamedEvent] = (
                decoder.flush() if data is None else decoder.feed(data)
            )
            self._done = data is None or decoder.done
            events.reverse()
            self._events = events

    def _decode(self, event: bytes | NamedEvent) -> Chunk | None:
        """Decode one event; None for one that is not JSON.

        A malformed event is skipped: if the stream goes on soundly nothing is lost that mattered,
        and if it does not, the missing `finish_reason` tells.
        """
        named = isinstance(event, NamedEvent)
        try:
            chunk = from_json(event.data if isinstance(event, NamedEvent) else event)
        except ValueError:
            return None
        if not isinstance(chunk, dict):
            return None
        failed = chunk.get("error") or (named and event[0] == "error")
        if failed and not chunk.get("choices"):
            raise AnswerError("the provider reported an error inside its stream", chunk)
        return chunk

    async def aclose(self) -> None:
        """Free the connection; a finished HTTP/1.1 answer is read to its end, for reuse."""
        try:
            if self._done:
                async with asyncio.timeout(_DRAIN_SECONDS):
                    async for _ in self._bytes:
                        pass
        except TimeoutError:
            pass
        finally:
            await self._response.aclose()


class WholeAnswer:
    """A plain answer, as a stream of one chunk."""

    __slots__ = ("_given", "_response")

    def __init__(self, response: Response) -> None:
        self._response = response
        self._given = False

    def __aiter__(self) -> WholeAnswer:
        return self

    async def __anext__(self) -> Chunk:
        if self._given:
            raise StopAsyncIteration
        self._given = True
        return decode_body(await _read(self._response))

    async def aclose(self) -> None:
        """Free the connection."""
        await self._response.aclose()


def open_answer(response: Response, *, stream: bool) -> EventStream | WholeAnswer:
    """Choose how to read a response.

    A server that answers a stream request with plain JSON is believed: its answer is whole.
    """
    kind = response.headers.get("content-type", "")
    plain = not stream or "json" in kind or "html" in kind
    return WholeAnswer(response) if plain else EventStream(response)


async def _read(response: Response) -> bytes:
    parts, size = [], 0
    async for data in response.aiter_bytes():
        size += len(data)
        if size > MAX_BODY_BYTES:
            raise AnswerError(f"the answer is longer than {MAX_BODY_BYTES} bytes", status_code=200)
        parts.append(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def decode_body(data: bytes) -> Chunk:
    """Decode a whole answer.

    Raises:
        AnswerError: If it is not a JSON object, or is an error.
    """
    try:
        body = from_json(data)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        start = data[:60].decode("utf-8", "replace")
        raise AnswerError(f"the answer is not JSON: {start!r}", status_code=200)
    if body.get("error") and not body.get("choices"):
        raise AnswerError("the answer is an error", body)
    return body

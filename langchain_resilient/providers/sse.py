"""Reads a chat-completions response: a stream of server-sent events, or one JSON body.

The SDKs' own decoders build a pydantic model per chunk and fail at the first event that is not
JSON, such as a bare `data: ping`. This one reads the same bytes in a tenth of the CPU time, skips
events without content, and raises for error events. What is in a response its first bytes say: the
label that it carries (`content-type`) is wrong too often.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol

from pydantic_core import from_json

from langchain_resilient.providers.errors import AnswerError
from langchain_resilient.providers.json_text import (
    MAX_LENIENT_BYTES,
    SurrogateJoiner,
    parse_json,
    parse_leniently,
)
from langchain_resilient.providers.rate_limit_headers import rate_limit_status
from langchain_resilient.providers.redaction import redact, redact_error
from langchain_resilient.providers.sse_decoder import (
    DONE,
    FIELD,
    PAGE,
    NamedEvent,
    SSEDecoder,
    is_object,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence

    from langchain_resilient.exchange import Chunk, RateLimitStatus


MAX_BODY_BYTES = 64 * 1024 * 1024
"""A plain answer over this is refused: no language model writes that much."""

MAX_STREAM_BYTES = 128 * 1024 * 1024
"""The same for a streamed one: 128,000 tokens in chunks that repeat much are 55 million bytes."""

MAX_STREAM_EVENTS = 500_000
"""A stream of more is refused: the longest answers of today have 128,000 tokens."""

_DRAIN_SECONDS = 0.1


class HTTPResponse(Protocol):
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
    """The chunks of a streamed answer.

    Args:
        response: An open one; this owns it now.
        secrets: Kept out of the errors that are raised.
    """

    __slots__ = (
        "_begun",
        "_bytes",
        "_cut",
        "_decoder",
        "_done",
        "_events",
        "_halves",
        "_joiner",
        "_response",
        "_secrets",
        "_size",
        "_total",
    )

    def __init__(self, response: HTTPResponse, secrets: Collection[str] = ()) -> None:
        self._response = response
        self._secrets = secrets
        self._joiner: SurrogateJoiner | None = None
        self._halves: Collection[Any] = ()
        self._size = self._total = 0
        self._bytes = response.aiter_bytes()
        self._decoder = SSEDecoder()
        # Newest first, so that taking one is a pop.
        self._events: list[bytes | NamedEvent | Chunk] = []
        self._begun = self._done = self._cut = False

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Chunk:
        while True:
            while self._events:
                chunk = self._decode(self._events.pop())
                if chunk is not None:
                    return chunk
            if self._done:
                return self._end()
            decoder = self._decoder
            try:
                data = await anext(self._bytes, None)
            except Exception as error:
                redact_error(error, self._secrets)
                raise
            if data is None:
                # What is cut off here says nothing: a missing `finish_reason` tells of it.
                self._cut = True
                events: Any = decoder.flush()
            else:
                events = decoder.feed(data)
                self._size += len(data)
                self._total += len(events)
                if self._size > MAX_STREAM_BYTES or self._total > MAX_STREAM_EVENTS:
                    raise _too_long(self._size, self._total)
            self._done = self._cut or decoder.done
            events.reverse()
            self._events = events

    def _decode(self, event: bytes | NamedEvent | Chunk) -> Chunk | None:
        """Decode one event; None for one that carries nothing, such as a `ping`.

        Raises:
            AnswerError: If it is an error, or something that cannot be read and may be part of the
                answer: to leave that out would make an answer with a hole look whole.
        """
        # Nearly every event is a plain chunk; anything else takes the slow path.
        if event.__class__ is bytes and not self._halves and len(event) < MAX_LENIENT_BYTES:
            try:
                chunk: Any = from_json(event)
            except ValueError:
                return self._decode_any(event)
            if chunk.__class__ is dict:
                if "choices" in chunk:
                    plain = b'"error"' not in event
                else:
                    # Of the Responses API: what fails there is said by the event's own type.
                    kind = chunk.get("type")
                    plain = kind.__class__ is str and kind[:9] == "response."
                if plain:
                    self._begun = True
                    return chunk
        return self._decode_any(event)

    def _decode_any(self, event: Any) -> Chunk | None:
        if isinstance(event, dict):
            return self._checked(event)
        name, data = event if isinstance(event, NamedEvent) else ("", event)
        if name == PAGE:
            # It may stand in place of a chunk: that would leave a hole.
            what = (
                "a page inside the stream" if self._begun else "the answer is not JSON, but a page"
            )
            raise AnswerError(redact(f"{what}: {_start(data)!r}", self._secrets), status_code=200)
        failed = "error" in name
        try:
            value = parse_json(data)
        except ValueError as error:
            lines = [line for line in data.split(b"\n") if line.strip()]
            if len(lines) > 1:
                self._put_back(lines)
                return None
            value = self._read_leniently(data, error, failed=failed, named=bool(name))
        if isinstance(value, list) and not failed:
            self._put_back([item for item in value if isinstance(item, dict)])
            return None
        if failed:
            body = value if isinstance(value, dict) else {"message": _start(data)}
            message = "the provider reported an error inside its stream"
            raise AnswerError(message, redact(body, self._secrets))
        if isinstance(value, str) and not name and not _is_heartbeat(value):
            self._refuse(data)
        return self._checked(value) if isinstance(value, dict) else None

    def _put_back(self, values: Sequence[Any]) -> None:
        """Take several values that came as one event for events of their own."""
        if DONE in values:
            values = values[: values.index(DONE)]
            self._decoder.done = self._done = True
        self._events.extend(reversed(values))

    def _read_leniently(self, data: bytes, why: ValueError, *, failed: bool, named: bool) -> Any:
        """Read what is not quite JSON; None for what cannot be read and says nothing."""
        if len(data) < MAX_LENIENT_BYTES:
            with contextlib.suppress(ValueError):
                value = parse_leniently(data)
                self._joiner = self._joiner or SurrogateJoiner()
                return value
        text = data.decode("utf-8", "replace")
        nothing = not any(mark in text for mark in _MARKS) and (named or _is_heartbeat(text))
        if not (failed or nothing or (self._cut and self._begun)):
            self._refuse(data, f" ({why})")
        return None

    def _checked(self, chunk: Chunk) -> Chunk:
        """Return a chunk with whole characters.

        Raises:
            AnswerError: If it is an error, in whatever form.
        """
        if (body := _error_in(chunk)) is not None:
            message = "the provider reported an error inside its stream"
            raise AnswerError(message, redact(body, self._secrets))
        self._begun = True
        if self._joiner is None:
            return chunk
        chunk = self._joiner.join(chunk)
        self._halves = self._joiner.halves
        return chunk

    def _end(self) -> Chunk:
        """Give what is left at the end of the stream.

        Raises:
            StopAsyncIteration: If nothing is.
            AnswerError: If all that came is something else than an answer.
        """
        if self._joiner is not None and (rest := self._joiner.rest()) is not None:
            return rest
        if not self._begun and self._decoder.unknown:
            message = f"the answer is not JSON: {_start(self._decoder.unknown)!r}"
            raise AnswerError(redact(message, self._secrets), status_code=200)
        raise StopAsyncIteration

    def _refuse(self, data: bytes, why: str = "") -> NoReturn:
        message = f"{'a chunk' if self._begun else 'the answer'} is not JSON: {_start(data)!r}{why}"
        raise AnswerError(redact(message, self._secrets), status_code=200)

    def finish(self) -> None:
        """Take the answer for complete, though no `[DONE]` has come."""
        self._done = True

    @property
    def complete(self) -> bool:
        """Whether the server itself has said that the stream is at its end, with `[DONE]`."""
        return self._decoder.done

    def rate_limit_status(self) -> RateLimitStatus | None:
        """Return the rate limits that its headers state, if any."""
        return rate_limit_status(self._response.headers)

    async def aclose(self) -> None:
        """Free the connection; a finished HTTP/1.1 answer is read to its end, for reuse."""
        try:
            if self._done:
                # The answer is known: what goes wrong from here on costs the connection only.
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(_DRAIN_SECONDS):
                        async for _ in self._bytes:
                            pass
        finally:
            await self._response.aclose()


class StoredResponse:
    """The body of an answer that came otherwise than as a response: in the results of a batch.

    Args:
        data: The body.
    """

    __slots__ = ("_data", "headers", "status_code")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.headers: Mapping[str, str] = {}
        self.status_code = 200

    async def aiter_bytes(self) -> AsyncGenerator[bytes, None]:
        """Give the body, in one piece."""
        yield self._data

    async def aclose(self) -> None:
        """There is nothing to free."""


class WholeAnswer:
    """A plain answer, as a stream of one chunk.

    Args:
        response: An open one; this owns it now.
        secrets: Kept out of the errors that are raised.
    """

    __slots__ = ("_events", "_given", "_response", "_secrets")

    events: ClassVar[type[EventStream]] = EventStream
    """Reads it if it turns out to be a stream."""

    def __init__(self, response: HTTPResponse, secrets: Collection[str] = ()) -> None:
        self._response = response
        self._secrets = secrets
        self._given = False
        self._events: EventStream | None = None

    def __aiter__(self) -> WholeAnswer:
        return self

    async def __anext__(self) -> Chunk:
        if self._events is not None:
            return await anext(self._events)
        if self._given:
            raise StopAsyncIteration
        self._given = True
        try:
            data = await _read(self._response)
        except Exception as error:
            redact_error(error, self._secrets)
            raise
        # Nearly every body is a plain completion, as in `EventStream`.
        try:
            body: Any = parse_json(data)
        except ValueError:
            body = None
        if body.__class__ is dict and "choices" in body and b'"error"' not in data:
            return body
        if _is_stream(data):
            self._events = self.events(_Received(self._response, data), self._secrets)
            return await anext(self._events)
        return decode_body(data, self._secrets)

    @property
    def complete(self) -> bool:
        """Whether it was a stream, and at its end said `[DONE]`."""
        return self._events is not None and self._events.complete

    def rate_limit_status(self) -> RateLimitStatus | None:
        """Return the rate limits that its headers state, if any."""
        return rate_limit_status(self._response.headers)

    async def aclose(self) -> None:
        """Free the connection."""
        await self._response.aclose()


class _Received:
    """A response whose body has been read."""

    def __init__(self, response: HTTPResponse, data: bytes) -> None:
        self.status_code = response.status_code
        self.headers = response.headers
        self._data = data

    async def aiter_bytes(self) -> AsyncIterator[bytes]:
        yield self._data

    async def aclose(self) -> None:
        """Nothing is open."""


def _is_stream(data: bytes) -> bool:
    """Whether a body is server-sent events, or JSON objects on a line each."""
    if data[:1] != b"{":
        return FIELD.match(data) is not None
    first, _, rest = data.partition(b"\n")
    return rest.lstrip()[:1] == b"{" and is_object(first)


def open_answer(
    response: HTTPResponse, *, stream: bool, secrets: Collection[str] = ()
) -> EventStream | WholeAnswer:
    """Choose how to read a response; both ways look at its first bytes and read the other form too.

    A server that answers a stream request with plain JSON is believed: its answer is whole. So is
    one that streams without being asked.

    Args:
        response: An open one.
        stream: Whether a stream was asked for.
        secrets: Kept out of the errors that are raised.
    """
    if stream or "event-stream" in response.headers.get("content-type", ""):
        return EventStream(response, secrets)
    return WholeAnswer(response, secrets)


async def _read(response: HTTPResponse) -> bytes:
    parts, size = [], 0
    async for data in response.aiter_bytes():
        size += len(data)
        if size > MAX_BODY_BYTES:
            raise AnswerError(f"the answer is longer than {MAX_BODY_BYTES} bytes", status_code=200)
        parts.append(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def decode_body(data: bytes, secrets: Collection[str] = ()) -> Chunk:
    """Decode a whole answer.

    Args:
        data: All of it.
        secrets: Kept out of the errors that are raised.

    Raises:
        AnswerError: If it is not a JSON object, or is an error.
    """
    why = ""
    try:
        body = parse_json(data)
    except ValueError as error:
        body, why = None, f" ({error})"
        if len(data) < MAX_LENIENT_BYTES:
            with contextlib.suppress(ValueError):
                body = SurrogateJoiner().join(parse_leniently(data))
    if isinstance(body, list) and len(body) == 1:
        (body,) = body
    if not isinstance(body, dict):
        message = f"the answer is not JSON: {_start(data)!r}{why}"
        raise AnswerError(redact(message, secrets), status_code=200)
    if (reported := _error_in(body)) is not None:
        raise AnswerError("the answer is an error", redact(reported, secrets))
    return body


def _too_long(size: int, events: int) -> AnswerError:
    what = f"{MAX_STREAM_BYTES} bytes" if size > MAX_STREAM_BYTES else f"{MAX_STREAM_EVENTS} events"
    message = f"the stream is longer than {what} ({size} bytes, {events} events)"
    return AnswerError(message, status_code=200)


_WORDS = ("message", "detail", "error_message", "errorMessage", "error_msg", "msg", "errors")
"""Names under which servers say what went wrong, where there is no `error`."""


def _error_in(chunk: Chunk) -> dict[str, Any] | None:
    """Return the error that a chunk or a body is or holds, as a body of its own; None for none."""
    if chunk.get("error"):
        return chunk
    choices = chunk.get("choices")
    if str(chunk.get("type"))[:9] == "response.":
        return None  # of the Responses API, where a program's text is called `code`
    if isinstance(choices, list) and choices:
        errors = [choice.get("error") for choice in choices if isinstance(choice, dict)]
        return next(({"error": error} for error in errors if error), None)
    kinds = {str(chunk.get(name)).lower() for name in ("object", "type", "status")}
    if not kinds & {"error", "failed"} and "choices" in chunk:
        return None
    words = next(
        (w for n in _WORDS if (w := chunk.get(n)) and isinstance(w, str | list | dict)), None
    )
    code = chunk.get("code")
    if isinstance(words, dict):  # Ollama's own answers have a `message` with a role
        words = None if "role" in words else words.get("message")
    if not (words or kinds & {"error", "failed"} or (code and isinstance(code, str))):
        return None
    return chunk if words is None or "detail" in chunk else {**chunk, "message": words}


_MARKS = '{}"'
"""What has one of these is, or is part of, something like a chunk."""

_HEARTBEAT = re.compile(
    r"[\W\d_TZ]*(?:(?:openrouter\W*)?(?:ping|pong|keep\W?alive|heart\W?beat|processing|waiting|"
    r"connect(?:ed|ing)?|open(?:ed)?|start(?:ed|ing)?|queued|alive|ok|noop|null|none|undefined|"
    r"done|end(?:ed)?|eof|close[d]?|stop(?:ped)?)[\W\d_TZ]*)*",
    re.IGNORECASE,
)


def _is_heartbeat(text: str) -> bool:
    """Whether a bare text is only there to keep the connection open, and no piece of an answer."""
    return len(text) < _MAX_HEARTBEAT and _HEARTBEAT.fullmatch(text.strip()) is not None


_MAX_HEARTBEAT = 80


def _start(data: bytes) -> str:
    return data[:60].decode("utf-8", "replace")

"""Reads a chat-completions response: a stream of server-sent events, or one JSON body.

The SDKs' own decoders build a pydantic model per chunk and fail at the first event that is not
JSON, such as a bare `data: ping`. This one reads the same bytes in a tenth of the CPU time, skips
events without content, and raises for error events.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

from pydantic_core import from_json

from langchain_resilient.providers.errors import AnswerError
from langchain_resilient.providers.rate_limit_headers import rate_limit_status
from langchain_resilient.providers.redaction import redact, redact_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping

    from langchain_resilient.exchange import Chunk, RateLimitStatus


DEFAULT_MAX_EVENT_BYTES = 32 * 1024 * 1024
"""The longest event that is accepted, in bytes."""

_BOM = b"\xef\xbb\xbf"
_DONE = b"[DONE]"

PAGE = "<page>"
"""The event name given to an HTML page that a proxy put into the stream."""

MAX_LINES = 100_000
"""The most lines of one event: a line of seven bytes takes a hundred bytes of memory."""


class NamedEvent(NamedTuple):
    """An event that has a name other than "message", such as "error"; or a `PAGE`."""

    event: str
    data: bytes


class EventTooLongError(ValueError):
    """An event has grown over the limit without coming to its end."""


class SSEDecoder:
    r"""Turns pieces of a response into the payloads of its events.

    The payload of an event is bytes; of an event that names itself, a `NamedEvent`. What follows
    `[DONE]` is ignored, and so are comments, ids and retry times. Lines may end in LF, CR or CR LF,
    and pieces may be cut anywhere.

    Attributes:
        done: Whether `[DONE]` has come.

    Args:
        max_event_bytes: The longest event that is waited for, in bytes.

    Example:
        ```python
        decoder = SSEDecoder()
        decoder.feed(b'data: {"a": 1}\n\nda')  # [b'{"a": 1}']
        decoder.feed(b"ta: 2\n")  # []
        decoder.flush()  # [b'2']
        ```
    """

    __slots__ = (
        "_after_cr",
        "_clean",
        "_limit",
        "_newline",
        "_pieces",
        "_size",
        "_started",
        "done",
    )

    def __init__(self, max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES) -> None:
        self.done = False
        self._limit = max_event_bytes
        self._started = False
        self._clean = False
        self._after_cr = False
        # An unfinished event stays in pieces: joining it with each new one would be quadratic.
        self._pieces: list[bytes] = []
        self._size = 0
        self._newline = False

    def feed(self, data: bytes) -> list[bytes | NamedEvent]:
        """Take the next piece of the response and return the events that it completes.

        Raises:
            EventTooLongError: If an event is longer than `max_event_bytes`.
        """
        # Most pieces are whole events and nothing is left over from before.
        if self._clean and data[-2:] == b"\n\n" and b"\r" not in data:
            if data[:6] == b"data: " and data.find(b"\n") == len(data) - 2 and _DONE not in data:
                return [data[6:-2]]
            return self._payloads(data[:-2].split(b"\n\n"))
        events = self._feed_any(data)
        self._clean = self._started and not (self._pieces or self._after_cr or self.done)
        return events

    def _feed_any(self, data: bytes) -> list[bytes | NamedEvent]:
        if not self._started:
            data = self._start(data)
        if self._after_cr or b"\r" in data:
            data = self._to_line_feeds(data)
        if not data or self.done:
            return []
        if b"\n\n" not in data and not (self._newline and data[0] == _LF):
            return self._keep(data)
        if self._pieces:
            data = b"".join([*self._pieces, data])
            self._pieces = []
        *events, rest = data.split(b"\n\n")
        self._size = 0
        if rest:
            self._keep(rest)
        else:
            self._newline = False
        return self._payloads(events)

    def flush(self) -> list[bytes | NamedEvent]:
        """Return the last event, where the response ended without the empty line after it."""
        rest = b"".join(self._pieces)
        self._pieces, self._size, self._newline = [], 0, False
        return [] if self.done else self._payloads([rest])

    def _payloads(self, events: list[bytes]) -> list[bytes | NamedEvent]:
        payloads: list[bytes | NamedEvent] = []
        for event in events:
            if event[:6] == b"data: " and b"\n" not in event:
                payload: bytes | NamedEvent | None = event[6:]
            else:
                payload = _parse_event(event)
            if payload is None:
                continue
            if payload == _DONE:
                self.done, self._clean = True, False
                break
            payloads.append(payload)
        return payloads

    def _keep(self, data: bytes) -> list[bytes | NamedEvent]:
        self._pieces.append(data)
        self._newline = data[-1] == _LF
        self._size += len(data)
        if self._size > self._limit:
            self._pieces = []
            raise EventTooLongError(f"an event is longer than {self._limit} bytes")
        return []

    def _start(self, data: bytes) -> bytes:
        """Take off a byte-order mark, which may itself come in pieces."""
        data = b"".join([*self._pieces, data])
        self._pieces = []
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._pieces = [data] if data else []
            return b""
        self._started = True
        return data.removeprefix(_BOM)

    def _to_line_feeds(self, data: bytes) -> bytes:
        if self._after_cr and data:
            # The second half of a CR LF; the first was taken for the end of the line.
            data = data.removeprefix(b"\n")
            self._after_cr = False
        self._after_cr = self._after_cr or data[-1:] == b"\r"
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


_LF = 0x0A


def _parse_event(event: bytes) -> bytes | NamedEvent | None:
    """Read one event line by line; None where it has no data."""
    head, _, body = event.partition(b"\ndata: ")
    # As the Responses API writes each of its events: a name and one line of data.
    if head[:15] == b"event: response" and body and b"\n" not in head and b"\n" not in body:
        return NamedEvent(head[7:].decode(errors="replace"), body)
    if event.count(b"\n") > MAX_LINES:
        raise EventTooLongError(f"an event has more than {MAX_LINES} lines")
    name = b""
    data: list[bytes] = []
    for line in event.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
    if not data:
        return NamedEvent(PAGE, event) if event.lstrip()[:1] == b"<" else None
    payload = b"\n".join(data)
    return (
        payload if name in {b"", b"message"} else NamedEvent(name.decode(errors="replace"), payload)
    )


MAX_BODY_BYTES = 64 * 1024 * 1024
"""A plain answer over this is refused: no language model writes that much."""

MAX_STREAM_BYTES = 128 * 1024 * 1024
"""The same for a streamed one: 128,000 tokens in chunks that repeat much are 55 million bytes."""

MAX_STREAM_EVENTS = 500_000
"""A stream of more is refused: the longest answers of today have 128,000 tokens."""

MAX_JSON_VALUES = 1_000_000
"""Objects and lists in one body or event: each of two bytes can take 200 bytes of memory."""

_LARGE = 4 * MAX_JSON_VALUES
"""Bytes from which on they are counted."""

MAX_MALFORMED_CHUNKS = 3
"""The number of chunks of one stream that may be skipped because they are not JSON."""

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
        "_bytes",
        "_cut",
        "_decoder",
        "_done",
        "_events",
        "_id",
        "_malformed",
        "_response",
        "_secrets",
        "_size",
        "_total",
    )

    def __init__(self, response: HTTPResponse, secrets: Collection[str] = ()) -> None:
        self._response = response
        self._secrets = secrets
        self._malformed: list[bytes] = []
        self._id: str | None = None
        self._size = self._total = 0
        self._bytes = response.aiter_bytes()
        self._decoder = SSEDecoder()
        self._events: list[bytes | NamedEvent] = []  # newest first, so that taking one is a pop
        self._done = self._cut = False

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
            try:
                data = await anext(self._bytes, None)
            except Exception as error:
                redact_error(error, self._secrets)
                raise
            if data is None:
                # What is cut off here says nothing: a missing `finish_reason` tells of it.
                self._cut = True
                events = decoder.flush()
            else:
                events = decoder.feed(data)
                self._size += len(data)
                self._total += len(events)
                if self._size > MAX_STREAM_BYTES or self._total > MAX_STREAM_EVENTS:
                    raise _too_long(self._size, self._total)
            self._done = self._cut or decoder.done
            events.reverse()
            self._events = events

    def _decode(self, event: bytes | NamedEvent) -> Chunk | None:
        """Decode one event; None for one that carries nothing, such as a `ping`.

        A chunk that cannot be read is skipped if the stream continues properly: an answer that ends
        without a `finish_reason` is broken in any case.

        Raises:
            AnswerError: If it is an error, the fourth chunk that cannot be read, or one that shows
                part of a text or is one of this stream's own, broken off: to leave that out would
                make an answer with a hole look whole.
        """
        if isinstance(event, NamedEvent):
            name, data = event
            if name == PAGE:
                # It may stand in place of a chunk: that would leave a hole.
                message = f"a page inside the stream: {_start(data)!r}"
                raise AnswerError(redact(message, self._secrets), status_code=200)
        else:
            name, data = "", event
        failed, why = name == "error", ""
        try:
            chunk = from_json(data) if len(data) < _LARGE else _counted(data)
        except ValueError as error:
            chunk, why = None, f" ({error})"
        if isinstance(chunk, dict) and not failed and not chunk.get("error"):
            if self._id is None:
                self._learn_id(chunk)
            return chunk
        if failed or isinstance(chunk, dict):
            body = chunk if isinstance(chunk, dict) else {"message": _start(data)}
            message = "the provider reported an error inside its stream"
            raise AnswerError(message, redact(body, self._secrets))
        if data.lstrip()[:1] == b"{" and not self._cut:
            self._malformed.append(data)
            own = self._id is not None and _belongs_to(self._id, data)
            own = own or name.startswith("response.")  # of the Responses API
            if own or len(self._malformed) > MAX_MALFORMED_CHUNKS or _holds_content(data):
                self._refuse(data, why)
        return None

    def _learn_id(self, chunk: Chunk) -> None:
        """Take the stream's id from its first good chunk; earlier broken ones may be its own."""
        self._id = str(chunk.get("id") or "")
        for data in self._malformed:
            if _belongs_to(self._id, data):
                self._refuse(data)

    def _refuse(self, data: bytes, why: str = "") -> NoReturn:
        message = f"a chunk is not JSON: {_start(data)!r}{why}"
        raise AnswerError(redact(message, self._secrets), status_code=200)

    def finish(self) -> None:
        """Take the answer for complete, though no `[DONE]` has come."""
        self._done = True

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


class WholeAnswer:
    """A plain answer, as a stream of one chunk.

    Args:
        response: An open one; this owns it now.
        secrets: Kept out of the errors that are raised.
    """

    __slots__ = ("_given", "_response", "_secrets")

    def __init__(self, response: HTTPResponse, secrets: Collection[str] = ()) -> None:
        self._response = response
        self._secrets = secrets
        self._given = False

    def __aiter__(self) -> WholeAnswer:
        return self

    async def __anext__(self) -> Chunk:
        if self._given:
            raise StopAsyncIteration
        self._given = True
        try:
            data = await _read(self._response)
        except Exception as error:
            redact_error(error, self._secrets)
            raise
        return decode_body(data, self._secrets)

    def rate_limit_status(self) -> RateLimitStatus | None:
        """Return the rate limits that its headers state, if any."""
        return rate_limit_status(self._response.headers)

    async def aclose(self) -> None:
        """Free the connection."""
        await self._response.aclose()


def open_answer(
    response: HTTPResponse, *, stream: bool, secrets: Collection[str] = ()
) -> EventStream | WholeAnswer:
    """Choose how to read a response.

    A server that answers a stream request with plain JSON is believed: its answer is whole. So is
    one that streams without being asked.

    Args:
        response: An open one.
        stream: Whether a stream was asked for.
        secrets: Kept out of the errors that are raised.
    """
    kind = response.headers.get("content-type", "")
    if "event-stream" in kind or (stream and "json" not in kind and "html" not in kind):
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
        body = _counted(data)
    except ValueError as error:
        body, why = None, f" ({error})"
    if not isinstance(body, dict):
        message = f"the answer is not JSON: {_start(data)!r}{why}"
        raise AnswerError(redact(message, secrets), status_code=200)
    if body.get("error"):
        raise AnswerError("the answer is an error", redact(body, secrets))
    return body


def _counted(data: bytes) -> Any:
    """Decode JSON.

    Raises:
        AnswerError: If it would take too much memory.
        ValueError: If it is none, or nested more than 200 deep (jiter's own limit).
    """
    if len(data) >= _LARGE and data.count(b"{") + data.count(b"[") > MAX_JSON_VALUES:
        message = f"the answer holds more than {MAX_JSON_VALUES} objects and lists"
        raise AnswerError(message, status_code=200)
    return from_json(data)


def _too_long(size: int, events: int) -> AnswerError:
    what = f"{MAX_STREAM_BYTES} bytes" if size > MAX_STREAM_BYTES else f"{MAX_STREAM_EVENTS} events"
    message = f"the stream is longer than {what} ({size} bytes, {events} events)"
    return AnswerError(message, status_code=200)


def _belongs_to(stream_id: str, data: bytes) -> bool:
    """Whether what can be read of a broken chunk says that it is of the stream with this id.

    Then it may have held a piece of the text, wherever it broke off (llmock's `malformed` breaks it
    off before its choices). One of another id was put in and stands in nobody's place.
    """
    try:
        match = from_json(data, allow_partial="trailing-strings").get("id")
    except (ValueError, AttributeError):
        return False
    return isinstance(match, str) and match != "" and stream_id.startswith(match)


def _holds_content(data: bytes) -> bool:
    """Whether what can be read of a chunk that was cut short holds a part of the answer."""
    try:
        read = from_json(data, allow_partial="trailing-strings")
        if str(read.get("type")).startswith("response."):
            return True  # an event of the Responses API
        (choice,) = read["choices"]
        delta = choice["delta"]
        return any(delta[name] for name in delta if name != "role")
    except (ValueError, LookupError, TypeError, AttributeError):
        return False


def _start(data: bytes) -> str:
    return data[:60].decode("utf-8", "replace")

"""Splits a response into the payloads of its events: server-sent events, or JSON texts."""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from langchain_resilient.providers.errors import AnswerError
from langchain_resilient.providers.json_text import parse_json

DEFAULT_MAX_EVENT_BYTES = 32 * 1024 * 1024
"""The longest event that is accepted, in bytes."""

_BOM = b"\xef\xbb\xbf"
DONE = b"[DONE]"

FIELD = re.compile(rb"(?:\xef\xbb\xbf)?[\s\x00]*(?:data|event|id|retry|error)?:")
"""How a line of server-sent events begins; a byte-order mark and blanks may stand before it."""

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

    A response that begins like JSON is no stream of events: it is one payload, or one to a line.

    Attributes:
        done: Whether `[DONE]` has come.
        unknown: The beginning of what is neither an event nor JSON, for an error.

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
        "_json",
        "_limit",
        "_newline",
        "_pieces",
        "_size",
        "_started",
        "done",
        "unknown",
    )

    def __init__(self, max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES) -> None:
        self.done = False
        self.unknown = b""
        self._json: _JSONForm | None = None
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
            if data[:6] == b"data: " and data.find(b"\n") == len(data) - 2 and DONE not in data:
                return [data[6:-2]]
            return self._payloads(data[:-2].split(b"\n\n"))
        events = self._feed_any(data)
        unfinished = self._pieces or self._after_cr or self.done
        self._clean = self._started and self._json is None and not unfinished
        return events

    def _feed_any(self, data: bytes) -> list[bytes | NamedEvent]:
        if not self._started:
            data = self._start(data)
        if self._json is not None:
            return self._feed_json(data)
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
        if self._json is not None:
            return self._lines([rest])
        return [] if self.done else self._payloads([rest])

    def _feed_json(self, data: bytes) -> list[bytes | NamedEvent]:
        """Take a piece of one JSON text, or of one to a line: the first line tells which."""
        if self._json is _WHOLE or b"\n" not in data:
            return self._keep(data) if data else []
        *lines, rest = b"".join([*self._pieces, data]).split(b"\n")
        if self._json is _UNKNOWN:
            self._json = _LINES if is_object(lines[0]) else _WHOLE
            if self._json is _WHOLE:
                return self._keep(data)
        self._pieces, self._size = [], 0
        if rest:
            self._keep(rest)
        return self._lines(lines)

    def _lines(self, lines: list[bytes]) -> list[bytes | NamedEvent]:
        payloads: list[bytes | NamedEvent] = []
        for line in map(bytes.strip, lines):
            if line == DONE or line == b"data: " + DONE:
                self.done = True
            field = FIELD.match(line) is not None and line[:5] != b"data:"
            if line and not self.done and not field:
                payloads.append(line)
        return payloads

    def _payloads(self, events: list[bytes]) -> list[bytes | NamedEvent]:
        payloads: list[bytes | NamedEvent] = []
        for event in events:
            if event[:6] == b"data: " and b"\n" not in event:
                payload: bytes | NamedEvent | None = event[6:]
            elif event[:15] == b"event: response":
                # As the Responses API writes its events: a name, which the data repeat, and a line.
                at = event.find(b"\ndata: {") + 7
                usual = at > 6 and b'"type"' in event and event.count(b"\n") == 1  # noqa: PLR2004
                payload = event[at:] if usual else _parse_event(event)
            else:
                payload = _parse_event(event)
            if payload is None:
                self.unknown = self.unknown or _unknown_text(event)
                continue
            if payload == DONE:
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
        """Take off a byte-order mark, which may itself come in pieces, and look at what follows."""
        data = _LEADING.sub(b"", b"".join([*self._pieces, data]))
        self._pieces = []
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._pieces = [data] if data else []
            return b""
        self._started = True
        if data[:1] in _JSON_BEGINS:
            self._json = _UNKNOWN
        return data

    def _to_line_feeds(self, data: bytes) -> bytes:
        if self._after_cr and data:
            # The second half of a CR LF; the first was taken for the end of the line.
            data = data.removeprefix(b"\n")
            self._after_cr = False
        self._after_cr = self._after_cr or data[-1:] == b"\r"
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


_LF = 0x0A
_LEADING = re.compile(rb"\A(?:\xef\xbb\xbf|[ \t\r\n\x00])+")
_JSON_BEGINS = (b"{", b"[")


class _JSONForm(Enum):
    """How a response that is JSON is to be read."""

    UNKNOWN = 0
    WHOLE = 1
    LINES = 2


_UNKNOWN, _WHOLE, _LINES = _JSONForm


def is_object(line: bytes) -> bool:
    """Whether a line is a JSON object by itself."""
    line = line.strip()
    if line[:1] != b"{" or line[-1:] != b"}":
        return False
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return True  # nearly JSON, and whole by its looks
    except AnswerError:
        return False


def _parse_event(event: bytes) -> bytes | NamedEvent | None:
    """Read one event line by line; None where it has no data."""
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
        elif field == b"error":  # llama.cpp's
            name = field
            data.append(value)
        elif line[:1] == b"{":
            data.append(line)
    if not data:
        text = event.lstrip()
        return NamedEvent(PAGE, text) if text[:1] == b"<" else None
    payload = b"\n".join(data)
    return (
        payload if name in {b"", b"message"} else NamedEvent(name.decode(errors="replace"), payload)
    )


def _unknown_text(event: bytes) -> bytes:
    """The text of an event without any field that is known; nothing of a comment."""
    first = event.lstrip()
    known = first[:1] in (b"", b":") or FIELD.match(first) is not None
    return b"" if known else first[:1000]

"""An incremental decoder of server-sent events (WHATWG HTML, section 9.2), tuned for small ones."""

from __future__ import annotations

from typing import NamedTuple

DEFAULT_MAX_EVENT_BYTES = 32 * 1024 * 1024
"""The longest event that is waited for, in bytes."""

_BOM = b"\xef\xbb\xbf"
_DONE = b"[DONE]"


PAGE = "<page>"
"""The name of what is no event at all, but a page that a proxy put into the stream."""


MOST_LINES = 100_000
"""The most lines of one event: each of seven bytes would take a hundred bytes of memory."""


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
        found: list[bytes | NamedEvent] = []
        for event in events:
            if event[:6] == b"data: " and b"\n" not in event:
                payload: bytes | NamedEvent | None = event[6:]
            else:
                payload = _parse(event)
            if payload is None:
                continue
            if payload == _DONE:
                self.done, self._clean = True, False
                break
            found.append(payload)
        return found

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


def _parse(event: bytes) -> bytes | NamedEvent | None:
    """Read one event line by line; None where it has no data."""
    if event.count(b"\n") > MOST_LINES:
        raise EventTooLongError(f"an event has more than {MOST_LINES} lines")
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

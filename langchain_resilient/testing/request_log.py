"""The record of the requests that the simulator got."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_resilient.testing.target_patterns import matches


@dataclass(slots=True)
class RecordedRequest:
    """One chat request, as the provider saw it, and how it was answered.

    Attributes:
        dialect: `"openai"` or `"together"`.
        model: The model asked; empty if the request named none.
        stream: Whether a stream was asked for.
        body: The request as JSON; shared with requests of the same bytes, so do not change it.
        headers: Lower-case request headers, without those that carry secrets.
        key: A short digest of the API key, to tell keys apart; empty if there was none.
        at: When it came, in seconds of the loop's clock.
        status: The HTTP status sent, or None if none was.
        step: What was played, such as `"Reply"` or `"Status 500"`; `"Refused 400"` and the like if
            the request was refused before it could take a step.
        pieces: The pieces of text (or tool arguments) sent so far.
        ended_at: When the answer ended, or None while it goes out.
        aborted: Whether the client went away before the end.
        serial: The request's number as bytes, as ids contain it.
    """

    dialect: str
    model: str
    stream: bool
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    key: str
    at: float
    status: int | None = None
    step: str = ""
    pieces: Sequence[str] = ()
    ended_at: float | None = None
    aborted: bool = False
    serial: bytes = field(default=b"", repr=False)

    @property
    def target(self) -> str:
        """The model as targets are written: `"openai:gpt-6-luna"`."""
        return f"{self.dialect}:{self.model}"

    @property
    def text(self) -> str:
        """What was sent, joined."""
        return "".join(self.pieces)


class RequestLog:
    """Counts all requests, and keeps the records of the last ones.

    Attributes:
        requests: The last requests, oldest first.
        in_flight: The number being answered now.
        aborted: The number that clients gave up.
    """

    def __init__(self, remember: int, log: Callable[[RecordedRequest], None] | None) -> None:
        self.requests: deque[RecordedRequest] = deque(maxlen=remember)
        self.in_flight: int = 0
        self.aborted: int = 0
        self._log = log
        self._counts: Counter[tuple[str, int | None]] = Counter()
        self._pending: Counter[str] = Counter()
        self._last_number = 0
        self._cleared_serial = b""  # requests up to this one do not count any more

    def begin(self, record: RecordedRequest) -> None:
        """Number and count a new request."""
        self._last_number += 1
        record.serial = b"%016x" % self._last_number
        self.in_flight += 1
        self._pending[record.target] += 1
        self.requests.append(record)

    def finish(self, record: RecordedRequest, at: float, *, aborted: bool) -> None:
        """Record that its answer ended, at `at` seconds of the loop's clock."""
        if record.ended_at is not None:
            return
        record.ended_at = at
        record.aborted = aborted
        self.in_flight -= 1
        if record.serial > self._cleared_serial:
            self.aborted += aborted
            self._pending[record.target] -= 1
            self._counts[record.target, record.status] += 1
        if self._log is not None:
            self._log(record)

    def count(self, pattern: str, status: int | None) -> int:
        """Count the requests to matching targets, of one status or all."""
        counts, pending = self._counts.copy(), self._pending.copy()
        ended = sum(
            number
            for (target, code), number in counts.items()
            if matches(pattern, target) and status in (None, code)
        )
        if status is not None:
            return ended
        return ended + sum(number for target, number in pending.items() if matches(pattern, target))

    def targets(self) -> set[str]:
        """Return every target that was asked."""
        return {target for target, _ in self._counts.copy()} | set(self._pending.copy())

    def clear(self) -> None:
        """Forget everything; what is in flight does not count when it ends."""
        self._cleared_serial = b"%016x" % self._last_number
        self.requests.clear()
        self._counts.clear()
        self._pending.clear()
        self.aborted = 0

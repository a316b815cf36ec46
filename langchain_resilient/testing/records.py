"""What the simulator remembers of the requests it got."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langchain_resilient.testing.patterns import matches

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(slots=True)
class Seen:
    """One chat request, as the provider saw it. It fills up while the answer goes out.

    Attributes:
        dialect: `"openai"` or `"together"`.
        model: The model asked; empty if the request named none.
        stream: Whether a stream was asked for.
        body: The request as JSON; shared with requests of the same bytes, so do not change it.
        headers: Lower-case request headers, without those that carry secrets.
        key: A short digest of the API key, to tell keys apart; empty if there was none.
        at: When it came, in seconds of the loop's clock.
        status: The HTTP status sent, or None if none was.
        step: What was played, such as `"Reply"` or `"Status 500"`; `"Door 400"` and the like if
            the request was refused before it could take a step.
        pieces: The pieces of text (or tool arguments) sent so far.
        ended_at: When the answer ended, or None while it goes out.
        aborted: Whether the client went away before the end.
        serial: The request's number as bytes, as it stands in ids.
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
        """The model in the words of this project: `"openai:gpt-4"`."""
        return f"{self.dialect}:{self.model}"

    @property
    def text(self) -> str:
        """What was sent, joined."""
        return "".join(self.pieces)


class Ledger:
    """Counts every request, and remembers the last ones.

    Attributes:
        requests: The last requests, oldest first.
        in_flight: How many are being answered.
        aborted: How many the client gave up.
    """

    def __init__(self, remember: int, log: Callable[[Seen], None] | None) -> None:
        self.requests: deque[Seen] = deque(maxlen=remember)
        self.in_flight: int = 0
        self.aborted: int = 0
        self._log = log
        self._counts: Counter[tuple[str, int | None]] = Counter()
        self._open: Counter[str] = Counter()
        self._numbers = 0
        self._forgotten = b""  # the serial up to which nothing counts any more

    def open(self, seen: Seen) -> None:
        """A request has come."""
        self._numbers += 1
        seen.serial = b"%016x" % self._numbers
        self.in_flight += 1
        self._open[seen.target] += 1
        self.requests.append(seen)

    def close(self, seen: Seen, at: float, *, aborted: bool) -> None:
        """Its answer has ended, at `at` seconds of the loop's clock."""
        if seen.ended_at is not None:
            return
        seen.ended_at = at
        seen.aborted = aborted
        self.in_flight -= 1
        if seen.serial > self._forgotten:
            self.aborted += aborted
            self._open[seen.target] -= 1
            self._counts[seen.target, seen.status] += 1
        if self._log is not None:
            self._log(seen)

    def count(self, pattern: str, status: int | None) -> int:
        """Count the requests to matching targets, of one status or all."""
        counts, still = self._counts.copy(), self._open.copy()
        ended = sum(
            number
            for (target, code), number in counts.items()
            if matches(pattern, target) and status in (None, code)
        )
        if status is not None:
            return ended
        return ended + sum(number for target, number in still.items() if matches(pattern, target))

    def targets(self) -> set[str]:
        """Return every target that was ever asked."""
        return {target for target, _ in self._counts.copy()} | set(self._open.copy())

    def forget(self) -> None:
        """Forget everything, and do not count what is in flight when it ends."""
        self._forgotten = b"%016x" % self._numbers
        self.requests.clear()
        self._counts.clear()
        self._open.clear()
        self.aborted = 0

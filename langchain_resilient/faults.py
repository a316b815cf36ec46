"""What went wrong with one attempt, in the package's own words.

A provider turns every exception and every bad answer into a `Fault`; the planner decides on
`Fault.kind` alone, and knows no SDK and no status code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class FaultKind(StrEnum):
    """The kinds of failure, each named for what the planner should believe about it."""

    SERVER = "server"
    """The provider failed: 5xx, 408, 409, 529, an error inside a 200 stream."""
    CONNECTION = "connection"
    """Refused, reset, unreachable, TLS, DNS: no answer came at all."""
    TIMEOUT = "timeout"
    """No text within the limit for the first text or for the whole answer."""
    STALL = "stall"
    """Text came, then nothing for longer than the limit for the gap between chunks."""
    BROKEN = "broken"
    """The answer was cut, ended without `finish_reason`, or could not be decoded."""
    EMPTY = "empty"
    """A success that holds no text and no tool call."""
    INVALID = "invalid"
    """The answer is whole, but the caller's `check` refused it."""
    RATE_LIMIT = "rate_limit"
    """429: too fast for now."""
    QUOTA = "quota"
    """Money or quota is used up: the whole account is out until someone acts."""
    AUTH = "auth"
    """401 or 403: the key is wrong or not allowed; the whole account is out."""
    NOT_FOUND = "not_found"
    """The model id is unknown or retired at this provider."""
    CONTEXT_LENGTH = "context_length"
    """The prompt is too long for this model."""
    TOO_LARGE = "too_large"
    """The request can never pass this target's limits (413, "Request too large")."""
    CONTENT_FILTER = "content_filter"
    """This target refuses the content."""
    BAD_REQUEST = "bad_request"
    """Any other 400 or 422. Two providers that agree on it mean the request is wrong."""
    NO_STREAMING = "no_streaming"
    """The target cannot stream; asked plainly, it may answer."""
    INTERNAL = "internal"
    """A defect in an adapter: reported like any failure, so that the next target answers."""


EXCLUDES_TARGET = frozenset(
    {
        FaultKind.NOT_FOUND,
        FaultKind.CONTEXT_LENGTH,
        FaultKind.TOO_LARGE,
        FaultKind.CONTENT_FILTER,
        FaultKind.BAD_REQUEST,
        FaultKind.INTERNAL,
    }
)
"""Asking the same target again with the same request cannot help."""


BLOCKS_ACCOUNT = frozenset({FaultKind.AUTH, FaultKind.QUOTA})
"""Every target of the same account would answer the same."""


TRANSIENT = frozenset(
    {
        FaultKind.SERVER,
        FaultKind.CONNECTION,
        FaultKind.TIMEOUT,
        FaultKind.STALL,
        FaultKind.BROKEN,
        FaultKind.EMPTY,
        FaultKind.INVALID,
        FaultKind.RATE_LIMIT,
    }
)
"""The same target may answer if asked again later."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One classified failure.

    Attributes:
        kind: What to believe about it.
        message: One short line for people, without secrets.
        status: The HTTP status, where there was one.
        code: The provider's own error code, where it gave one.
        retry_after: Seconds the server asks to wait, where it said so.
        should_retry: The server's `x-should-retry`, where it was sent.
        request_id: The provider's id for the request, for its support.
        limit: The most tokens that the target takes, where a request was too long and it said so.
        given: The tokens it counted in the prompt of such a request, where it said so.
        cause: The exception behind it, where there was one.
    """

    kind: FaultKind
    message: str
    status: int | None = None
    code: str | None = None
    retry_after: float | None = None
    should_retry: bool | None = None
    request_id: str | None = None
    limit: int | None = None
    given: int | None = None
    cause: BaseException | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        """Read like a log line: `rate_limit (429): Rate limit reached`."""
        status = f" ({self.status})" if self.status else ""
        return f"{self.kind}{status}: {self.message}"

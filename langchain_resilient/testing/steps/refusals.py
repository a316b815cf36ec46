"""Refusals: error responses with the provider's real bodies and headers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, ClassVar

from langchain_resilient.testing.steps.base import Step, frozen_pairs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_resilient.testing.delays import Delay
    from langchain_resilient.testing.dialects.base import Call
    from langchain_resilient.testing.exchange import Exchange
    from langchain_resilient.testing.problems import Problem

REQUESTS_PER_MINUTE = 60
"""The limit that scripted rate-limit errors speak of."""


@dataclass(frozen=True)
class HttpDate:
    """A `Retry-After` written as a date, so many seconds from now.

    Attributes:
        seconds: From now by the simulator's wall clock; negative lies in the past.
    """

    seconds: float

    def text(self, now: float) -> str:
        """Write the date.

        Args:
            now: Seconds since 1970.
        """
        return format_datetime(datetime.fromtimestamp(now + self.seconds, UTC), usegmt=True)


@dataclass(frozen=True, repr=False)
class Refusal(Step):
    """The base of the error responses: hints on when to come back, and how long it takes.

    Attributes:
        retry_after: The `retry-after` header: seconds, an `HttpDate`, or any text, garbage too.
        retry_after_ms: The `retry-after-ms` header, as it is.
        reset: The `x-ratelimit-reset*` headers: seconds, written as the dialect does, or any text.
        should_retry: The `x-should-retry` header.
        headers: Further headers; they win over the others.
        latency: Seconds before the response.
    """

    kind: ClassVar[str] = "500"

    retry_after: float | str | HttpDate | None = field(default=None, kw_only=True)
    retry_after_ms: float | str | None = field(default=None, kw_only=True)
    reset: float | str | None = field(default=None, kw_only=True)
    should_retry: bool | None = field(default=None, kw_only=True)
    headers: Any = field(default=(), kw_only=True)
    latency: Delay = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "headers", frozen_pairs(self.headers))

    def problem(self, call: Call) -> Problem:
        """Return what to say, in the words of the call's dialect."""
        return call.dialect.problem(self.kind, call, self.details(call))

    def details(self, call: Call) -> Mapping[str, object]:  # noqa: ARG002 - for those that depend on it
        """Return what the message speaks of."""
        return {"limit": REQUESTS_PER_MINUTE, "wait": "1s"}

    async def play(self, exchange: Exchange) -> None:
        """Send the error."""
        await exchange.sleep(self.latency)
        exchange.refuse(
            self.problem(exchange.call), self.hints(exchange.call, exchange.wall_clock())
        )

    def hints(self, call: Call, now: float) -> dict[str, str]:
        """Return the headers that say when to come back.

        Args:
            call: The request refused.
            now: Seconds since 1970.
        """
        after = self.retry_after
        found = {
            "retry-after": after.text(now) if isinstance(after, HttpDate) else _number(after),
            "retry-after-ms": _number(self.retry_after_ms),
            # As real servers date all they say; a date is read against it.
            "date": HttpDate(0).text(now) if isinstance(after, HttpDate) else None,
            "x-should-retry": None if self.should_retry is None else str(self.should_retry).lower(),
        }
        hints = {name: value for name, value in found.items() if value is not None}
        if self.reset is not None:
            hints |= call.dialect.reset_headers(self.reset, REQUESTS_PER_MINUTE)
        return hints | dict(self.headers)


def _number(value: object) -> str | None:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return None if value is None else str(value)


@dataclass(frozen=True, repr=False)
class Status(Refusal):
    """Any error status, with the body that the provider sends for it.

    Without hints no hint header is sent; `RateLimited` has the provider's usual ones.

    Attributes:
        code: The HTTP status code.
        message: Says something else.
        type: Overrides the error's `type`.
        error_code: Overrides the error's `code`.
        param: Overrides the error's `param`.
        body: Replaces the whole body: text, sent as plain text unless `headers` say otherwise.

    Example:
        ```python
        Status(500)
        Status(429, retry_after=30)
        Status(503, retry_after=HttpDate(5), should_retry=False)
        Status(429, reset="6m0s")
        ```
    """

    code: int
    message: str | None = field(default=None, kw_only=True)
    type: str | None = field(default=None, kw_only=True)
    error_code: str | int | None = field(default=None, kw_only=True)
    param: str | None = field(default=None, kw_only=True)
    body: str | None = field(default=None, kw_only=True)

    @property
    def name(self) -> str:
        """What `Seen.step` calls it: `"Status 500"`."""
        return f"Status {self.code}"

    def problem(self, call: Call) -> Problem:
        """Return what to say."""
        known = call.dialect.problems
        kind = str(self.code) if str(self.code) in known else "400" if self.code < 500 else "500"  # noqa: PLR2004 - the server's faults begin there
        problem = replace(call.dialect.problem(kind, call, self.details(call)), status=self.code)
        changes: dict[str, Any] = {
            "message": self.message,
            "type": self.type,
            "code": self.error_code,
            "param": self.param,
            "text": self.body,
        }
        changes = {name: value for name, value in changes.items() if value is not None}
        if self.message is not None and self.body is None:
            changes["text"] = None
        return replace(problem, **changes, html=problem.html and self.body is None)

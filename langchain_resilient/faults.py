"""What went wrong with one attempt, in the package's own words.

A provider turns every exception and every bad answer into a `Fault`; the planner decides on
`Fault.kind` alone, and knows no SDK and no status code.
"""

from __future__ import annotations

import asyncio
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
    UNSUPPORTED = "unsupported"
    """The request holds what this target has no form for, such as a video; nothing was sent."""
    NO_STREAMING = "no_streaming"
    """The target cannot stream; asked plainly, it may answer."""
    INTERNAL = "internal"
    """A defect in an adapter: reported like any failure, so that the next target answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultTraits:
    """What a kind of fault means to the rest of the package: its row in `TRAITS`.

    Attributes:
        transient: The same target may answer if it is asked again later.
        excludes_target: Asking the same target again with the same request cannot help.
        blocks_account: Every target of the same account would answer the same.
        key_specific: Another key of the same target need not share it.
        one_more_try: A whole answer that is no good: the target may try once more, not until the
            deadline.
        sick: It says something about the target, rather than about the request or its rate, and so
            counts against the target's health.
        too_long: It says something about the target's context window.
        cut_short: The answer was given up: it would have taken longer.
        billable: The answer was begun, or may have been; all other faults are refusals, which are
            free.
        error: The error that is raised if all attempts failed with the same error here; empty for
            `AllTargetsFailedError`.
        advice: What a person can do about it, as the errors say it; may be empty.
    """

    transient: bool = False
    excludes_target: bool = False
    blocks_account: bool = False
    key_specific: bool = False
    one_more_try: bool = False
    sick: bool = False
    too_long: bool = False
    cut_short: bool = False
    billable: bool = False
    error: str = ""
    advice: str = ""


TRAITS: dict[FaultKind, FaultTraits] = {
    FaultKind.SERVER: FaultTraits(transient=True, sick=True),
    FaultKind.CONNECTION: FaultTraits(
        transient=True, sick=True, advice="check the network and `base_url`"
    ),
    FaultKind.TIMEOUT: FaultTraits(
        transient=True,
        sick=True,
        cut_short=True,
        billable=True,
        advice="raise `timeout` or `TimeLimits(first_text=...)`, or add a faster target",
    ),
    FaultKind.STALL: FaultTraits(transient=True, sick=True, cut_short=True, billable=True),
    FaultKind.BROKEN: FaultTraits(transient=True, sick=True, billable=True),
    FaultKind.EMPTY: FaultTraits(transient=True, one_more_try=True, billable=True),
    FaultKind.INVALID: FaultTraits(
        transient=True,
        one_more_try=True,
        billable=True,
        error="InvalidAnswersError",
        advice="loosen the schema, say in the prompt what is wanted, try `repair=True`, or add a "
        "more capable target",
    ),
    FaultKind.RATE_LIMIT: FaultTraits(
        transient=True,
        key_specific=True,
        error="RateLimitedError",
        advice="slow down, raise `timeout`, or add a target of another account",
    ),
    FaultKind.QUOTA: FaultTraits(
        blocks_account=True,
        key_specific=True,
        error="RateLimitedError",
        advice="check the account's plan and billing",
    ),
    FaultKind.AUTH: FaultTraits(
        blocks_account=True,
        key_specific=True,
        error="AuthenticationFailedError",
        advice="check the key and what it is allowed to do",
    ),
    FaultKind.NOT_FOUND: FaultTraits(
        excludes_target=True,
        error="ModelsNotFoundError",
        advice="check the model id, or choose one that is still served",
    ),
    FaultKind.CONTEXT_LENGTH: FaultTraits(
        excludes_target=True,
        too_long=True,
        error="ContextTooLongError",
        advice="shorten the prompt, or add a target with a longer context",
    ),
    FaultKind.TOO_LARGE: FaultTraits(excludes_target=True, too_long=True),
    FaultKind.CONTENT_FILTER: FaultTraits(excludes_target=True, billable=True),
    FaultKind.BAD_REQUEST: FaultTraits(
        excludes_target=True, advice="mend the request as the message says"
    ),
    FaultKind.UNSUPPORTED: FaultTraits(
        excludes_target=True, advice="add a target that takes it, or leave it out"
    ),
    FaultKind.NO_STREAMING: FaultTraits(),
    FaultKind.INTERNAL: FaultTraits(excludes_target=True),
}
"""The one table of what each kind of fault means: a new kind needs a row here and nothing else."""

TRANSIENT = frozenset(kind for kind, traits in TRAITS.items() if traits.transient)
"""The kinds after which the same target may answer if it is asked again later."""


def is_callers_business(error: BaseException) -> bool:
    """Whether an exception speaks to the caller's program, and so is no failure of a target.

    It passes through everything at once: nobody else is asked. `KeyboardInterrupt`, `SystemExit`
    and whatever else is no `Exception`; and LangGraph's `GraphBubbleUp` family (an interrupt, a
    command to a parent graph), which is told by its name, so that LangGraph need not be there.

    Args:
        error: From a target, a `check`, an observer, a hook or a callback.

    Example:
        ```python
        is_callers_business(SystemExit())  # True
        ```
    """
    if not isinstance(error, Exception):
        return not isinstance(error, asyncio.CancelledError | GeneratorExit)
    return any(kind.__name__ == "GraphBubbleUp" for kind in type(error).__mro__)


class CarriedError(Exception):
    """Carries what is no `Exception` through code that only knows those.

    Args:
        error: What is carried.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.error = error


CHECK_REFUSED, CHECK_FAILED = "check_refused", "check_failed"
"""Codes of faults by the user's `check`: it said no, or failed itself as far as one can tell."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One classified failure.

    Attributes:
        kind: What to believe about it.
        message: One short line for people, without secrets.
        status: The HTTP status, where there was one.
        code: The provider's own error code, where it gave one; or `check_refused`, `check_failed`.
        retry_after: Seconds the server asks to wait, where it said so.
        should_retry: The server's `x-should-retry`, where it was sent.
        request_id: The provider's id for the request, for its support.
        limit: The most tokens that the target takes, where a request was too long and it said so.
        given: The tokens it counted in the prompt of such a request, where it said so.
        kept: Whether the answer is weak rather than wrong (a refusal, a tool call that cannot be
            read): another target is asked, but if none does better, the caller gets this one.
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
    kept: bool = False
    cause: BaseException | None = field(default=None, repr=False, compare=False)

    @property
    def traits(self) -> FaultTraits:
        """What its kind means."""
        return TRAITS[self.kind]

    def __str__(self) -> str:
        """Read like a log line: `rate_limit (429): Rate limit reached`."""
        status = f" ({self.status})" if self.status else ""
        return f"{self.kind}{status}: {self.message}"

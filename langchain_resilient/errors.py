"""The exceptions: LangChain's `ModelError` family, and one `ImportError`.

```
langchain_core.exceptions.ModelError
└── ResilientError                     .receipt, .causes
    ├── AllTargetsFailedError          every target failed
    │   ├── AuthenticationFailedError      all with 401/403     (also ModelAuthenticationError)
    │   ├── RateLimitedError               all with 429, quota  (also ModelRateLimitError)
    │   ├── ContextTooLongError            all too short        (also ContextOverflowError)
    │   ├── ModelsNotFoundError            all with 404         (also ModelNotFoundError)
    │   ├── InvalidAnswersError            none was accepted    (also OutputParserException)
    │   └── DeadlineExceededError          the deadline passed  (also ModelTimeoutError)
    ├── RequestRejectedError           wrong everywhere         (also ModelInvalidRequestError)
    ├── StreamBrokenError              died after text was delivered; .partial
    ├── SpendCapError                  the money is spent; .opens_in
    ├── NoTargetsError                 nothing to ask: no key   (also ValueError)
    └── JournalError                   a batch's journal fails; .path
        ├── NotAJournalError               another file, or of a newer version
        ├── JournalDamagedError            its content is broken
        ├── JournalLockedError             another program keeps it locked
        ├── JournalReadOnlyError           it must not be written, or has no directory
        └── JournalFullError               the disk is full
ImportError
└── MissingExtraError                  an optional package is not installed
```

`is_retryable` is False on every `ResilientError`: the chain has already tried what could be tried,
and an outer retry would multiply it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAuthenticationError,
    ModelError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelRateLimitError,
    ModelTimeoutError,
    OutputParserException,
)

from langchain_resilient.faults import FaultKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_resilient.receipt import Receipt


class MissingExtraError(ImportError):
    """An optional package is not installed; the message says which extra brings it."""


class ResilientError(ModelError):
    """Base of every error of this package.

    Attributes:
        receipt: What was tried; None where nothing was.
        causes: The exception behind each failed attempt, in order of sending.
    """

    is_retryable = False

    def __init__(self, message: str, receipt: Receipt | None = None) -> None:
        super().__init__(message)
        self.receipt = receipt

    @property
    def causes(self) -> tuple[BaseException, ...]:
        """The exceptions of the providers' SDKs, unchanged."""
        faults = self.receipt.faults if self.receipt else ()
        return tuple(f.cause for _, f in faults if f.cause is not None)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without the SDK exceptions, which hold connections and headers."""
        return (type(self), (str(self),))


class AllTargetsFailedError(ResilientError):
    """Every target failed and no time or target is left; the message tells each attempt."""


class AuthenticationFailedError(AllTargetsFailedError, ModelAuthenticationError):
    """Every target refused its key."""


class RateLimitedError(AllTargetsFailedError, ModelRateLimitError):
    """Every target is over its rate limit or quota for longer than the deadline."""

    is_retryable = False


class ContextTooLongError(AllTargetsFailedError, ContextOverflowError):
    """The prompt is too long for every target."""


class ModelsNotFoundError(AllTargetsFailedError, ModelNotFoundError):
    """No target's model exists."""


class InvalidAnswersError(AllTargetsFailedError, OutputParserException):
    """Every target answered, and no answer fits the schema or pleases `check`."""


class DeadlineExceededError(AllTargetsFailedError, ModelTimeoutError):
    """The deadline (`timeout`) passed before any target had answered."""

    is_retryable = False


class RequestRejectedError(ResilientError, ModelInvalidRequestError):
    """The request itself is wrong: no target will ever take it."""


class StreamBrokenError(ResilientError):
    """A stream died after some of its text had been delivered.

    Attributes:
        partial: The text that was delivered.
    """

    def __init__(self, message: str, receipt: Receipt | None = None, partial: str = "") -> None:
        super().__init__(message, receipt)
        self.partial = partial


class SpendCapError(ResilientError):
    """Nothing was asked, since a spend cap is reached and no target is free of charge.

    Attributes:
        spent: Dollars that were spent in the cap's window; of the cap that opens first.
        opens_in: Seconds until it lets through again; None where it never does.
    """

    def __init__(
        self,
        message: str,
        receipt: Receipt | None = None,
        *,
        spent: float = 0.0,
        opens_in: float | None = None,
    ) -> None:
        super().__init__(message, receipt)
        self.spent = spent
        self.opens_in = opens_in


class NoTargetsError(ResilientError, ValueError):
    """There is no target to ask, since each lacks its key or its package."""


class JournalError(ResilientError):
    """A batch's journal cannot be used; the message names the file and says what to do.

    What was recorded before stays recorded.

    Attributes:
        path: The journal's file.
    """

    def __init__(self, message: str, receipt: Receipt | None = None, *, path: str = "") -> None:
        super().__init__(message, receipt)
        self.path = path


class NotAJournalError(JournalError):
    """The file is something else, or was written by a newer version; it was left as it is."""


class JournalDamagedError(JournalError):
    """The journal's content is broken."""


class JournalLockedError(JournalError):
    """Another program keeps the journal locked for longer than the patience."""


class JournalReadOnlyError(JournalError):
    """The journal cannot be opened for writing."""


class JournalFullError(JournalError):
    """There is no room for the journal to grow."""


_BY_KIND: dict[frozenset[FaultKind], type[AllTargetsFailedError]] = {
    frozenset({FaultKind.AUTH}): AuthenticationFailedError,
    frozenset({FaultKind.RATE_LIMIT}): RateLimitedError,
    frozenset({FaultKind.QUOTA}): RateLimitedError,
    frozenset({FaultKind.QUOTA, FaultKind.RATE_LIMIT}): RateLimitedError,
    frozenset({FaultKind.CONTEXT_LENGTH}): ContextTooLongError,
    frozenset({FaultKind.NOT_FOUND}): ModelsNotFoundError,
    frozenset({FaultKind.INVALID}): InvalidAnswersError,
}

ADVICE = {
    FaultKind.AUTH: "check the key and what it is allowed to do",
    FaultKind.QUOTA: "check the account's plan and billing",
    FaultKind.RATE_LIMIT: "slow down, raise `timeout`, or add a target of another account",
    FaultKind.NOT_FOUND: "check the model id, or choose one that is still served",
    FaultKind.CONTEXT_LENGTH: "shorten the prompt, or add a target with a longer context",
    FaultKind.CONNECTION: "check the network and `base_url`",
    FaultKind.TIMEOUT: "raise `timeout` or `TimeLimits(first_text=...)`, or add a faster target",
    FaultKind.INVALID: "loosen the schema, say in the prompt what is wanted, try `repair=True`, or "
    "add a more capable target",
    FaultKind.BAD_REQUEST: "mend the request as the message says",
}
"""What a person can do about a kind of fault, as the errors say it."""


def all_targets_failed(
    receipt: Receipt, *, deadline: bool, timeout: float | None
) -> AllTargetsFailedError:
    """Build the error that fits what happened.

    Args:
        receipt: All attempts.
        deadline: Whether time ran out (else: nothing was left to try).
        timeout: The deadline in seconds, for the message.
    """
    kinds = frozenset(f.kind for _, f in receipt.faults)
    if deadline:
        kind: type[AllTargetsFailedError] = DeadlineExceededError
        head = f"no target answered within the deadline of {timeout:g} s"
    else:
        kind = _BY_KIND.get(kinds, AllTargetsFailedError)
        head = f"all targets failed after {receipt.seconds:.2f} s"
    error = kind(f"{head}{_attempt_lines(receipt)}{_advice(kinds)}", receipt)
    error.__cause__ = next(iter(error.causes), None)
    return error


def request_rejected(receipt: Receipt) -> ResilientError:
    """Build the error for a request that is wrong everywhere."""
    error = RequestRejectedError(f"the request was refused{_attempt_lines(receipt)}", receipt)
    error.__cause__ = next(iter(error.causes), None)
    return error


def stream_broken(receipt: Receipt, partial: str, timeout: float | None) -> StreamBrokenError:
    """Build the error for a stream that died after some of it was delivered."""
    told = receipt.faults[-1:]
    why = f"{told[0][0]}: {told[0][1]}" if told else f"the deadline of {timeout or 0:g} s passed"
    message = f"the stream broke after {len(partial)} characters were delivered: {why}"
    error = StreamBrokenError(message, receipt, partial)
    error.__cause__ = next(reversed(error.causes), None)
    return error


def _attempt_lines(receipt: Receipt) -> str:
    lines = [
        f"\n  {n}. {a.target} ({a.kind.value}) after {a.ended - a.started:.2f} s: "
        f"{a.fault or a.outcome.value}"
        for n, a in enumerate(receipt.attempts, 1)
    ]
    lines += [f"\n  -. {name} was not asked: {why}" for name, why in receipt.skipped]
    shown = lines if len(lines) <= _MAX_LINES else [*lines[:6], "\n  ...", *lines[-5:]]
    return ":" + "".join(shown)


_MAX_LINES = 12


def _advice(kinds: Iterable[FaultKind]) -> str:
    said = [text for kind, text in ADVICE.items() if kind in kinds]
    return f"\nWhat to do: {'; '.join(said)}." if said else ""

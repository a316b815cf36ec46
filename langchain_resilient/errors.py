"""The exceptions, of LangChain's `ModelError` family, and the warnings.

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
UserWarning
├── SkippedTargetWarning               a target has no key, or its model is gone
├── UnreachableWarning                 nobody answers at the address of any target
├── DroppedParameterWarning            a target's API does not take a parameter
├── RetirementWarning                  a target's model is shut down, or will be
├── InsecureConnectionWarning          a key is sent without encryption
├── MemoryFileWarning                  the file of `remember=` cannot be used
└── SharedStateWarning                 what processes share cannot be reached
```

Each is also an instance of those of LangChain's classes that its causes have in common, whatever
else it is: `ModelAPIError` after a 503 from every target, `ModelConnectionError` after refused
connections, `ModelPermissionDeniedError` after 403s, `ModelInvalidRequestError` after a 400,
`ModelRefusalError` after refusals. A deadline that passes over limited targets is both a
`ModelTimeoutError` and a `ModelRateLimitError`.

`is_retryable` is False on every `ResilientError`: the chain has already tried what could be tried,
and an outer retry would multiply it.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any, TypeVar, cast

from langchain_core import exceptions
from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelPermissionDeniedError,
    ModelRateLimitError,
    ModelTimeoutError,
    OutputParserException,
)

from langchain_resilient.faults import (
    CHECK_FAILED,
    CHECK_REFUSED,
    TRAITS,
    Fault,
    FaultKind,
)
from langchain_resilient.receipt import REFUSED_BEFORE, AttemptKind, Receipt

E = TypeVar("E", bound="ResilientError")


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
        written, families = getattr(type(self), "_joined", (type(self), ()))
        return (_restored, (written, families, str(self)))


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


class SkippedTargetWarning(UserWarning):
    """A target of the chain cannot be asked: it has no key, or its model is gone."""


class UnreachableWarning(UserWarning):
    """Nobody answers at the address of any target; the call asks again until its deadline."""


class DroppedParameterWarning(UserWarning):
    """A target's API does not take a parameter; it was left out for that target."""


class RetirementWarning(UserWarning):
    """A target's model is shut down, or will be on a known day; names the day and a successor."""


class MemoryFileWarning(UserWarning):
    """The file of `remember=` cannot be used; nothing is lost but what was learned."""


class InsecureConnectionWarning(UserWarning):
    """A key is sent to another machine without encryption."""


class SharedStateWarning(UserWarning):
    """What processes share cannot be reached or used: each goes on with its part of the limits."""


_BY_NAME = {error.__name__: error for error in AllTargetsFailedError.__subclasses__()}
"""The errors that the table of faults may name."""


_FAMILIES: dict[FaultKind, type[ModelError]] = {
    FaultKind.SERVER: ModelAPIError,
    FaultKind.BROKEN: ModelAPIError,
    FaultKind.CONNECTION: ModelConnectionError,
    FaultKind.TIMEOUT: ModelTimeoutError,
    FaultKind.STALL: ModelTimeoutError,
    FaultKind.RATE_LIMIT: ModelRateLimitError,
    FaultKind.QUOTA: ModelRateLimitError,
    FaultKind.AUTH: ModelAuthenticationError,
    FaultKind.NOT_FOUND: ModelNotFoundError,
    FaultKind.CONTEXT_LENGTH: ContextOverflowError,
    FaultKind.TOO_LARGE: ModelInvalidRequestError,
    FaultKind.BAD_REQUEST: ModelInvalidRequestError,
    FaultKind.NO_STREAMING: ModelInvalidRequestError,
    # langchain-core 1.7.5
    FaultKind.CONTENT_FILTER: getattr(exceptions, "ModelRefusalError", ModelError),
}
"""What LangChain calls a kind of fault. The other kinds are nothing that it has a name for."""

_FORBIDDEN = 403


def _families_of(fault: Fault) -> frozenset[type[ModelError]]:
    """Return the classes of LangChain's family that one fault is an instance of."""
    found = {_FAMILIES.get(fault.kind, ModelError)}
    if fault.status == _FORBIDDEN:
        found.add(ModelPermissionDeniedError)
    found |= {kind for kind in _FAMILIES.values() if isinstance(fault.cause, kind)}
    return frozenset(found - {ModelError})


def _fitting(error_class: type[E], receipt: Receipt) -> type[E]:
    """Join an error's class with what all its causes have in common."""
    sent = [a for a in receipt.attempts if a.kind is not AttemptKind.SHADOW]
    faults = [attempt.fault for attempt in sent if attempt.fault is not None]
    if not faults or len(faults) < len(sent):
        return error_class  # someone was still silent: there is more to it
    common = frozenset.intersection(*map(_families_of, faults))
    missing = [family for family in common if not issubclass(error_class, family)]
    families = tuple(sorted(missing, key=lambda family: family.__name__))
    joined: type[E] = _joined(cast("Any", error_class), families)
    return joined


@cache
def _joined(error_class: Any, families: tuple[type[ModelError], ...]) -> Any:
    """Make the class that is also these; it has the name of the one that is written here."""
    if not families:
        return error_class
    body = {
        "__module__": __name__,
        "__doc__": error_class.__doc__,
        "_joined": (error_class, families),
    }
    return type(error_class.__name__, (error_class, *families), body)


def _restored(error_class: Any, families: tuple[type[ModelError], ...], message: str) -> Any:
    """Make a pickled error again."""
    return _joined(error_class, families)(message)


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
    why = {reason for _, reason in receipt.skipped}
    if why <= set(REFUSED_BEFORE.values()):
        # What an earlier call met is why this one did not ask: the same error for its user.
        kinds |= {kind for kind, reason in REFUSED_BEFORE.items() if reason in why}
    if deadline:
        error_class: type[AllTargetsFailedError] = DeadlineExceededError
        head = f"no target answered within the deadline of {timeout:g} s"
    else:
        names = {TRAITS[kind].error for kind in kinds}
        error_class = _BY_NAME.get(names.pop() if len(names) == 1 else "", AllTargetsFailedError)
        head = f"all targets failed after {receipt.seconds:.2f} s"
    error = _fitting(error_class, receipt)(
        f"{head}{_attempt_lines(receipt)}{_advice(kinds, receipt)}", receipt
    )
    error.__cause__ = next(iter(error.causes), None)
    return error


def request_rejected(receipt: Receipt) -> ResilientError:
    """Build the error for a request that is wrong everywhere."""
    message = f"the request was refused{_attempt_lines(receipt)}"
    error = _fitting(RequestRejectedError, receipt)(message, receipt)
    error.__cause__ = next(iter(error.causes), None)
    return error


def stream_broken(receipt: Receipt, partial: str, timeout: float | None) -> StreamBrokenError:
    """Build the error for a stream that died after some of it was delivered."""
    last_fault = receipt.faults[-1:]
    why = (
        f"{last_fault[0][0]}: {last_fault[0][1]}"
        if last_fault
        else f"the deadline of {timeout or 0:g} s passed"
    )
    message = f"the stream broke after {len(partial)} characters were delivered: {why}"
    error = _fitting(StreamBrokenError, receipt)(message, receipt, partial)
    error.__cause__ = next(reversed(error.causes), None)
    return error


def _attempt_lines(receipt: Receipt) -> str:
    alike: dict[tuple[str, AttemptKind, str], list[int]] = {}
    for n, a in enumerate(receipt.attempts):
        alike.setdefault((a.target, a.kind, str(a.fault or a.outcome.value)), []).append(n)
    lines = []
    for (target, kind, why), numbers in alike.items():
        times = f", {len(numbers)} times, the last" if len(numbers) > 1 else ""
        last = receipt.attempts[numbers[-1]]
        seconds = f"{last.ended - last.started:.2f} s"
        lines.append(f"\n  {numbers[0] + 1}. {target} ({kind.value}{times}) after {seconds}: {why}")
    lines += [f"\n  -. {name} was not asked: {why}" for name, why in receipt.skipped]
    shown = lines if len(lines) <= _MAX_LINES else [*lines[:6], "\n  ...", *lines[-5:]]
    return ":" + "".join(shown)


_MAX_LINES = 12


_ADVICE_FOR_CHECKS: dict[frozenset[str | None], str] = {
    frozenset({CHECK_FAILED}): "mend the `check`, which seems to fail itself whatever the answer",
    frozenset({CHECK_REFUSED}): "loosen the `check`, say in the prompt what is wanted, or add a "
    "more capable target",
}
"""Where a `check` alone refused the answers."""


def _advice(kinds: Collection[FaultKind], receipt: Receipt) -> str:
    advice = [traits.advice for kind, traits in TRAITS.items() if kind in kinds and traits.advice]
    refused = frozenset(f.code for _, f in receipt.faults if f.kind is FaultKind.INVALID)
    if (better := _ADVICE_FOR_CHECKS.get(refused)) is not None:
        usual = TRAITS[FaultKind.INVALID].advice
        advice = [better if one == usual else one for one in advice]
    return f"\nWhat to do: {'; '.join(advice)}." if advice else ""

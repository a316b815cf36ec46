"""The hook for receipts: objects that hear of every finished call of a model."""

from __future__ import annotations

import logging
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from langchain_resilient.receipt import AttemptKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from contextvars import Context

    from langchain_resilient.options import Target
    from langchain_resilient.receipt import Receipt


logger = logging.getLogger("langchain_resilient.calls")


def log_call(receipt: Receipt, end: str) -> None:
    """Write a call's line; costs nothing to speak of where nobody listens.

    WARNING for an answer of the last resort, which must not pass unnoticed; INFO where more than
    one attempt was needed or none answered (that is raised as well); DEBUG for all others. The
    fields (`extra=`) begin with `resilience_`. Neither prompts nor answers nor keys are in it, nor
    what providers said of a fault: only its kind.

    Args:
        receipt: The call's own.
        end: As in `CallDetails.end`.

    Example:
        ```python
        logging.getLogger("langchain_resilient.calls").setLevel(logging.DEBUG)
        ```
    """
    attempts = receipt.attempts
    smooth = end == "answered" and len(attempts) == 1 and attempts[0].kind is AttemptKind.PRIMARY
    level = logging.DEBUG if smooth else _level(receipt)
    if not logger.isEnabledFor(level):
        return
    if receipt.last_resort:
        logger.log(level, "answered by the last resort: %s", receipt, extra=_fields(receipt, end))
    else:
        logger.log(level, "%s: %s", end, receipt, extra=_fields(receipt, end))


def _level(receipt: Receipt) -> int:
    return logging.WARNING if receipt.last_resort else logging.INFO


def _fields(receipt: Receipt, end: str) -> dict[str, Any]:
    first = [a.first_text for a in receipt.attempts if a.outcome == "won"]
    return {
        "resilience_end": end,
        "resilience_target": receipt.winner,
        "resilience_seconds": round(receipt.seconds, 4),
        "resilience_first_text": first[0] if first else None,
        "resilience_attempts": len(receipt.attempts),
        "resilience_kinds": [a.kind.value for a in receipt.attempts],
        "resilience_faults": [fault.kind.value for _, fault in receipt.faults],
        "resilience_breaks": len(receipt.breaks),
        "resilience_lost_tokens": receipt.lost_tokens,
    }


def picklable_observers(observers: Iterable[Observer]) -> tuple[Observer, ...]:
    """Leave behind those that hold what belongs to this process: sockets, locks, open files.

    Each that stays is named in the log, for a worker that sends the model on must not fail for it.
    """
    return tuple(one for one in observers if _is_picklable(one))


def _is_picklable(observer: Observer) -> bool:
    try:
        pickle.dumps(observer)
    except Exception as error:  # noqa: BLE001  # pickle lets anything out
        name = type(observer).__name__
        logger.warning("observer %s stays behind: it cannot be pickled (%s)", name, error)
        return False
    return True


@dataclass(frozen=True, slots=True)
class CallDetails:
    """What is known of a finished call beside its receipt. It may grow; it never shrinks.

    Attributes:
        end: `"answered"`, `"exhausted"`, `"deadline"`, `"rejected"`, `"broken"` or `"cancelled"`.
        streamed: Whether its text was shown as it came.
        targets: The model's targets by the names in the receipt. Their keys are `SecretStr`.
        params: The call's parameters for all targets: `temperature`, `max_tokens`, `tools`, ...
            A target's own stand in the target. Read only.
        cost: Dollars for each attempt, where a spend cap counted them; else None.
        response_id: The provider's id of the answer; None without one.
        response_model: The model that the provider says has answered; None if it did not say.
        finish_reason: Why the answer ended, in the provider's words.
    """

    end: str
    streamed: bool
    targets: Mapping[str, Target]
    params: Mapping[str, Any]
    cost: tuple[float, ...] | None = None
    response_id: str | None = None
    response_model: str | None = None
    finish_reason: str | None = None


@runtime_checkable
class Observer(Protocol):
    """Hears of every call of a model when it is over, however it ended.

    A call that a spend cap forbids before anything is sent has no receipt and is not heard of.

    It is called by the event loop that carries the calls (that of the caller, or the one behind all
    synchronous calls), in the context of the caller: it must be quick, and safe to use by
    several threads. An exception of its own is logged and changes no answer. Copies of a model
    share its observers; a pickle leaves behind those that cannot be pickled.

    Example:
        ```python
        class Slow:
            def on_receipt(self, receipt, *, call):
                if receipt.seconds > 10:
                    print(f"slow: {receipt}")


        llm = ResilientChatModel(observers=[Slow()])
        ```
    """

    def on_receipt(self, receipt: Receipt, *, call: CallDetails) -> None:
        """Take in one finished call.

        Args:
            receipt: Frozen, and the caller's own.
            call: What else is known.
        """
        ...


def notify_observers(
    observers: Iterable[Observer], receipt: Receipt, call: CallDetails, context: Context
) -> None:
    """Let each observer hear of a call; log what they raise.

    Args:
        observers: In order.
        receipt: What happened.
        call: What else is known.
        context: The caller's, for what looks for its parent there (OpenTelemetry).
    """
    for observer in observers:
        try:
            context.run(observer.on_receipt, receipt, call=call)
        except Exception:
            logger.exception("%s.on_receipt failed", type(observer).__name__)

"""What is told of a finished call, and to whom: observers, and one line in the log."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import Iterable, Mapping
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from langchain_resilient.faults import is_callers_business
from langchain_resilient.options import Target
from langchain_resilient.receipt import AttemptKind, Receipt

logger = logging.getLogger("langchain_resilient.calls")


def log_call(receipt: Receipt, end: str) -> None:
    """Write the log line of a call; next to free where the logger is off.

    WARNING for an answer of the last resort, which must not pass unnoticed; INFO if more than one
    attempt was needed or none answered (which is raised as well); DEBUG otherwise. The fields
    (`extra=`) begin with `resilience_`. The line holds no prompts, answers or keys, and of a fault
    only its kind, not the provider's words.

    Args:
        receipt: The call's receipt.
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
    first_texts = [a.first_text for a in receipt.attempts if a.outcome == "won"]
    return {
        "resilience_end": end,
        "resilience_target": receipt.winner,
        "resilience_seconds": round(receipt.seconds, 4),
        "resilience_first_text": first_texts[0] if first_texts else None,
        "resilience_attempts": len(receipt.attempts),
        "resilience_kinds": [a.kind.value for a in receipt.attempts],
        "resilience_faults": [fault.kind.value for _, fault in receipt.faults],
        "resilience_breaks": len(receipt.breaks),
        "resilience_lost_tokens": receipt.lost_tokens,
    }


def picklable_observers(observers: Iterable[Observer]) -> tuple[Observer, ...]:
    """Leave out the observers that cannot be pickled: they hold sockets, locks or open files.

    Each of those is named in the log; pickling the model must not fail because of an observer.
    """
    return tuple(observer for observer in observers if _is_picklable(observer))


def _is_picklable(observer: Observer) -> bool:
    try:
        pickle.dumps(observer)
    except Exception as error:  # noqa: BLE001  # pickle raises anything
        name = type(observer).__name__
        logger.warning("observer %s stays behind: it cannot be pickled (%s)", name, error)
        return False
    return True


@dataclass(frozen=True, slots=True)
class CallDetails:
    """What is known of a finished call besides its receipt. Fields may be added, never removed.

    Attributes:
        end: `"answered"`, `"exhausted"`, `"deadline"`, `"rejected"`, `"broken"` or `"cancelled"`.
        streamed: Whether its text was streamed to the caller.
        targets: The model's targets by the names in the receipt. Their keys are `SecretStr`.
        params: The call's parameters for all targets: `temperature`, `max_tokens`, `tools`, ...
            A target's own parameters are on the target. Read only.
        cost: Dollars for each attempt if a spend cap counts them; else None.
        response_id: The provider's id of the answer; None without one.
        response_model: The model that answered, as the provider names it; None if it does not.
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
    """Is told of every call of a model when it is over, in whatever way it ended.

    A call that a spend cap forbids before anything is sent has no receipt and is not reported.

    It is called on the event loop that runs the call (the caller's, or the background loop of
    synchronous calls), in the caller's context: it must be quick and thread-safe. An exception it
    raises is logged and changes no answer, unless it is the caller's business (`SystemExit`,
    LangGraph's interrupts): that is raised. Copies of a model share its observers; a pickle leaves
    out those that cannot be pickled.

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
        """Handle one finished call.

        Args:
            receipt: The call's receipt; frozen.
            call: What else is known of it.
        """
        ...


def notify_observers(
    observers: Iterable[Observer], receipt: Receipt, call: CallDetails, context: Context
) -> None:
    """Tell each observer of a finished call; what they raise is logged, unless it is the caller's.

    Args:
        observers: Called in this order.
        receipt: The call's receipt.
        call: What else is known of it.
        context: The caller's context, where OpenTelemetry looks for the parent span.
    """
    for observer in observers:
        try:
            context.run(observer.on_receipt, receipt, call=call)
        except (Exception, asyncio.CancelledError) as error:  # the call is not: it awaits nothing
            if is_callers_business(error):
                raise
            logger.exception("%s.on_receipt failed", type(observer).__name__)

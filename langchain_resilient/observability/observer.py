"""The hook for receipts: objects that hear of every finished call of a model."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from contextvars import Context

    from langchain_resilient.receipt import Receipt
    from langchain_resilient.target import Target

logger = logging.getLogger("langchain_resilient")


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


def tell(
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

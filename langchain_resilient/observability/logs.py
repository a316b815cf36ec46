"""One line in the log for each call, with its figures as fields for machines."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from langchain_resilient.receipt import AttemptKind

if TYPE_CHECKING:
    from langchain_resilient.receipt import Receipt

logger = logging.getLogger("langchain_resilient.calls")


def log(receipt: Receipt, end: str) -> None:
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

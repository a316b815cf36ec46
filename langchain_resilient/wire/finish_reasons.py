"""What a `finish_reason` means: there are far more of them than OpenAI's four."""

from __future__ import annotations

import logging
from enum import Enum
from typing import Any

logger: logging.Logger = logging.getLogger("langchain_resilient")


class Ending(Enum):
    """How an answer ended."""

    WHOLE = "whole"
    """The model came to its end, or called tools."""
    CUT_SHORT = "cut short"
    """It used up the tokens that it was allowed; the answer counts."""
    FILTERED = "filtered"
    """The provider stopped it for what it said."""
    BROKEN = "broken"
    """Something went wrong at the provider: what came is a part of an answer."""


ENDINGS: dict[Ending, frozenset[str]] = {
    Ending.WHOLE: frozenset(
        {
            "stop",
            "eos",
            "eos_token",
            "end",
            "end_turn",
            "stop_sequence",
            "stop_token",
            "stop_reason",
            "complete",
            "completed",
            "finished",
            "finish",
            "done",
            "success",
            "tool_calls",
            "tool_call",
            "tool_use",
            "function_call",
            "pause_turn",
        }
    ),
    Ending.CUT_SHORT: frozenset(
        {
            "length",
            "max_tokens",
            "max_output_tokens",
            "max_length",
            "model_length",
            "token_limit",
            "model_context_window_exceeded",
            "context_length_exceeded",
        }
    ),
    Ending.FILTERED: frozenset(
        {
            "content_filter",
            "content_filtered",
            "content_blocked",
            "contentfilter",
            "filtered",
            "blocked",
            "blocklist",
            "safety",
            "image_safety",
            "recitation",
            "sensitive",
            "prohibited_content",
            "spii",
            "refusal",
            "moderation",
            "flagged",
            "guardrail",
            "guardrail_intervened",
            "guardrails",
            "policy_violation",
            "data_inspection_failed",
        }
    ),
    Ending.BROKEN: frozenset(
        {
            "error",
            "errored",
            "err",
            "internal_error",
            "server_error",
            "model_error",
            "failed",
            "failure",
            "abort",
            "aborted",
            "cancel",
            "cancelled",
            "canceled",
            "interrupted",
            "network_error",
            "connection_error",
            "timeout",
            "timed_out",
            "overloaded",
            "insufficient_system_resource",
            "malformed_function_call",
            "malformed_response",
            "unexpected_tool_call",
            "too_many_tool_calls",
            "finish_reason_unspecified",
            "unspecified",
            "unknown",
            "other",
        }
    ),
}
"""The one table of finish reasons, in lower case with underscores."""

_BY_REASON = {reason: ending for ending, reasons in ENDINGS.items() for reason in reasons}

_logged: set[str] = set()
_MAX_LOGGED = 100


def ending_of(reason: str | None) -> Ending:
    """Say what a finish reason means; None and unknown ones mean a whole answer.

    An unknown one is logged, once per process.

    Example:
        ```python
        ending_of("MALFORMED_FUNCTION_CALL")  # Ending.BROKEN
        ```
    """
    if reason is None:
        return Ending.WHOLE
    known = _BY_REASON.get(reason) or _BY_REASON.get(_plain(reason))
    if known is not None:
        return known
    short = reason[:60]
    if short not in _logged and len(_logged) < _MAX_LOGGED:
        _logged.add(short)
        logger.warning("an answer ended with the unknown finish_reason %r; it counts", short)
    return Ending.WHOLE


def _plain(reason: str) -> str:
    """Write it as the table does: some servers send the name of an enum's member."""
    name = reason.rpartition(".")[2].strip().lower()
    return name.replace("-", "_").replace(" ", "_")


def read_finish_reason(reason: Any) -> str | None:
    """Read what a server sent; numbers are names of some enumeration and only mean that it ended.

    Together's word for `stop` is `eos`.
    """
    if isinstance(reason, str):
        return "stop" if reason == "eos" else reason or None
    if isinstance(reason, int | float) and not isinstance(reason, bool):
        return str(reason)
    return None

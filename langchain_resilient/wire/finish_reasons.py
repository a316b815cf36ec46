"""What a `finish_reason` means: there are far more of them than OpenAI's four."""

from __future__ import annotations

import logging
from enum import Enum
from typing import Any

from langchain_resilient.faults import Fault, FaultKind

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
            "max_tool_calls",
            "incomplete",
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

REASON_KEYS = ("finish_reason", "stop_reason", "stopReason", "done_reason")
"""Where LangChain's integrations say in `response_metadata` why an answer ended."""

NORMALIZED_KEY = "normalized_finish_reason"
"""In the `response_metadata` of a message: why it ended in LangChain's words, from its core 1.8.4
on. (Its third word, `finish_state`, is Anthropic's alone, and passes through.)"""

_NORMALIZED = {
    **dict.fromkeys(("tool_calls", "tool_call", "tool_use", "function_call"), "tool_call"),
    **dict.fromkeys(
        ("context_length_exceeded", "model_context_window_exceeded"), "context_exceeded"
    ),
    # What Google calls so is the model's own no; see langchain-google-genai.
    **dict.fromkeys(("refusal", "safety", "prohibited_content", "blocklist"), "refusal"),
    **dict.fromkeys(("incomplete", "max_tool_calls", "pause_turn", "other"), "other"),
    **dict.fromkeys(("unspecified", "finish_reason_unspecified", "unknown"), "other"),
}
"""Where LangChain's words tell more apart than `Ending`."""

_BY_ENDING = {
    Ending.WHOLE: "stop",
    Ending.CUT_SHORT: "length",
    Ending.FILTERED: "content_filter",
    Ending.BROKEN: "error",
}


def normalized(reason: str | None, *, calls: bool = False, refused: bool = False) -> str | None:
    """Say in LangChain's words why an answer ended; None if it is not known.

    Args:
        reason: The finish reason.
        calls: Whether the answer calls tools: some servers say `stop` then.
        refused: Whether the model refused to answer.

    Example:
        ```python
        normalized("max_output_tokens")  # 'length'
        normalized("stop", calls=True)  # 'tool_call'
        ```
    """
    if refused:
        return "refusal"
    if reason == "stop":
        return "tool_call" if calls else reason
    if not reason:
        return None
    plain = reason if reason in _BY_REASON else _plain(reason)
    word = _NORMALIZED.get(plain)
    if word is None:
        word = _BY_ENDING[_BY_REASON[plain]] if plain in _BY_REASON else "other"
    return "tool_call" if word == "stop" and calls else word


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


def fault_of_reason(reason: str | None) -> Fault | None:
    """Return the fault that a finish reason stands for; None for an answer that counts."""
    ending = ending_of(reason)
    if ending is Ending.FILTERED:
        return Fault(FaultKind.CONTENT_FILTER, "stopped by the provider's content filter")
    if ending is Ending.BROKEN:
        shown = str(reason)[:60]
        return Fault(FaultKind.BROKEN, f"the provider broke off: finish_reason {shown!r}")
    return None


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

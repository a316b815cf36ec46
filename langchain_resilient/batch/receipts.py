"""Receipts as they come back on messages and exceptions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_resilient.fault import Fault, FaultKind
from langchain_resilient.receipt import AttemptKind, AttemptRecord, Outcome, Receipt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_core.messages import AIMessage


def receipt_of(result: AIMessage | Exception) -> Receipt | None:
    """Find the receipt of one call; None where nothing was sent for it.

    A message out of LangChain's cache carries the receipt of the call that filled the cache, which
    is not counted a second time.
    """
    if isinstance(result, Exception):
        return getattr(result, "receipt", None)
    told = result.response_metadata.get("resilience")
    return None if told is None or is_cached(result) else _receipt(told)


def is_cached(message: AIMessage) -> bool:
    """Whether a message is out of LangChain's cache, which marks it with a cost of 0."""
    usage: Mapping[str, Any] = message.usage_metadata or {}
    return "total_cost" in usage


def _receipt(told: Mapping[str, Any]) -> Receipt:
    attempts = tuple(map(_attempt, told["attempts"]))
    return Receipt(attempts, told["winner"], told["seconds"])


def _attempt(told: Mapping[str, Any]) -> AttemptRecord:
    return AttemptRecord(
        target=told["target"],
        kind=AttemptKind(told["kind"]),
        started=told["started"],
        first_text=told.get("first_text"),
        ended=told["ended"],
        outcome=Outcome(told["outcome"]),
        fault=_fault(told) if "fault" in told else None,
        input_tokens=told.get("input_tokens"),
        output_tokens=told.get("output_tokens"),
        cached_tokens=told.get("cached_tokens"),
        written_tokens=told.get("written_tokens"),
    )


def _fault(told: Mapping[str, Any]) -> Fault:
    return Fault(FaultKind(told["fault"]), told["message"], status=told.get("status"))

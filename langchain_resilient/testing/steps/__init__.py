"""The vocabulary of scripts: what a simulated provider can do with a request."""

from __future__ import annotations

from langchain_resilient.testing.steps.base import Step
from langchain_resilient.testing.steps.faults import (
    CleanEnd,
    Cut,
    HtmlInside,
    Malformed,
    NoDone,
    Reset,
    SseError,
    Stall,
)
from langchain_resilient.testing.steps.oddities import (
    Compatible,
    Delayed,
    Empty,
    Garbage,
    Html,
    Timeline,
)
from langchain_resilient.testing.steps.presets import (
    BadRequest,
    ContentFilter,
    ContextTooLong,
    InvalidKey,
    Lacks,
    ModelNotFound,
    NoStreaming,
    Overloaded,
    Quota,
    RateLimited,
    RejectPrefill,
    RequestTooLarge,
    SlowDown,
    UnsupportedParameter,
)
from langchain_resilient.testing.steps.refusals import HttpDate, Refusal, Status
from langchain_resilient.testing.steps.reply import Reply
from langchain_resilient.testing.steps.silences import (
    KeepAlives,
    NoAnswer,
    Raw,
    SlowHeaders,
    Whitespace,
)

__all__ = [
    "VOCABULARY",
    "BadRequest",
    "CleanEnd",
    "Compatible",
    "ContentFilter",
    "ContextTooLong",
    "Cut",
    "Delayed",
    "Empty",
    "Garbage",
    "Html",
    "HtmlInside",
    "HttpDate",
    "InvalidKey",
    "KeepAlives",
    "Lacks",
    "Malformed",
    "ModelNotFound",
    "NoAnswer",
    "NoDone",
    "NoStreaming",
    "Overloaded",
    "Quota",
    "RateLimited",
    "Raw",
    "Refusal",
    "RejectPrefill",
    "Reply",
    "RequestTooLarge",
    "Reset",
    "SlowDown",
    "SlowHeaders",
    "SseError",
    "Stall",
    "Status",
    "Step",
    "Timeline",
    "UnsupportedParameter",
    "Whitespace",
]

VOCABULARY: dict[str, type[Step]] = {
    name: found
    for name, found in list(globals().items())
    if isinstance(found, type) and issubclass(found, Step) and found not in (Step, Refusal)
}
"""Every step by its name."""

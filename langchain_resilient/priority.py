"""Who goes first at a rate limit: calls that somebody waits for, before those of a batch.

A context variable and no keyword, where the batch runner asks: LangChain's cache would take a call
with another keyword for another question.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Literal

Priority = Literal["interactive", "batch"]

PRIORITY: ContextVar[Priority] = ContextVar("langchain_resilient_priority", default="interactive")
"""Of the calls in this context that do not say `priority=` themselves."""

"""A LangChain chat model that always answers, as fast as possible, over several providers.

```python
from langchain_resilient import ResilientChatModel

llm = ResilientChatModel(targets=["openai:gpt-4o", "together:Qwen/Qwen2.5-72B-Instruct-Turbo"])
llm.invoke("Why is the sky blue?")
```
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from langchain_resilient._version import __version__

if TYPE_CHECKING:
    from langchain_resilient.batch.report import BatchProgress, BatchReport
    from langchain_resilient.chat_model import ResilientChatModel
    from langchain_resilient.errors import (
        AllTargetsFailedError,
        AuthenticationFailedError,
        ContextTooLongError,
        DeadlineExceededError,
        InvalidAnswersError,
        JournalDamagedError,
        JournalError,
        JournalFullError,
        JournalLockedError,
        JournalReadOnlyError,
        ModelsNotFoundError,
        NotAJournalError,
        NoTargetsError,
        RateLimitedError,
        RequestRejectedError,
        ResilientError,
        SpendCapError,
        StreamBrokenError,
    )
    from langchain_resilient.faults import Fault, FaultKind
    from langchain_resilient.observability.observer import CallDetails, Observer
    from langchain_resilient.observability.stats import Stats
    from langchain_resilient.options import Health, Hedge, Retry, SpendCap, Target, TimeLimits
    from langchain_resilient.receipt import AttemptKind, AttemptRecord, Outcome, Receipt
    from langchain_resilient.runtime.streaming import sum_chunks

__all__ = [
    "AllTargetsFailedError",
    "AttemptKind",
    "AttemptRecord",
    "AuthenticationFailedError",
    "BatchProgress",
    "BatchReport",
    "CallDetails",
    "ContextTooLongError",
    "DeadlineExceededError",
    "Fault",
    "FaultKind",
    "Health",
    "Hedge",
    "InvalidAnswersError",
    "JournalDamagedError",
    "JournalError",
    "JournalFullError",
    "JournalLockedError",
    "JournalReadOnlyError",
    "ModelsNotFoundError",
    "NoTargetsError",
    "NotAJournalError",
    "Observer",
    "Outcome",
    "RateLimitedError",
    "Receipt",
    "RequestRejectedError",
    "ResilientChatModel",
    "ResilientError",
    "Retry",
    "SpendCap",
    "SpendCapError",
    "Stats",
    "StreamBrokenError",
    "Target",
    "TimeLimits",
    "__version__",
    "sum_chunks",
]

_ROOMS = {
    "batch.report": ("BatchProgress", "BatchReport"),
    "chat_model": ("ResilientChatModel",),
    "chunks": ("sum_chunks",),
    "errors": tuple(name for name in __all__ if name.endswith("Error")),
    "fault": ("Fault", "FaultKind"),
    "observability.observer": ("CallDetails", "Observer"),
    "observability.stats": ("Stats",),
    "policy": ("Health", "Hedge", "Retry", "SpendCap", "TimeLimits"),
    "receipt": ("AttemptKind", "AttemptRecord", "Outcome", "Receipt"),
    "target": ("Target",),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for: nothing heavy before it is needed."""
    if name not in _HOME:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    found = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)

"""A LangChain chat model that always answers, as fast as possible, over several providers.

```python
from langchain_resilient import ResilientChatModel

llm = ResilientChatModel(targets=["openai:gpt-6.1-sol", "together:openai/gpt-oss-120b"])
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
        DroppedParameterWarning,
        InsecureConnectionWarning,
        InvalidAnswersError,
        JournalDamagedError,
        JournalError,
        JournalFullError,
        JournalLockedError,
        JournalReadOnlyError,
        MemoryFileWarning,
        MissingExtraError,
        ModelsNotFoundError,
        NotAJournalError,
        NoTargetsError,
        RateLimitedError,
        RequestRejectedError,
        ResilientError,
        RetirementWarning,
        SharedStateWarning,
        SkippedTargetWarning,
        SpendCapError,
        StreamBrokenError,
        UnreachableWarning,
    )
    from langchain_resilient.faults import Fault, FaultKind
    from langchain_resilient.fleet.options import Shared
    from langchain_resilient.observability.observer import CallDetails, Observer
    from langchain_resilient.observability.stats import Stats
    from langchain_resilient.options import Target
    from langchain_resilient.policies import Health, Hedge, Retry, SpendCap, TimeLimits
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
    "DroppedParameterWarning",
    "Fault",
    "FaultKind",
    "Health",
    "Hedge",
    "InsecureConnectionWarning",
    "InvalidAnswersError",
    "JournalDamagedError",
    "JournalError",
    "JournalFullError",
    "JournalLockedError",
    "JournalReadOnlyError",
    "MemoryFileWarning",
    "MissingExtraError",
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
    "RetirementWarning",
    "Retry",
    "Shared",
    "SharedStateWarning",
    "SkippedTargetWarning",
    "SpendCap",
    "SpendCapError",
    "Stats",
    "StreamBrokenError",
    "Target",
    "TimeLimits",
    "UnreachableWarning",
    "__version__",
    "sum_chunks",
]

_MODULES = {
    "batch.report": ("BatchProgress", "BatchReport"),
    "chat_model": ("ResilientChatModel",),
    "errors": tuple(name for name in __all__ if name.endswith(("Error", "Warning"))),
    "faults": ("Fault", "FaultKind"),
    "fleet.options": ("Shared",),
    "observability.observer": ("CallDetails", "Observer"),
    "observability.stats": ("Stats",),
    "options": ("Target",),
    "policies": ("Health", "Hedge", "Retry", "SpendCap", "TimeLimits"),
    "receipt": ("AttemptKind", "AttemptRecord", "Outcome", "Receipt"),
    "runtime.streaming": ("sum_chunks",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for: nothing heavy before it is needed."""
    if name not in _MODULE_OF:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

"""How a caller wants a batch run and shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from langchain_resilient.batch.journal import Journal, JournalMatch
    from langchain_resilient.batch.report import BatchProgress, BatchReport

    JournalOption: TypeAlias = Journal | str | PathLike[str] | None
    JournalMatchOption: TypeAlias = JournalMatch | None
else:
    # Annotations are evaluated at run time too, where a batch's modules need not be loaded.
    BatchProgress = BatchReport = JournalOption = JournalMatchOption = Any

Within = str | float | timedelta | None
"""A span of time: `"6h"`, `"1h 30min"`, seconds, or a `timedelta`."""

Progress = bool | Callable[[BatchProgress], object]
"""True for a bar or lines, False for silence, or a function that is given a `BatchProgress`."""


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """The options of a batch, beside LangChain's own arguments.

    Attributes:
        return_exceptions: Whether a prompt's exception is returned as its result.
        progress: How progress is shown.
        journal: Where answers are recorded.
        journal_match: How they are recognised; None for as the journal says, else by the prompt.
        lane: `"batch"` for batches of a provider; None for live requests only.
        within: Seconds in which such a batch is to be answered; None for as long as it takes.
        report: Called with the report at the end.
        tail_hedge: Whether stragglers are asked a second time.
        max_concurrency: The number of prompts under way at a time; None for the default.

    Raises:
        ValueError: If `max_concurrency` is below 1, or what `lane` needs is not there.
    """

    return_exceptions: bool = False
    progress: Progress = False
    journal: JournalOption = None
    report: Callable[[BatchReport], object] | None = None
    tail_hedge: bool = True
    max_concurrency: int | None = None
    journal_match: JournalMatchOption = None
    lane: Literal["batch"] | None = None
    within: Within = None

    def __post_init__(self) -> None:
        if self.lane not in (None, "batch"):
            msg = f"lane must be 'batch' or None, not {self.lane!r}"
            raise ValueError(msg)
        if self.lane is None and self.within is not None:
            msg = "within= is the deadline of lane='batch'; timeout= limits live calls"
            raise ValueError(msg)
        if self.lane is not None and self.journal is None:
            msg = "lane='batch' needs journal=: a crash would lose the batches that are paid for"
            raise ValueError(msg)
        if self.max_concurrency is not None and self.max_concurrency < 1:
            msg = f"max_concurrency must be at least 1, not {self.max_concurrency}"
            raise ValueError(msg)

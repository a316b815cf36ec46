"""What a caller may say of a batch: light, so that a model can be imported without its batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from langchain_resilient.batch.ports import Journal
    from langchain_resilient.batch.progress import Progress
    from langchain_resilient.batch.report import BatchReport


@dataclass(frozen=True, slots=True)
class Options:
    """What a caller may say of a batch, beside LangChain's own arguments.

    Attributes:
        return_exceptions: Whether a prompt's exception is its result.
        progress: How it is shown.
        journal: Where answers are recorded.
        report: Called at the end.
        tail_hedge: Whether stragglers are asked twice.
        max_concurrency: Prompts under way at a time.

    Raises:
        ValueError: If `max_concurrency` is below 1.
    """

    return_exceptions: bool = False
    progress: Progress = False
    journal: Journal | str | PathLike[str] | None = None
    report: Callable[[BatchReport], object] | None = None
    tail_hedge: bool = True
    max_concurrency: int | None = None

    def __post_init__(self) -> None:
        if self.max_concurrency is not None and self.max_concurrency < 1:
            msg = f"max_concurrency must be at least 1, not {self.max_concurrency}"
            raise ValueError(msg)

"""`BatchReport` and `BatchProgress`: frozen records of a batch, at its end and on its way."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from langchain_resilient.observability.render import html_table, spread, text_table
from langchain_resilient.observability.times import UNKNOWN, Quantiles
from langchain_resilient.policy import money

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_resilient.observability.stats import TargetStats


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How far a batch is.

    Attributes:
        total: Items there are; None where the source does not say.
        done: Items with an answer, restored ones too.
        failed: Items that ended with an exception.
        restored: Of `done`, out of the journal: nothing was sent for them.
        hedges: Requests that were sent because another was late.
        retries: Requests that were sent again after a failure.
        tail_hedges: Items of the tail that were asked a second time.
        output_tokens: Of answers.
        spent: Dollars, where prices are known.
        seconds: Since the batch began.
    """

    total: int | None = None
    done: int = 0
    failed: int = 0
    restored: int = 0
    hedges: int = 0
    retries: int = 0
    tail_hedges: int = 0
    output_tokens: int = 0
    spent: float = 0.0
    seconds: float = 0.0

    @property
    def ended(self) -> int:
        """Items that are done or failed."""
        return self.done + self.failed

    @property
    def rate(self) -> float:
        """Items a second that were asked, by this batch so far."""
        return _per_second(self.ended - self.restored, self.seconds)

    @property
    def tokens_per_second(self) -> float:
        """Output tokens a second, by this batch so far."""
        return _per_second(self.output_tokens, self.seconds)

    @property
    def seconds_left(self) -> float | None:
        """How long the rest will take at this rate; None where that cannot be told."""
        if self.total is None or not self.rate:
            return None
        return (self.total - self.ended) / self.rate


@dataclass(frozen=True, slots=True, repr=False)
class BatchReport:
    """What a batch did. Calls that were cancelled with it stand in `llm.stats()` alone.

    Attributes:
        total: Items there were; None where the source did not say and was not read to its end.
        done: Items with an answer, restored ones too.
        failed: Items that ended with an exception.
        restored: Of `done`, out of the journal: nothing was sent for them.
        cached: Of `done`, out of LangChain's cache: nothing was sent for them either.
        complete: Whether the batch ran to its end.
        wall_seconds: How long it took.
        seconds: From an item's call to its answer.
        first_text: From an item's call to the answer's first text.
        hedges: Requests that were sent because another was late.
        retries: Requests that were sent again after a failure.
        tail_hedges: Items of the tail that were asked a second time.
        input_tokens: Of prompts, losers included.
        output_tokens: Of answers, losers included.
        spent: Dollars, losers included, on all targets whose price is known.
        wasted: Dollars of that for answers that did not count.
        errors: Items that failed, by the exception's class, the most frequent first.
        targets: Each target that was asked.

    Example:
        ```python
        await llm.abatch(prompts)
        print(llm.batch_report())  # a table; in a notebook, without `print`, in HTML
        ```
    """

    total: int | None = None
    done: int = 0
    failed: int = 0
    restored: int = 0
    cached: int = 0
    complete: bool = False
    wall_seconds: float = 0.0
    seconds: Quantiles = UNKNOWN
    first_text: Quantiles = UNKNOWN
    hedges: int = 0
    retries: int = 0
    tail_hedges: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    spent: float = 0.0
    wasted: float = 0.0
    errors: Mapping[str, int] = field(default_factory=dict)
    targets: tuple[TargetStats, ...] = ()

    @property
    def rate(self) -> float:
        """Items a second that were asked."""
        return _per_second(self.done + self.failed - self.restored, self.wall_seconds)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {one.name: _plain(getattr(self, one.name)) for one in fields(self)}

    def __repr__(self) -> str:
        """The totals, in a line or two."""
        return _summary(self)

    def __str__(self) -> str:
        """A table for terminals."""
        return text_table(_summary(self), self.targets) if self.targets else _summary(self)

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        return html_table(_summary(self), self.targets)


def _summary(report: BatchReport) -> str:
    told = "" if report.total is None else f" of {report.total:,}"
    rare = (
        ("failed", report.failed),
        ("restored", report.restored),
        ("from the cache", report.cached),
        ("hedges", report.hedges),
        ("retries", report.retries),
        ("hedges in the tail", report.tail_hedges),
    )
    parts = [
        f"{report.done:,}{told} done",
        *(f"{count:,} {name}" for name, count in rare if count),
        f"{report.wall_seconds:.2f} s",
        f"{report.rate:.1f} a second",
        spread("", report.seconds),
        spread("first text ", report.first_text),
        f"{report.input_tokens:,} tokens in, {report.output_tokens:,} out",
        f"{money(report.spent)} spent, {money(report.wasted)} of it wasted" if report.spent else "",
        "" if report.complete else "not complete",
    ]
    failures = ", ".join(f"{name} {count:,}" for name, count in report.errors.items())
    line = ", ".join(filter(None, parts))
    return f"{line}\nfailures: {failures}" if failures else line


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, tuple):
        return [one.as_dict() for one in value]
    if isinstance(value, Quantiles):
        return value.as_dict()
    return dict(value) if hasattr(value, "items") else value


def _per_second(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0

"""What a batch reports: `BatchProgress` while it runs, `BatchReport` at its end."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from math import fsum
from typing import Any, NamedTuple

from langchain_core.messages import AIMessage

from langchain_resilient.observability.recorder import Recorder
from langchain_resilient.observability.stats import (
    UNKNOWN_QUANTILES,
    DurationHistogram,
    Quantiles,
    Stats,
    TargetStats,
    duration_line,
    targets_table,
    text_table,
    time_tiles,
)
from langchain_resilient.policies import money
from langchain_resilient.prices import Price, attempt_cost, was_refused
from langchain_resilient.receipt import AttemptKind, Outcome, Receipt


def is_cached(message: AIMessage) -> bool:
    """Whether a message is out of LangChain's cache, which marks it with a cost of 0."""
    usage: Mapping[str, Any] = message.usage_metadata or {}
    return "total_cost" in usage


class Money(NamedTuple):
    """Dollars.

    Attributes:
        spent: All of them.
        wasted: Of these, for what became no answer.
    """

    spent: float = 0.0
    wasted: float = 0.0

    def __add__(self, other: Any) -> Money:
        """Add two sums."""
        return Money(self.spent + other.spent, self.wasted + other.wasted)


def as_wasted(receipt: Receipt, prompt_tokens: int) -> Receipt:
    """Make the receipt of a cancelled call count as paid in vain, whatever came of it.

    Args:
        receipt: The call's.
        prompt_tokens: What its prompt has, about: of a call that was cut short nobody says.
    """
    attempts = tuple(
        a
        if was_refused(a)
        else replace(
            a,
            outcome=Outcome.CANCELLED if a.outcome is Outcome.WON else a.outcome,
            input_tokens=prompt_tokens if a.input_tokens is None else a.input_tokens,
        )
        for a in receipt.attempts
    )
    return replace(receipt, attempts=attempts, winner=None)


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How far a batch is.

    Attributes:
        total: Items there are; None where the source does not say.
        done: Items with an answer, restored ones too.
        failed: Items that ended with an exception.
        restored: Of `done`, out of the journal: nothing was sent for them.
        batched: Of `done`, by batches of a provider.
        waiting: Items that are in such batches now.
        elsewhere: Of `done`, answered by another target than the first, by the reason.
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
    batched: int = 0
    waiting: int = 0
    hedges: int = 0
    retries: int = 0
    tail_hedges: int = 0
    output_tokens: int = 0
    spent: float = 0.0
    seconds: float = 0.0
    elsewhere: Mapping[str, int] = field(default_factory=dict)

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
    """What a batch did. Of calls that were cancelled with it only the money is counted.

    Attributes:
        total: Items there were; None where the source did not say and was not read to its end.
        done: Items with an answer, restored ones too.
        failed: Items that ended with an exception.
        restored: Of `done`, out of the journal: nothing was sent for them.
        cached: Of `done`, out of LangChain's cache: nothing was sent for them either.
        batched: Of `done`, by batches of a provider.
        late: Of `done`, after the time that `within` gave.
        elsewhere: Of `done`, answered by another target than the first, by the reason, the most
            frequent first: `"rate limit"`, `"max_concurrency"`, `"late"`, `"failed: server"`, ...
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
        wasted: Dollars of that for answers that did not count, those of cancelled calls too.
        saved: Dollars that the answers by batches would have cost more otherwise.
        job_spent: Dollars of this run and of all earlier ones for the same prompts, as far as the
            journal knows; None without a journal.
        job_wasted: Dollars of that for answers that did not count.
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
    batched: int = 0
    late: int = 0
    complete: bool = False
    wall_seconds: float = 0.0
    seconds: Quantiles = UNKNOWN_QUANTILES
    first_text: Quantiles = UNKNOWN_QUANTILES
    hedges: int = 0
    retries: int = 0
    tail_hedges: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    spent: float = 0.0
    wasted: float = 0.0
    saved: float = 0.0
    job_spent: float | None = None
    job_wasted: float | None = None
    errors: Mapping[str, int] = field(default_factory=dict)
    targets: tuple[TargetStats, ...] = ()
    elsewhere: Mapping[str, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Items a second that were asked."""
        return _per_second(self.done + self.failed - self.restored, self.wall_seconds)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {field_.name: _as_plain_data(getattr(self, field_.name)) for field_ in fields(self)}

    def to_pandas(self) -> Any:
        """The targets as a table of pandas: one row a target, and each nested figure a column.

        The totals are in its `attrs`. The answers themselves are what the batch returned, or
        `langchain-resilient journal export -o answers.csv`.

        Raises:
            MissingExtraError: Without pandas.

        Example:
            ```python
            llm.batch_report().to_pandas()[["requests", "wins", "first_text.p50"]]
            ```
        """
        table = targets_table(self.targets)
        table.attrs = {name: x for name, x in self.as_dict().items() if name != "targets"}
        return table

    def __repr__(self) -> str:
        """The totals, in a line or two."""
        return _summary(self)

    def __str__(self) -> str:
        """A table for terminals."""
        return text_table(_summary(self), self.targets) if self.targets else _summary(self)

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        return _html(self)


def _html(report: BatchReport) -> str:
    from langchain_resilient.observability import stats_html as html  # noqa: PLC0415  # for notebooks

    failures = ", ".join(f"{count:,} {name}" for name, count in report.errors.items())
    rare = (
        ("failed", report.failed, failures, html.RED),
        ("restored", report.restored, "", ""),
        ("from the cache", report.cached, "", ""),
        ("hedges", report.hedges, "", ""),
        ("hedges in the tail", report.tail_hedges, "", ""),
        ("retries", report.retries, "", ""),
    )
    of_total = "" if report.total is None else f"of {report.total:,}"
    incomplete = [] if report.complete else [html.Tile("state", "not complete", colour=html.AMBER)]
    tiles = [
        html.Tile("done", f"{report.done:,}", of_total),
        *incomplete,
        *(html.Tile(name, f"{n:,}", note, colour) for name, n, note, colour in rare if n),
        html.Tile("took", _duration(report.wall_seconds), f"{report.rate:.1f} a second"),
        *time_tiles(
            html.Tile, ("first text", report.first_text), ("time to the answer", report.seconds)
        ),
        html.Tile("tokens in", f"{report.input_tokens:,}"),
        html.Tile("tokens out", f"{report.output_tokens:,}"),
    ]
    money_of = [("spent", report.spent, report.wasted)]
    if report.job_spent != report.spent:
        money_of.append(("by the whole job", report.job_spent or 0.0, report.job_wasted or 0.0))
    tiles += [
        html.Tile(name, money(spent), f"{money(wasted)} wasted")
        for name, spent, wasted in money_of
        if spent
    ]
    left = max(0, (report.total or 0) - report.done - report.failed)
    shares = (
        html.Share("done", report.done, html.GREEN),
        html.Share("failed", report.failed, html.RED),
        html.Share("left", left, html.GREY),
    )
    return html.html_report(tiles, shares, report.targets)


def _duration(seconds: float) -> str:
    """Write how long something took: `41.3 s`, `10:12 min`, `2:05:10 h`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02} h"
    return f"{minutes}:{rest:02} min" if seconds >= 100 else f"{seconds:.1f} s"  # noqa: PLR2004


def _summary(report: BatchReport) -> str:
    of_total = "" if report.total is None else f" of {report.total:,}"
    rare = (
        ("failed", report.failed),
        ("restored", report.restored),
        ("from the cache", report.cached),
        ("by batches", report.batched),
        ("late", report.late),
        (elsewhere_text(report.elsewhere), sum(report.elsewhere.values())),
        ("hedges", report.hedges),
        ("retries", report.retries),
        ("hedges in the tail", report.tail_hedges),
    )
    parts = [
        f"{report.done:,}{of_total} done",
        *(f"{count:,} {name}" for name, count in rare if count),
        f"{report.wall_seconds:.2f} s",
        f"{report.rate:.1f} a second",
        duration_line("", report.seconds),
        duration_line("first text ", report.first_text),
        f"{report.input_tokens:,} tokens in, {report.output_tokens:,} out",
        _spent("", report.spent, report.wasted),
        f"{money(report.saved)} saved by batches" if report.saved else "",
        _spent(" by the whole job", report.job_spent, report.job_wasted)
        if report.job_spent != report.spent
        else "",
        "" if report.complete else "not complete",
    ]
    failures = ", ".join(f"{name} {count:,}" for name, count in report.errors.items())
    line = ", ".join(filter(None, parts))
    return f"{line}\nfailures: {failures}" if failures else line


def elsewhere_text(elsewhere: Mapping[str, int]) -> str:
    """Say why answers are not the first target's: `elsewhere (rate limit 9, late 1)`."""
    why = ", ".join(f"{reason} {count:,}" for reason, count in elsewhere.items())
    return f"elsewhere ({why})"


def _spent(by: str, spent: float | None, wasted: float | None) -> str:
    return f"{money(spent)} spent{by}, {money(wasted or 0.0)} of it wasted" if spent else ""


def _as_plain_data(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, tuple):
        return [row.as_dict() for row in value]
    if isinstance(value, Quantiles):
        return value.as_dict()
    return dict(value) if hasattr(value, "items") else value


def _per_second(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


class BatchStats:
    """What a batch did so far. Safe for use by any thread.

    Copies and pickles of a model leave it behind: it becomes None.

    Args:
        total: Items there are, if that is known.
        clock: Seconds that go forward, e.g. the loop's `time`.
        price: Finds a target's price by its name.
        health: Says how a target is now, by its name; None if nobody knows.

    Attributes:
        clock: As given.
        earlier: What earlier runs paid for the same prompts; None without a journal.
        waiting: Items that are in batches of a provider.

    Example:
        ```python
        stats = BatchStats(100, loop.time, prices.get)
        stats.add(message, receipt)
        print(stats.report())
        ```
    """

    def __init__(
        self,
        total: int | None,
        clock: Callable[[], float],
        price: Callable[[str], Price | None],
        health: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self._total = total
        self.clock = clock
        self._price = price
        self._health = health
        self._lock = threading.Lock()
        self._recorder = Recorder()
        self._seconds, self._first = DurationHistogram(), DurationHistogram()
        self._done = self._failed = self._restored = self._cached = self._tail_hedges = 0
        self._batched = self._late = 0
        self._saved = 0.0
        self._errors: Counter[str] = Counter()
        self._elsewhere: Counter[str] = Counter()
        self._began = clock()
        self._ended: float | None = None
        self._complete = False
        self.earlier: Money | None = None
        self.waiting: int = 0

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()

    def count_restored(self) -> None:
        """Count an answer that was there already."""
        with self._lock:
            self._done += 1
            self._restored += 1

    def add_cancelled(self, receipt: Receipt) -> None:
        """Count what a call cost that was cancelled."""
        self._recorder.add(receipt, cancelled=True)

    def add_batched(self, receipt: Receipt) -> None:
        """Count what an answer by a provider's batch cost that nobody gets."""
        self._recorder.add_batched(receipt)

    def count_late(self) -> None:
        """Count an answer that came after its time."""
        with self._lock:
            self._late += 1

    @property
    def total(self) -> int | None:
        """Items there are, if that is known."""
        return self._total

    def money_of(self, receipt: Receipt | None) -> Money:
        """Dollars for a call, as far as prices are known."""
        attempts = () if receipt is None else receipt.attempts
        prompt = next((a.input_tokens for a in attempts if a.input_tokens), 0)
        spent = [attempt_cost(a, self._price(a.target), prompt) for a in attempts]
        lost = [x for a, x in zip(attempts, spent, strict=True) if a.outcome is not Outcome.WON]
        return Money(fsum(spent), fsum(lost))

    def count_tail_hedge(self) -> None:
        """Count an item of the tail that is asked a second time."""
        with self._lock:
            self._tail_hedges += 1

    def add(self, result: AIMessage | Exception, receipt: Receipt | None = None) -> None:
        """Count the result of an item.

        Args:
            result: Its answer, or the exception of its call, which holds its receipt itself.
            receipt: The call's; None where nothing was sent for it.
        """
        if isinstance(result, Exception) and receipt is None:
            receipt = getattr(result, "receipt", None)
        batched = receipt is not None and receipt.lane is not None
        if receipt is not None:
            (self._recorder.add_batched if batched else self._recorder.add)(receipt)
        with self._lock:
            if isinstance(result, Exception):
                self._failed += 1
                self._errors[type(result).__name__] += 1
                return
            self._done += 1
            self._cached += is_cached(result)
            if receipt is not None and batched:
                self._batched += 1
                self._saved += receipt.saved or 0.0
            elif receipt is not None:
                self._time(receipt)

    def _time(self, receipt: Receipt) -> None:
        if receipt.elsewhere is not None:
            self._elsewhere[receipt.elsewhere] += 1
        self._seconds.add(receipt.seconds)
        first = next((a.first_text for a in receipt.attempts if a.outcome is Outcome.WON), None)
        if first is not None:
            self._first.add(first)

    def end(self, *, complete: bool) -> None:
        """Stop the clock, once; `complete` if nothing was left out."""
        if self._ended is None:
            self._ended = self.clock()
            self._complete = complete

    def progress(self) -> BatchProgress:
        """How far it is."""
        stats = self._stats()
        with self._lock:
            return BatchProgress(
                total=self._total,
                done=self._done,
                failed=self._failed,
                restored=self._restored,
                batched=self._batched,
                waiting=self.waiting,
                hedges=_count_kind(stats, AttemptKind.HEDGE),
                retries=_count_kind(stats, AttemptKind.RETRY),
                tail_hedges=self._tail_hedges,
                output_tokens=sum(target.output_tokens for target in stats.targets),
                spent=stats.spent,
                seconds=self._wall_seconds(),
                elsewhere=dict(self._elsewhere.most_common()) if self._elsewhere else {},
            )

    def report(self) -> BatchReport:
        """What it did; of a batch that still runs, until now."""
        stats = self._stats()
        with self._lock:
            ended = self._done + self._failed
            return BatchReport(
                total=ended if self._complete else self._total,
                done=self._done,
                failed=self._failed,
                restored=self._restored,
                cached=self._cached,
                batched=self._batched,
                late=self._late,
                complete=self._complete,
                wall_seconds=self._wall_seconds(),
                seconds=self._seconds.quantiles(),
                first_text=self._first.quantiles(),
                hedges=_count_kind(stats, AttemptKind.HEDGE),
                retries=_count_kind(stats, AttemptKind.RETRY),
                tail_hedges=self._tail_hedges,
                input_tokens=sum(target.input_tokens for target in stats.targets),
                output_tokens=sum(target.output_tokens for target in stats.targets),
                spent=stats.spent,
                wasted=stats.wasted,
                saved=self._saved,
                job_spent=None if self.earlier is None else stats.spent + self.earlier.spent,
                job_wasted=None if self.earlier is None else stats.wasted + self.earlier.wasted,
                errors=dict(self._errors.most_common()),
                targets=tuple(replace(t, health=self._health(t.name)) for t in stats.targets),
                elsewhere=dict(self._elsewhere.most_common()),
            )

    def _stats(self) -> Stats:
        # What targets are thought of is the model's business, not a batch's.
        return self._recorder.snapshot({}, 0.0, self._price)

    def _wall_seconds(self) -> float:
        return (self.clock() if self._ended is None else self._ended) - self._began


def _count_kind(stats: Stats, kind: AttemptKind) -> int:
    return sum(target.kinds.get(kind.value, 0) for target in stats.targets)

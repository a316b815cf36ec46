"""`Tally`: adds up a running batch, result by result, in memory that does not grow with it."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from langchain_resilient.batch.receipts import is_cached, receipt_of
from langchain_resilient.batch.report import BatchProgress, BatchReport
from langchain_resilient.observability.recorder import Recorder
from langchain_resilient.observability.times import Times
from langchain_resilient.receipt import AttemptKind, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.messages import AIMessage

    from langchain_resilient.observability.stats import Stats
    from langchain_resilient.prices import Price
    from langchain_resilient.receipt import Receipt


class Tally:
    """What a batch did so far. Safe for use by any thread.

    Copies and pickles of a model leave it behind: it becomes None.

    Args:
        total: Items there are, if that is known.
        clock: Seconds that go forward, e.g. the loop's `time`.
        price: Finds a target's price by its name.

    Example:
        ```python
        tally = Tally(100, loop.time, prices.get)
        tally.add(message)
        print(tally.report())
        ```
    """

    def __init__(
        self, total: int | None, clock: Callable[[], float], price: Callable[[str], Price | None]
    ) -> None:
        self._total = total
        self.clock = clock
        self._price = price
        self._lock = threading.Lock()
        self._recorder = Recorder()
        self._seconds, self._first = Times(), Times()
        self._done = self._failed = self._restored = self._cached = self._tail_hedges = 0
        self._errors: Counter[str] = Counter()
        self._began = clock()
        self._ended: float | None = None
        self._complete = False

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()

    def restore(self) -> None:
        """Count an answer that was there already."""
        with self._lock:
            self._done += 1
            self._restored += 1

    def ask_again(self) -> None:
        """Count an item of the tail that is asked a second time."""
        with self._lock:
            self._tail_hedges += 1

    def add(self, result: AIMessage | Exception) -> None:
        """Count the result of an item."""
        receipt = receipt_of(result)
        if receipt is not None:
            self._recorder.add(receipt)
        with self._lock:
            if isinstance(result, Exception):
                self._failed += 1
                self._errors[type(result).__name__] += 1
                return
            self._done += 1
            self._cached += is_cached(result)
            if receipt is not None:
                self._time(receipt)

    def _time(self, receipt: Receipt) -> None:
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
                hedges=_count(stats, AttemptKind.HEDGE),
                retries=_count(stats, AttemptKind.RETRY),
                tail_hedges=self._tail_hedges,
                output_tokens=sum(target.output_tokens for target in stats.targets),
                spent=stats.spent,
                seconds=self._wall_seconds(),
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
                complete=self._complete,
                wall_seconds=self._wall_seconds(),
                seconds=self._seconds.quantiles(),
                first_text=self._first.quantiles(),
                hedges=_count(stats, AttemptKind.HEDGE),
                retries=_count(stats, AttemptKind.RETRY),
                tail_hedges=self._tail_hedges,
                input_tokens=sum(target.input_tokens for target in stats.targets),
                output_tokens=sum(target.output_tokens for target in stats.targets),
                spent=stats.spent,
                wasted=stats.wasted,
                errors=dict(self._errors.most_common()),
                targets=stats.targets,
            )

    def _stats(self) -> Stats:
        # What targets are thought of is the model's business, not a batch's.
        return self._recorder.snapshot({}, 0.0, self._price)

    def _wall_seconds(self) -> float:
        return (self.clock() if self._ended is None else self._ended) - self._began


def _count(stats: Stats, kind: AttemptKind) -> int:
    return sum(target.kinds.get(kind.value, 0) for target in stats.targets)

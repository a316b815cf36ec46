"""How a caller wants a batch run and shown.

Progress is a bar in a terminal or a notebook, lines in a log file, or a callback.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO, TypeAlias, cast

from langchain_resilient.batch.report import BatchProgress, BatchReport, elsewhere_text
from langchain_resilient.errors import MissingExtraError
from langchain_resilient.policies import money

if TYPE_CHECKING:
    from langchain_resilient.batch.journal import Journal, JournalMatch

    JournalOption: TypeAlias = Journal | str | PathLike[str] | None
    JournalMatchOption: TypeAlias = JournalMatch | None
else:
    # Annotations are evaluated at run time too, where SQLite need not be loaded.
    JournalOption = JournalMatchOption = Any


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


Within = str | float | timedelta | None
"""A span of time: `"6h"`, `"1h 30min"`, seconds, or a `timedelta`."""

Progress = bool | Callable[[BatchProgress], object]
"""True for a bar or lines, False for silence, or a function that is given a `BatchProgress`."""

REDRAW_SECONDS = 0.1
"""Seconds between two looks at a running batch."""


class Display(Protocol):
    """Shows how far a batch is: as a bar, as lines or by a callback."""

    def show(self, progress: BatchProgress) -> None:
        """Show new figures."""
        ...

    def close(self, progress: BatchProgress) -> None:
        """Show the final figures."""
        ...


class ProgressMeter:
    """Shows a batch at most ten times a second: looking costs more than counting.

    Args:
        display: Shows it; None to show nothing.
        look: Returns how far the batch is.
        clock: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        display: Display | None,
        look: Callable[[], BatchProgress],
        clock: Callable[[], float],
    ) -> None:
        self._display = display
        self._look = look
        self._clock = clock
        self._next_look = clock()

    def tick(self) -> None:
        """Look again, if it is time to."""
        if self._display is not None and (now := self._clock()) >= self._next_look:
            self._next_look = now + REDRAW_SECONDS
            self._display.show(self._look())

    def close(self) -> None:
        """Show the end of the batch."""
        if self._display is not None:
            self._display.close(self._look())


def as_display(progress: Progress, stream: TextIO | None = None) -> Display | None:
    """Choose how to show progress.

    Args:
        progress: What the caller asked for.
        stream: Where a bar or lines go; `sys.stderr` unless given.

    Returns:
        A bar in a terminal or a notebook, else lines: a log file should hold no carriage returns.

    Raises:
        MissingExtraError: If a bar is to be drawn and tqdm is not installed.
    """
    if callable(progress):
        return CallbackDisplay(progress)
    if not progress:
        return None
    output = stream or sys.stderr
    if output is None:  # a program without a console
        return None
    return BarDisplay(output) if output.isatty() or _in_notebook() else LineDisplay(output)


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config


class CallbackDisplay:
    """Calls a function with the progress."""

    def __init__(self, callback: Callable[[BatchProgress], object]) -> None:
        self._callback = callback

    def show(self, progress: BatchProgress) -> None:
        """Call the function."""
        self._callback(progress)

    close = show


class LineDisplay:
    """Writes a line every ten seconds and at every tenth of the batch, at most one a second."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown_at = 0.0
        self._tenth = 0

    def show(self, progress: BatchProgress) -> None:
        """Write a line if one is due."""
        since_last = progress.seconds - self._shown_at
        tenth = 10 * progress.ended // progress.total if progress.total else 0
        if since_last >= _MAX_GAP or (tenth > self._tenth and since_last >= _MIN_GAP):
            self._tenth = tenth
            self.close(progress)

    def close(self, progress: BatchProgress) -> None:
        """Write a line."""
        self._shown_at = progress.seconds
        self._stream.write(f"{progress_line(progress)}\n")
        self._stream.flush()


_MAX_GAP, _MIN_GAP = 10.0, 1.0  # seconds between two lines


class BarDisplay:
    """Draws a bar with tqdm; in a notebook a widget, if ipywidgets is installed.

    Raises:
        MissingExtraError: If tqdm is not installed.
    """

    def __init__(self, stream: TextIO) -> None:
        self._tqdm = _bar_class()
        self._stream = stream
        self._bar: Any = None

    def show(self, progress: BatchProgress) -> None:
        """Redraw the bar."""
        bar = self._bar
        if bar is None:
            bar = self._bar = self._tqdm(
                total=progress.total, file=self._stream, unit=" prompts", dynamic_ncols=True
            )
        # Restored answers took no time: tqdm's rate is that of the rest.
        bar.initial, bar.n = progress.restored, progress.ended
        bar.set_postfix_str(", ".join(_details(progress)), refresh=False)
        bar.refresh()

    def close(self, progress: BatchProgress) -> None:
        """Draw the bar for the last time and leave it there."""
        self.show(progress)
        self._bar.close()


def _bar_class() -> Callable[..., Any]:
    try:
        with warnings.catch_warnings():
            # In a notebook without ipywidgets tqdm warns, and then draws a good bar of text.
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm  # noqa: PLC0415  # an extra
    except ImportError:
        msg = "progress=True draws a bar with tqdm: pip install 'langchain-resilient[progress]'"
        raise MissingExtraError(msg) from None
    # tqdm's monitor is a thread that would never end: turned off by an interval of 0.
    return cast("Callable[..., Any]", type("BarDisplay", (tqdm,), {"monitor_interval": 0}))


def progress_line(progress: BatchProgress) -> str:
    """Write progress as one line: `1,200/10,000 (12 %), 85.2/s, 1,024 tokens/s, 1:43 left`."""
    count = f"{progress.ended:,}"
    if progress.total:
        count += f"/{progress.total:,} ({100 * progress.ended // progress.total} %)"
    left = progress.seconds_left
    parts = [count, f"{progress.rate:.1f}/s", *_details(progress)]
    if left:
        parts.append(f"{left // 60:.0f}:{left % 60:02.0f} left")
    return ", ".join(parts)


def _details(progress: BatchProgress) -> list[str]:
    counts = (
        ("failed", progress.failed),
        ("restored", progress.restored),
        ("by batches", progress.batched),
        ("in batches", progress.waiting),
        (elsewhere_text(progress.elsewhere), sum(progress.elsewhere.values())),
        ("hedges", progress.hedges + progress.tail_hedges),
        ("retries", progress.retries),
    )
    details = [f"{count:,} {name}" for name, count in counts if count]
    if progress.output_tokens:
        details.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.spent:
        details.append(f"{money(progress.spent)} spent")
    return details

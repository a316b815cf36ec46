"""Progress of a batch: a bar in a terminal or a notebook, lines in a log file, or a callback."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TextIO, cast

from langchain_resilient.errors import MissingExtraError
from langchain_resilient.options import money

if TYPE_CHECKING:
    from os import PathLike

    from langchain_resilient.batch.journal import Journal
    from langchain_resilient.batch.report import BatchProgress, BatchReport


@dataclass(frozen=True, slots=True)
class BatchOptions:
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


Progress = bool | Callable[["BatchProgress"], object]
"""True for a bar or lines, False for silence, or a function that is given a `BatchProgress`."""


REDRAW = 0.1
"""Seconds between two looks at a running batch."""


class Display(Protocol):
    """Shows how far a batch is."""

    def show(self, progress: BatchProgress) -> None:
        """Show it anew."""
        ...

    def close(self, progress: BatchProgress) -> None:
        """Show it for the last time."""
        ...


class ProgressMeter:
    """Shows a batch now and then: looking costs more than counting.

    Args:
        display: Where; None for nowhere.
        look: Tells how far the batch is.
        clock: Seconds that go forward.
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
        self._next = clock()

    def tick(self) -> None:
        """Something has changed."""
        if self._display is not None and (now := self._clock()) >= self._next:
            self._next = now + REDRAW
            self._display.show(self._look())

    def close(self) -> None:
        """The batch has ended."""
        if self._display is not None:
            self._display.close(self._look())


def as_display(progress: Progress, stream: TextIO | None = None) -> Display | None:
    """Choose how to show progress.

    Args:
        progress: What the caller wants.
        stream: Where a bar or lines go; `sys.stderr` unless given.

    Returns:
        A bar in a terminal or a notebook, else lines: a log file is no place for carriage returns.

    Raises:
        MissingExtraError: If a bar is to be drawn and tqdm is not installed.
    """
    if callable(progress):
        return CallbackDisplay(progress)
    if not progress:
        return None
    place = stream or sys.stderr
    if place is None:  # a program without a console
        return None
    return BarDisplay(place) if place.isatty() or _in_notebook() else LineDisplay(place)


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config


class CallbackDisplay:
    """Hands progress to a function: ten times a second at most, and at the end."""

    def __init__(self, tell: Callable[[BatchProgress], object]) -> None:
        self._tell = tell

    def show(self, progress: BatchProgress) -> None:
        """Call it."""
        self._tell(progress)

    close = show


class LineDisplay:
    """A line every ten seconds, and one for every tenth of the batch but no two in a second."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown_at = 0.0
        self._tenth = 0

    def show(self, progress: BatchProgress) -> None:
        """Write a line if it is time for one."""
        waited = progress.seconds - self._shown_at
        tenth = 10 * progress.ended // progress.total if progress.total else 0
        if waited >= _LONG or (tenth > self._tenth and waited >= _SHORT):
            self._tenth = tenth
            self.close(progress)

    def close(self, progress: BatchProgress) -> None:
        """Write a line."""
        self._shown_at = progress.seconds
        self._stream.write(f"{progress_line(progress)}\n")
        self._stream.flush()


_LONG, _SHORT = 10.0, 1.0


class BarDisplay:
    """A bar of tqdm's: in a notebook a widget, where ipywidgets is installed.

    Raises:
        MissingExtraError: If tqdm is not installed.
    """

    def __init__(self, stream: TextIO) -> None:
        self._make = _bar_class()
        self._stream = stream
        self._bar: Any = None

    def show(self, progress: BatchProgress) -> None:
        """Move the bar."""
        bar = self._bar
        if bar is None:
            bar = self._bar = self._make(
                total=progress.total, file=self._stream, unit=" prompts", dynamic_ncols=True
            )
        # What was restored took no time: the rate is that of the rest.
        bar.initial, bar.n = progress.restored, progress.ended
        bar.set_postfix_str(", ".join(_details(progress)), refresh=False)
        bar.refresh()

    def close(self, progress: BatchProgress) -> None:
        """Leave the bar as it is at the end."""
        self.show(progress)
        self._bar.close()


def _bar_class() -> Callable[..., Any]:
    try:
        with warnings.catch_warnings():
            # In a notebook without ipywidgets it draws a bar of text, and need not complain of it.
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm  # noqa: PLC0415  # an extra
    except ImportError:
        msg = "progress=True draws a bar with tqdm: pip install 'langchain-resilient[progress]'"
        raise MissingExtraError(msg) from None
    # Without tqdm's monitor, a thread that nobody would end.
    return cast("Callable[..., Any]", type("BarDisplay", (tqdm,), {"monitor_interval": 0}))


def progress_line(progress: BatchProgress) -> str:
    """Tell progress in one line: `1,200/10,000 (12 %), 85.2/s, 1,024 tokens/s, 1:43 left`."""
    count = f"{progress.ended:,}"
    if progress.total:
        count += f"/{progress.total:,} ({100 * progress.ended // progress.total} %)"
    left = progress.seconds_left
    parts = [count, f"{progress.rate:.1f}/s", *_details(progress)]
    if left:
        parts.append(f"{left // 60:.0f}:{left % 60:02.0f} left")
    return ", ".join(parts)


def _details(progress: BatchProgress) -> list[str]:
    rare = (
        ("failed", progress.failed),
        ("restored", progress.restored),
        ("hedges", progress.hedges + progress.tail_hedges),
        ("retries", progress.retries),
    )
    told = [f"{count:,} {name}" for name, count in rare if count]
    if progress.output_tokens:
        told.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.spent:
        told.append(f"{money(progress.spent)} spent")
    return told

"""How the progress of a batch is shown: a bar in a terminal or a notebook, lines, a callback."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any, Protocol, TextIO, cast

from langchain_resilient.batch.report import elsewhere_text
from langchain_resilient.errors import MissingExtraError
from langchain_resilient.policies import money

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_resilient.batch.options import Progress
    from langchain_resilient.batch.report import BatchProgress

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

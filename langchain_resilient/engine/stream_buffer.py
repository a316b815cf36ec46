"""What the caller of a stream sees: which chunks, in which order, and what follows a break.

Chunks wait in one queue until the caller takes them, those of each attempt behind a `Segment`. What
has not been taken when its stream breaks is withdrawn, so the caller never learns of it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langchain_resilient.engine.attempt import Attempt
    from langchain_resilient.engine.interfaces import BreakStrategy
    from langchain_resilient.exchange import ChatRequest, Chunk


MAX_READ_AHEAD = 256
"""Chunks that are read ahead of a slow consumer before reading stops (back pressure)."""


class Segment:
    """Marks where one attempt's part of a stream begins.

    Attributes:
        attempt: The one whose chunks follow.
        fixed: They can no longer be withdrawn: they were taken, or another attempt continues them.
    """

    __slots__ = ("attempt", "fixed")

    def __init__(self, attempt: Attempt) -> None:
        self.attempt: Attempt = attempt
        self.fixed: bool = False


class StreamBuffer:
    """One stream, as its caller sees it.

    Args:
        break_strategy: How another target continues a broken stream; None if none may.

    Attributes:
        queue: What the caller has not taken yet.
        segments: The parts that are shown, in order: more than one if a stream broke.
    """

    __slots__ = ("_break_strategy", "_empty_continuations", "queue", "segments")

    def __init__(self, break_strategy: BreakStrategy | None) -> None:
        self._break_strategy = break_strategy
        self.queue: deque[Chunk | Segment] = deque()
        self.segments: list[Segment] = []
        self._empty_continuations = 0

    def announce(self, attempt: Attempt) -> None:
        """Show this attempt's chunks from now on, in the segment that it has or a new one."""
        if not self._is_last(attempt):
            segment = Segment(attempt)
            self.segments.append(segment)
            self._empty_continuations = 0
            self.queue.append(segment)
        self.queue.extend(attempt.pending_chunks)
        attempt.pending_chunks.clear()

    def withdraw(self, attempt: Attempt) -> None:
        """Withdraw what the caller has not taken of an attempt that failed.

        It waits with the attempt: if nobody does better, a weak answer is shown after all.
        """
        if self._is_last(attempt) and not self.segments[-1].fixed:
            segment = self.segments.pop()
            withdrawn = []
            while (chunk := self.queue.pop()) is not segment:
                withdrawn.append(chunk)
            attempt.pending_chunks[:0] = reversed(withdrawn)

    def can_continue(self, attempt: Attempt) -> bool:
        """Whether another may continue after what is shown of it. If nothing is, any may."""
        if not self._is_last(attempt) or not self.segments[-1].fixed:
            return True
        return self._break_strategy is not None and self._break_strategy.may_follow(
            attempt.response
        )

    def request(self, original: ChatRequest) -> ChatRequest:
        """The request for a new attempt: the original, or one for what is missing so far."""
        if not self.segments or self._break_strategy is None:
            return original
        self.segments[-1].fixed = True
        return self._break_strategy.request([segment.attempt.response for segment in self.segments])

    def is_complete(self) -> bool:
        """Count an empty continuation; whether it means that the answer was complete before.

        A target may also have failed to answer, so two in a row must agree.
        """
        if not self.segments or self._break_strategy is None or not self._break_strategy.appends:
            return False
        self._empty_continuations += 1
        return self._empty_continuations > 1

    def used_up(self, attempt: Attempt) -> bool:
        """Whether an answer that broke is as long as was asked for: then it is whole."""
        return (
            self._break_strategy is not None
            and self._is_last(attempt)
            and self._break_strategy.used_up([s.attempt.response for s in self.segments])
        )

    def _is_last(self, attempt: Attempt) -> bool:
        return bool(self.segments) and self.segments[-1].attempt is attempt

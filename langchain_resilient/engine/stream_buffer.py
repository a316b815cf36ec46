"""What the caller of a stream gets to see: whose chunks, in which order, and what follows a break.

Chunks lie in one queue until the caller takes them; a `Leg` stands before each attempt's. What has
not been taken when its stream dies is withdrawn, and nobody will know.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langchain_resilient.engine.attempt import Attempt
    from langchain_resilient.engine.interfaces import BreakStrategy
    from langchain_resilient.exchange import ChatRequest, Chunk


MAX_READ_AHEAD = 256
"""Chunks that are read ahead of a slow consumer before the provider is made to wait."""


class Segment:
    """One attempt's part of a stream; it stands before its chunks.

    Attributes:
        attempt: Whose chunks follow.
        fixed: They were taken, or another attempt goes on from them: they cannot be withdrawn.
    """

    __slots__ = ("attempt", "fixed")

    def __init__(self, attempt: Attempt) -> None:
        self.attempt: Attempt = attempt
        self.fixed: bool = False


class StreamBuffer:
    """One stream as it is shown.

    Args:
        break_strategy: How another target goes on where a stream broke; None for not at all.

    Attributes:
        queue: What the caller has not taken yet.
        segments: Whose chunks were shown, in order: more than one if a stream broke.
    """

    __slots__ = ("_break_strategy", "_empty_continuations", "queue", "segments")

    def __init__(self, break_strategy: BreakStrategy | None) -> None:
        self._break_strategy = break_strategy
        self.queue: deque[Chunk | Segment] = deque()
        self.segments: list[Segment] = []
        self._empty_continuations = 0

    def announce(self, attempt: Attempt) -> None:
        """Show an attempt's chunks from now on; one that speaks again needs no new leg."""
        if not self._is_last(attempt):
            segment = Segment(attempt)
            self.segments.append(segment)
            self._empty_continuations = 0
            self.queue.append(segment)
        self.queue.extend(attempt.pending_chunks)
        attempt.pending_chunks.clear()

    def withdraw(self, attempt: Attempt) -> None:
        """Take back what nobody has seen of an attempt that failed."""
        if self._is_last(attempt) and not self.segments[-1].fixed:
            segment = self.segments.pop()
            while self.queue.pop() is not segment:
                pass

    def can_continue(self, attempt: Attempt) -> bool:
        """Whether another may go on after what is shown of it, or nothing is and nobody knows."""
        if not self._is_last(attempt) or not self.segments[-1].fixed:
            return True
        return self._break_strategy is not None and self._break_strategy.may_follow(
            attempt.response
        )

    def request(self, original: ChatRequest) -> ChatRequest:
        """Choose what a new attempt is asked: all, or what is missing after what is shown."""
        if not self.segments or self._break_strategy is None:
            return original
        self.segments[-1].fixed = True
        return self._break_strategy.request([segment.attempt.response for segment in self.segments])

    def is_complete(self) -> bool:
        """Whether nothing is missing, as one who was to go on has just said by saying nothing.

        It may only have failed to answer: two in a row must agree.
        """
        if not self.segments or self._break_strategy is None or not self._break_strategy.appends:
            return False
        self._empty_continuations += 1
        return self._empty_continuations > 1

    def _is_last(self, attempt: Attempt) -> bool:
        return bool(self.segments) and self.segments[-1].attempt is attempt

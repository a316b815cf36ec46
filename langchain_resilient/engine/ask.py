"""What one request wants of the pacers, and where it stands in their lines."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_resilient.engine.ports import Load

_number = count()
Place = tuple[bool, float, int, "Ask"]


class Ask:
    """What one request wants of the pacers.

    Args:
        load: Its size and its priority; None for an interactive call of no known size.
        since: When it began: the oldest is served first.
        nudge: Called when there is something to look at; from any thread.

    Attributes:
        batch: Whether nobody sits and waits for it.
        place: What lines are sorted by.
    """

    __slots__ = ("_load", "_prompt", "batch", "nudge", "place")

    def __init__(self, load: Load | None, since: float, nudge: Callable[[], None]) -> None:
        self.batch = load is not None and load.batch
        self.nudge = nudge
        self.place: Place = (self.batch, since, next(_number), self)
        self._load = load
        self._prompt: int | None = None

    def tokens(self, answer: float) -> float:
        """Guess what it costs.

        OpenAI counts the larger of the prompt and `max_tokens`, when a request is let in
        (https://platform.openai.com/docs/guides/rate-limits).

        Args:
            answer: How long an answer is on average, where the request does not limit it.
        """
        if self._load is None:
            return answer
        if self._prompt is None:
            self._prompt = self._load.prompt_tokens()
        most = self._load.max_tokens
        return float(max(self._prompt, most)) if most else self._prompt + answer

    @property
    def limited(self) -> bool:
        """Whether it says how long its answer may be: then that is what the provider counts."""
        return self._load is not None and self._load.max_tokens > 0

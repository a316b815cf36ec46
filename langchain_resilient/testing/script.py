"""The script: which step comes next for which target. Safe to change from any thread."""

from __future__ import annotations

from collections import deque
from random import Random
from threading import Lock
from typing import TYPE_CHECKING

from langchain_resilient.testing.patterns import checked, most_specific
from langchain_resilient.testing.steps.base import Step
from langchain_resilient.testing.steps.reply import AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_CERTAIN = 1.0 + 1e-9


class _Part:
    """What one pattern's targets do: some steps in order, then always the same or a random one."""

    def __init__(self, steps: Iterable[Step], odds: Mapping[Step, float], random: Random) -> None:
        self.steps = deque(steps)
        self.choices = list(odds)
        self.weights = list(odds.values())
        self.random = random

    def take(self) -> Step:
        if self.steps:
            return self.steps.popleft()
        if len(self.choices) == 1:
            return self.choices[0]
        return self.random.choices(self.choices, self.weights)[0]


class Script:
    """Holds a part for each pattern; the most specific pattern wins.

    Args:
        seed: Seeds the chance of `chaos`, a stream for each pattern.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._lock = Lock()
        self._parts: dict[str, _Part] = {}
        self._found: dict[str, _Part | None] = {}

    def set(self, pattern: str, steps: Iterable[Step], odds: Mapping[Step, float]) -> None:
        """Give a pattern's targets their part, instead of the one they had.

        Args:
            pattern: Which targets.
            steps: One for each request, in order.
            odds: What comes then, for ever: each step with its probability. What is missing to
                1 is filled up with `Reply()`.

        Raises:
            TypeError: If something is no step; it would come to light in the server only.
            ValueError: If the pattern can match nothing, or the odds are no probabilities.
        """
        steps = tuple(steps)
        given: tuple[object, ...] = (*steps, *odds)
        for step in given:
            if not isinstance(step, Step):
                msg = f"a step must be made of a class like Reply or Status, not {step!r}"
                raise TypeError(msg)
        total = sum(odds.values())
        if min(odds.values(), default=0) < 0 or total > _CERTAIN:
            msg = (
                f"the probabilities must lie between 0 and 1 and add up to 1 at most, not {total:g}"
            )
            raise ValueError(msg)
        if total < 1:
            odds = {**odds, AT_ONCE: odds.get(AT_ONCE, 0) + 1 - total}
        # A text seeds the same way in every process; a hash would not.
        part = _Part(steps, odds, Random(f"{self._seed}:{checked(pattern)}"))
        with self._lock:
            self._parts[pattern] = part
            self._found.clear()

    def take(self, target: str) -> Step:
        """Take the step for a target's next request."""
        with self._lock:
            if target not in self._found:
                pattern = most_specific(self._parts, target)
                self._found[target] = None if pattern is None else self._parts[pattern]
            part = self._found[target]
            return AT_ONCE if part is None else part.take()

    def patterns(self) -> list[str]:
        """Return every pattern that has a part."""
        with self._lock:
            return list(self._parts)

    def clear(self) -> None:
        """Forget every part: all targets just reply."""
        with self._lock:
            self._parts.clear()
            self._found.clear()

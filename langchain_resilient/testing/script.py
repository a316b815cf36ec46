"""The script: which step comes next for which target."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from random import Random
from threading import Lock

from langchain_resilient.testing.steps.base import AT_ONCE, Step
from langchain_resilient.testing.target_patterns import checked_pattern, most_specific

_CERTAIN = 1.0 + 1e-9


class _TargetScript:
    """What the targets of one pattern do: some steps in order, then one for ever or by chance."""

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


class TargetScripts:
    """Holds a script for each pattern; the most specific pattern wins. Safe from any thread.

    Args:
        seed: Seeds the chance of `chaos`, separately for each pattern.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._lock = Lock()
        self._scripts: dict[str, _TargetScript] = {}
        self._by_target: dict[str, _TargetScript | None] = {}

    def set(self, pattern: str, steps: Iterable[Step], odds: Mapping[Step, float]) -> None:
        """Set the script of a pattern, instead of the one it had.

        Args:
            pattern: Which targets.
            steps: One for each request, in order.
            odds: What follows for ever: each step with its probability. The rest to 1 is `Reply()`.

        Raises:
            TypeError: If something is not a step; else only the server would notice.
            ValueError: If the pattern can match nothing, or the odds are not probabilities.
        """
        steps = tuple(steps)
        given: tuple[object, ...] = (*steps, *odds)
        for step in given:
            if not isinstance(step, Step):
                msg = f"a step must be an instance of a class like Reply or Status, not {step!r}"
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
        script = _TargetScript(steps, odds, Random(f"{self._seed}:{checked_pattern(pattern)}"))
        with self._lock:
            self._scripts[pattern] = script
            self._by_target.clear()

    def take(self, target: str) -> Step:
        """Take the step for a target's next request."""
        with self._lock:
            if target not in self._by_target:
                pattern = most_specific(self._scripts, target)
                self._by_target[target] = None if pattern is None else self._scripts[pattern]
            script = self._by_target[target]
            return AT_ONCE if script is None else script.take()

    def patterns(self) -> list[str]:
        """Return every pattern that has a script."""
        with self._lock:
            return list(self._scripts)

    def clear(self) -> None:
        """Forget every script: all targets just reply."""
        with self._lock:
            self._scripts.clear()
            self._by_target.clear()

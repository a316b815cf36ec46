"""What others would have made of the same requests: from the samples, without an engine."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from langchain_resilient.simulation.faults import Slow
from langchain_resilient.simulation.latency import uniform
from langchain_resilient.simulation.sizes import ALIKE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_resilient.simulation.sizes import SizedRequest
    from langchain_resilient.simulation.targets import Fate, Script

PLAIN_TIMEOUT = 60.0
"""Seconds that a plain fallback gives each target (Together's SDK default; OpenAI's is 600)."""

_TRIES = 3
"""How many draws of one target an oracle may choose from."""


class Samples:
    """The latencies of one run, for whoever wants to know how else it could have gone.

    Args:
        targets: The chain.
        seed: The run's.
        deadline: Seconds for a whole call.
        requests: By number, those whose size is known; empty if all are alike.
    """

    def __init__(
        self,
        targets: Sequence[Script],
        seed: int,
        deadline: float,
        requests: Mapping[int, SizedRequest] | None = None,
    ) -> None:
        self._requests = requests or {}
        self._targets = targets
        self._seed = seed
        self._deadline = deadline

    def alone(self, number: int, arrived: float) -> float:
        """Seconds to the answer if only the first target is asked, once; infinity for none."""
        fate = self._fate(0, number, 0, arrived)
        return fate.seconds if fate.answered and fate.seconds <= self._deadline else inf

    def plain(self, number: int, arrived: float) -> float:
        """Seconds with a plain fallback: each target in turn, as LangChain's `with_fallbacks`.

        Each has `PLAIN_TIMEOUT`; there is no deadline over them all. Infinity if all fail.
        """
        at = arrived
        for position in range(len(self._targets)):
            fate = self._fate(position, number, 0, at)
            if fate.answered and fate.seconds <= PLAIN_TIMEOUT:
                return at + fate.seconds - arrived
            at += min(fate.seconds, PLAIN_TIMEOUT)
        return inf

    def pair(self, number: int, arrived: float, *, in_order: bool = False) -> tuple[float, float]:
        """Seconds of the two targets that a policy would ask that knows the faults beforehand.

        It knows when each target is out and how much slower it is, but not the latency of any one
        request; and it may wait for a target to come back.

        Args:
            number: The request.
            arrived: When.
            in_order: Whether it must ask in the chain's order all the same.
        """
        results = [self._expect(position, arrived) for position in range(len(self._targets))]
        if not in_order:
            results.sort()
        if len(results) == 1:
            # The only target there is: a second request goes to it too.
            wait = results[0][2]
            first, second = (self.draw(number, arrived, 0, i, wait) for i in range(2))
        else:
            first, second = (self.draw(number, arrived, p, 0, wait) for _, p, wait in results[:2])
        return first, second

    def draw(
        self, number: int, arrived: float, position: int, attempt: int = 0, wait: float = 0.0
    ) -> float:
        """Seconds to an answer of one target, sent `wait` seconds after the request's arrival."""
        if wait == inf:
            return inf
        fate = self._fate(position, number, attempt, arrived + wait)
        return wait + fate.seconds if fate.answered else inf

    def _fate(self, position: int, number: int, attempt: int, at: float) -> Fate:
        u = uniform(self._seed, position, number, attempt)
        factor = self._requests.get(number, ALIKE).factor_at(position)
        return self._targets[position].fate(u, at, factor)

    def feasible(self, number: int, arrived: float, notice: float = 0.0) -> bool:
        """Whether anybody could have answered in time: whatever was asked, whenever.

        That is, whether a target i and a time s >= arrived exist with
        s + X_i(s) <= arrived + deadline; X_i(s) is the best of `_TRIES` draws.

        Args:
            number: The request.
            arrived: When.
            notice: Seconds that pass before anybody can know that a target is back.
        """
        end = arrived + self._deadline
        for position, script in enumerate(self._targets):
            changes = script.schedule.changes(arrived, end)
            for at in (arrived, *[at + notice for at in changes]):
                for attempt in range(_TRIES):
                    fate = self._fate(position, number, attempt, at)
                    if fate.answered and at + fate.seconds <= end:
                        return True
        return False

    def _expect(self, position: int, arrived: float) -> tuple[float, int, float]:
        """When a target may be expected to answer: (seconds, its place, seconds to wait first)."""
        script = self._targets[position]
        end = arrived + self._deadline
        for at in (arrived, *script.schedule.changes(arrived, end)):
            effect = script.schedule.at(at)
            if effect is None or isinstance(effect, Slow):
                factor = effect.factor if isinstance(effect, Slow) else 1.0
                return at - arrived + factor * script.latency.at(0.5), position, at - arrived
        return inf, position, inf

"""How long targets take, as all processes of a fleet have seen it: samples go round among them.

A process that starts knows at once what is usual, and a rare request of one is no first one for
all. Each tells a part of its samples, fewer the more processes there are, and adds those of others
to its own time models. What another process said is not told again.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING
from weakref import WeakSet

from langchain_resilient.engine.time_model import SMALLEST, RequestProfile, Sample, is_plausible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_resilient.engine.target_speed import TargetSpeed

TOLD_AT_ONCE = 40
"""Samples of a target that all processes together tell with each question."""

_KINDS = ("first", "whole")
_REMEMBERED = 2048


class FleetTimes:
    """The time models of one process that take part; used by `FleetHealth`, under its link."""

    def __init__(self) -> None:
        self._speeds: dict[str, WeakSet[TargetSpeed]] = {}
        self._told_up_to: dict[tuple[str, str], float] = {}
        self._heard: deque[float] = deque(maxlen=_REMEMBERED)  # when: no two are at one time
        self.forget()

    def forget(self) -> None:
        """Begin anew: in a child process, what it inherits was told by the parent."""
        self._told_up_to.clear()

    def watch(self, name: str, speed: TargetSpeed) -> None:
        """Have a target take part.

        Args:
            name: Its name on the server.
            speed: Its time models.
        """
        self._speeds.setdefault(name, WeakSet()).add(speed)

    def news(self, now: float, members: int) -> Iterator[tuple[str, str]]:
        """The samples since the last time, each with the name of its target.

        Args:
            now: The engine's clock.
            members: How many processes tell theirs.
        """
        most = max(1, TOLD_AT_ONCE // members)
        heard = set(self._heard)
        for name, speeds in list(self._speeds.items()):
            for kind in _KINDS:
                after = self._told_up_to.get((name, kind), -inf)
                samples = [
                    sample
                    for speed in speeds
                    for sample in speed.times(plain=kind == "whole").samples()
                    if sample.at > after and sample.at not in heard
                ]
                if samples:
                    self._told_up_to[name, kind] = max(sample.at for sample in samples)
                step = -(-len(samples) // most)
                for sample in samples[:: max(1, step)]:
                    yield name, _written(kind, sample, now)

    def learn(self, name: str, rows: list[str], now: float) -> None:
        """Add what others have seen of a target, oldest first."""
        for kind in _KINDS:
            samples = [s for row in rows if (s := _read(kind, row, now)) is not None]
            self._heard.extend(sample.at for sample in samples)
            for speed in self._speeds.get(name, ()) if samples else ():
                times = speed.times(plain=kind == "whole")
                if not times.count:
                    times.restore(samples)
                    continue
                for seconds, at, profile, censored in samples:
                    times.add(seconds, at, profile, censored=censored)


def _written(kind: str, sample: Sample, now: float) -> str:
    profile = sample.profile
    return (
        f"{kind},{now - sample.at:.6f},{sample.seconds:.4f},{profile.prompt_tokens},"
        f"{profile.effort or ''},{profile.answer_tokens},{int(sample.censored)}"
    )


def _read(kind: str, row: str, now: float) -> Sample | None:
    """One of that kind; None for another, and for what makes no sense."""
    try:
        theirs, age, seconds, prompt, effort, answer, censored = row.split(",")
        at, took = now - float(age), float(seconds)
        profile = RequestProfile(int(prompt), effort or None, int(answer))
    except ValueError:
        return None
    plausible = is_plausible(at, took, profile.prompt_tokens, profile.answer_tokens)
    if theirs != kind or not plausible:
        return None
    return Sample(max(SMALLEST, took), at, profile, censored == "1")

"""How large the requests of a run are, and how much longer that makes them take."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from math import exp
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple, Protocol

from langchain_resilient.engine.time_model import UNKNOWN, RequestProfile, TimeModel
from langchain_resilient.simulation.latency import uniform

if TYPE_CHECKING:
    from collections.abc import Sequence

_NORMAL = NormalDist()
_SIZE, _HIDDEN = 1_000, 1_001
"""In place of a target's number where uniform numbers are drawn for a request itself."""


class SizedRequest(NamedTuple):
    """One request's size, and what it does to every latency.

    Attributes:
        profile: What the engine is told.
        factor: By which latencies are multiplied.
        known: The part of it that follows from the profile.
        label: Its class, in tables.
        by_target: The same factor, by the target's number, where it differs.
    """

    profile: RequestProfile
    factor: float
    known: float
    label: str
    by_target: tuple[float, ...] = ()

    def factor_at(self, position: int) -> float:
        """By which the latencies of one target are multiplied."""
        return self.by_target[position] if self.by_target else self.factor


class Mix(Protocol):
    """A distribution of prompt lengths."""

    def at(self, u: float) -> tuple[int, str]:
        """Turn a uniform number into prompt tokens and the name of their class."""
        ...


@dataclass(frozen=True)
class Classes:
    """A few lengths, each with its share.

    Attributes:
        lengths: Prompt tokens and share of the requests, by class.
    """

    lengths: dict[str, tuple[int, float]]

    def at(self, u: float) -> tuple[int, str]:
        """Turn a uniform number into prompt tokens and the name of their class."""
        for label, (tokens, share) in self.lengths.items():
            u -= share
            if u < 0:
                return tokens, label
        return tokens, label


@dataclass(frozen=True)
class LogNormalLengths:
    """Lengths whose logarithm is normal.

    Attributes:
        median: Prompt tokens.
        sigma: Of the logarithm.
    """

    median: float = 3_000
    sigma: float = 1.3

    def at(self, u: float) -> tuple[int, str]:
        """Turn a uniform number into prompt tokens; there is one class."""
        z = _NORMAL.inv_cdf(min(1 - 1e-9, max(1e-9, u)))
        return max(1, round(self.median * exp(self.sigma * z))), "all"


@dataclass(frozen=True)
class Sizes:
    """The requests of a run: `1 + tokens / doubling` times as long as one of no length.

    Attributes:
        mixes: When each distribution of lengths begins, in seconds since the run began.
        doubling: Prompt tokens that double a latency, the same at all targets.
        reference: Prompt tokens whose factor is 1.
        hidden: Sigma of the logarithm of a second factor of each request, which nobody is told.
        effort: The reasoning effort that all ask for.
    """

    mixes: Sequence[tuple[float, Mix]]
    doubling: float = 4_000.0
    reference: int = 300
    hidden: float = 0.0
    effort: str | None = None
    _starts: list[float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_starts", [start for start, _ in self.mixes])

    def request(self, seed: int, number: int, arrived: float) -> SizedRequest:
        """The request of this number."""
        _, mix = self.mixes[max(0, bisect_right(self._starts, arrived) - 1)]
        tokens, label = mix.at(uniform(seed, _SIZE, number, 0))
        factor = (1 + tokens / self.doubling) / (1 + self.reference / self.doubling)
        known = factor
        if self.hidden:
            z = _NORMAL.inv_cdf(max(1e-9, uniform(seed, _HIDDEN, number, 0)))
            factor *= exp(self.hidden * z)
        return SizedRequest(RequestProfile(tokens, self.effort), factor, known, label)


@dataclass(frozen=True)
class RecordedSizes:
    """The requests of a recording: each is one of it, and takes as long as those of its size did.

    Attributes:
        profiles: Of all recorded requests, shortest prompts first.
        models: By target, fitted to its recorded times.
        hidden: Whether the engine is not told.
    """

    profiles: Sequence[RequestProfile]
    models: Sequence[TimeModel]
    hidden: bool = False

    def request(self, seed: int, number: int, arrived: float) -> SizedRequest:  # noqa: ARG002  # as `Sizes`
        """The request of this number."""
        u = uniform(seed, _SIZE, number, 0)
        profile = self.profiles[int(u * len(self.profiles))]
        label = next(label for limit, label in LENGTH_CLASSES if u < limit)
        scales = tuple(model.scale(profile) for model in self.models)
        told = UNKNOWN if self.hidden else profile
        return SizedRequest(told, scales[0], scales[0], label, scales)


LENGTH_CLASSES = ((0.5, "shorter half"), (0.9, "next 40 %"), (1.0, "longest 10 %"))
"""Up to which share of the requests, by length, each class of them goes."""


ALIKE = SizedRequest(UNKNOWN, 1.0, 1.0, "all")
"""A request of a run whose requests are all alike."""

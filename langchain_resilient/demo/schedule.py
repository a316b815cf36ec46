"""What the three simulated providers do, and when."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from langchain_resilient.testing.delays import Lognormal, Mixture, Uniform
from langchain_resilient.testing.steps.base import Reply, Timeline
from langchain_resilient.testing.steps.faults import Cut, KeepAlives, NoAnswer
from langchain_resilient.testing.steps.refusals import Overloaded, RateLimited, Status

if TYPE_CHECKING:
    from langchain_resilient.testing.simulator import ProviderSimulator
    from langchain_resilient.testing.steps.base import Step

FULL_LENGTH = 120.0
"""Seconds of the whole show; a shorter one runs through the same acts faster."""

WORDS = 12
"""Numbered words in each answer, so that it can be checked to the letter."""

_RETRY_AFTER = 6.0
_CUT_AFTER = 12


@dataclass(frozen=True)
class SimulatedProvider:
    """One simulated provider.

    Attributes:
        name: As the table and receipts call it.
        dialect: Whose API it speaks: `"openai"` or `"together"`.
        model: The model's id there.
        reply: Its good answer.
    """

    name: str
    dialect: str
    model: str
    reply: Reply

    @property
    def pattern(self) -> str:
        """What the simulator calls it."""
        return f"{self.dialect}:{self.model}"


def _well(median: float) -> Reply:
    return Reply(first_text=Lognormal(median, 0.3), rate=150, words=WORDS)


PROVIDERS = (
    SimulatedProvider("openai:gpt-6.1-sol", "openai", "gpt-6.1-sol", _well(0.30)),
    SimulatedProvider("together:gpt-oss-120b", "together", "gpt-oss-120b", _well(0.35)),
    SimulatedProvider("vllm:qwen-32b", "openai", "qwen-32b", _well(0.45)),
)

ACTS: tuple[tuple[float, tuple[str, str, str]], ...] = (
    # at this second: what the first, the second and the third do from then on
    (0, ("well", "well", "well")),
    (14, ("slow tail", "well", "well")),
    (30, ("429", "well", "well")),
    (40, ("500", "well", "well")),
    (50, ("hangs", "well", "well")),
    (64, ("well", "well", "well")),
    (70, ("cut streams", "cut streams", "well")),
    (80, ("hangs", "429", "well")),
    (88, ("down", "down", "down")),
    (93, ("well", "well", "well")),
    (100, ("keep-alives", "well", "well")),
    (108, ("well", "well", "well")),
)
"""The show, in seconds of its full length."""


def doing(provider: int, second: float, length: float) -> str:
    """Tell what a provider does at a second of a show of some length."""
    at = second * FULL_LENGTH / length
    return next(acts[provider] for begins, acts in reversed(ACTS) if begins <= max(at, 0.0))


def rehearse(simulator: ProviderSimulator, length: float, begins: float = 0.0) -> None:
    """Give a simulator its part.

    Args:
        simulator: Plays all three providers.
        length: Of the show, in seconds.
        begins: The second of the simulator's life at which the show begins.
    """
    scale = length / FULL_LENGTH
    for index, provider in enumerate(PROVIDERS):
        parts = ((at, acts[index]) for at, acts in ACTS)
        phases = [next(same) for _, same in groupby(parts, key=lambda part: part[1])]
        steps = [(begins + at * scale, _step(act, provider.reply, scale)) for at, act in phases]
        simulator.script(provider.pattern, then=Timeline(*steps))


def _step(act: str, reply: Reply, scale: float) -> Step:
    slow = Mixture((0.8, reply.first_text), (0.2, Uniform(3.0, 8.0)))
    steps: dict[str, Step] = {
        "well": reply,
        "slow tail": Reply(first_text=slow, rate=reply.rate, words=WORDS),
        "429": RateLimited(seconds=_RETRY_AFTER * scale),
        "500": Status(500),
        "hangs": NoAnswer(),
        "cut streams": Cut(after=_CUT_AFTER, reply=reply),
        "keep-alives": KeepAlives(interval=0.5),
        "down": Overloaded(),
    }
    return steps[act]

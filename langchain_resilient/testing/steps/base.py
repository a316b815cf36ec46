"""The base of all steps, the good answer, and the steps that play others later or by the clock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

from langchain_resilient.testing.answers import ReplyOptions
from langchain_resilient.testing.delays import Delay
from langchain_resilient.testing.dialects.base import IncomingRequest
from langchain_resilient.testing.exchange import Exchange


class Step(ABC):
    """What the simulated provider does with one request.

    Steps are frozen values: compare them, share them, use them as keys of `chaos`. For one of your
    own, write a frozen dataclass with a `play`; it runs on the simulator's loop.

    Example:
        ```python
        @dataclass(frozen=True)
        class Teapot(Step):
            async def play(self, exchange: Exchange) -> None:
                exchange.respond(418, b"I am a teapot", "text/plain")
        ```
    """

    @property
    def name(self) -> str:
        """What `RecordedRequest.step` calls it: the class's name."""
        return type(self).__name__

    def choose(self, request: IncomingRequest, elapsed: float) -> Step:  # noqa: ARG002 - for those that depend on it
        """Return the step to play for this request: itself, unless it depends on the request.

        Args:
            request: The request.
            elapsed: Seconds since the simulator was started.
        """
        return self

    def __repr__(self) -> str:
        """Show only what differs from the default, so that test ids and failures are readable."""
        shown = [
            f"{name}={getattr(self, name)!r}"
            for name, parameter in signature(type(self)).parameters.items()
            if getattr(self, name, parameter.default) not in _unshown(parameter)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    @abstractmethod
    async def play(self, exchange: Exchange) -> None:
        """Answer one request, well or badly.

        Args:
            exchange: The request, and the ways to answer it.
        """


def _unshown(parameter: Parameter) -> tuple[Any, ...]:
    """Return the values that need not be shown; options left out may be empty tuples."""
    return (parameter.default, *(((),) if not parameter.default else ()))


class Reply(ReplyOptions, Step):
    """A good answer, as fast or as slow as you like.

    Plain requests get it whole after `latency + first_text` and the time that its tokens take.

    Example:
        ```python
        sim.script("openai:gpt-6-luna", Reply("hi"), Reply(first_text=0.5, rate=50))
        ```
    """

    async def play(self, exchange: Exchange) -> None:
        """Give the answer."""
        await exchange.prepare(self).write_all()


AT_ONCE = Reply()
"""The plain good answer, which every target gives unless a script says otherwise."""


@dataclass(frozen=True, repr=False)
class Delayed(Step):
    """Any other step, later.

    Attributes:
        step: What to play.
        latency: Seconds before it.

    Example:
        ```python
        sim.script("openai:gpt-6-luna", Delayed(Empty(), 0.5))
        ```
    """

    step: Step
    latency: Delay

    def choose(self, request: IncomingRequest, elapsed: float) -> Step:
        """Delay what the step chooses."""
        return Delayed(self.step.choose(request, elapsed), self.latency)

    async def play(self, exchange: Exchange) -> None:
        """Wait, and play it."""
        await exchange.sleep(self.latency)
        await self.step.play(exchange)


@dataclass(frozen=True, repr=False)
class Timeline(Step):
    """Different steps at different times: outages, brown-outs, recoveries.

    Attributes:
        phases: Pairs of the second at which a phase begins, counted from the simulator's start,
            and its step. Before the first one there is a plain `Reply`.

    Example:
        ```python
        sim.script("openai:gpt-6-luna", then=Timeline((60, NoAnswer()), (660, Reply())))
        ```
    """

    phases: tuple[tuple[float, Step], ...]

    def __init__(self, *phases: tuple[float, Step]) -> None:
        object.__setattr__(self, "phases", tuple(sorted(phases, key=lambda phase: phase[0])))

    def choose(self, request: IncomingRequest, elapsed: float) -> Step:
        """Return the step of the phase that is on."""
        step: Step = Reply()
        for begins, candidate in self.phases:
            if begins <= elapsed:
                step = candidate
        return step.choose(request, elapsed)

    async def play(self, exchange: Exchange) -> None:
        """Play the phase that is on."""
        await self.choose(exchange.request, exchange.elapsed).play(exchange)

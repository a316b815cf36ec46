"""The base of everything a script can ask for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_resilient.testing.dialects.base import Call
    from langchain_resilient.testing.exchange import Exchange


class Step(ABC):
    """What the simulated provider does with one request.

    Steps are frozen values: compare them, share them, use them as keys of `chaos`. To bring your
    own, write a frozen dataclass with a `play`; it runs on the
    simulator's loop.

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
        """What `Seen.step` calls it: the class's name."""
        return type(self).__name__

    def choose(self, call: Call, at: float) -> Step:  # noqa: ARG002 - for those that depend on it
        """Return the step to play for this request: itself, unless it depends on the request.

        Args:
            call: The request.
            at: Seconds since the simulator was started.
        """
        return self

    def __repr__(self) -> str:
        """Show only what is not as usual, for test ids and failures to be readable."""
        shown = [
            f"{name}={getattr(self, name)!r}"
            for name, parameter in signature(type(self)).parameters.items()
            if getattr(self, name, parameter.default) not in _usual(parameter)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    @abstractmethod
    async def play(self, exchange: Exchange) -> None:
        """Answer one request, well or badly.

        Args:
            exchange: The request, and the ways to answer it.
        """


def _usual(parameter: Parameter) -> tuple[Any, ...]:
    """Return the values that need not be shown; options left out are kept as empty tuples."""
    return (parameter.default, *(((),) if not parameter.default else ()))


def frozen_pairs(mapping: Any) -> tuple[tuple[str, str], ...]:
    """Turn headers in any shape into something that can be hashed."""
    items = mapping.items() if hasattr(mapping, "items") else mapping or ()
    return tuple((str(name).lower(), str(value)) for name, value in items)

"""What a run is made of: the providers' part, the callers' part, and the model between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from langchain_resilient.testing import Reply, Step, answer_to

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random

WORDS = 1
"""How long the answers are, in the simulator's numbered words."""

HINT = 5.0
"""What every `Retry-After` of a scenario says, in seconds: so a run can be held against it."""

HEALTHY = Reply(first_text=0.3, chunk_gap=0.02, words=WORDS)

REFUSED = "http://127.0.0.1:1"
"""Nobody listens here."""

BLACK_HOLE = "http://127.0.0.1:2"
"""Connecting never ends here."""

How = Literal["ainvoke", "astream", "abatch"]


def prompts(number: int, count: int = 1) -> tuple[str, ...]:
    """Make the prompts of a caller, like no other's; each is one token."""
    return tuple(f"q{number}_{i}" for i in range(count))


def prompt_of(body: Mapping[str, Any]) -> str:
    """What a request is about: its first message, also where it asks for the rest of an answer."""
    prompt: str = body["messages"][0]["content"]
    return prompt


def right_text(prompt: str) -> str:
    """The one answer to a prompt."""
    return answer_to(prompt, words=WORDS)


@dataclass(frozen=True)
class Call:
    """One caller.

    Attributes:
        number: Tells it from the others.
        at: When it calls, in seconds from the start.
        how: Which method.
        prompts: What it asks; several for `abatch`.
        timeout: Its own deadline in seconds; None for the model's.
        cancel_after: Seconds after which it is cancelled; None for never.
        cancel_twice: Whether that is done once more, in the midst of the first.
        leave_after: Pieces after which the reader of a stream leaves; None reads to the end.
        pause: Seconds that the reader of a stream takes over each piece.
    """

    number: int
    at: float
    how: How
    prompts: tuple[str, ...]
    timeout: float | None = None
    cancel_after: float | None = None
    cancel_twice: bool = False
    leave_after: int | None = None
    pause: float = 0.0


@dataclass(frozen=True)
class Scenario:
    """One run.

    Attributes:
        targets: The chain, in order.
        script: What the targets do: a step for ever, or steps with their odds.
        calls: Who calls.
        model: The model's other fields.
        fields: Fields of single targets.
        addresses: Targets that are not at the simulator, with their base URL.
        seed: Of all chance.
    """

    targets: tuple[str, ...]
    script: Mapping[str, Step | Mapping[Step, float]]
    calls: tuple[Call, ...]
    model: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0


def every(seconds: float, count: int, how: Sequence[How] = ("ainvoke", "astream")) -> list[Call]:
    """Call at a steady pace, each way in turn."""
    return [_call(i, i * seconds, how[i % len(how)]) for i in range(count)]


def poisson(
    rate: float, seconds: float, random: Random, how: Sequence[How] = ("ainvoke", "astream")
) -> list[Call]:
    """Call at random, `rate` times a second on average, as independent users do."""
    results: list[Call] = []
    now = random.expovariate(rate)
    while now < seconds:
        results.append(_call(len(results), now, random.choice(how)))
        now += random.expovariate(rate)
    return results


def _call(number: int, at: float, how: How) -> Call:
    return Call(number, at, how, prompts(number, 3 if how == "abatch" else 1))

"""Scenarios drawn from a seed: faults of every kind, at any rate, beside one healthy target."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from langchain_resilient import Health, Hedge, TimeLimits
from langchain_resilient import testing as t
from verification.whole_stack.scenario import (
    BLACK_HOLE,
    HEALTHY,
    HINT,
    REFUSED,
    WORDS,
    Call,
    Scenario,
    prompts,
)

if TYPE_CHECKING:
    from langchain_resilient.testing import Step
    from langchain_resilient.testing.dialects.base import IncomingRequest

REQUESTS = 30
"""How many calls a mixture makes."""


@dataclass(frozen=True, repr=False)
class Unfinished(t.CleanEnd):
    """A stream that ends as if that were all. In a plain answer nobody could tell: it is cut."""

    def choose(self, request: IncomingRequest, elapsed: float) -> Step:
        """Cut a plain answer."""
        return self if request.stream else t.Cut(self.after, reply=self.reply)


BEFORE_TEXT: tuple[Step, ...] = (
    t.Status(500),
    t.Status(502, latency=0.5),
    t.Status(503),
    t.Status(529, latency=0.1),
    t.Status(429, retry_after=HINT),
    t.Status(429, retry_after=t.HttpDate(HINT + 1)),  # dates have no fractions
    t.RateLimited(HINT),
    t.SlowDown(),
    t.Overloaded(),
    t.Quota(),
    t.InvalidKey(),
    t.ModelNotFound(),
    t.RequestTooLarge(),
    t.ContextTooLong(),
    t.ContentFilter(),
    t.Html(502),
    t.Html(200),
    t.Compatible(503, "upstream"),
    t.Garbage(),
    t.Garbage("broken"),
    t.Empty(),
    t.Empty(null=True),
    t.Whitespace(),
    t.Whitespace(forever=True, interval=0.2),
    t.Reset(),
    t.Reset(reply=t.Reply(latency=0.4)),
    t.NoAnswer(),
    t.NoAnswer(1.0),
    t.KeepAlives(0.5),
    t.KeepAlives(0.5, count=3, reply=HEALTHY),
    t.SlowHeaders(4.0, reply=HEALTHY),
    t.Reply(first_text=t.Pareto(0.5, 1.1), words=WORDS),
    t.Cut(0, reply=HEALTHY),
    Unfinished(0, reply=HEALTHY),
    t.Stall(0, reply=HEALTHY),
    t.SseError(0, reply=HEALTHY),
    t.SseError(0, named=True, reply=HEALTHY),
    t.HtmlInside(0, reply=HEALTHY),
    t.Raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
    t.Raw(b"HTTP/1.1 200 OK\r\n", then="hang"),
    t.NoStreaming(otherwise=HEALTHY),
)
"""All of these can be survived unseen."""

IN_TEXT: tuple[Step, ...] = (
    t.Cut(3, reply=HEALTHY),
    t.Reset(3, reply=HEALTHY),
    t.Stall(3, reply=HEALTHY),
    t.Stall(3, seconds=2.0, reply=HEALTHY),
    Unfinished(3, reply=HEALTHY),
    t.SseError(3, reply=HEALTHY),
    t.Malformed(3, reply=HEALTHY),
    t.Malformed(3, resume=True, reply=HEALTHY),
)
"""Whoever reads a stream has seen text by then: another target must go on from it."""

_GOOD: tuple[Step, ...] = (
    HEALTHY,
    t.Reply(first_text=t.Lognormal(0.3, 0.5), rate=80, words=WORDS),
    t.Reply(latency=t.Uniform(0.05, 0.4), words=WORDS),
    t.Reply(first_text=0.2, chunk_gap=t.Exponential(0.02), words=WORDS, close=True),
)
_CHAINS = (
    ("openai:first", "together:second", "openai:third", "together:fourth"),
    ("together:first", "openai:second", "together:third", "openai:fourth"),
)


def mixture(seed: int) -> Scenario:
    """Draw a scenario: two to four targets, of which one is healthy, and some thirty calls."""
    random = Random(f"mixture {seed}")
    targets = random.choice(_CHAINS)[: random.choice((2, 3, 3, 4))]
    healthy = random.choice(targets)
    bad = [target for target in targets if target != healthy]
    breaks = random.random() < 0.5
    script: dict[str, Any] = {target: _part(random, breaks) for target in bad}
    return Scenario(
        targets=targets,
        script={**script, healthy: random.choice(_GOOD)},
        calls=tuple(_calls(random)),
        model=_model(random),
        fields={target: _fields(random) for target in targets},
        addresses={b: random.choice((REFUSED, BLACK_HOLE)) for b in bad if random.random() < 0.07},
        seed=seed,
    )


def _part(random: Random, breaks: bool) -> Step | dict[Step, float]:
    """Draw what a bad target does: always one thing, some things at odds, or an outage."""
    faults = IN_TEXT if breaks and random.random() < 0.5 else BEFORE_TEXT
    good = random.choice(_GOOD)
    kind = random.random()
    if kind < 0.2:
        return random.choice(faults)
    if kind < 0.4:
        begins = random.uniform(0, 15)
        ends = begins + random.uniform(1, 15)
        return t.Timeline((0, good), (begins, random.choice(faults)), (ends, good))
    several = random.sample(faults, random.randint(1, 6))
    share = random.uniform(0.1, 1.0) / len(several)
    return {**dict.fromkeys(several, share), good: 1 - share * len(several)}


def _model(random: Random) -> dict[str, Any]:
    hedge = Hedge(
        delay=random.choice((0.2, 0.5, 1.0, "learned")),
        budget=random.choice((0.05, 0.2, 1.0)),
        burst=random.choice((2, 4, 20)),
        max_parallel=random.choice((2, 2, 3)),
        on=random.choice(("first_text", "first_text", "first_text", "response")),
    )
    return {
        "timeout": 60.0,
        "time_limits": TimeLimits(connect=1.0, first_text=random.choice((2.0, 4.0)), chunk_gap=1.0),
        "hedge": random.choice((None, hedge, hedge, hedge)),
        "max_retries": random.choice((None, None, None, 1)),
        "health": random.choice((None, Health(), Health(trip_after=2))),
        **({"check": bool} if random.random() < 0.15 else {}),
    }


def _fields(random: Random) -> dict[str, Any]:
    return {
        "retry_first": random.random() < 0.15,
        "max_concurrency": random.choice((None, None, None, 4)),
    }


def _calls(random: Random) -> list[Call]:
    calls, now = [], 0.0
    for number in range(REQUESTS):
        now += random.expovariate(random.choice((1.0, 4.0)))
        how = random.choices(("ainvoke", "astream", "abatch"), (4, 4, 1))[0]
        cancelled, left = random.random() < 0.2, how == "astream" and random.random() < 0.2
        calls.append(
            Call(
                number,
                round(now, 6),
                how,
                prompts(number, 2 if how == "abatch" else 1),
                timeout=random.choice((0.3, 2.0)) if random.random() < 0.1 else None,
                cancel_after=random.expovariate(1.5) if cancelled else None,
                cancel_twice=random.random() < 0.3,
                leave_after=random.randint(1, 6) if left else None,
                pause=0.1 if how == "astream" and random.random() < 0.1 else 0.0,
            )
        )
    return calls

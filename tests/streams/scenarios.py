"""The sixteen public failover scenarios of failoverbench, as scripts of the simulator.

Source: github.com/failoverbench/failoverbench, `scenarios/catalogue.yaml` and
`failoverbench/wall.py` (MIT), read at version 0.1 of its methodology. Its faults are kept: 40 of
the answer's tokens before a cut, 20 before a stall, garbage at the tenth, 20 s to a slow first
token, 120 s without an answer. There a request is whole if the caller gets the complete answer;
only S13 (content filter) wants an error, where we ask the other provider too. The second target is
healthy in every one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from langchain_resilient import testing as t

PACE = t.Reply(first_text=0.3, rate=100)
"""A healthy target: the first text after 0.3 s, and then a hundred tokens a second."""

HINT = 2.0
"""What a `Retry-After` says, in seconds."""

DOWN = 6.0
"""How long the flapping target is down, in seconds (`flap_down_s` of failoverbench's "fast")."""


@dataclass(frozen=True)
class Scenario:
    """One scenario.

    Attributes:
        title: Its number at failoverbench, and what it is.
        steps: What the first target does: step after step, the last for ever.
        waits: Seconds that have to pass before anybody can know: `"hedge"` is the delay of a target
            that nothing is known of; `"hint"` what the server asked for.
        fallback: What the second target does; None where there is none.
        survives: Whether the first target's own answer is complete, so that nobody else is asked.
    """

    title: str
    steps: tuple[t.Step, ...]
    waits: Literal["nothing", "hedge", "hint"] = "nothing"
    fallback: t.Step | None = PACE
    survives: bool = False


SCENARIOS: tuple[Scenario, ...] = (
    Scenario("S01 429 with Retry-After", (t.Status(429, retry_after=HINT), PACE)),
    Scenario(
        "S01 429 with Retry-After, no other target",
        (t.Status(429, retry_after=HINT), PACE),
        "hint",
        fallback=None,
        survives=True,
    ),
    Scenario("S02 429 without Retry-After, persistent", (t.Status(429),)),
    Scenario("S03 500 once", (t.Status(500), PACE)),
    Scenario("S04 503 persistent", (t.Status(503),)),
    Scenario("S05 reset before headers", (t.Reset(), PACE)),
    Scenario("S06 no response", (t.NoAnswer(120.0),), "hedge"),
    Scenario("S07 slow first token", (t.Reply(first_text=20.0, rate=100),), "hedge"),
    Scenario("S08 stream cut", (t.Cut(40),)),
    Scenario("S09 stream stalls", (t.Stall(20, 30.0),), "hedge"),
    Scenario("S10 malformed chunk", (t.Malformed(10, resume=True, reply=PACE),), survives=True),
    Scenario("S11 no [DONE]", (t.NoDone(reply=PACE),), survives=True),
    Scenario("S12 context length exceeded", (t.ContextTooLong(),)),
    Scenario("S13 content filter", (t.ContentFilter(),)),
    Scenario("S14 cut, fallback rejects prefill", (t.Cut(40),), fallback=t.RejectPrefill(PACE)),
    Scenario("S16 accounting", (t.Status(503),)),
)
"""All but the flapping one, which is a sequence of requests."""

FLAPPING = "S15 flapping: down, then healthy"


def flapping(now: float) -> t.Step:
    """Make the step of a target that is down for a while from now on.

    Args:
        now: Seconds since the simulator's start.
    """
    return t.Timeline((0.0, t.Status(503)), (now + DOWN, PACE))

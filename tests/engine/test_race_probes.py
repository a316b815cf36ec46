"""Probes: whatever becomes of them, the stream is closed, the place is free, the state is told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from langchain_resilient import AttemptKind, FaultKind, Outcome, TimeLimits
from langchain_resilient.engine.attempt import Attempt, Candidate
from langchain_resilient.engine.background import start_probe
from langchain_resilient.engine.circuit_breaker import PROBES_TO_RECOVER
from langchain_resilient.engine.interfaces import Dependencies, Route
from langchain_resilient.exchange import ChatRequest
from tests.engine.states import silence, state
from verification.kit.scripted_engine import Failure, WordAccumulator, classify
from verification.kit.virtual_time import virtual_time

GOOD = 8.0
"""Seconds: an unknown target is late after four times the default cold delay."""


@dataclass
class Upstream:
    """A provider and its one stream: each step takes its seconds, then says or raises its thing."""

    opens: float = 0.0
    steps: list[tuple[float, Any]] = field(default_factory=list)
    closes: float = 0.0
    refuses: Exception | None = None
    opened: int = 0
    closed: int = 0

    async def open(self, request: ChatRequest, *, stream: bool) -> Upstream:
        await asyncio.sleep(self.opens)
        if self.refuses is not None:
            raise self.refuses
        self.opened += 1
        return self

    def __aiter__(self) -> Upstream:
        return self

    async def __anext__(self) -> dict[str, Any]:
        if not self.steps:
            raise StopAsyncIteration
        seconds, text = self.steps.pop(0)
        await asyncio.sleep(seconds)
        if isinstance(text, Exception):
            raise text
        return text

    async def aclose(self) -> None:
        self.closed += 1
        await asyncio.sleep(self.closes)


ROLE = (1.0, {"role": "assistant"})
TEXT = (1.0, {"word": "hello"})
END = (1.0, {"finish": True})


class Probed:
    """A target that tripped, with one place that the probe has taken."""

    def __init__(self, upstream: Upstream) -> None:
        self.state = silence(state(max_concurrency=1), now=0.0, started=-1.0)
        self.upstream = upstream
        self.state.concurrency.take()
        self.attempt = Attempt(1, Candidate(0, self.state, TimeLimits()), AttemptKind.SHADOW, 0.0)

    def begin(self) -> asyncio.Task[None]:
        self.attempt.started = asyncio.get_running_loop().time()
        self.attempt.response = WordAccumulator()
        route = Route(self.state, self.upstream)
        return start_probe(
            self.attempt, route, ChatRequest([]), Dependencies(classify, WordAccumulator, Random(1))
        )

    async def run(self) -> None:
        await self.begin()

    @property
    def good(self) -> bool:
        """Whether the state was told something good: then two more of them heal it."""
        for _ in range(PROBES_TO_RECOVER - 1):
            self.state.circuit_breaker.record_probe(1e3, well=True)
        return not self.state.circuit_breaker.tripped


WAYS = {
    "text": Upstream(1.0, [ROLE, TEXT, END]),
    "text, late": Upstream(1.0, [ROLE, (GOOD, {"word": "hello"})]),
    "no text": Upstream(1.0, [ROLE, END]),
    "cut": Upstream(1.0, [ROLE]),
    "error": Upstream(1.0, [ROLE, (1.0, Failure(FaultKind.SERVER))]),
    "hangs": Upstream(1.0, [ROLE, (1e6, None)]),
    "opens never": Upstream(1e6),
    "refuses": Upstream(1.0, refuses=Failure(FaultKind.CONNECTION)),
}


def probed(way: str) -> Probed:
    """A fresh copy of that way to go."""
    known = WAYS[way]
    return Probed(Upstream(known.opens, list(known.steps), refuses=known.refuses))


@pytest.mark.parametrize("way", WAYS)
@virtual_time
async def test_a_stream_that_was_opened_is_closed_once(way):
    """Whatever came out of it."""
    target = probed(way)
    await target.run()
    assert target.upstream.closed == target.upstream.opened


@pytest.mark.parametrize("way", WAYS)
@virtual_time
async def test_its_place_is_given_back(way):
    """Once, whatever came of it."""
    target = probed(way)
    await target.run()
    assert target.state.concurrency.used == 0


@pytest.mark.parametrize("way", WAYS)
@virtual_time
async def test_only_text_in_good_time_is_good(way):
    """All else keeps the target out."""
    target = probed(way)
    await target.run()
    assert target.good is (way == "text")


@pytest.mark.parametrize("way", WAYS)
@virtual_time
async def test_the_next_probe_may_follow(way):
    """The state knows that this one is over: it waits for its backoff, not for a forgotten one."""
    target = probed(way)
    target.state.circuit_breaker.claim_probe(1.0)
    await target.run()
    assert target.state.circuit_breaker.claim_probe(asyncio.get_running_loop().time() + 1.0)


@virtual_time
async def test_it_stops_listening_at_the_first_text():
    """A whole answer would only cost money."""
    target = probed("text")
    await target.run()
    assert target.upstream.steps == [END]


@virtual_time
async def test_it_is_patient_four_times_as_long_as_is_good():
    """How slow it is now may be how fast it is from now on."""
    target = probed("hangs")
    await target.run()
    assert target.attempt.ended - target.attempt.started == pytest.approx(4 * GOOD)


@pytest.mark.parametrize(
    ("way", "kind"),
    [
        ("text", None),
        ("text, late", None),
        ("error", FaultKind.SERVER),
        ("refuses", FaultKind.CONNECTION),
        ("hangs", FaultKind.TIMEOUT),
        ("opens never", FaultKind.TIMEOUT),
    ],
)
@virtual_time
async def test_its_record_says_what_became_of_it(way, kind):
    """An answer that is thrown away lost; all else failed, and why."""
    target = probed(way)
    await target.run()
    fault = target.attempt.fault
    outcome = Outcome.LOST if kind is None else Outcome.FAILED
    assert (fault and fault.kind, target.attempt.outcome) == (kind, outcome)


@virtual_time
async def test_the_fault_of_a_useless_answer_is_the_drafts_own():
    """As it is in a race."""
    target = probed("no text")
    await target.run()
    assert target.attempt.fault.kind is FaultKind.EMPTY


@virtual_time
async def test_a_refused_key_is_remembered():
    """The probe learned it for all requests."""
    target = Probed(Upstream(refuses=Failure(FaultKind.AUTH)))
    await target.run()
    assert target.state.health(1.0) == "account out"


@virtual_time
async def test_its_seconds_are_those_to_the_first_text():
    """One to open, one to the role, one to the text."""
    target = probed("text")
    await target.run()
    assert target.attempt.first_text - target.attempt.started == pytest.approx(3.0)


@virtual_time
async def test_a_stream_that_closes_slowly_is_no_slow_target():
    """What counts is when it spoke."""
    target = Probed(Upstream(1.0, [ROLE, TEXT], closes=GOOD))
    await target.run()
    assert target.good


MOMENTS = pytest.mark.parametrize("at", [0.0, 0.5, 1.5, 2.5, 3.5])
"""While it opens (twice), waits for the role, waits for the text, and closes."""


async def cancelled(at: float) -> Probed:
    """A probe that was cancelled so many seconds after it began."""
    target = Probed(Upstream(1.0, [ROLE, TEXT], closes=1.0))
    target.state.circuit_breaker.claim_probe(1.0)
    task = asyncio.create_task(target.run())
    await asyncio.sleep(at)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    return target


@MOMENTS
@virtual_time
async def test_cancelled_at_any_moment_it_closes_its_stream_once(at):
    """If there is one yet."""
    target = await cancelled(at)
    assert target.upstream.closed == target.upstream.opened


@MOMENTS
@virtual_time
async def test_cancelled_at_any_moment_it_gives_its_place_back(at):
    """And only once."""
    target = await cancelled(at)
    assert target.state.concurrency.used == 0


@MOMENTS
@virtual_time
async def test_cancelled_at_any_moment_it_lets_the_next_probe_follow(at):
    """A second later, not when it is forgotten."""
    target = await cancelled(at)
    assert target.state.circuit_breaker.claim_probe(asyncio.get_running_loop().time() + 1.0)


@virtual_time
async def test_cancelled_before_its_first_step_it_gives_its_place_back():
    """Its place was taken when it was planned."""
    target = probed("text")
    task = target.begin()
    task.cancel()
    await asyncio.wait({task})
    assert target.state.concurrency.used == 0

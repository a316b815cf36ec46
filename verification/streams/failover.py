"""The sixteen public failover scenarios of failoverbench, as scripts of the simulator.

Source: github.com/failoverbench/failoverbench, `scenarios/catalogue.yaml` and
`failoverbench/wall.py` (MIT), read at version 0.1 of its methodology. Its faults are kept: 40 of
the answer's tokens before a cut, 20 before a stall, garbage at the tenth, 20 s to a slow first
token, 120 s without an answer. There a request is whole if the caller gets the complete answer;
only S13 (content filter) wants an error, where we ask the other provider too. The second target is
healthy in every one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from langchain_resilient import Hedge
from langchain_resilient import testing as t
from langchain_resilient.testing.answer_generator import prompt_tokens
from langchain_resilient.testing.answers import tokens
from verification.kit.ways import Got, ask
from verification.streams.fault_table import Mark, judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_resilient import ResilientChatModel
    from langchain_resilient.testing import RecordedRequest
    from verification.kit.scripted_targets import Bench


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
    Scenario("S10 malformed chunk", (t.Malformed(10, resume=True, reply=PACE),)),
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


WAYS = ("astream", "ainvoke")

SLOWER = 1.2
"""An answer may take so many times what the wait and the fallback alone take together ..."""

ALLOWANCE = 0.25
"""... and so many seconds more: the machine is shared, and other scenarios run beside."""

MORE = 2
"""Rounds that follow if the first ones were too slow."""

WAITS = {"nothing": 0.0, "hedge": Hedge().cold, "hint": HINT}

_HUNG = 60.0


@dataclass
class Verdict:
    """What came of a scenario in one way of asking.

    Attributes:
        title: The scenario.
        way: How it was asked.
        mark: What the user got, the worst of all rounds.
        alone: Median seconds of the fallback by itself, measured in between.
        bound: The seconds that an answer may take.
        attempts: Requests at the first target and at the second, of one round.
        seconds: Median seconds to the end.
        first: Median seconds to the first text of a stream; 0.0 for a plain call.
        problems: What fell short; empty for ok.
    """

    title: str
    way: str
    mark: Mark = Mark.WHOLE
    alone: float = 0.0
    bound: float = 0.0
    attempts: str = ""
    seconds: float = 0.0
    first: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def slow(self) -> bool:
        """Whether it took longer than it may."""
        return self.seconds > self.bound

    def note(self, problem: str) -> None:
        """Add a problem, once."""
        if problem not in self.problems:
            self.problems.append(problem)


@dataclass
class Round:
    """One call, what the server saw of it, and the call of the fallback alone before it."""

    got: Got
    first: list[RecordedRequest]
    second: list[RecordedRequest]
    leaks: list[str]
    alone: float

    @property
    def mark(self) -> Mark:
        """What the user got."""
        return judge(self.got, [*self.first, *self.second])


async def run(
    bench: Bench,
    scenarios: Sequence[Scenario],
    *,
    rounds: int,
    at_once: int,
    allowance: float = ALLOWANCE,
) -> list[Verdict]:
    """Try scenarios in every way, some at a time.

    Args:
        bench: Where.
        scenarios: What to try.
        rounds: How often each is tried, in turns with the fallback alone.
        at_once: How many at the same time.
        allowance: Seconds that the machine's noise may cost.
    """
    room = asyncio.Semaphore(at_once)

    async def one(scenario: Scenario, way: str) -> Verdict:
        async with room:
            results = [await _play(bench, scenario, way) for _ in range(rounds)]
            verdict = decide(scenario, way, results, allowance)
            if verdict.slow:  # the machine may have been busy elsewhere: the median of more tells
                results += [await _play(bench, scenario, way) for _ in range(MORE)]
                verdict = decide(scenario, way, results, allowance)
            return verdict

    return await asyncio.gather(*(one(s, way) for s in scenarios for way in WAYS))


async def alone(bench: Bench, way: str) -> float:
    """Ask a healthy target by itself, and return the seconds."""
    number = bench.number()
    spec = bench.name("together", "alone", number, [PACE])
    got = await ask(bench.model(spec, hedge=None), way, _prompt(number), _HUNG)
    if got.text != got.right:
        msg = f"a healthy target alone gave {got.text!r}, {got.error!r}"
        raise RuntimeError(msg)
    return got.seconds


def _prompt(number: int) -> str:
    return f"What is known of number {number}?"


async def _play(bench: Bench, scenario: Scenario, way: str) -> Round:
    own = await alone(bench, way)
    number = bench.number()
    specs = [bench.name("openai", "first", number, scenario.steps)]
    if scenario.fallback is not None:
        specs.append(bench.name("together", "second", number, [scenario.fallback]))
    got = await bench.census.run(number, ask(bench.model(*specs), way, _prompt(number), _HUNG))
    leaks = await bench.left(number, specs)
    first, *others = map(bench.seen, specs)
    return Round(got, first, others[0] if others else [], leaks, own)


def decide(scenario: Scenario, way: str, rounds: Sequence[Round], allowance: float) -> Verdict:
    """Hold the rounds of a scenario against what is promised."""
    verdict = Verdict(scenario.title, way)
    verdict.alone = median(one.alone for one in rounds)
    verdict.seconds = median(one.got.seconds for one in rounds)
    verdict.first = median(one.got.first for one in rounds)
    verdict.bound = SLOWER * (WAITS[scenario.waits] + verdict.alone) + allowance
    verdict.attempts = f"{len(rounds[-1].first)}+{len(rounds[-1].second)}"
    for one in rounds:
        _look_at_answer(verdict, one)
        _look_at_sends(verdict, one, scenario)
        _look_at_accounts(verdict, one)
    if verdict.slow:
        verdict.note(f"{verdict.seconds - verdict.bound:.2f} s too slow")
    if scenario.waits == "hint" and min(one.got.seconds for one in rounds) < HINT:
        verdict.note("came before the server's hint")
    return verdict


def _look_at_answer(verdict: Verdict, one: Round) -> None:
    if one.mark not in {Mark.WHOLE, Mark.CONTINUED}:
        verdict.note(
            f"not whole: {type(one.got.error).__name__ if one.got.error else one.mark.name}"
        )
    if one.mark is not Mark.WHOLE and verdict.mark in {Mark.WHOLE, Mark.CONTINUED}:
        verdict.mark = one.mark
    for leak in one.leaks:
        verdict.note(leak)


def _look_at_sends(verdict: Verdict, one: Round, scenario: Scenario) -> None:
    if scenario.steps[0].name not in {seen.step for seen in one.first}:
        verdict.note("the fault did not happen")
    most = len(scenario.steps) if scenario.fallback is None else 1
    if len(one.first) > most:
        verdict.note(f"the first target was asked {len(one.first)} times")
    if scenario.survives and one.second:
        verdict.note("the second target was asked without need")


def _look_at_accounts(verdict: Verdict, one: Round) -> None:
    """Hold receipt, usage and model name against what the server saw."""
    if len(one.got.receipts) != 1:
        verdict.note(f"{len(one.got.receipts)} receipts")
        return
    [receipt], sent = one.got.receipts, [*one.first, *one.second]
    if len(receipt["attempts"]) != len(sent):
        verdict.note(f"the receipt tells of {len(receipt['attempts'])} of {len(sent)} requests")
    if one.mark is Mark.WHOLE:
        # Of an answer put together from two nobody reported the first part's usage.
        winner = next(seen for seen in reversed(sent) if seen.text == one.got.right)
        if receipt["winner"] != winner.target:
            verdict.note(f"{receipt['winner']} is said to have answered")
        for problem in wrong_accounts(one.got, winner):
            verdict.note(problem)


def wrong_accounts(got: Got, winner: RecordedRequest) -> list[str]:
    """List what the answer says wrong of its cost and its model.

    Args:
        got: The answer.
        winner: The request that it answers, as the server saw it.
    """
    message: Any = got.messages[-1]
    usage = message.usage_metadata or {}
    counted = [usage.get(name) for name in ("input_tokens", "output_tokens", "total_tokens")]
    read, written = prompt_tokens(winner.body), len(tokens(got.right))
    results = []
    if counted != [read, written, read + written]:
        results.append(f"usage {counted}, not {[read, written, read + written]}")
    if message.response_metadata.get("model_name") != winner.model:
        results.append(f"model_name {message.response_metadata.get('model_name')!r}")
    return results


def chosen(scenarios: Sequence[Scenario], only: str) -> tuple[list[Scenario], bool]:
    """Choose by a part of the title.

    Returns:
        The scenarios, and whether the flapping one is among them.
    """
    return [s for s in scenarios if only in s.title], only in FLAPPING


EVERY = 1.2
"""Seconds between two requests, as in failoverbench's "fast" sequence."""

BACK = 30.0
"""Seconds after its recovery in which the first target must be asked again (`recovered`)."""

_FLAP_HUNG = 10.0


@dataclass
class Flow:
    """A flow of requests over one chain, until the first target answers again.

    Beside each one the fallback is asked alone, so that both meet the same noise.
    """

    bench: Bench
    way: str
    first: str
    llm: ResilientChatModel
    until: float

    async def one(self) -> tuple[Got, float]:
        """Make one request, and wait for the time of the next one.

        Returns:
            What came of it, and the seconds of the fallback alone.
        """
        began, number = self.bench.now(), self.bench.number()
        question = f"What is known of number {number}?"
        results = await asyncio.gather(
            ask(self.llm, self.way, question, _FLAP_HUNG), alone(self.bench, self.way)
        )
        await asyncio.sleep(max(0.0, EVERY - (self.bench.now() - began)))
        return results

    async def all(self) -> list[tuple[Got, float]]:
        """Make requests until the first target has answered one, or it is too late for that."""
        results = [await self.one()]
        while not self.back(results[-1][0]) and self.bench.now() < self.until:
            results.append(await self.one())
        return results

    def back(self, got: Got) -> bool:
        """Whether the first target has answered."""
        return any(receipt["winner"] == self.first for receipt in got.receipts)


async def run_flapping(bench: Bench) -> list[Verdict]:
    """Let a target flap under a flow of requests, in every way at the same time."""
    return await asyncio.gather(*(_run_flapping(bench, way) for way in WAYS))


async def _run_flapping(bench: Bench, way: str) -> Verdict:
    number = bench.number()
    specs = (
        bench.name("openai", "flaps", number, [flapping(bench.now())]),
        bench.name("together", "steady", number, [PACE]),
    )
    flow = Flow(bench, way, specs[0], bench.model(*specs), bench.now() + DOWN + BACK)
    pairs: list[tuple[Got, float]] = await bench.census.run(number, flow.all())
    leaks = await bench.left(number, specs)
    first, second = map(bench.seen, specs)
    slowest = _slowest(way, pairs)
    slowest.problems += leaks
    slowest.attempts = f"{len(first)}+{len(second)}"
    for got, _ in pairs:
        mark = judge(got, [*first, *second])
        if mark is not Mark.WHOLE:
            slowest.mark = mark
            slowest.note(f"not whole: {mark.name}")
    listed = sum(len(receipt["attempts"]) for got, _ in pairs for receipt in got.receipts)
    if listed != len(first) + len(second):
        slowest.note(f"the receipts list {listed} of {len(first) + len(second)} requests")
    if not flow.back(pairs[-1][0]):
        slowest.note(f"the first target is not asked again {BACK:g} s after its recovery")
    if slowest.slow:
        slowest.note(f"{slowest.seconds - slowest.bound:.2f} s too slow")
    return slowest


def _slowest(way: str, pairs: Sequence[tuple[Got, float]]) -> Verdict:
    """Begin the verdict with the request that took longest, by what the fallback alone took."""
    got, own = max(pairs, key=lambda pair: pair[0].seconds - SLOWER * pair[1])
    verdict = Verdict(FLAPPING, way, alone=own, bound=SLOWER * own + ALLOWANCE)
    verdict.seconds, verdict.first = got.seconds, got.first
    return verdict

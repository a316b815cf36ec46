"""The second table: the public failover scenarios, with nothing set but the two targets."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from langchain_resilient.options import Hedge
from langchain_resilient.testing.answer_generator import prompt_tokens
from langchain_resilient.testing.answers import tokens
from tests.streams.cell import Mark, judge
from tests.streams.scenarios import FLAPPING, HINT, PACE, Scenario
from tests.streams.ways import Got, ask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_resilient.testing.request_log import RecordedRequest
    from tests.streams.bench import Bench

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
            found = [await _play(bench, scenario, way) for _ in range(rounds)]
            verdict = decide(scenario, way, found, allowance)
            if verdict.slow:  # the machine may have been busy elsewhere: the median of more tells
                found += [await _play(bench, scenario, way) for _ in range(MORE)]
                verdict = decide(scenario, way, found, allowance)
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
    it = Verdict(scenario.title, way)
    it.alone = median(one.alone for one in rounds)
    it.seconds = median(one.got.seconds for one in rounds)
    it.first = median(one.got.first for one in rounds)
    it.bound = SLOWER * (WAITS[scenario.waits] + it.alone) + allowance
    it.attempts = f"{len(rounds[-1].first)}+{len(rounds[-1].second)}"
    for one in rounds:
        _look_at_answer(it, one)
        _look_at_sends(it, one, scenario)
        _look_at_accounts(it, one)
    if it.slow:
        it.note(f"{it.seconds - it.bound:.2f} s too slow")
    if scenario.waits == "hint" and min(one.got.seconds for one in rounds) < HINT:
        it.note("came before the server's hint")
    return it


def _look_at_answer(it: Verdict, one: Round) -> None:
    if one.mark not in {Mark.WHOLE, Mark.CONTINUED}:
        it.note(f"not whole: {type(one.got.error).__name__ if one.got.error else one.mark.name}")
    if one.mark is not Mark.WHOLE and it.mark in {Mark.WHOLE, Mark.CONTINUED}:
        it.mark = one.mark
    for leak in one.leaks:
        it.note(leak)


def _look_at_sends(it: Verdict, one: Round, scenario: Scenario) -> None:
    if scenario.steps[0].name not in {seen.step for seen in one.first}:
        it.note("the fault did not happen")
    most = len(scenario.steps) if scenario.fallback is None else 1
    if len(one.first) > most:
        it.note(f"the first target was asked {len(one.first)} times")
    if scenario.survives and one.second:
        it.note("the second target was asked without need")


def _look_at_accounts(it: Verdict, one: Round) -> None:
    """Hold receipt, usage and model name against what the server saw."""
    if len(one.got.receipts) != 1:
        it.note(f"{len(one.got.receipts)} receipts")
        return
    [receipt], sent = one.got.receipts, [*one.first, *one.second]
    if len(receipt["attempts"]) != len(sent):
        it.note(f"the receipt tells of {len(receipt['attempts'])} of {len(sent)} requests")
    if one.mark is Mark.WHOLE:
        # Of an answer put together from two nobody reported the first part's usage.
        winner = next(seen for seen in reversed(sent) if seen.text == one.got.right)
        if receipt["winner"] != winner.target:
            it.note(f"{receipt['winner']} is said to have answered")
        for problem in wrong_accounts(one.got, winner):
            it.note(problem)


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
    found = []
    if counted != [read, written, read + written]:
        found.append(f"usage {counted}, not {[read, written, read + written]}")
    if message.response_metadata.get("model_name") != winner.model:
        found.append(f"model_name {message.response_metadata.get('model_name')!r}")
    return found


def chosen(scenarios: Sequence[Scenario], only: str) -> tuple[list[Scenario], bool]:
    """Choose by a part of the title.

    Returns:
        The scenarios, and whether the flapping one is among them.
    """
    return [s for s in scenarios if only in s.title], only in FLAPPING

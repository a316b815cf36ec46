"""Scripted targets for the engine alone: each request gets the next step of a script."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from langchain_resilient import Fault, FaultKind, Health, Hedge, Retry, TimeLimits
from langchain_resilient.engine.background import Reaper
from langchain_resilient.engine.budgets import Budgets
from langchain_resilient.engine.interfaces import Dependencies, Plan, Route
from langchain_resilient.engine.race import Race
from langchain_resilient.engine.stream_buffer import Segment, StreamBuffer
from langchain_resilient.engine.target_state import Account, TargetState
from langchain_resilient.exchange import ChatRequest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from langchain_resilient.engine.interfaces import BreakStrategy


class Failure(Exception):  # noqa: N818
    """Carries the fault that a scripted target fails with."""

    def __init__(self, kind: FaultKind, retry_after: float | None = None) -> None:
        super().__init__(kind.value)
        self.fault = Fault(kind, kind.value, retry_after=retry_after, cause=self)


@dataclass
class Say:
    """Answer: wait, then words with a gap between them; then end, fail, or hang."""

    words: str = "hello world"
    after: float = 0.0
    gap: float = 0.0
    then: Failure | str | None = None
    finish: bool = True


@dataclass
class Fail:
    """Fail after a while, before any word."""

    kind: FaultKind = FaultKind.SERVER
    after: float = 0.0
    retry_after: float | None = None


@dataclass
class Hang:
    """Never answer."""


Step = Say | Fail | Hang
HEDGE = Hedge(delay=2.0)
HEALTH = Health()


class WordAccumulator:
    """An accumulator of words: as much of one as the engine uses."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.thoughts = 0
        self.finished = False

    def add(self, chunk: dict[str, Any]) -> int:
        self.finished = self.finished or bool(chunk.get("finish"))
        word = chunk.get("word", "")
        self.words.append(word)
        self.thoughts += bool(chunk.get("thought"))
        return 2 if word.strip() else int(bool(chunk.get("thought")))

    @property
    def ended(self) -> bool:
        return self.finished

    @property
    def has_usage(self) -> bool:
        return False

    def tokens(self) -> int:
        return len(self.words)

    def end(self) -> None:
        self.finished = True

    def fault(self, _request: ChatRequest) -> Fault | None:
        if not self.text.strip():
            return Fault(FaultKind.EMPTY, "empty")
        return None if self.finished else Fault(FaultKind.BROKEN, "no finish_reason")

    def input_tokens(self) -> int | None:
        return None

    def cache_tokens(self) -> tuple[int | None, int | None]:
        return None, None

    def output_tokens(self) -> int | None:
        return len(self.words)

    @property
    def text(self) -> str:
        return "".join(self.words)


@dataclass
class Scripted:
    """A target that follows its script, then repeats the last step."""

    steps: list[Step]
    sent: list[float] = field(default_factory=list)
    closed: int = 0
    plain: list[bool] = field(default_factory=list)

    async def open(self, request: ChatRequest, *, stream: bool) -> Any:
        step = self.steps[min(len(self.sent), len(self.steps) - 1)]
        self.sent.append(asyncio.get_running_loop().time())
        self.plain.append(not stream)
        if isinstance(step, Fail):
            await asyncio.sleep(step.after)
            raise Failure(step.kind, step.retry_after)
        return self._run(step)

    async def _run(self, step: Step) -> AsyncGenerator[dict[str, Any], None]:
        try:
            if isinstance(step, Hang):
                await asyncio.Event().wait()
            assert isinstance(step, Say)
            yield {"role": "assistant"}
            await asyncio.sleep(step.after)
            for word in step.words.split(" "):
                yield {"word": word + " "}
                await asyncio.sleep(step.gap)
            if isinstance(step.then, Failure):
                raise step.then
            if step.then == "hang":
                await asyncio.Event().wait()
            if step.finish:
                yield {"finish": True}
        finally:
            self.closed += 1


async def shown(race: Race) -> AsyncGenerator[dict[str, Any], None]:
    """Yield what a streaming caller sees, without the segments."""
    async with aclosing(race.chunks()) as items:
        async for item in items:
            if not isinstance(item, Segment):
                yield item


class Continues:
    """A break strategy that asks for the rest, and keeps what had been delivered."""

    appends = True

    def __init__(self, *, may: bool = True) -> None:
        self.may = may
        self.asked: list[str] = []

    def may_follow(self, _: Any) -> bool:
        return self.may

    def request(self, responses: Any) -> ChatRequest:
        self.asked.append("".join(response.text for response in responses))
        return ChatRequest([{"role": "user", "content": f"go on after {self.asked[-1]}"}])

    def used_up(self, _: Any) -> bool:
        return False


def classify(error: BaseException) -> Fault:
    """The fault that the script raised."""
    return getattr(error, "fault", None) or Fault(FaultKind.INTERNAL, repr(error), cause=error)


@dataclass
class World:
    """A chain of scripted targets with one policy."""

    targets: dict[str, Scripted]
    states: dict[str, TargetState]
    plan: Plan
    reaper: Reaper
    dependencies: Dependencies
    last_resort: Route | None = None

    def race(self, **options: Any) -> Race:
        chain = [Route(self.states[name], self.targets[name]) for name in self.targets]
        return Race(
            chain, ChatRequest([]), self.plan, self.dependencies, self.reaper,
            last_resort=self.last_resort, **options,
        )  # fmt: skip

    def stream(self, break_strategy: BreakStrategy | None = None, **options: Any) -> Race:
        return self.race(buffer=StreamBuffer(break_strategy), **options)

    def sends(self) -> int:
        return sum(len(t.sent) for t in self.targets.values())


def world(
    *scripts: list[Step] | Step,
    deadline: float | None = 60.0,
    hedge: Hedge | None = HEDGE,
    health: Health | None = HEALTH,
    time_limits: TimeLimits | None = None,
    retry: Retry | None = None,
    names: list[str] | None = None,
    **plan: Any,
) -> World:
    """Build a chain: one script per target, at providers of their own unless `names` says so."""
    lists = [s if isinstance(s, list) else [s] for s in scripts]
    names = names or [f"p{i}:m" for i in range(len(lists))]
    accounts: dict[str, Account] = {}
    states = {
        n: TargetState(
            n, n.partition(":")[0], accounts=[accounts.setdefault(n.partition(":")[0], Account())]
        )
        for n in names
    }
    retry = retry or Retry()
    budgets = Budgets.of(hedge, health, retry)
    return World(
        {n: Scripted(s) for n, s in zip(names, lists, strict=True)},
        states,
        Plan(deadline, time_limits or TimeLimits(), hedge, retry, budgets, health, **plan),
        Reaper(),
        Dependencies(classify, WordAccumulator, Random(1)),
    )

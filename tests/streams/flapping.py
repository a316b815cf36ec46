"""S15: a target that is down and comes back, under a steady flow of requests."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.streams.cell import Mark, judge
from tests.streams.failover import ALLOWANCE, SLOWER, WAYS, Verdict, alone
from tests.streams.scenarios import DOWN, FLAPPING, PACE, flapping
from tests.streams.ways import Got, ask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_resilient.chat_model import ResilientChatModel
    from tests.streams.bench import Bench

EVERY = 1.2
"""Seconds between two requests, as in failoverbench's "fast" sequence."""

BACK = 30.0
"""Seconds after its recovery in which the first target must be asked again (`recovered`)."""

_HUNG = 10.0


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
        found = await asyncio.gather(
            ask(self.llm, self.way, question, _HUNG), alone(self.bench, self.way)
        )
        await asyncio.sleep(max(0.0, EVERY - (self.bench.now() - began)))
        return found

    async def all(self) -> list[tuple[Got, float]]:
        """Make requests until the first target has answered one, or it is too late for that."""
        found = [await self.one()]
        while not self.back(found[-1][0]) and self.bench.now() < self.until:
            found.append(await self.one())
        return found

    def back(self, got: Got) -> bool:
        """Whether the first target has answered."""
        return any(receipt["winner"] == self.first for receipt in got.receipts)


async def run(bench: Bench) -> list[Verdict]:
    """Let a target flap under a flow of requests, in every way at the same time."""
    return await asyncio.gather(*(_run(bench, way) for way in WAYS))


async def _run(bench: Bench, way: str) -> Verdict:
    number = bench.number()
    specs = (
        bench.name("openai", "flaps", number, [flapping(bench.now())]),
        bench.name("together", "steady", number, [PACE]),
    )
    flow = Flow(bench, way, specs[0], bench.model(*specs), bench.now() + DOWN + BACK)
    pairs: list[tuple[Got, float]] = await bench.census.run(number, flow.all())
    leaks = await bench.left(number, specs)
    first, second = map(bench.seen, specs)
    it = _slowest(way, pairs)
    it.problems += leaks
    it.attempts = f"{len(first)}+{len(second)}"
    for got, _ in pairs:
        mark = judge(got, [*first, *second])
        if mark is not Mark.WHOLE:
            it.mark = mark
            it.note(f"not whole: {mark.name}")
    told = sum(len(receipt["attempts"]) for got, _ in pairs for receipt in got.receipts)
    if told != len(first) + len(second):
        it.note(f"the receipts tell of {told} of {len(first) + len(second)} requests")
    if not flow.back(pairs[-1][0]):
        it.note(f"the first target is not asked again {BACK:g} s after its recovery")
    if it.slow:
        it.note(f"{it.seconds - it.bound:.2f} s too slow")
    return it


def _slowest(way: str, pairs: Sequence[tuple[Got, float]]) -> Verdict:
    """Begin the verdict with the request that took longest, by what the fallback alone took."""
    got, own = max(pairs, key=lambda pair: pair[0].seconds - SLOWER * pair[1])
    it = Verdict(FLAPPING, way, alone=own, bound=SLOWER * own + ALLOWANCE)
    it.seconds, it.first = got.seconds, got.first
    return it

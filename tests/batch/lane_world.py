"""A provider with batches, a model, a journal and a clock, in virtual time."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from langchain_resilient import BatchReport, ResilientChatModel, Target
from langchain_resilient.testing import Backlog, ProviderSimulator, Reply, answer_to
from verification.kit.inline_journal import InlineJournal
from verification.kit.virtual_time import VirtualLoop, run_virtual

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

HOUR = 3600.0

both = pytest.mark.parametrize("name", ["openai", "together"])


@dataclass
class World:
    """A provider, a model, a journal, and the clock.

    Attributes:
        reports: Of all batches, in order.
    """

    sim: ProviderSimulator
    loop: VirtualLoop
    path: Path
    name: str
    reports: list[BatchReport] = field(default_factory=list)

    def model(self, **more: Any) -> ResilientChatModel:
        target = {"price": (1.0, 2.0), "batch_discount": 0.5, "api_key": "k"}
        target.update(more.pop("target", {}))
        return ResilientChatModel(
            targets=[Target(f"{self.name}:m", base_url=self.sim.base_url(self.name), **target)],
            **more,
        )

    async def run(
        self, llm: ResilientChatModel, prompts: list[str], *, until: int | None = None, **more: Any
    ) -> dict[int, Any]:
        """Answer prompts; leave after so many answers, if wanted."""
        got: dict[int, Any] = {}
        answers = llm.amap(
            prompts,
            lane="batch",
            journal=InlineJournal(self.path / "run.db"),
            report=self.reports.append,
            **{"return_exceptions": True, **more},
        )
        async with aclosing(answers):
            async for index, answer in answers:
                assert index not in got
                got[index] = answer
                if until is not None and len(got) >= until:
                    break
        return got

    async def answer(
        self, count: int, llm: ResilientChatModel | None = None, **more: Any
    ) -> dict[int, Any]:
        """Answer so many questions, and check that each has its own answer."""
        prompts = questions(count)
        got = await self.run(llm or self.model(), prompts, **more)
        assert right(got, prompts), got
        return got

    @property
    def report(self) -> BatchReport:
        return self.reports[-1]


def play(
    name: str,
    tmp_path: Path,
    backlog: Backlog,
    story: Callable[[World], Coroutine[Any, Any, None]],
) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with ProviderSimulator(wall_clock=loop.calendar) as sim:
            sim.backlog("*", backlog)
            sim.script("*", then=Reply(latency=1.0))
            await story(World(sim, loop, tmp_path, name))
            others = asyncio.all_tasks() - {asyncio.current_task()}
            assert not [task for task in others if "batch" in task.get_name()]

    run_virtual(main)


def questions(count: int) -> list[str]:
    return [f"q{n}" for n in range(count)]


def right(got: dict[int, Any], prompts: list[str]) -> bool:
    return {n: a.text for n, a in got.items()} == {n: answer_to(p) for n, p in enumerate(prompts)}

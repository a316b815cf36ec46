"""A batch that is cancelled keeps what was answered, and counts what is asked again as wasted."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from langchain_resilient import ResilientChatModel, providers
from langchain_resilient.batch.journal import Journal
from langchain_resilient.providers import register
from langchain_resilient.testing import ProviderSimulator, Reply
from verification.kit.scripted_targets import target

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from langchain_resilient.exchange import ChatRequest, Chunk

ANSWERED: list[str] = []
"""The prompts whose answers were given whole, in order."""


class StepProvider:
    """Answers after as many steps of the event loop as the prompt has letters."""

    def __init__(self, target: Any) -> None:
        del target

    async def open(self, request: ChatRequest, *, stream: bool) -> AsyncGenerator[Chunk, None]:
        del stream
        prompt = request.messages[-1]["content"]

        async def chunks() -> AsyncGenerator[Chunk, None]:
            yield {"choices": [{"index": 0, "delta": {"content": prompt}, "finish_reason": None}]}
            for _ in prompt:
                await asyncio.sleep(0)
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            end = {"index": 0, "delta": {}, "finish_reason": "stop"}
            ANSWERED.append(prompt)
            yield {"choices": [end], "usage": usage}

        return chunks()


@pytest.fixture(autouse=True)
def step_provider(monkeypatch):
    """It is known to these tests only."""
    monkeypatch.setattr(providers, "_entries", dict(providers._entries))
    register("steps", api_key_env=None)(StepProvider)


@pytest.mark.parametrize("steps", [*range(20, 80, 3), 120, 200])
async def test_what_was_answered_is_in_the_journal(tmp_path: Path, steps: int):
    """Whenever the cancel comes, be it between the last chunk and the message."""
    ANSWERED.clear()
    llm = ResilientChatModel(targets=["steps:one"], hedge=None, share_learning=False)
    await llm.ainvoke("warm")
    ANSWERED.clear()
    prompts = [f"{'x' * (n % 7)}{n:03}" for n in range(40)]
    job = asyncio.create_task(
        llm.abatch(prompts, {"max_concurrency": 8}, journal=tmp_path / "run.db")
    )
    while not ANSWERED:  # noqa: ASYNC110  # steps of the loop are what is counted
        await asyncio.sleep(0)
    for _ in range(steps):
        await asyncio.sleep(0)
    job.cancel()
    await asyncio.sleep(0)  # the cancel reaches the batch, and its workers
    before = list(ANSWERED)
    with suppress(asyncio.CancelledError):
        await job
    journal = Journal(tmp_path / "run.db")
    answers = await llm.abatch(prompts, journal=journal)
    assert [answer.text for answer in answers] == prompts
    assert journal.restored >= len(before)
    assert all(ANSWERED.count(prompt) == 1 for prompt in before)


@pytest.fixture
def sim() -> Any:
    with ProviderSimulator() as running:
        yield running


def priced(sim: ProviderSimulator) -> ResilientChatModel:
    one = target(sim, "openai:one", price=(1_000_000.0, 1_000_000.0))  # a dollar a token
    return ResilientChatModel(targets=[one], hedge=None, share_learning=False)


async def test_the_report_tells_the_money_of_the_whole_job(sim: ProviderSimulator, tmp_path: Path):
    """Of this run, and beside it what all runs have cost; what was cancelled is wasted."""
    sim.script("openai:one", Reply("a b"), Reply("a b"), then=Reply("a b c d", chunk_gap=5.0))
    llm = priced(sim)
    job = asyncio.create_task(
        llm.abatch(["one", "two", "three"], {"max_concurrency": 1}, journal=tmp_path / "run.db")
    )
    while sim.count() < 3 or not sim.requests[-1].pieces:  # noqa: ASYNC110  # a thread sets it
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    job.cancel()
    with suppress(asyncio.CancelledError):
        await job
    first = llm.batch_report()
    paid = first.spent - first.wasted
    assert (first.done, first.complete) == (2, False)
    assert paid > 0
    assert first.wasted >= 1  # its prompt, and what had come of its answer
    assert (first.job_spent, first.job_wasted) == (first.spent, first.wasted)

    sim.script("openai:one", then=Reply("a b"))
    await llm.abatch(["one", "two", "three"], journal=tmp_path / "run.db")
    second = llm.batch_report()
    assert (second.restored, second.wasted) == (2, 0.0)
    assert second.job_spent == pytest.approx(first.spent + second.spent)
    assert second.job_wasted == pytest.approx(first.wasted)
    assert "by the whole job" in repr(second)
    assert second.as_dict()["job_spent"] == pytest.approx(second.job_spent)


async def test_without_a_journal_there_is_no_job(sim: ProviderSimulator):
    """The money of cancelled calls is counted all the same."""
    sim.script("openai:one", then=Reply("a b c d", chunk_gap=5.0))
    llm = priced(sim)
    job = asyncio.create_task(llm.abatch(["one"]))
    while not (sim.requests and sim.requests[-1].pieces):  # noqa: ASYNC110  # a thread sets it
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    job.cancel()
    with suppress(asyncio.CancelledError):
        await job
    report = llm.batch_report()
    assert report.job_spent is None
    assert report.spent == report.wasted > 0
    assert "whole job" not in repr(report)

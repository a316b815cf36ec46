"""A batch with a journal: what was answered is not sent, what is reported is recorded."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from langchain_resilient.batch.runner import as_journal
from tests.batch.models import EchoModel, MemoryJournal, answers, prompts
from verification.kit.virtual_time import virtual_time


@virtual_time
async def test_what_was_recorded_is_not_sent_again():
    """The same call sends only what is missing, and counts what was restored."""
    echo, journal = EchoModel(fails=lambda prompt: prompt == "q3" and not again), MemoryJournal()
    again = False
    llm = echo.model()
    first = await llm.abatch(prompts(10), journal=journal, return_exceptions=True)
    assert isinstance(first[3], Exception)
    again = True
    second = await llm.abatch(prompts(10), journal=journal)
    assert [message.text for message in second] == answers(10)
    assert echo.asked[10:] == ["q3"]
    report = llm.batch_report()
    assert (report.done, report.restored, report.targets[0].requests) == (10, 9, 1)


@virtual_time
async def test_another_prompt_or_parameter_is_sent():
    """The key covers everything that changes the answer."""
    echo, journal = EchoModel(), MemoryJournal()
    llm = echo.model()
    await llm.abatch(["q0", "q1"], journal=journal)
    await llm.abatch(["q0", "other"], journal=journal)
    await llm.abatch(["q0", "q1"], journal=journal, temperature=0)
    await llm.abatch(["q0", "q1"], journal=journal, stop=["x"])
    assert echo.asked == ["q0", "q1", "other", "q0", "q1", "q0", "q1"]


@virtual_time
async def test_an_answer_is_recorded_before_it_is_reported():
    """Whoever has seen it can rely on it."""
    journal = MemoryJournal()
    async for index, message in EchoModel().model().amap(prompts(20), journal=journal):
        assert message in [found for (i, _), found in journal.answers.items() if i == index]


@virtual_time
async def test_a_full_disk_ends_the_batch():
    """Even where exceptions are returned: answers that are not kept must not be bought."""
    echo, journal = EchoModel(), MemoryJournal(full=True)
    with pytest.raises(OSError, match="disk full"):
        await echo.model().abatch(
            prompts(100), {"max_concurrency": 4}, journal=journal, return_exceptions=True
        )
    assert len(echo.asked) == 4
    assert journal.events == ["open", "close"]


@virtual_time
@pytest.mark.parametrize("end", ["done", "error", "cancel"])
async def test_the_journal_is_closed_however_the_batch_ends(end):
    """Once."""
    journal = MemoryJournal()
    echo = EchoModel(seconds=lambda _: 1.0, fails=lambda _: end == "error")
    task = asyncio.create_task(echo.model().abatch(prompts(3), journal=journal))
    await asyncio.sleep(0.5)
    if end == "cancel":
        task.cancel()
    await asyncio.wait({task})
    assert journal.events == ["open", "close"]


def test_a_synchronous_batch_keeps_a_journal_too(tmp_path):
    """In a file, by its path; a second run sends nothing."""
    echo = EchoModel()
    llm = echo.model()
    for _ in range(2):
        found: Any = llm.batch(prompts(20), journal=tmp_path / "run.db")
        assert [message.text for message in found] == answers(20)
    assert len(echo.asked) == 20
    assert llm.batch_report().restored == 20


def test_no_journal_is_none():
    """And a journal is itself."""
    journal = MemoryJournal()
    assert as_journal(None) is None
    assert as_journal(journal) is journal

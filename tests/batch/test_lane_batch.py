"""The files of batches: their limits, keys and queue at the provider, and who may use a journal."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from math import inf
from typing import Any

import pytest

from langchain_resilient.batch.journal_file import LaneLock
from langchain_resilient.batch.journal_keys import RequestKeys
from langchain_resilient.batch.lane_batch import queue_limit
from langchain_resilient.batch.spool import RowState, Spool
from langchain_resilient.errors import JournalLockedError
from langchain_resilient.providers.batches import ProviderBatches
from langchain_resilient.testing import Backlog, answer_to
from tests.batch.lane_world import HOUR, World, both, play, questions, right
from verification.lane import prompts_in_two_batches

TOLD = (
    "token_limit_exceeded: Enqueued token limit reached for gpt-4o in organization org-1. Limit: "
    "90,000 enqueued tokens. Please try again once some in_progress batches have been completed."
)


def accounts(world: World) -> list[str]:
    """The key of each batch, the oldest first."""
    return [batch.file.account for batch in world.sim._batches.batches.values()]


# -- keys ---


@both
def test_each_key_has_its_own_batches(name, tmp_path, monkeypatch):
    """Polled and fetched by the key that made them, which no other may see; also in a later run."""
    monkeypatch.setattr(ProviderBatches, "max_requests", 20)

    async def story(world: World) -> None:
        prompts = questions(61)
        running = asyncio.ensure_future(
            world.run(world.model(target={"api_key": ["a", "b"]}), prompts)
        )
        await asyncio.sleep(600)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert accounts(world) == ["a", "b", "a"]
        got = await world.run(world.model(target={"api_key": ["b", "a"]}), prompts)
        assert right(got, prompts)
        assert [b.status for b in world.sim.batches] == ["completed"] * 3
        assert world.report.batched == 60

    play(name, tmp_path, Backlog(seconds=HOUR), story)


@both
def test_a_key_that_is_gone(name, tmp_path, caplog):
    """Its batch cannot be seen any more: it is given up, and its prompts are asked live."""

    async def story(world: World) -> None:
        prompts = questions(30)
        running = asyncio.ensure_future(world.run(world.model(target={"api_key": "old"}), prompts))
        await asyncio.sleep(600)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        for keys in (["new", "newer"], "new"):
            got = await world.run(world.model(target={"api_key": keys}), prompts)
            assert right(got, prompts)
        assert world.loop.time() < HOUR
        assert accounts(world) == ["old"]
        assert world.sim.count() == 30
        assert "is given up" in caplog.text

    play(name, tmp_path, Backlog(seconds=2 * HOUR), story)


@both
def test_a_key_that_may_not_upload(name, tmp_path):
    """The next one does."""

    async def story(world: World) -> None:
        world.sim.break_batches(name, "upload" if name == "openai" else "files", 401)
        await world.answer(30, world.model(target={"api_key": ["bad", "good"]}))
        assert accounts(world) == ["good"]

    play(name, tmp_path, Backlog(), story)


# -- one run at a time ---


def test_one_run_at_a_time(tmp_path):
    """A second one with the same journal is told so, and sends nothing."""

    async def story(world: World) -> None:
        prompts = questions(30)
        running = asyncio.ensure_future(world.run(world.model(), prompts))
        await asyncio.sleep(100)
        with pytest.raises(JournalLockedError, match=r"another run .*run\.db: wait for it"):
            await world.run(world.model(), prompts)
        assert right(await running, prompts)
        assert len(world.sim.batches) == 1
        assert right(await world.run(world.model(), prompts), prompts)

    play("openai", tmp_path, Backlog(), story)


def test_the_lock_of_a_journal(tmp_path):
    """Private, of the journal whichever way it is named, and free again when it is released."""
    (tmp_path / "link.db").symlink_to(tmp_path / "run.db")
    first = LaneLock(tmp_path / "run.db")
    assert (tmp_path / "run.db.lane").stat().st_mode & 0o777 == 0o600
    with pytest.raises(JournalLockedError):
        LaneLock(tmp_path / "link.db")
    LaneLock(tmp_path / "other.db").release()
    first.release()
    LaneLock(tmp_path / "run.db").release()


def test_a_folder_and_a_place_without_locks(tmp_path, caplog):
    """A folder holds its lock; where there can be none, the run goes on."""
    caplog.set_level(logging.INFO)
    (tmp_path / "folder").mkdir()
    first = LaneLock(tmp_path / "folder")
    with pytest.raises(JournalLockedError):
        LaneLock(tmp_path / "folder")
    first.release()
    assert (tmp_path / "folder" / "lane").exists()
    (tmp_path / "run.db.lane").mkdir()
    LaneLock(tmp_path / "run.db").release()
    assert "nothing keeps a second run" in caplog.text


# -- what stays at the provider ---


@both
def test_no_file_stays_at_the_provider(name, tmp_path):
    """Once all its answers are recorded."""

    async def story(world: World) -> None:
        await world.answer(30)
        [batch] = world.sim._batches.batches.values()
        assert world.sim._batches.files == {}
        assert {one.partition("-")[0] for one in batch.deleted} == {"output", "errors"}
        assert world.report.batched < 29

    play(name, tmp_path, Backlog(errors=0.2), story)


@both
def test_files_that_cannot_be_deleted_stay(name, tmp_path):
    """That is asked for once, and is no failure."""

    async def story(world: World) -> None:
        prompts = questions(30)
        running = asyncio.ensure_future(world.run(world.model(), prompts))
        await asyncio.sleep(100)
        world.sim.break_batches(name, "files", 500, 500, 500)
        assert right(await running, prompts)
        assert len(world.sim._batches.files) == 1
        assert world.report.batched == 29

    play(name, tmp_path, Backlog(), story)


def test_files_stay_while_the_batch_goes_on(tmp_path):
    """Who leaves early takes nothing away."""

    async def story(world: World) -> None:
        running = asyncio.ensure_future(world.run(world.model(), questions(30)))
        await asyncio.sleep(100)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert len(world.sim._batches.files) == 1

    play("openai", tmp_path, Backlog(), story)


# -- the provider's queue ---


@both
@pytest.mark.parametrize("within", [None, "12h"])
def test_a_batch_that_is_larger_than_the_queue(name, within, tmp_path, caplog):
    """It is split, and its parts go one after the other: nothing of it is bought live."""

    async def story(world: World) -> None:
        await world.answer(101, within=within)
        assert world.sim.count() == 1
        assert world.report.batched == 100
        done = [b.total for b in world.sim.batches if b.status == "completed"]
        assert sum(done) == 100
        assert len(done) >= 2
        tried = len(world.sim.batches) - len(done)
        assert tried <= 5 * len(done)
        assert "it is split" in caplog.text
        assert world.report.spent == pytest.approx(world.report.saved * 102 / 100, rel=0.05)

    play(name, tmp_path, Backlog(seconds=HOUR, enqueued_tokens=2200), story)


@pytest.mark.parametrize("at", [10.0, 950.0, 3000.0])
def test_a_large_batch_of_an_earlier_run_is_split(at, tmp_path):
    """Whatever it was doing when that run ended: no prompt is in two batches."""

    async def story(world: World) -> None:
        running = asyncio.ensure_future(world.run(world.model(), questions(61)))
        await asyncio.sleep(at)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert world.sim.batches[0].total == 60
        await world.answer(61)
        assert prompts_in_two_batches(world.sim) == 0
        assert world.sim.count() == 1
        await world.answer(61)
        assert world.report.restored == 61

    play("openai", tmp_path, Backlog(seconds=HOUR, enqueued_tokens=1200), story)


def test_a_prompt_that_is_longer_than_the_queue(tmp_path):
    """It is asked live, the others go by batch."""

    async def story(world: World) -> None:
        prompts = [*questions(40), "long " * 2000]
        got = await world.run(world.model(), prompts)
        assert right(got, prompts)
        assert world.report.batched == 39

    play("openai", tmp_path, Backlog(seconds=HOUR, enqueued_tokens=1800), story)


@pytest.mark.parametrize(
    ("problem", "limit"),
    [
        (TOLD, 90_000.0),
        ("the queue is full", inf),
        ("invalid_model: no such model", None),
        ("", None),
    ],
    ids=["told", "untold", "other", "nothing"],
)  # fmt: skip
def test_what_a_failed_batch_says_of_the_queue(problem, limit):
    """How many tokens it takes; or that the batch failed for something else."""
    assert queue_limit(problem) == limit


# -- what a provider leaves out ---


def test_a_completed_batch_with_errors_only(tmp_path):
    """There is no file of answers: all is asked live."""

    async def story(world: World) -> None:
        await world.answer(30)
        assert [b.status for b in world.sim.batches] == ["completed"]
        assert world.report.batched == 0
        assert world.sim.count() == 30

    play("openai", tmp_path, Backlog(errors=1.0), story)


@pytest.mark.parametrize("seconds", [HOUR, 12 * HOUR])
def test_a_provider_that_does_not_count(seconds, tmp_path):
    """Without its counts a batch is fetched, and given up, all the same."""

    async def story(world: World) -> None:
        await world.answer(60, within="4h")
        assert world.loop.time() < 4 * HOUR
        assert world.report.late == 0
        assert (world.report.batched == 59) is (seconds == HOUR)

    play("openai", tmp_path, Backlog(seconds=seconds, counts=False), story)


# -- the journal and the spool ---


def test_the_journal_says_what_was_asked(tmp_path):
    """In words, for an answer by a batch and for one that was bought, as for live ones."""

    async def story(world: World) -> None:
        await world.run(world.model(), questions(40))
        live = world.report.done - world.report.batched
        assert live > 1
        file = sqlite3.connect(tmp_path / "run.db")
        rows = file.execute("SELECT position, text, answer FROM items").fetchall()
        file.close()
        assert len(rows) == 40
        for position, text, answer in rows:
            assert f"q{position}" in text
            assert answer_to(f"q{position}")[:20] in answer.encode().decode("unicode_escape")

    play("openai", tmp_path, Backlog(errors=0.2), story)


def test_keys_come_back_from_the_spool_as_they_were():
    """With the prompt in words; none for what is no prompt."""
    keys = RequestKeys("prompt", "exact", "in words")
    with Spool() as spool:
        spool.add(0, "a", keys, ["m"], tag="t")
        spool.add(1, "b", None, 3, state=RowState.LIVE)
        found = spool.find("a")
        assert found is not None
        assert (found.keys, found.keys and found.keys.text) == (keys, "in words")
        row: Any = spool.take_live()
        assert (row.keys, row.prompt) == (None, 3)
        following = spool.next_of("t")
        assert following is not None
        assert following.keys == keys
        spool.move(0, "u")
        assert spool.next_of("t") is None
        assert spool.count(RowState.WAITING, "u") == 1


@pytest.fixture(autouse=True)
def _warnings(caplog):
    with caplog.at_level(logging.WARNING):
        yield

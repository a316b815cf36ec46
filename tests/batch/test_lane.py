"""`lane="batch"`: over the real SDKs and the simulator, in virtual hours."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from pydantic import BaseModel

from langchain_resilient import ResilientChatModel, SpendCap, Target
from langchain_resilient.batch import row_asker
from langchain_resilient.batch.row_asker import RowAsker, RowJournal
from langchain_resilient.batch.rows import RowPrompts
from langchain_resilient.exchange import RequestForm
from langchain_resilient.runtime.call import StoredAnswer
from langchain_resilient.testing import (
    Backlog,
    Empty,
    Reply,
    Status,
    ToolCall,
    UnsupportedParameter,
    answer_to,
)
from tests.batch.lane_world import HOUR, World, both, play, questions, right
from verification.kit.inline_journal import InlineJournal


@both
def test_half_the_price(name, tmp_path):
    """One prompt live, all others in one batch; the receipts and the report say so."""

    async def story(world: World) -> None:
        got = await world.answer(100)
        assert world.sim.count() == 1
        assert [(b.status, b.total) for b in world.sim.batches] == [("completed", 99)]
        receipt = got[50].response_metadata["resilience"]
        assert receipt["lane"] == receipt["attempts"][0]["lane"] == "batch"
        usage = got[50].usage_metadata
        usual = (usage["input_tokens"] + 2 * usage["output_tokens"]) / 1e6
        assert receipt["price"] == receipt["saved"] == pytest.approx(usual / 2)
        assert "lane" not in got[0].response_metadata["resilience"]
        report = world.report
        assert (report.done, report.batched, report.failed, report.late) == (100, 99, 0, 0)
        live = report.spent + report.saved
        assert report.spent == pytest.approx(live * (1 + 99 / 2) / 100, rel=0.05)
        assert report.wasted == 0
        assert "99 by batches" in repr(report)
        assert "saved by batches" in repr(report)

    play(name, tmp_path, Backlog(seconds=HOUR), story)


def test_the_other_methods(tmp_path):
    """`abatch` and `abatch_as_completed`: in order, and as completed."""

    async def story(world: World) -> None:
        prompts, llm = questions(30), world.model()
        journal = InlineJournal(world.path / "a.db")
        answers = await llm.abatch(prompts, lane="batch", within="6h", journal=journal)
        assert [answer.text for answer in answers] == [answer_to(p) for p in prompts]
        other = InlineJournal(world.path / "b.db")
        found = {
            index: answer.text
            async for index, answer in llm.abatch_as_completed(prompts, lane="batch", journal=other)
        }
        assert found == {n: answer_to(p) for n, p in enumerate(prompts)}
        assert len(world.sim.batches) == 2

    play("openai", tmp_path, Backlog(), story)


def test_everything_that_changes_an_answer_is_in_the_request(tmp_path):
    """Sampling, tools, stop words, the schema; what a live request holds."""

    class Verdict(BaseModel):
        """A verdict."""

        good: bool

    async def story(world: World) -> None:
        llm = world.model(temperature=0.25, max_retries=0)
        structured = llm.with_structured_output(Verdict)
        parsed = await structured.abatch(
            questions(25), lane="batch", journal=InlineJournal(world.path / "s.db")
        )
        assert all(isinstance(one, Verdict) for one in parsed), parsed
        [file] = [batch.file for batch in world.sim._batches.batches.values()]
        bodies = [json.loads(line)["body"] for line in (file.data or b"").splitlines()]
        assert len(bodies) == 24
        live = dict(world.sim.requests[0].body)
        live["messages"] = bodies[0]["messages"]
        assert live.pop("stream")
        del live["stream_options"]
        assert bodies[0] == live
        assert bodies[0]["temperature"] == 0.25

    play("openai", tmp_path, Backlog(), story)


def test_the_responses_api_in_batches(tmp_path):
    """OpenAI's batches take it; content is as it comes live."""

    async def story(world: World) -> None:
        llm = world.model(target={"api": "responses"})
        got = await world.answer(25, llm)
        assert [b.endpoint for b in world.sim.batches] == ["/v1/responses"]
        assert got[3].usage_metadata["output_tokens"] > 0
        assert isinstance(got[3].content, list)

    play("openai", tmp_path, Backlog(), story)


@both
def test_bad_lines_are_bought_live(name, tmp_path):
    """Errors, and missing, repeated and broken lines: each prompt has its one answer."""

    async def story(world: World) -> None:
        await world.answer(100)
        report = world.report
        assert 60 < report.batched < 92
        assert world.sim.count() == 100 - report.batched
        assert report.wasted == 0

    faults = Backlog(errors=0.1, missing=0.1, repeated=0.1, broken=0.1)
    play(name, tmp_path, faults, story)


@both
def test_answers_are_judged(name, tmp_path):
    """What `check` refuses is asked live, and both are paid."""
    refused: list[str] = []

    def check(answer: Any) -> bool:
        lane = '"q7"' in answer.text and not refused
        if lane:
            refused.append(answer.text)
        return not lane

    async def story(world: World) -> None:
        got = await world.answer(30, world.model(check=check))
        assert refused == [answer_to("q7")]
        assert world.sim.count() == 2
        assert "lane" not in got[7].response_metadata["resilience"]
        assert world.report.batched == 28
        assert world.report.wasted == pytest.approx(world.report.saved / 28, rel=0.2)

    play(name, tmp_path, Backlog(), story)


@both
def test_empty_answers_are_bought_live(name, tmp_path):
    """A batch of empty answers is worth nothing."""

    async def story(world: World) -> None:
        await world.answer(25)
        assert world.report.batched == 0

    play(name, tmp_path, Backlog(reply=Reply("")), story)


@both
def test_the_deadline_of_a_slow_batch(name, tmp_path):
    """Cancelled while there is time: what was done comes back, the rest is bought."""

    async def story(world: World) -> None:
        await world.answer(100, within="2h")
        assert world.loop.time() < 2 * HOUR
        assert world.report.late == 0
        assert 15 <= world.report.batched <= 19
        assert world.report.wasted == 0
        assert [b.status for b in world.sim.batches] == ["cancelled"]

    play(name, tmp_path, Backlog(seconds=10 * HOUR), story)


@both
def test_a_batch_that_is_not_cancelled_in_time_is_bought_as_well(name, tmp_path):
    """All is bought live; the cancelled batch gives its answers for nothing."""

    async def story(world: World) -> None:
        await world.answer(100, within="2h")
        assert world.loop.time() < 2 * HOUR
        assert world.report.batched == 0
        assert world.sim.count() == 100

    play(name, tmp_path, Backlog(seconds=10 * HOUR, cancelling=3 * HOUR), story)


@both
def test_an_answer_that_comes_twice_counts_once(name, tmp_path):
    """Bought while the cancelled batch still answers: one result, both in the spend."""

    async def story(world: World) -> None:
        world.sim.script("*", then=Reply(latency=80.0))
        llm = world.model(timeout=300)
        await world.answer(100, llm, within="2h", max_concurrency=4)
        report = world.report
        assert report.done == 100
        assert world.sim.count() > 50
        twice = world.sim.batches[0].done - report.batched
        assert 3 < twice < 25
        one = report.saved / report.batched
        assert report.wasted == pytest.approx(twice * one, rel=0.05)
        assert report.job_wasted == pytest.approx(report.wasted)

    slow = Backlog(seconds=2000, cancelling=1000)
    play(name, tmp_path, slow, story)


@pytest.mark.parametrize("data", [b"[1]", b"{", b'{"usage": [1]}', b'{"usage": "9"}', b"{}"])
def test_an_answer_too_many_may_be_anything(data, tmp_path):
    """What it cost is not known then; the row has its answer."""

    async def story(world: World) -> None:
        llm = world.model()
        desk = llm._ready().batch_desk()
        stored = StoredAnswer(desk.name, RequestForm("/v1/chat/completions"), data, 2.0)
        lost = desk.lose(stored)
        assert (lost.attempts[0].input_tokens, lost.attempts[0].output_tokens) == (None, None)

    play("openai", tmp_path, Backlog(seconds=HOUR), story)


def test_without_a_deadline_it_takes_as_long_as_it_takes(tmp_path):
    """Stuck at 60 %: it expires after its day, and the rest is bought."""

    async def story(world: World) -> None:
        await world.answer(101)
        assert 24 * HOUR < world.loop.time() < 25 * HOUR
        assert world.report.batched == 60

    play("openai", tmp_path, Backlog(seconds=HOUR, stuck_at=0.6), story)


@both
def test_a_batch_that_fails_is_bought_at_once(name, tmp_path, caplog):
    """And its provider's reason is in the log."""

    async def story(world: World) -> None:
        await world.answer(30)
        assert world.loop.time() < 300
        assert "invalid_model" in caplog.text

    play(name, tmp_path, Backlog(fails="invalid_model"), story)


@both
def test_a_full_queue_is_waited_for(name, tmp_path):
    """The second batch goes once the first is back."""

    async def story(world: World) -> None:
        await world.answer(41)
        assert world.report.batched == 40
        assert {b.status for b in world.sim.batches} == {"completed", "failed"}

    backlog = Backlog(seconds=HOUR, enqueued_tokens=1200)
    from langchain_resilient.providers.batches import ProviderBatches

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProviderBatches, "max_requests", 20)
        play(name, tmp_path, backlog, story)


@both
@pytest.mark.parametrize("operation", ["upload", "create", "poll", "download", "files", "list"])
def test_lost_responses_and_errors(name, operation, tmp_path):
    """Whatever goes wrong on the way: one batch, and all answers."""

    async def story(world: World) -> None:
        world.sim.break_batches(name, operation, "lost", 500, "lost", 429, 503)
        await world.answer(40)
        assert [b.status for b in world.sim.batches] == ["completed"]
        assert world.report.batched == 39

    play(name, tmp_path, Backlog(), story)


@both
def test_half_a_download(name, tmp_path):
    """Broken off, it is fetched again; cut as if that were all, it is too."""

    async def story(world: World) -> None:
        world.sim.break_batches(name, "download", "half", "cut", "half")
        await world.answer(40)
        # Together does not say how many answers there are.
        assert world.report.batched == (39 if name == "openai" else 39 - world.sim.count() + 1)

    play(name, tmp_path, Backlog(), story)


@both
def test_an_hour_of_errors(name, tmp_path):
    """Nothing about batches works for an hour: it is waited for, politely."""

    async def story(world: World) -> None:
        world.sim.batch_outage(name, 100, 100 + HOUR)
        await world.answer(40, within="6h")
        assert world.report.batched == 39
        assert HOUR < world.loop.time() < 1.5 * HOUR

    play(name, tmp_path, Backlog(seconds=300), story)


@pytest.mark.parametrize("first", [5, 40])
def test_a_slow_source_does_not_break_the_deadline(first, tmp_path):
    """What was read is asked in time, although no file is full and the source has not ended."""

    async def story(world: World) -> None:
        async def source():
            for n in range(first):
                yield f"q{n}"
            await asyncio.sleep(2 * HOUR)
            yield f"q{first}"

        answers: dict[int, float] = {}
        journal = InlineJournal(world.path / "run.db")
        async for index, answer in world.model().amap(
            source(), lane="batch", within="1h", journal=journal, report=world.reports.append
        ):
            assert answer.text == answer_to(f"q{index}")
            answers[index] = world.loop.time()
        assert sorted(answers) == list(range(first + 1))
        assert max(at for index, at in answers.items() if index < first) < HOUR
        assert world.report.late == 1

    play("openai", tmp_path, Backlog(), story)


def test_an_outage_does_not_break_the_deadline(tmp_path):
    """A provider whose batches cannot even be created: bought live in time."""

    async def story(world: World) -> None:
        world.sim.batch_outage("openai", 0, 24 * HOUR)
        await world.answer(40, within="1h")
        assert world.loop.time() < HOUR
        assert world.sim.batches == []

    play("openai", tmp_path, Backlog(), story)


@both
@pytest.mark.parametrize("at", [2.0, 40.0, 600.0, 3000.0])
def test_the_same_call_goes_on(name, at, tmp_path):
    """Cancelled at some moment; the next call creates nothing anew and loses nothing."""

    async def story(world: World) -> None:
        prompts = questions(60)
        running = asyncio.ensure_future(world.run(world.model(), prompts))
        await asyncio.sleep(at)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert [b.status for b in world.sim.batches] in (["validating"], ["in_progress"], [])
        await asyncio.sleep(600)
        got = await world.run(world.model(), prompts)
        assert right(got, prompts)
        assert len(world.sim.batches) == 1
        assert world.sim.count() <= 2
        again = await world.run(world.model(), prompts)
        assert right(again, prompts)
        assert len(world.sim.batches) == 1
        assert world.report.restored == 60

    play(name, tmp_path, Backlog(seconds=2 * HOUR), story)


def test_ctrl_c_says_how_to_go_on(tmp_path, caplog):
    """Leaving early leaves the batch running, and says so."""

    async def story(world: World) -> None:
        await world.run(world.model(), questions(60), until=1)
        assert "prompts at the provider" not in caplog.text  # nothing was created yet

        async def leave() -> None:
            await asyncio.sleep(100)
            running.cancel()

        running = asyncio.ensure_future(world.run(world.model(), questions(60)))
        await leave()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert "1 batch goes on with 58 prompts at the provider" in caplog.text
        assert "lane show" in caplog.text
        assert [b.status for b in world.sim.batches] == ["in_progress"]

    with caplog.at_level(logging.WARNING):
        play("openai", tmp_path, Backlog(seconds=2 * HOUR), story)


def test_what_cannot_go_by_batch_goes_live(tmp_path, caplog):
    """A request with headers of its own; and a chain without any batches is told so."""

    async def story(world: World) -> None:
        llm = world.model()
        await world.answer(25, llm, extra_headers={"x-trace": "1"})
        assert world.sim.count() == 25
        assert "extra_headers cannot be part of a batch" in caplog.text
        azure = Target("azure:m", base_url="http://127.0.0.1:9", api_key="k")
        plain = ResilientChatModel(targets=["text:no", azure])
        with pytest.raises(ValueError, match="no target of this chain takes batches"):
            await world.run(plain, questions(3))

    play("openai", tmp_path, Backlog(), story)


def test_the_second_target_may_be_the_one(tmp_path, caplog):
    """The first that takes batches gets them, and the log says so."""

    async def story(world: World) -> None:
        openai = Target("openai:m", base_url=world.sim.base_url("openai"), api_key="k")
        llm = ResilientChatModel(targets=["text:live", openai], hedge=None)
        got = await world.run(llm, questions(25))
        assert got[0].text == "live"
        assert got[5].text == answer_to("q5")
        assert "batches go to openai:m: text:live takes none" in caplog.text

    play("openai", tmp_path, Backlog(), story)


def test_a_spend_cap_limits_batches_too(tmp_path):
    """What the cap has no room for is not sent: it fails as it does live."""

    async def story(world: World) -> None:
        llm = world.model(target={"spend_cap": SpendCap(0.004, per="total"), "max_tokens": 100})
        got = await world.run(llm, questions(160))
        failed = [one for one in got.values() if isinstance(one, Exception)]
        assert len(got) == 160
        assert 0 < len(failed) < 160
        assert world.report.spent <= 0.0042
        assert world.report.batched > 20

    play("openai", tmp_path, Backlog(), story)


def test_the_first_error_ends_it(tmp_path):
    """Unless exceptions are returned."""

    async def story(world: World) -> None:
        world.sim.script("*", Reply(), then=Status(400))
        with pytest.raises(Exception, match=r"(?i)400|reject"):
            await world.run(world.model(), questions(30), return_exceptions=False)

    play("openai", tmp_path, Backlog(errors=1.0), story)


def test_refusals_are_learned_from_the_first_prompt(tmp_path):
    """It is asked live, so that no batch is written with what the API refuses."""

    async def story(world: World) -> None:
        world.sim.script("*", UnsupportedParameter("seed"), then=Reply())
        await world.answer(30, world.model(seed=3))
        [file] = [batch.file for batch in world.sim._batches.batches.values()]
        assert b'"seed"' not in (file.data or b"")
        assert world.report.batched == 29

    with pytest.warns(match="seed"):
        play("openai", tmp_path, Backlog(), story)


def test_tool_calls_come_back(tmp_path):
    """As from a live request."""

    async def story(world: World) -> None:
        def weather(city: str) -> str:
            """Look the weather up."""
            return city

        llm = world.model()
        bound = llm.bind_tools([weather])
        answers = await bound.abatch(  # type: ignore[attr-defined]
            questions(25), lane="batch", journal=InlineJournal(world.path / "t.db")
        )
        assert [a.tool_calls[0]["name"] for a in answers[1:]] == ["weather"] * 24

    reply = Reply(tool_calls=[ToolCall("weather", '{"city": "Rome"}')])
    play("openai", tmp_path, Backlog(reply=reply), story)


def test_progress_shows_both_lanes(tmp_path):
    """How many are in batches, and how many came by them."""
    seen: list[Any] = []

    async def story(world: World) -> None:
        await world.run(world.model(), questions(60), progress=seen.append)
        assert max(one.waiting for one in seen) == 59
        assert (seen[-1].batched, seen[-1].waiting, seen[-1].done) == (59, 0, 60)

    play("openai", tmp_path, Backlog(), story)


def test_equal_prompts_each_have_an_answer(tmp_path):
    """Of two equal prompts each has a request of its own."""

    async def story(world: World) -> None:
        got = await world.run(world.model(), ["same"] * 25)
        assert [got[n].text for n in range(25)] == [answer_to("same")] * 25
        assert [b.total for b in world.sim.batches] == [24]

    play("openai", tmp_path, Backlog(), story)


def test_one_answer_wrong_in_the_live_lane_too(tmp_path):
    """What nobody can answer ends with its error, and the others with their answers."""

    async def story(world: World) -> None:
        world.sim.script("*", Reply(), then=Empty())
        got = await world.run(world.model(max_retries=0, timeout=30), questions(60))
        failed = [n for n, one in got.items() if isinstance(one, Exception)]
        assert len(got) == 60
        assert 1 <= len(failed) <= 20
        assert world.report.failed == len(failed)

    play("openai", tmp_path, Backlog(errors=0.1), story)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"lane": "batch"}, "needs journal="),
        ({"lane": "fast", "journal": "x.db"}, "lane must be"),
        ({"within": "6h"}, "within= is the deadline"),
    ],
)
def test_options_that_do_not_fit(options, problem):
    """Nothing is sent."""
    with pytest.raises(ValueError, match=problem):
        ResilientChatModel(targets=["text:no"]).batch(["a"], **options)


def test_on_a_single_call_it_is_refused():
    """It belongs to a batch."""
    with pytest.raises(TypeError, match="belongs to a batch"):
        ResilientChatModel(targets=["text:no"]).invoke("a", lane="batch")


class InlineRows(RowJournal, InlineJournal):
    """A journal of rows, in virtual time."""


def test_rows_of_a_table_go_by_the_lane(tmp_path, monkeypatch):
    """All in one batch, equal rows too; what is no prompt goes nowhere."""
    monkeypatch.setattr(row_asker, "RowJournal", InlineRows)
    rows: list[dict[str, Any]] = [{"prompt": f"q{n // 2}"} for n in range(60)]
    rows[7]["prompt"] = None

    async def story(world: World) -> None:
        asker = RowAsker(
            world.model(), RowPrompts(), journal=tmp_path / "run.db", lane="batch", within="6h"
        )
        for _ in range(2):
            results = await asker._results(rows)
            assert isinstance(results.pop(7), ValueError)
            texts = [row["prompt"] for row in rows if row["prompt"]]
            assert [result.text for result in results] == [answer_to(text) for text in texts]
        assert len(world.sim.batches) == 1
        assert world.sim.count() == 1

    play("openai", tmp_path, Backlog(), story)

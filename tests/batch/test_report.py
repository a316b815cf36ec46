"""The report of a batch: what it counts, and how it reads."""

from __future__ import annotations

import json
import re

import pytest
from langchain_core.messages import AIMessage

from langchain_resilient import (
    AllTargetsFailedError,
    AttemptKind,
    AttemptRecord,
    Fault,
    FaultKind,
    Outcome,
    Receipt,
    ResilientChatModel,
)
from langchain_resilient.batch.report import BatchReport, BatchStats
from tests.batch.echo_model import EchoModel, prompts
from verification.kit.virtual_time import virtual_time

LOST = AttemptRecord(
    "a:m", AttemptKind.PRIMARY, 0.0, None, 0.5, Outcome.FAILED,
    Fault(FaultKind.SERVER, "broken", status=500),
)  # fmt: skip
WON = AttemptRecord("b:m", AttemptKind.HEDGE, 0.5, 0.75, 1.5, Outcome.WON, None, 10, 4, 2, 1)
RECEIPT = Receipt((LOST, WON), "b:m", 1.5)


def test_an_exception_brings_its_receipt():
    """Another exception has none, and is counted all the same."""
    stats = BatchStats(2, lambda: 0.0, lambda _: None)
    stats.add(AllTargetsFailedError("x", RECEIPT))
    stats.add(ValueError("x"))
    report = stats.report()
    assert (report.failed, report.hedges) == (2, 1)


def test_an_answer_without_a_receipt_sent_nothing():
    """E.g. one that a user put into the cache."""
    stats = BatchStats(1, lambda: 0.0, lambda _: None)
    stats.add(AIMessage("x"))
    report = stats.report()
    assert (report.done, report.targets) == (1, ())


def _stats() -> BatchStats:
    now = [0.0]
    stats = BatchStats(10, lambda: now[0], lambda _: None)
    for _ in range(6):
        stats.add(AIMessage("x"), RECEIPT)
    stats.add(AllTargetsFailedError("x", Receipt((LOST,), None, 0.5)))
    stats.count_restored()
    now[0] = 4.0
    return stats


def test_everything_is_counted():
    """Items, requests, faults, tokens, times."""
    report = _stats().report()
    assert (report.total, report.done, report.failed, report.restored) == (10, 7, 1, 1)
    assert (report.hedges, report.retries) == (6, 0)
    assert (report.input_tokens, report.output_tokens) == (60, 24)
    assert report.errors == {"AllTargetsFailedError": 1}
    assert report.seconds.p50 == pytest.approx(1.5, rel=0.02)
    assert report.first_text.p99 == pytest.approx(0.75, rel=0.02)
    assert report.rate == 7 / 4
    a, b = report.targets
    assert (a.name, a.requests, a.wins, a.faults) == ("a:m", 7, 0, {"server": 7})
    assert (b.name, b.requests, b.wins, b.faults) == ("b:m", 6, 6, {})


def test_a_report_is_plain_json():
    """Through `as_dict`."""
    plain = json.loads(json.dumps(_stats().report().as_dict()))
    assert plain["done"] == 7
    assert plain["targets"][0]["faults"] == {"server": 7}


def test_a_report_reads_as_text():
    """Totals, failures, and a line a target."""
    text = str(_stats().report())
    assert text.startswith("7 of 10 done, 1 failed, 1 restored, 6 hedges, 4.00 s, 1.8 a second")
    assert "failures: AllTargetsFailedError 1" in text
    assert "not complete" in text
    assert "server 7" in text


def test_a_report_reads_as_html():
    """In a notebook: the totals as figures, what became of the items as a bar, the targets."""
    html = _stats().report()._repr_html_()
    words = [w.strip() for w in re.sub(r"<[^>]*>", "|", html).split("|") if w.strip(" ●")]
    assert words[:5] == ["done", "7", "of 10", "state", "not complete"]
    assert words[5:8] == ["failed", "1", "1 AllTargetsFailedError"]
    assert words[words.index("took") :][:3] == ["took", "4.0 s", "1.8 a second"]
    assert words[words.index("first text") :][:2] == ["first text", "0.76 s"]
    assert 'title="left: 2"' in html
    assert {"a:m", "7 server", "b:m"} <= set(words)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (99.9, "99.9 s"),
        (100, "1:40 min"),
        (3599.7, "1:00:00 h"),
        (7510, "2:05:10 h"),
    ],
)
def test_how_long_it_took_is_written_as_people_do(seconds, text):
    """Hours as hours."""
    assert text in BatchReport(wall_seconds=seconds)._repr_html_()


def test_a_report_stands_still_when_the_batch_has_ended():
    """The clock goes on without it."""
    now = [0.0]
    stats = BatchStats(None, lambda: now[0], lambda _: None)
    now[0] = 2.0
    stats.end(complete=True)
    now[0] = 5.0
    stats.end(complete=False)
    report = stats.report()
    assert (report.wall_seconds, report.complete, report.total) == (2.0, True, 0)


@virtual_time
async def test_faults_and_fallbacks_reach_the_report():
    """From messages' and from exceptions' receipts."""
    bad = EchoModel(fails=lambda _: True)
    good = EchoModel(fails=lambda prompt: prompt == "q3")
    llm = ResilientChatModel(
        targets=[bad.target("bad"), good.target("good")], hedge=None, max_retries=0, health=None
    )
    await llm.abatch(prompts(10), return_exceptions=True)
    report = llm.batch_report()
    by_name = {target.name: target for target in report.targets}
    assert (report.done, report.failed) == (9, 1)
    assert (by_name["bad"].wins, by_name["good"].wins) == (0, 9)
    assert sum(by_name["bad"].faults.values()) >= 10


@virtual_time
async def test_the_report_is_handed_over_at_the_end():
    """However the batch ends; while it runs it can be asked for."""
    echo, given = EchoModel(seconds=lambda _: 1.0), []
    llm = echo.model()
    async for _ in llm.amap(prompts(4), max_concurrency=2, report=given.append):
        assert not llm.batch_report().complete
    assert [report.complete for report in given] == [True]
    assert given[0] == llm.batch_report()


def test_health_is_said_of_each_target():
    """As in the model's own statistics; not a blank column."""
    llm = ResilientChatModel(targets=["text:hi"])
    llm.batch(["a", "b"])
    report = llm.batch_report()
    assert [target.health for target in report.targets] == ["ok"]
    assert "text:hi  ok " in str(report)

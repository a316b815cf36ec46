"""The matrix's own judgement: what it would say of cells that fell short."""

from __future__ import annotations

import asyncio
import shlex
import threading
from typing import Any

import pytest
from langchain_core.messages import AIMessage

from langchain_resilient import (
    AllTargetsFailedError,
    DeadlineExceededError,
    RateLimitedError,
    StreamBrokenError,
)
from langchain_resilient.testing import RecordedRequest, Reply
from verification.kit.leftovers import grown, stock
from verification.kit.ways import Got
from verification.matrix import __main__ as command
from verification.matrix.cells import PLACES, RESORT, About, Cell, Result, every_cell, stand
from verification.matrix.judging import bound, judge
from verification.matrix.rows import ROWS
from verification.matrix.runs import run_in

RIGHT = "the right answer"
STEPS = {"500": "Status 500", "cut, in text": "Cut", "429, retry-after 300": "Status 429"}


def cell(row: str = "500", place: str = "first", way: str = "ainvoke") -> Cell:
    return Cell(ROWS[row], way, PLACES[place], "openai")


def requests(case: Cell, *counts: int) -> tuple[list[RecordedRequest], list[RecordedRequest]]:
    """What the server saw: so many at each, all of which did what they should."""
    made = [
        [
            RecordedRequest("openai", "m", stream=True, body={}, headers={}, key="", at=0.0,
                            step=step, pieces=["word"] * case.row.says, ended_at=1.0)
            for _ in range(count)
        ]
        for step, count in zip((STEPS.get(case.row.name, "Reply"),) * 2, counts, strict=True)
    ]  # fmt: skip
    return made[0], made[1]


def verdict(case: Cell, text: str, *counts: int, error: Any = None, **fields: Any) -> set[About]:
    """What is wrong with this outcome."""
    got = Got(RIGHT, text, error=error, **fields)
    result = Result(case, [got], requests(case, *(counts or (1, 1))))
    judge(result)
    return {problem.about for problem in result.problems}


def test_what_is_as_it_must_be_is_not_blamed():
    """The right text, in time, from as many requests as it takes."""
    assert verdict(cell(), RIGHT) == set()


@pytest.mark.parametrize("text", ["", RIGHT[:-1], RIGHT * 2])
def test_a_wrong_text_is_found(text):
    """To the letter."""
    assert verdict(cell(), text) == {About.TEXT}


def test_an_error_where_somebody_could_answer_is_found():
    """Whatever error it is."""
    assert verdict(cell(), "", error=AllTargetsFailedError("x")) == {About.ERROR}


@pytest.mark.parametrize(
    ("row", "error", "expected"),
    [
        ("429, retry-after 300", RateLimitedError("x"), set()),
        ("429, retry-after 300", AllTargetsFailedError("x"), {About.ERROR}),
        ("429, retry-after 300", OSError(), {About.ERROR}),
        ("500", DeadlineExceededError("x"), set()),
        ("500", StreamBrokenError("x"), {About.ERROR}),
        ("429, retry-after 300", None, {About.TEXT}),
    ],
)
def test_the_wrong_error_is_found(row, error, expected):
    """Where nobody can answer there is one error that fits; silence does not."""
    assert verdict(cell(row, "all"), "", error=error) == expected


@pytest.mark.parametrize(
    ("text", "partial", "expected"),
    [("the right", "the right", set()), ("the right", "the", {About.TEXT}),
     ("wrong", "wrong", {About.TEXT})],
)  # fmt: skip
def test_a_broken_stream_tells_what_it_showed(text, partial, expected):
    """And that is the beginning of the right answer."""
    case = cell("cut, in text", "all", "astream")
    assert verdict(case, text, error=StreamBrokenError("x", None, partial)) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [(RESORT, set()), ("", {About.TEXT}), (RIGHT, {About.TEXT})]
)
def test_only_the_last_resort_answers_where_all_fail(text, expected):
    """Anything else is made up."""
    assert verdict(cell(place="resort"), text) == expected


def test_what_takes_too_long_is_found():
    """It is told from what merely takes its time."""
    most = bound(cell())
    assert verdict(cell(), RIGHT, seconds=most) == set()
    assert verdict(cell(), RIGHT, seconds=most + 0.01) == {About.TIME}


@pytest.mark.parametrize(
    ("place", "counts", "expected"),
    [
        ("first", (1, 1), set()),
        ("first", (2, 1), {About.ATTEMPTS}),
        ("first", (1, 2), {About.ATTEMPTS}),
        ("last", (1, 0), set()),
        ("last", (1, 1), {About.ATTEMPTS}),
        ("first", (0, 1), {About.ATTEMPTS, About.UNPLAYED}),
        ("hedged", (1, 0), {About.ATTEMPTS, About.UNPLAYED}),
    ],
)
def test_a_request_too_many_or_too_few_is_found(place, counts, expected):
    """As the server saw them."""
    assert verdict(cell(place=place), RIGHT, *counts) == expected


def test_a_request_that_the_receipt_hides_is_found():
    """What was sent stands in it."""
    receipt = {"attempts": [{"target": "openai:bad-1", "fault": "server"}]}
    message = AIMessage(RIGHT, response_metadata={"resilience": receipt})
    assert verdict(cell(), RIGHT, messages=[message]) == {About.ATTEMPTS}


def test_a_fault_that_is_taken_for_another_is_found():
    """By the receipt."""
    attempts = [{"target": "openai:bad-1", "fault": "quota"}, {"target": "together:good-1"}]
    message = AIMessage(RIGHT, response_metadata={"resilience": {"attempts": attempts}})
    assert verdict(cell(), RIGHT, messages=[message]) == {About.CAUSE}


def test_a_deadline_does_not_excuse_a_last_resort():
    """Elsewhere a busy machine may have let it pass."""
    late = Got(RIGHT, "", error=DeadlineExceededError("x"))
    excused = []
    for target in ("first", "resort"):
        result = Result(cell(place=target), [late], requests(cell(place=target), 1, 1))
        judge(result)
        excused.append(result.noisy)
    assert excused == [True, False]


@pytest.mark.parametrize(
    ("row", "way", "counts", "excused"),
    [("500", "ainvoke", (1, 1), False),
     ("429, retry-after 300", "abatch", (3, 3), False),
     ("429, retry-after 300", "abatch", (2, 2), True)],
)  # fmt: skip
def test_a_busy_machine_does_not_excuse_a_call_that_hung(row, way, counts, excused):
    """Unless it was never sent: a batch call that comes when others were refused has to wait."""
    case = cell(row, "all", way)
    hung = Got(RIGHT, "", error=TimeoutError(), seconds=6.2)
    result = Result(case, [hung], requests(case, *counts))
    judge(result)
    assert About.TIME in {problem.about for problem in result.problems}
    assert result.noisy == excused


async def test_a_thread_and_a_file_that_are_left_are_found(tmp_path):
    """By their names and kinds."""
    before, go = stock(), threading.Event()
    left = threading.Thread(target=go.wait, name="left behind")
    left.start()
    with (tmp_path / "left").open("w", encoding="utf-8"):
        growth = grown(before, stock())
    go.set()
    left.join()
    assert set(growth) == {"1 more: thread left behind", f"1 more: {tmp_path / 'left'}"}


async def test_a_connection_that_is_kept_busy_is_found(monkeypatch):
    """In the pool of the client that was used."""
    monkeypatch.setattr("verification.kit.leftovers.SETTLE", 0.0)
    async with stand() as made:
        spec = made.name("openai", "slow", 1, [Reply(first_text=60.0)])
        model = made.model(spec)
        asked = asyncio.get_running_loop().create_task(model.ainvoke("Hello"))
        await made.sim.await_requests(1)
        left = await made.behind(1, model, [])
        asked.cancel()
        await asyncio.wait([asked])
        await made.census.close(made.sim)
    assert [one.partition(" [")[0] for one in left] == ["a pool holds"]


def test_a_verdict_names_the_command_that_replays_it():
    """It chooses that cell alone."""
    words = shlex.split(cell("cut, in text").replay())[3:]
    options = command._parser().parse_args(words)
    assert [str(one) for one in every_cell() if command._chosen(one, options)] == [
        str(cell("cut, in text"))
    ]


def test_processes_share_the_cells(monkeypatch):
    """Their verdicts come back in the order of the cells."""
    numbers = [
        number for number, case in enumerate(every_cell()) if case.row.name == "nothing wrong"
    ][:4]
    outcome = run_in(1, numbers, 2)
    assert [str(v) for v in outcome.verdicts] == [str(every_cell()[n]) for n in numbers]
    assert outcome.good

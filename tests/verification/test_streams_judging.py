"""The tables' own judgement: what they would say of answers that are not whole, and of leaks."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.messages import AIMessage

from langchain_resilient.testing import Cut, ProviderSimulator, RecordedRequest, Reply, answer_to
from langchain_resilient.testing.answer_generator import prompt_tokens
from langchain_resilient.testing.answers import tokens
from verification.kit.leftovers import Census
from verification.kit.scripted_targets import Bench
from verification.kit.ways import Got
from verification.streams.failover import wrong_accounts
from verification.streams.fault_table import Cell, Mark, happened, judge
from verification.streams.faults import Fault

RIGHT = answer_to("Hello")


def seen(target: str = "openai:m", text: str = RIGHT, **fields: object) -> RecordedRequest:
    dialect, _, model = target.partition(":")
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    made = RecordedRequest(dialect, model, stream=True, body=body, headers={}, key="", at=0.0)
    made.pieces = tokens(text)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("text", "error", "sent", "mark"),
    [
        (RIGHT, None, [RIGHT], Mark.WHOLE),
        (RIGHT, None, [RIGHT[:50], RIGHT[50:]], Mark.CONTINUED),
        (RIGHT[:50] + RIGHT[45:], None, [RIGHT], Mark.WRONG),
        (RIGHT[:-1], None, [RIGHT], Mark.WRONG),
        (RIGHT[:50], OSError(), [RIGHT[:50]], Mark.PARTIAL),
        ("", OSError(), [], Mark.ERROR),
    ],
)
def test_an_answer_is_held_against_the_right_one(text, error, sent, mark):
    """To the letter: doubled or missing words are wrong."""
    got = Got(RIGHT, text, error=error)
    assert judge(got, [seen(text=piece) for piece in sent]) is mark


BEFORE_TEXT = Cell(Fault("cut", Cut(0)), "ainvoke", "openai")


@pytest.mark.parametrize(
    ("first", "second_at", "did"),
    [
        ([], 1.0, False),
        ([seen(text="", step="Cut", ended_at=0.5)], 1.0, True),
        ([seen(text="", step="Cut", ended_at=0.5)], 0.4, False),
        ([seen(text="Answer", step="Cut", ended_at=0.5)], 1.0, False),
        ([seen(text="", step="Reply", ended_at=0.5)], 1.0, False),
    ],
    ids=["never asked", "it did", "hedged before", "it spoke", "played something else"],
)
def test_a_fault_that_did_not_happen_is_no_success(first, second_at, did):
    """The server must have seen the request fail, in its way, before anybody else was asked."""
    got = Got(RIGHT, RIGHT)
    assert happened(BEFORE_TEXT, got, first, [seen("together:n", at=second_at)]) is did


def test_a_hedge_that_won_before_the_break_is_no_success():
    """The receipt says that the first target's text never came."""
    cell = Cell(Fault("cut", Cut(5), says=5), "ainvoke", "openai")
    receipt = {"attempts": [{"target": "openai:m"}, {"target": "together:n", "first_text": 0.4}]}
    got = Got(RIGHT, RIGHT, [AIMessage(RIGHT, response_metadata={"resilience": receipt})])
    assert not happened(cell, got, [seen(step="Cut")], [seen("together:n")])


@pytest.mark.parametrize("times", [1, 2])
def test_usage_that_is_counted_twice_is_found(times):
    """And usage that is counted once is right."""
    read, written = prompt_tokens(seen().body), len(tokens(RIGHT))
    usage = {"input_tokens": read * times, "output_tokens": written * times}
    message = AIMessage(
        RIGHT,
        usage_metadata={**usage, "total_tokens": (read + written) * times},
        response_metadata={"model_name": "m"},
    )
    mistakes = wrong_accounts(Got(RIGHT, RIGHT, [message]), seen())
    assert bool(mistakes) is (times == 2)


async def test_a_task_that_is_left_is_found(monkeypatch):
    """It is known by the number of the call that made it."""
    monkeypatch.setattr("verification.kit.leftovers.SETTLE", 0.0)
    kept: list[asyncio.Task[None]] = []

    async def leak() -> None:
        kept.append(asyncio.get_running_loop().create_task(asyncio.sleep(60)))

    with Census() as census:
        await census.run(7, leak())
        assert [len(await census.left(number)) for number in (7, 8)] == [1, 0]
    kept[0].cancel()


async def test_a_request_that_is_left_open_is_found(monkeypatch):
    """By the name of its target."""
    monkeypatch.setattr("verification.kit.leftovers.SETTLE", 0.0)
    with ProviderSimulator() as sim, Census() as census:
        made = Bench(sim, census)
        spec = made.name("openai", "slow", 1, [Reply(first_text=60.0)])
        asked = asyncio.get_running_loop().create_task(made.model(spec).ainvoke("Hello"))
        await sim.await_requests(1)
        assert await made.left(1, [spec]) == ["request left open: openai:slow-1 Reply"]
        asked.cancel()
        await asyncio.wait([asked])
        await census.close(sim)

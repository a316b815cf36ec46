"""Who answers a batch: the first target while its allowance lasts, then others, and that is said.

In virtual time, over both SDKs and the simulator's HTTP, with both providers' ways of telling
limits: OpenAI's headers, and Together's, which says nothing until it refuses.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from langchain_resilient import BatchReport, ResilientChatModel, ResilientError, Target
from langchain_resilient.batch.progress import progress_line
from langchain_resilient.providers import connection
from langchain_resilient.testing import ProviderSimulator, Reply, Status, Uniform
from verification.kit.virtual_time import VirtualLoop, run_virtual

A, B = "openai:a", "together:b"


@dataclass
class Played:
    """What became of a batch."""

    seconds: float
    winners: Counter[str]
    refused: int
    report: BatchReport
    line: str


def play(
    prompts: int,
    at_once: int,
    *,
    first: str = A,
    limit: float | None = 500,
    fields: dict[str, Any] | None = None,
    steps: tuple[Status, ...] = (),
    window: str = "minute",
    **model: Any,
) -> Played:
    """Answer a batch by a first target and another, which has no limit."""

    async def main(loop: VirtualLoop) -> Played:
        async with ProviderSimulator(0, wall_clock=loop.calendar) as sim:
            reply = Reply(words=20, first_text=Uniform(0.5, 1.5))
            sim.script(first, *steps, then=reply)
            sim.script(B, then=reply)
            if limit is not None:
                sim.limit(first, requests_per_minute=limit, window=window)
            url = sim.base_url(first.partition(":")[0])
            other = {"base_url": sim.base_url("together"), "group": model.pop("of", "")}
            targets = [
                Target(first, base_url=url, api_key="k", **(fields or {})),
                Target(B, api_key="k", **other),
            ]
            llm = ResilientChatModel(targets=targets, timeout=600, **model)
            seen: list[Any] = []
            began = loop.time()
            answers = await llm.abatch(
                [f"question {n}" for n in range(prompts)],
                {"max_concurrency": at_once},
                progress=seen.append,
            )
            seconds = loop.time() - began
            await connection.close_clients()
            winners = Counter(m.response_metadata["resilience"]["winner"] for m in answers)
            refused = sim.count(first, status=429)
        return Played(seconds, winners, refused, llm.batch_report(), progress_line(seen[-1]))

    return run_virtual(main, seed=0)


@pytest.mark.parametrize(
    ("first", "limit", "prompts", "at_once", "spread"),
    [
        (A, 500, 300, 64, True),
        (A, 500, 300, 8, True),
        (A, 500, 20, 20, True),
        (A, None, 20, 64, True),
        ("together:a", 500, 300, 64, True),
        ("together:a", 500, 20, 20, False),
        ("together:a", None, 20, 64, True),
    ],
)
def test_a_known_unused_allowance_is_spent_first_as_a_burst(first, limit, prompts, at_once, spread):
    """All by the first target, hardly slower than the answers themselves are."""
    played = play(prompts, at_once, first=first, limit=limit, spread=spread)
    assert played.winners == {first: prompts}
    assert played.refused == 0
    assert played.seconds < 1.3 * prompts / at_once + 2.0
    assert played.report.elsewhere == {}
    assert "elsewhere" not in played.line


@pytest.mark.parametrize(("first", "spread"), [(A, True), ("together:a", True), (A, False)])
def test_a_stated_allowance_is_not_used_up_because_it_comes_evenly(first, spread):
    """A burst only where headers show room; without, five hundred a minute are eight a second."""
    fields = {"requests_per_minute": 500}
    played = play(100, 64, first=first, fields=fields, spread=spread)
    assert played.winners == {first: 100}
    assert played.seconds < (5 if first == A else 1.05 * 12 + 2)


def test_headers_that_show_room_for_more_than_is_stated_let_it_go_at_once():
    """What the user states is kept in every minute all the same."""
    played = play(120, 64, limit=1000, fields={"requests_per_minute": 100})
    assert played.seconds < 12
    assert 95 <= played.winners[A] <= 100
    assert played.report.elsewhere == {"rate limit": played.winners[B]}


def test_what_is_used_up_goes_on_and_report_bar_and_log_say_so(caplog):
    """Of 120 prompts 60 may go to the first in this minute, and a few more as it fills up."""
    caplog.set_level(logging.INFO, "langchain_resilient")
    played = play(120, 64, limit=60)
    there = played.winners[B]
    assert 55 <= played.winners[A] <= 75
    assert there == 120 - played.winners[A]
    assert played.report.elsewhere == {"rate limit": there}
    assert played.report.as_dict()["elsewhere"] == {"rate limit": there}
    said = f"{there} elsewhere (rate limit {there})"
    assert said in str(played.report)
    assert said in played.line
    assert (
        f"{there} of 120 answers of a batch are from elsewhere (rate limit {there})" in caplog.text
    )


def test_without_spread_nothing_goes_on_and_it_takes_what_the_limit_takes():
    """Sixty at once, then one a second."""
    played = play(90, 64, limit=60, spread=False)
    assert played.winners == {A: 90}
    assert played.seconds <= 1.05 * 30 + 3


@pytest.mark.parametrize(
    ("prompts", "limit", "window", "seconds"),
    [(90, 60, "minute", 30), (60, 300, "second", 12), (12, 6, "minute", 60)],
)
def test_without_spread_a_limit_that_nobody_tells_costs_no_more_than_it_must(
    prompts, limit, window, seconds
):
    """What is refused (429) waits for its turn at the first target; few are."""
    played = play(prompts, 64, first="together:a", limit=limit, window=window, spread=False)
    assert played.winners == {"together:a": prompts}
    assert played.report.elsewhere == {}
    assert played.refused <= 5
    assert played.seconds <= 1.1 * seconds + 3


@pytest.mark.parametrize("first", [A, "together:a"])
def test_a_limit_by_the_second_is_used_up_for_a_moment_only(first):
    """Eight at once and eight a second, told or not: twenty stay, or nearly all."""
    played = play(20, 20, first=first, window="second")
    assert played.winners[first] >= 18
    assert played.refused <= 2
    assert sum(played.report.elsewhere.values()) == played.winners[B]


def test_what_is_refused_and_goes_on_is_counted_as_the_limits():
    """Six are let in; the others are not kept waiting for ten seconds each."""
    played = play(30, 64, first="together:a", limit=6)
    assert played.winners == {"together:a": 6, B: 24}
    assert played.report.elsewhere == {"rate limit": 24}
    assert played.refused <= 4


@pytest.mark.parametrize("how", ["balanced", "group"])
def test_targets_that_are_equal_share_the_work(how):
    """The user said that the other is as good: then nobody waits for the first."""
    equal = {"order": "balanced"} if how == "balanced" else {"of": "g"}
    fields = {"group": "g"} if how == "group" else {}
    played = play(60, 64, window="second", fields=fields, **equal)
    assert played.winners[B] > 20


def test_a_target_that_has_no_room_and_one_that_fails_are_told_apart():
    """Each reason for itself."""
    full = play(40, 8, limit=None, fields={"max_concurrency": 2})
    assert full.report.elsewhere.keys() == {"max_concurrency"}
    assert full.report.elsewhere["max_concurrency"] == full.winners[B] > 10
    failing = play(8, 1, limit=None, steps=(Status(500), Status(500)), health=None)
    assert failing.winners[A] == 6
    assert failing.report.elsewhere == {"failed: server": 2}
    assert failing.report.elsewhere == Counter({"failed: server": failing.winners[B]})


def test_a_receipt_says_why_another_target_answered():
    """So does its line in the log."""
    sim = ProviderSimulator()
    with sim:
        sim.script(A, then=Status(500))
        llm = ResilientChatModel(
            targets=[
                Target(A, base_url=sim.base_url("openai"), api_key="k"),
                Target(B, base_url=sim.base_url("together"), api_key="k"),
            ]
        )
        seen = []
        llm.observers = [type("See", (), {"on_receipt": lambda _, r, **__: seen.append(r)})()]
        answer = llm.invoke("hello")
        llm.close()
    assert answer.response_metadata["resilience"]["elsewhere"] == "failed: server"
    assert seen[0].elsewhere == "failed: server"
    assert "not the first target: failed: server" in str(seen[0])


@pytest.mark.parametrize("refusal", [Status(429), Status(429, retry_after=1)])
@pytest.mark.parametrize("first", [A, "together:a"])
def test_who_only_refuses_is_waited_for_as_long_as_the_timeout_and_forgiven_later(first, refusal):
    """Nothing but refusals end a batch; an hour after, they count for nothing."""

    async def main(loop: VirtualLoop) -> None:
        async with ProviderSimulator(0, wall_clock=loop.calendar) as sim:
            url = sim.base_url(first.partition(":")[0])
            llm = ResilientChatModel(
                targets=[Target(first, base_url=url, api_key="k")], timeout=20, share_learning=False
            )
            prompts = [f"question {n}" for n in range(30)]
            sim.script(first, then=refusal)
            began = loop.time()
            answers = await llm.abatch(prompts, return_exceptions=True)
            assert all(isinstance(answer, ResilientError) for answer in answers)
            assert 15 < loop.time() - began < 30
            await asyncio.sleep(3600)
            sim.script(first, then=Reply())
            answers = await llm.abatch(prompts, return_exceptions=True)
            assert [answer for answer in answers if isinstance(answer, Exception)] == []
            await connection.close_clients()

    run_virtual(main, seed=0)

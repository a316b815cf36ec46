"""Spend caps under many calls at once: what answers under way may cost is reserved."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tenacity import wait_fixed

from langchain_resilient import Hedge, ResilientChatModel, Retry, SpendCap, SpendCapError, Target
from langchain_resilient.options import as_target
from langchain_resilient.runtime.spending import (
    UNKNOWN_LENGTH,
    AnswerLength,
    Ledger,
    Standing,
    ledger_of,
    reset_ledgers,
)
from langchain_resilient.testing import Cut, ProviderSimulator, Reply, Status
from verification.kit.scripted_targets import target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_core.messages import AIMessage

WORDS = "one two three four five six seven eight nine ten"
SLOW = Reply(WORDS, latency=0.02)
PRICE = (1.0, 100_000.0)  # dollars per million: an answer costs a dollar or so, a prompt nothing
DOLLAR = 0.1  # a token


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_money_was_spent() -> Iterator[None]:
    reset_ledgers()
    yield
    reset_ledgers()


def one(sim: ProviderSimulator, spec: str = "openai:one", **fields: Any) -> Target:
    return target(sim, spec, price=PRICE, **fields)


def model(*targets: Any, **fields: Any) -> ResilientChatModel:
    fields = {"hedge": None, "share_learning": False, "timeout": 8.0, **fields}
    return ResilientChatModel(targets=targets, **fields)


async def ask_all(llm: ResilientChatModel, calls: int) -> list[AIMessage | BaseException]:
    return await asyncio.gather(
        *(llm.ainvoke(f"{n}") for n in range(calls)), return_exceptions=True
    )


def dollars(results: list[Any]) -> float:
    answers = [r for r in results if not isinstance(r, BaseException)]
    return sum(DOLLAR * answer.usage_metadata["output_tokens"] for answer in answers)


# -- the rule ---------------------------------------------------------------------------------


def test_what_is_reserved_is_not_left():
    """Room for one more of three dollars, none for two."""
    ledger = Ledger(SpendCap(10))
    ledger.reserve("a", 6)
    assert ledger.standing("a", 0, 4, 0.0) is Standing.OPEN
    assert ledger.standing("a", 0, 4.5, 0.0) is Standing.RESERVED
    ledger.release("a", 6)
    assert ledger.standing("a", 0, 4.5, 0.0) is Standing.OPEN


def test_the_last_answer_of_each_target_is_let_through_alone():
    """Whatever it may cost."""
    ledger = Ledger(SpendCap(10))
    ledger.add(9.99, 0.0)
    assert ledger.standing("a", 0, 50, 0.0) is Standing.OPEN
    ledger.reserve("a", 50)
    assert ledger.standing("a", 0, 50, 0.0) is Standing.RESERVED
    assert ledger.standing("b", 0, 50, 0.0) is Standing.OPEN


def test_what_is_spent_is_not_waited_for():
    """No settlement brings it back; what an ended attempt cost counts as spent."""
    ledger = Ledger(SpendCap(10))
    ledger.reserve(None, 10)
    assert ledger.standing("a", 0, 1, 0.0) is Standing.SPENT
    ledger.release(None, 10)
    ledger.add(10, 0.0)
    assert ledger.standing("a", 0, 1, 0.0) is Standing.SPENT


def test_what_cannot_even_pay_for_the_prompt_is_spent():
    """As without any reservation."""
    ledger = Ledger(SpendCap(10))
    assert ledger.standing("a", 11, 12, 0.0) is Standing.SPENT


def test_releasing_wakes_who_waits_and_leaves_no_crumbs():
    """Unless it is taken again at once."""
    ledger, woken = Ledger(SpendCap(1)), []
    ledger.wait(wake := lambda: woken.append(1))
    for dollars_ in (0.1, 0.2, 0.3):
        ledger.reserve("a", dollars_)
    for dollars_ in (0.3, 0.1):
        ledger.release("a", dollars_)
    ledger.release("a", 0.2, quietly=True)
    assert (len(woken), ledger._reserved) == (2, 0.0)
    ledger.forget(wake)
    ledger.reserve("a", 1)
    ledger.release("a", 1)
    assert len(woken) == 2


def test_an_answer_is_as_long_as_the_longest_lately():
    """At once longer, slowly shorter; a target that is not known may say a lot."""
    length = AnswerLength()
    assert length.longest == UNKNOWN_LENGTH
    length.saw(100)
    assert length.longest == 100
    length.saw(300)
    assert length.longest == 300
    for _ in range(500):
        length.saw(100)
    assert 100 <= length.longest < 110


# -- many calls at once -----------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 10])
@pytest.mark.parametrize("calls", [2, 64])
async def test_a_cap_is_exceeded_by_one_answer_at_most(
    sim: ProviderSimulator, calls: int, limit: int | None
):
    """Two answers are paid for; whatever the concurrency, no third begins."""
    sim.script("openai:one", then=SLOW)
    llm = model(one(sim), spend_cap=1.5, max_tokens=limit)
    results = await ask_all(llm, calls)
    assert sim.count() == 2
    assert 1.5 <= dollars(results) <= 2.5
    assert all(isinstance(r, SpendCapError) for r in results if isinstance(r, Exception))


async def test_what_was_reserved_too_much_is_spent_all_the_same(sim: ProviderSimulator):
    """`max_tokens` allows 500, the answers have ten: the cap pays for five, not for one."""
    sim.script("openai:one", then=SLOW)
    results = await ask_all(model(one(sim), spend_cap=4.5, max_tokens=500), 32)
    assert sim.count() == 5
    assert dollars(results) <= 5.5


async def test_a_cap_with_room_holds_nobody_up(sim: ProviderSimulator):
    """All are under way at once."""
    sim.script("openai:one", then=Reply(WORDS, latency=0.2))
    llm = model(one(sim, max_tokens=20), spend_cap=1000)
    began = asyncio.get_running_loop().time()
    await ask_all(llm, 32)
    assert asyncio.get_running_loop().time() - began < 2.0
    assert sim.count() == 32


async def test_a_batch_waits_for_the_first_target_rather_than_ask_the_next(
    sim: ProviderSimulator,
):
    """The next one answers once the money of the first is spent, not while it is reserved."""
    sim.script("openai:one", then=SLOW)
    llm = model(one(sim, spend_cap=2.5), "text:spent")
    answers = await llm.abatch([f"{n}" for n in range(16)])
    assert [answer.text for answer in answers].count(WORDS) == 3


@pytest.mark.parametrize("calls", [8, 64])
async def test_hedges_are_reserved_too(sim: ProviderSimulator, calls: int):
    """One answer of each target is the most that a cap is exceeded by."""
    for name in ("openai:one", "together:two"):
        sim.script(name, then=Reply(WORDS, latency=0.15, chunk_gap=0.01))
    llm = model(
        one(sim), one(sim, "together:two"), spend_cap=2.5, max_tokens=10, hedge=Hedge(delay=0.05)
    )
    await ask_all(llm, calls)
    assert llm.stats().spent <= 2.5 + 2 * 1.0


async def test_a_fallback_is_reserved_where_the_first_fails(sim: ProviderSimulator):
    """Sixteen fall at once on a target that may answer twice."""
    sim.script("openai:one", then=Status(500))
    sim.script("together:two", then=SLOW)
    llm = model(one(sim), one(sim, "together:two", spend_cap=1.5, max_tokens=10), max_retries=0)
    results = await ask_all(llm, 16)
    assert sim.count("together:two") == 2
    assert dollars(results) <= 2.5


async def test_a_retry_finds_its_money_again(sim: ProviderSimulator):
    """Others wait for it all the while."""
    sim.script("openai:one", Status(500), then=SLOW)
    llm = model(one(sim), spend_cap=0.5, retry=Retry(wait=wait_fixed(0.05)))
    results = await ask_all(llm, 4)
    assert [isinstance(r, Exception) for r in results] == [False, True, True, True]


@pytest.mark.parametrize("way", ["cancelled", "closed", "failed", "broken"])
async def test_nothing_stays_reserved(sim: ProviderSimulator, way: str):
    """However a call ends."""
    steps = {"failed": Status(400), "broken": Cut(3, reply=Reply(WORDS, chunk_gap=0.01))}
    sim.script("openai:one", then=steps.get(way, Reply(WORDS, latency=0.02, chunk_gap=0.05)))
    llm = model(one(sim), spend_cap=SpendCap(100, name=way), max_retries=0, timeout=2.0)
    if way == "cancelled":
        task = asyncio.create_task(llm.ainvoke("hello"))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    elif way == "closed":
        stream = llm.astream("hello")
        await anext(stream)
        await stream.aclose()
    else:
        with pytest.raises(Exception):  # noqa: B017, PT011  # which one is not the question
            [chunk async for chunk in llm.astream("hello")]
    ledger = ledger_of(SpendCap(100, name=way), "anybody")
    assert (ledger._reserved, ledger._pending, ledger._holders) == (0.0, 0.0, {})


async def test_a_call_inside_a_call_does_not_wait_for_it(sim: ProviderSimulator):
    """A `check` that asks the same model would wait for itself."""
    sim.script("openai:one", then=SLOW)
    cap = SpendCap(1.5, name="shared")
    inner = model(one(sim), spend_cap=cap)

    async def check(message: AIMessage) -> bool:
        return bool((await inner.ainvoke(f"Is this right? {message.text}")).text)

    answer = await model(one(sim), spend_cap=cap, check=check, timeout=3.0).ainvoke("hello")
    assert answer.text == WORDS
    assert sim.count() == 2


async def test_who_waits_in_vain_is_told_why(sim: ProviderSimulator):
    """The money is reserved, not spent."""
    sim.script("openai:one", then=Reply(WORDS, latency=0.6))
    llm = model(one(sim), spend_cap=0.5)
    first = asyncio.create_task(llm.ainvoke("hello"))
    await asyncio.sleep(0.05)
    with pytest.raises(SpendCapError, match="reserved for answers under way"):
        await llm.ainvoke("hello", timeout=0.1)
    assert (await first).text == WORDS


def test_free_targets_reserve_nothing(sim: ProviderSimulator):
    """And wait for nobody."""
    free = as_target("text:free")
    llm = model(free, one(sim), spend_cap=0.000001)
    assert {llm.invoke("hello").text for _ in range(3)} == {"free"}

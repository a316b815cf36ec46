"""Learned delays, budgets, rescue, probes, recovery: over scripted targets, in virtual time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest

from langchain_resilient import AttemptKind, Fault, FaultKind, Health, Hedge, Outcome, Receipt
from langchain_resilient.engine import planner
from langchain_resilient.engine.target_state import Account, TargetState
from verification.kit.scripted_engine import Fail, Hang, Say, Step, World, world
from verification.kit.virtual_time import virtual_time

LEARNED = Hedge()
FIXED = Hedge(delay=1.0)


async def ask(w: World) -> Receipt:
    """One request, to its end."""
    race = w.race()
    await race.answer()
    return race.receipt()


async def traffic(w: World, count: int, *, gap: float = 0.1) -> list[Receipt]:
    """Requests that come one after another, whatever becomes of the earlier ones."""
    tasks = []
    for _ in range(count):
        tasks.append(asyncio.ensure_future(ask(w)))
        await asyncio.sleep(gap)
    return list(await asyncio.gather(*tasks))


def kinds(receipts: list[Receipt]) -> Counter[str]:
    """How often something was sent, by why."""
    return Counter(a.kind for r in receipts for a in r.attempts)


def first_targets(receipts: list[Receipt]) -> list[str]:
    """Who was asked first, in each request."""
    return [r.attempts[0].target for r in receipts]


def behave(w: World, name: str, *steps: Step) -> None:
    """From now on a target does this."""
    script = w.targets[name]
    script.steps = [*[Hang()] * len(script.sent), *steps]


# -- the delay ------------------------------------------------------------------------------------


@virtual_time
async def test_the_delay_is_cold_until_thirty_samples_are_there():
    """Then it is the percentile of that target's own first texts."""
    w = world(Say(after=0.4), Say(after=0.1), hedge=LEARNED)
    behave(w, "p0:m", *[Say(after=0.4)] * 25, Hang(), *[Say(after=0.4)] * 15, Hang())
    await traffic(w, 25)
    cold = await ask(w)
    assert cold.attempts[1].started == pytest.approx(LEARNED.cold)
    await traffic(w, 15)
    await asyncio.sleep(1.1)
    warm = await ask(w)
    assert warm.attempts[1].kind is AttemptKind.HEDGE
    assert warm.attempts[1].started == pytest.approx(0.4, rel=0.03)


@virtual_time
async def test_a_number_is_a_fixed_delay_whatever_was_learned():
    """`Hedge(delay=1.0)` stays at a second."""
    w = world(Say(after=0.1), Say(), hedge=FIXED)
    await traffic(w, 40)
    behave(w, "p0:m", Hang())
    assert (await ask(w)).attempts[1].started == pytest.approx(1.0)


@virtual_time
async def test_a_loser_counts_as_slower_than_it_was_let_be():
    """Requests that were closed early push the percentile up, not down."""
    w = world(Say(after=5.0), Say(after=0.1), hedge=Hedge(delay=0.5, budget=1.0), health=None)
    await traffic(w, 40)
    seen = w.states["p0:m"].speed.first_texts.residuals
    assert seen.count >= 30
    assert seen.quantile(0.5) is None


# -- budgets --------------------------------------------------------------------------------------


@virtual_time
async def test_who_finds_no_token_waits_and_the_oldest_gets_the_next():
    """Not the one that happens to be late when it comes."""
    hedge = Hedge(delay=1.0, budget=0.5, burst=1)
    w = world(Hang(), Say(after=0.01), hedge=hedge, health=None)
    receipts = await traffic(w, 6, gap=0.5)
    started = [r.attempts[1].started for r in receipts[:2]]
    # Half a token is there and each request pays half: one hedge for two of them, oldest first.
    assert started[0] < 1.1
    assert receipts[1].attempts[1].started + 0.5 < receipts[2].attempts[1].started + 1.0
    hedged = [0.5 * i + r.attempts[1].started for i, r in enumerate(receipts)]
    assert hedged == sorted(hedged)


@virtual_time
async def test_no_hedge_goes_to_a_target_that_says_it_has_too_much():
    """For five seconds after a 429 or 503; then again."""
    w = world(Hang(), [Fail(FaultKind.RATE_LIMIT), Say()], hedge=FIXED, health=None)
    w.states["p1:m"].record_failure(
        Fault(FaultKind.RATE_LIMIT, "too fast"), now(), w.dependencies.rng, 0, 0
    )
    receipt = await ask(w)
    assert receipt.attempts[1].started == pytest.approx(5.0)


@virtual_time
async def test_a_ceiling_on_cost_stops_hedges_and_unknown_prices_do_too():
    """What cannot be afforded is not sent."""
    for cost, sends in ((0.01, 2), (0.03, 1), (None, 1)):
        hedge = Hedge(delay=1.0, max_extra_cost=0.02)
        w = world(Say(after=3.0), Say(), hedge=hedge, cost=lambda _, cost=cost: cost)
        await ask(w)
        assert w.sends() == sends


# -- health ---------------------------------------------------------------------------------------


async def learned(w: World) -> None:
    """Let the first target become known as one that answers in 0.2 s."""
    behave(w, "p0:m", Say(after=0.2))
    await traffic(w, 60)
    await asyncio.sleep(6)


@virtual_time
async def test_those_caught_on_a_target_that_fell_silent_are_rescued():
    """With far more of them than there are tokens for hedges; nobody waits for a limit."""
    w = world(Say(), Say(after=0.2), Say(after=0.2), hedge=Hedge(burst=2))
    await learned(w)
    behave(w, "p0:m", Hang())
    receipts = await traffic(w, 30, gap=0.02)
    assert kinds(receipts)[AttemptKind.RESCUE] >= 10
    assert max(r.seconds for r in receipts) < 2.0


@virtual_time
async def test_rescues_are_bounded_by_their_budget():
    """Two saved up, none earned: two rescues, and the others wait for what is left to them."""
    w = world(Say(), Say(after=0.2), hedge=Hedge(burst=1), health=Health(rescue=0, rescue_burst=4))
    w.plan.budgets.rescue.tokens = 2.0
    await learned(w)
    behave(w, "p0:m", Hang())
    receipts = await traffic(w, 30, gap=0.02)
    assert kinds(receipts)[AttemptKind.RESCUE] <= 2


@virtual_time
async def test_nobody_is_rescued_from_a_target_that_is_only_slow(monkeypatch):
    """It still answers, and asking elsewhere would only add load, if there is a lot already."""
    monkeypatch.setattr(planner, "MAX_SPARSE", 0)
    w = world(Say(), Say(after=0.2), hedge=Hedge(burst=1))
    await learned(w)
    behave(w, "p0:m", *[Say(after=0.3 + 0.05 * (i % 4)) for i in range(60)])
    receipts = await traffic(w, 40, gap=0.05)
    assert w.states["p0:m"].circuit_breaker.trips == 1
    assert kinds(receipts)[AttemptKind.RESCUE] == 0


@virtual_time
async def test_without_a_token_a_lone_request_is_rescued_from_an_unusual_silence():
    """One user's request must not wait for a token that nobody earns."""
    w = world(Say(), Say(after=0.2), hedge=Hedge(budget=0))
    await learned(w)
    behave(w, "p0:m", *[Hang()] * 6)
    receipts = [await ask(w) for _ in range(6)]
    assert max(r.seconds for r in receipts) < 1.0
    assert first_targets(receipts)[-1] == "p1:m"
    assert kinds(receipts)[AttemptKind.RESCUE] >= 3
    await w.reaper.drain()


@virtual_time
async def test_losers_that_were_silent_trip_their_target():
    """They are closed before they are late: five in a row say as much as five that are."""
    w = world(Hang(), Say(after=0.2), hedge=Hedge(burst=20))
    receipts = [await ask(w) for _ in range(8)]
    assert w.states["p0:m"].circuit_breaker.tripped
    assert first_targets(receipts)[5:] == ["p1:m"] * 3
    await w.reaper.drain()


@virtual_time
async def test_new_requests_go_around_a_target_that_tripped():
    """They ask the next one first, and are not late."""
    w = world(Say(), Say(after=0.2))
    await learned(w)
    behave(w, "p0:m", Hang())
    await traffic(w, 10)
    await asyncio.sleep(0.5)
    receipts = await traffic(w, 10, gap=0.03)
    assert set(first_targets(receipts)) == {"p1:m"}
    assert max(r.seconds for r in receipts) == pytest.approx(0.2)
    await w.reaper.drain()


@virtual_time
async def test_a_shadow_delays_nobody_and_never_wins():
    """It is sent beside an ordinary request, and its answer is thrown away."""
    w = world(Say(), Say("mine", after=0.2))
    await learned(w)
    behave(w, "p0:m", Hang())
    await traffic(w, 10)
    await asyncio.sleep(3)
    behave(w, "p0:m", Say("shadow"))
    receipt = await ask(w)
    assert [a.kind for a in receipt.attempts] == [AttemptKind.PRIMARY, AttemptKind.SHADOW]
    assert (receipt.winner, receipt.seconds) == ("p1:m", pytest.approx(0.2))
    await w.reaper.drain()


@virtual_time
async def test_three_good_probes_bring_a_target_back():
    """Half a second apart; then it is asked first again."""
    w = world(Say(), Say(after=0.2))
    await learned(w)
    behave(w, "p0:m", Hang())
    await traffic(w, 10)
    behave(w, "p0:m", Say(after=0.1))
    receipts = await traffic(w, 100)
    assert first_targets(receipts)[-1] == "p0:m"
    assert 3 <= kinds(receipts)[AttemptKind.SHADOW] <= 5
    await w.reaper.drain()


@virtual_time
async def test_requests_that_hang_are_sent_again_when_their_target_is_back():
    """A network that was down and is back: what was sent into it is lost."""
    w = world(Say(), hedge=Hedge(budget=0))
    await learned(w)
    behave(w, "p0:m", *[Hang()] * 30, Say(after=0.2))
    receipts = await traffic(w, 40, gap=0.05)
    assert all(r.winner for r in receipts)
    assert max(r.seconds for r in receipts) < 2.5
    await w.reaper.drain()


@virtual_time
async def test_if_all_are_out_none_is():
    """Everybody trips: the chain's own order counts again."""
    w = world(Say(), Say(after=0.2))
    await learned(w)
    for state in w.states.values():
        for _ in range(5):
            state.circuit_breaker.record_slow(now(), 5)
    assert first_targets([await ask(w)]) == ["p0:m"]


@virtual_time
async def test_the_only_one_that_is_well_may_be_hedged_with_itself():
    """The others are out, and it is many machines."""
    w = world(Hang(), [Hang(), Say("again")], hedge=FIXED)
    w.states["p1:m"].replicated = True
    for _ in range(5):
        w.states["p0:m"].circuit_breaker.record_slow(now(), 5)
    receipt = await ask(w)
    assert [a.target for a in receipt.attempts] == ["p1:m", "p1:m"]


@virtual_time
async def test_a_sick_target_is_asked_when_the_others_fail():
    """Better a doubtful answer than none."""
    w = world(Say("after all"), Fail(after=0.1))
    for _ in range(5):
        w.states["p0:m"].circuit_breaker.record_slow(now(), 5)
    receipt = await ask(w)
    assert [a.target for a in receipt.attempts] == ["p1:m", "p0:m"]


@virtual_time
async def test_when_all_is_down_few_ask_and_all_are_answered_when_it_is_back():
    """A hundred requests in an outage of twenty seconds send less than their chain is long."""
    w = world(Fail(after=0.01), Fail(after=0.01), Fail(after=0.01))
    tasks = [asyncio.ensure_future(traffic(w, 100, gap=0.15))]
    await asyncio.sleep(20)
    sent = w.sends()
    for name in w.targets:
        behave(w, name, Say(after=0.3))
    receipts = (await asyncio.gather(*tasks))[0]
    assert sent / 100 < 2.5
    assert all(r.winner for r in receipts)
    assert max(0.15 * i + r.seconds for i, r in enumerate(receipts)) < 26
    await w.reaper.drain()


# -- keys, and our own loop -----------------------------------------------------------------------


@virtual_time
async def test_a_limited_key_gives_way_to_the_next_one_at_once():
    """On the same target, before the chain moves on."""
    w = world([Fail(FaultKind.RATE_LIMIT, retry_after=30), Say("second key")], Say("other"))
    w.states["p0:m"] = TargetState("p0:m", "p0", accounts=[Account(), Account()])
    route: Any = w.targets["p0:m"]
    race = w.race()
    race._chain[0].sources = (route, route)
    assert (await race.answer()).text.strip() == "second key"
    assert race.receipt().seconds == pytest.approx(0.0)


async def test_a_loop_that_was_held_up_reads_before_it_judges():
    """An answer that lies unread is not hedged, and nothing is held against its target."""
    w = world(Say("here", after=0.15), Say("hedge"), hedge=Hedge(delay=0.2))
    race = w.race()
    task = asyncio.ensure_future(race.answer())
    await asyncio.sleep(0.05)
    time.sleep(0.4)  # noqa: ASYNC251  # the application holds up its own loop
    assert (await task).text.strip() == "here"
    assert [a.outcome for a in race.receipt().attempts] == [Outcome.WON]


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


@virtual_time
@pytest.mark.parametrize(("doubts", "hedged_at"), [(4, 0.6), (3, 0.64), (1, 0.88), (0, 1.0)])
async def test_a_request_under_way_hears_that_its_target_is_doubted(doubts, hedged_at):
    """It is hedged when one that is sent now would be: at once if that is over."""
    w = world(Hang(), Say(after=0.1), hedge=Hedge(cold=1.0))
    state = w.states["p0:m"]
    request = asyncio.ensure_future(ask(w))
    await asyncio.sleep(0.6)
    for _ in range(doubts):
        state.circuit_breaker.record_slow(0.6, 5)
    for wake in list(state.waiting.values()):
        wake()
    receipt = await request
    assert receipt.attempts[1].started == pytest.approx(hedged_at, abs=0.02)

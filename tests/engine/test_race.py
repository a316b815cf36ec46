"""The race over scripted targets, in virtual time."""

from __future__ import annotations

import asyncio

import pytest
from tenacity import stop_after_attempt, wait_fixed

from langchain_resilient import AttemptKind, Fault, FaultKind, Hedge, Outcome, Retry, TimeLimits
from langchain_resilient.engine.interfaces import CallEnd, Route
from langchain_resilient.engine.stream_buffer import MAX_READ_AHEAD
from langchain_resilient.engine.target_state import TargetState
from verification.kit.scripted_engine import (
    Fail,
    Failure,
    Hang,
    Say,
    Scripted,
    Step,
    World,
    shown,
    world,
)
from verification.kit.virtual_time import virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


@virtual_time
async def test_one_healthy_target_is_asked_once():
    """The happy path is one send."""
    w = world(Say("one"), Say("two"))
    response = await w.race().answer()
    assert response.text.strip() == "one"
    assert w.sends() == 1


@pytest.mark.parametrize(
    "kind", [k for k in FaultKind if k != "no_streaming"], ids=lambda k: k.value
)
def test_a_failure_starts_the_next_target_at_once(kind):
    """Whatever the fault, the fallback is sent at the very moment of the failure."""

    @virtual_time
    async def run():
        w = world(Fail(kind, after=1.0, retry_after=30), Say("ok"))
        race = w.race()
        response = await race.answer()
        assert response.text.strip() == "ok"
        assert w.targets["p1:m"].sent == [w.targets["p0:m"].sent[0] + 1.0]
        assert [a.kind for a in race.receipt().attempts] == [
            AttemptKind.PRIMARY,
            AttemptKind.FALLBACK,
        ]

    run()


@virtual_time
async def test_a_late_first_text_is_hedged_at_another_provider():
    """After the delay the hedge goes to the other provider, though one of the same comes first."""
    w = world(Hang(), Say("same"), Say("other"), names=["a:1", "a:2", "b:1"])
    began = now()
    race = w.race()
    response = await race.answer()
    assert response.text.strip() == "other"
    assert now() - began == pytest.approx(2.0)
    record = race.receipt().attempts
    assert [a.kind for a in record] == [AttemptKind.PRIMARY, AttemptKind.HEDGE]
    assert record[0].outcome is Outcome.LOST


@virtual_time
async def test_a_slow_answer_that_has_begun_is_not_hedged():
    """Only the first text tells a slow target from a long answer."""
    w = world(Say("a b c d e f", gap=1.5), Say("no"))
    assert (await w.race().answer()).text.split() == list("abcdef")
    assert w.sends() == 1


@virtual_time
async def test_the_loser_is_closed_once():
    """The stream of the loser is closed by its own reader."""
    w = world(Say("slow", after=5.0), Say("fast"))
    await w.race().answer()
    await w.reaper.drain()
    assert w.targets["p0:m"].closed == 1


@virtual_time
async def test_an_error_never_wins_and_the_hedge_goes_on():
    """If the primary fails while a hedge is under way the hedge may still win."""
    w = world(Fail(after=3.0), Say("hedge", after=4.0))
    began = now()
    assert (await w.race().answer()).text.strip() == "hedge"
    assert now() - began == pytest.approx(6.0)


@virtual_time
async def test_an_empty_answer_is_a_failure():
    """A success without text asks the next target."""
    w = world(Say(" "), Say("text"))
    race = w.race()
    assert (await race.answer()).text.strip() == "text"
    assert race.receipt().attempts[0].fault.kind is FaultKind.EMPTY


@virtual_time
async def test_empty_everywhere_ends_after_two_tries_each():
    """Empty answers are not asked for until the deadline."""
    w = world(Say(" "), Say(" "))
    race = w.race()
    assert await race.answer() is None
    assert race.end is CallEnd.EXHAUSTED
    assert w.sends() == 4


@virtual_time
async def test_a_stream_without_finish_reason_is_broken():
    """Under `answer` a broken stream is restarted elsewhere and its text is dropped."""
    w = world(Say("half an", finish=False), Say("whole"))
    assert (await w.race().answer()).text.strip() == "whole"


@virtual_time
async def test_it_goes_round_until_the_deadline():
    """With every target failing, the chain is asked again after backoff until time is up."""
    w = world(Fail(), Fail(), deadline=30.0)
    began = now()
    race = w.race()
    assert await race.answer() is None
    assert race.end in (CallEnd.DEADLINE, CallEnd.EXHAUSTED)
    assert now() - began <= 30.0
    assert 6 <= w.sends() <= 60


@virtual_time
async def test_a_target_that_recovers_answers():
    """A target that failed comes back into the order after its backoff."""
    w = world([Fail(), Fail(), Say("back")])
    race = w.race()
    assert (await race.answer()).text.strip() == "back"
    kinds = [a.kind for a in race.receipt().attempts]
    assert kinds == [AttemptKind.PRIMARY, AttemptKind.RETRY, AttemptKind.RETRY]


@virtual_time
async def test_retry_after_is_never_undercut():
    """A 429 is not asked again before its hint, by this request or the next."""
    w = world([Fail(FaultKind.RATE_LIMIT, retry_after=7.0), Say("now")])
    await w.race().answer()
    first, second = w.targets["p0:m"].sent
    assert 7.0 <= second - first <= 7.71


@virtual_time
async def test_a_hint_beyond_the_deadline_ends_at_once():
    """Waiting for what cannot come in time helps nobody."""
    w = world(Fail(FaultKind.RATE_LIMIT, retry_after=300.0))
    began = now()
    race = w.race()
    assert await race.answer() is None
    assert (race.end, now() - began) == (CallEnd.EXHAUSTED, 0.0)


@virtual_time
async def test_a_pushback_is_remembered_by_the_next_request():
    """The next request does not send where it was told not to, and says why when it fails."""
    w = world(Fail(FaultKind.RATE_LIMIT, retry_after=300.0))
    await w.race().answer()
    race = w.race()
    assert await race.answer() is None
    assert w.sends() == 1
    assert "left alone" in race.receipt().skipped[0][1]


@virtual_time
async def test_a_dead_account_is_skipped_by_the_next_request():
    """401 takes every target of the account out for the following requests."""
    w = world(Fail(FaultKind.AUTH), Say("no"), Say("ok"), names=["a:1", "a:2", "b:1"])
    await w.race().answer()
    await w.race().answer()
    assert [len(w.targets[name].sent) for name in ("a:1", "a:2", "b:1")] == [1, 0, 2]


@virtual_time
async def test_a_dead_account_is_asked_if_nobody_else_is_left():
    """Memory never makes a request fail unasked."""
    w = world([Fail(FaultKind.AUTH), Say("mended")])
    assert await w.race().answer() is None
    assert (await w.race().answer()).text.strip() == "mended"


@virtual_time
async def test_a_dead_account_is_asked_if_the_others_fail_in_this_request():
    """Also where memory did not leave nobody at the beginning."""
    w = world(Fail(FaultKind.QUOTA), Say("mended"))
    w.states["p1:m"].keys[0].account.block(now())
    assert (await w.race().answer()).text.strip() == "mended"


@virtual_time
async def test_a_dead_account_is_left_alone_if_there_is_a_last_resort():
    """Then memory is good enough."""
    w = world(Fail(FaultKind.QUOTA), Say("never"))
    w.states["p1:m"].keys[0].account.block(now())
    w.last_resort = Route(TargetState("text", "text"), Scripted([Say("sorry")]))
    assert (await w.race().answer()).text.strip() == "sorry"


@virtual_time
async def test_two_providers_that_agree_on_400_end_the_race():
    """Fatal is fatal: the third target is not asked."""
    bad = Fail(FaultKind.BAD_REQUEST)
    w = world(bad, bad, Say("never"))
    race = w.race()
    assert await race.answer() is None
    assert race.end is CallEnd.REJECTED
    assert w.sends() == 2


@virtual_time
async def test_a_400_of_one_provider_moves_on():
    """One provider's 400 may be its own oddity."""
    w = world(Fail(FaultKind.BAD_REQUEST), Say("fine"))
    assert (await w.race().answer()).text.strip() == "fine"


@virtual_time
async def test_the_deadline_ends_everything():
    """A hanging chain ends at the deadline, not later."""
    w = world(Hang(), Hang(), deadline=10.0)
    began = now()
    race = w.race()
    assert await race.answer() is None
    assert race.end is CallEnd.DEADLINE
    assert now() - began == pytest.approx(10.0)


@virtual_time
async def test_over_the_first_text_limit_another_is_asked_and_the_slow_one_may_still_win():
    """A slow thinker is not killed: it answers at 20 s though its limit was 15 s."""
    w = world(Say("thought", after=20.0), Hang(), hedge=None)
    race = w.race()
    assert (await race.answer()).text.strip() == "thought"
    assert race.receipt().attempts[0].outcome is Outcome.WON
    assert race.receipt().attempts[0].fault is None


@virtual_time
async def test_only_the_first_suspect_is_kept():
    """A black hole does not pile up connections."""
    w = world(Hang(), Hang(), hedge=None, deadline=100.0, time_limits=TimeLimits(first_text=5.0))
    race = w.race()
    most = 0

    async def watch():
        nonlocal most
        while race.end is None:
            most = max(most, sum(a.outcome is None for a in race._planner.attempts))
            await asyncio.sleep(1.0)

    watcher = asyncio.create_task(watch())
    await race.answer()
    await watcher
    assert most == 2


@virtual_time
async def test_a_stall_inside_an_unseen_answer_is_restarted_elsewhere():
    """Under `answer` nothing was delivered yet, so another target starts from the beginning."""
    w = world(Say("one two", then="hang"), Say("whole"), hedge=None)
    began = now()
    assert (await w.race().answer()).text.strip() == "whole"
    assert now() - began == pytest.approx(10.0)


@virtual_time
async def test_a_stalled_answer_that_goes_on_is_believed_again():
    """A pause is no death: the one that resumes first wins."""
    w = world(Say("one two", gap=12.0), Hang())
    assert (await w.race().answer()).text.split() == ["one", "two"]


@virtual_time
async def test_retries_are_tenacitys():
    """The user's own stop and wait decide."""
    w = world(Fail(), retry=Retry(stop=stop_after_attempt(3), wait=wait_fixed(4)))
    race = w.race()
    assert await race.answer() is None
    sent = w.targets["p0:m"].sent
    assert [round(t - sent[0], 6) for t in sent] == [0.0, 4.0, 8.0]


@virtual_time
async def test_on_retry_gets_tenacitys_state():
    """The hook sees the attempt number and the exception."""
    seen = []
    w = world([Fail(), Say("ok")])
    await w.race(on_retry=seen.append).answer()
    assert [s.attempt_number for s in seen] == [1]
    assert isinstance(seen[0].outcome.exception(), Failure)


@virtual_time
async def test_retry_first_asks_the_same_target_once_more():
    """One quick same-target retry goes before the chain."""
    w = world([Fail(), Say("again")], Say("next"))
    w.states["p0:m"].retry_first = True
    assert (await w.race().answer()).text.strip() == "again"
    assert w.targets["p1:m"].sent == []


@virtual_time
async def test_a_target_that_refuses_to_stream_is_asked_plainly():
    """It is asked again at once without streaming, and remembered."""
    w = world([Fail(FaultKind.NO_STREAMING), Say("plain")], Say("next"))
    assert (await w.race().answer()).text.strip() == "plain"
    await w.race().answer()
    assert w.targets["p0:m"].plain == [False, True, True]


@virtual_time
async def test_fallback_on_keeps_other_faults_at_home():
    """A fault that is not in the policy does not reach the next target."""
    w = world(Fail(FaultKind.CONTENT_FILTER), Say("no"), fallback_on={FaultKind.SERVER})
    race = w.race()
    assert await race.answer() is None
    assert w.targets["p1:m"].sent == []


@virtual_time
async def test_validate_asks_the_next_target():
    """A whole answer that the caller refuses is a failure."""
    w = world(Say("bad"), Say("good"))

    def judge(attempt, _change_request):
        bad = "bad" in attempt.response.text
        return Fault(FaultKind.INVALID, "refused") if bad else None

    assert (await w.race(validate=judge).answer()).text.strip() == "good"


@virtual_time
async def test_the_last_resort_answers_when_all_else_failed():
    """It is asked at the end, and the receipt says so."""
    w = world(Fail(FaultKind.AUTH))
    w.last_resort = Route(TargetState("text", "text"), Scripted([Say("sorry")]))
    race = w.race()
    assert (await race.answer()).text.strip() == "sorry"
    assert race.receipt().last_resort


@virtual_time
async def test_the_last_resort_answers_before_the_deadline():
    """With every target hanging it is asked `reserve` seconds before the end."""
    w = world(Hang(), deadline=30.0, reserve=5.0)
    w.last_resort = Route(TargetState("text", "text"), Scripted([Say("sorry")]))
    began = now()
    assert (await w.race().answer()).text.strip() == "sorry"
    assert now() - began == pytest.approx(25.0)


def slow_to_say(text: Step) -> World:
    """A last resort that is there at once, on a loop that is too busy to let it speak."""
    w = world(Hang(), deadline=30.0, reserve=0.05, grace=1.0)
    w.last_resort = Route(TargetState("text", "text"), Scripted([text]))
    return w


@virtual_time
async def test_a_busy_loop_does_not_silence_a_fixed_text():
    """It may be said a little after the deadline: a late text is better than none."""
    assert (await slow_to_say(Say("sorry", after=0.5)).race().answer()).text.strip() == "sorry"


@virtual_time
async def test_a_fixed_text_answers_for_one_that_does_not_end_in_time():
    """It has begun to speak, but nobody saw that: an error would be worse."""
    w = world(Say(" ".join("x" * 100), gap=1.0), deadline=30.0, reserve=0.05, grace=1.0)
    w.last_resort = Route(TargetState("text", "text"), Scripted([Say("sorry")]))
    began = now()
    assert (await w.race().answer()).text.strip() == "sorry"
    assert now() - began == pytest.approx(29.95)


@virtual_time
async def test_an_answer_that_begins_and_breaks_does_not_silence_the_last_resort():
    """It was asked, and the other had only begun: that ends nothing as long as nobody saw it."""
    broken = Say("a b", after=29.97, finish=False)
    limits = {"time_limits": TimeLimits(first_text=None), "hedge": None}
    w = world(broken, deadline=30.0, reserve=0.05, grace=1.0, **limits)
    w.last_resort = Route(TargetState("text", "text"), Scripted([Say("sorry", after=0.3)]))
    assert (await w.race().answer()).text.strip() == "sorry"


@virtual_time
async def test_what_the_last_resort_was_given_is_for_it_alone():
    """If it fails, the deadline is the deadline."""
    race, began = slow_to_say(Fail(FaultKind.INVALID)).race(), now()
    await race.answer()
    assert (race.end, now() - began) == (CallEnd.DEADLINE, 30.0)


@virtual_time
async def test_a_full_target_is_passed_over():
    """While the first is full the next free one is asked at once."""
    w = world(Say("first", after=1.0), Say("second", after=1.0))
    w.states["p0:m"].concurrency.limit = 1
    a, b = await asyncio.gather(w.race().answer(), w.race().answer())
    assert {a.text.strip(), b.text.strip()} == {"first", "second"}


@virtual_time
async def test_with_all_full_it_waits_for_room():
    """Requests beyond the limit queue up and are all answered, in pairs."""
    w = world(Say("x", after=1.0), deadline=100.0, hedge=None)
    w.states["p0:m"].concurrency.limit = 2
    began = now()
    await asyncio.gather(*(w.race().answer() for _ in range(10)))
    assert now() - began == pytest.approx(5.0)
    assert w.states["p0:m"].concurrency.used == 0


@virtual_time
async def test_chunks_of_losers_are_never_delivered():
    """A stream is the winner's alone, with its held-back role chunk first."""
    w = world(Say("slow", after=5.0), Say("fast one"))
    got = [c async for c in shown(w.stream())]
    assert [c.get("word", "").strip() for c in got if c.get("word")] == ["fast", "one"]
    assert got[0] == {"role": "assistant"}


@virtual_time
async def test_the_stream_is_delivered_as_it_comes():
    """The first chunk is there at the first text, not at the end."""
    w = world(Say("a b c", after=1.0, gap=1.0))
    began = now()
    times = [round(now() - began, 3) async for c in shown(w.stream()) if c.get("word")]
    assert times == [1.0, 2.0, 3.0]


@virtual_time
async def test_a_break_after_delivery_ends_the_stream_as_broken():
    """What was delivered cannot be replaced behind the caller's back."""
    w = world(Say("a b", then=Failure(FaultKind.CONNECTION)), Say("other"))
    race = w.stream()
    got = [c["word"] async for c in shown(race) if c.get("word")]
    assert got == ["a ", "b "]
    assert race.end is CallEnd.BROKEN


@virtual_time
async def test_closing_the_stream_early_stops_the_upstream():
    """No task and no open stream stays behind."""
    w = world(Say("a b c d e", gap=1.0))
    chunks = shown(w.stream())
    async for chunk in chunks:
        if chunk.get("word"):
            break
    await chunks.aclose()
    await w.reaper.drain()
    assert w.targets["p0:m"].closed == 1


@virtual_time
async def test_a_slow_reader_holds_the_upstream_within_a_bound():
    """Reading ahead stops at the bound, and the wait is not taken for a stall."""
    w = world(Say(" ".join("x" for _ in range(3 * MAX_READ_AHEAD))))
    race, longest, count = w.stream(), 0, 0
    async for _ in shown(race):
        longest = max(longest, len(race._buffer.queue))
        count += 1
        if count % 100 == 0:
            await asyncio.sleep(4.0)
    assert longest <= MAX_READ_AHEAD
    assert race.end is CallEnd.ANSWERED
    assert count == 3 * MAX_READ_AHEAD + 2


@pytest.mark.parametrize("at", [0.0, 0.5, 2.0, 2.5, 9.0, 16.0, 31.0])
def test_a_cancelled_caller_leaves_nothing_running(at):
    """Cancelling the caller at any moment closes every attempt; twice is as once."""

    @virtual_time
    async def run():
        w = world(Hang(), Say("x", after=30.0, gap=5.0), Fail(after=1.0))
        task = asyncio.create_task(w.race().answer())
        await asyncio.sleep(at)
        task.cancel()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await w.reaper.drain() == 0

    run()


@virtual_time
async def test_hedges_stay_within_their_budget():
    """Of 400 requests to a hanging primary only the burst and 5 % are hedged at the delay."""
    w = world(Say("slow", after=3.0), Say("fast"), hedge=Hedge(delay=1.0, budget=0.05, burst=20))
    races = [w.race() for _ in range(400)]
    await asyncio.gather(*(race.answer() for race in races))
    kinds = [attempt.kind for race in races for attempt in race.receipt().attempts]
    assert 0 < kinds.count(AttemptKind.HEDGE) <= 0.05 * 400 + 20


@virtual_time
async def test_hedge_on_response_asks_plainly_and_the_first_whole_answer_wins():
    """With `on="response"` text alone does not commit."""
    w = world(Say("a b c", gap=3.0), Say("whole", after=1.0), hedge=Hedge(delay=2.0, on="response"))
    assert (await w.race(plain=True).answer()).text.strip() == "whole"


@virtual_time
async def test_a_target_that_cancels_itself_is_only_a_failure():
    """A CancelledError from inside a provider does not pass for the caller's."""

    class Odd:
        async def open(self, request, *, stream):
            raise asyncio.CancelledError

    w = world(Say("never"), Say("fine"))
    w.targets["p0:m"] = Odd()
    response = await w.race().answer()
    assert response.text.strip() == "fine"


@virtual_time
async def test_the_receipt_adds_up():
    """Times are offsets from the call, and every attempt has an end."""
    w = world(Fail(after=1.0), Say("a b", after=1.5, gap=1.0))
    race = w.race()
    await race.answer()
    first, second = race.receipt().attempts
    assert (first.started, first.ended, first.outcome) == (0.0, 1.0, Outcome.FAILED)
    assert (second.started, second.first_text, second.ended) == (1.0, 2.5, 4.5)
    assert race.receipt().winner == "p1:m"


@virtual_time
async def test_only_the_deadline_ends_a_slow_last_resort():
    """A slow embedded model is not given up on at the limits of the chain."""
    w = world(
        Hang(), deadline=60.0, reserve=30.0, time_limits=TimeLimits(first_text=5.0, chunk_gap=5.0)
    )
    w.last_resort = Route(
        TargetState("local", "local"), Scripted([Say("a b", after=12.0, gap=7.0)])
    )
    race = w.race()
    assert (await race.answer()).text.split() == ["a", "b"]
    assert race.receipt().last_resort


@pytest.mark.parametrize(("replicated", "sends"), [(True, 2), (False, 1)])
def test_the_only_target_is_hedged_with_itself_if_it_is_many_machines(replicated, sends):
    """A second connection may be luckier; a second thread of one model is not."""

    @virtual_time
    async def run():
        w = world([Say("late", after=5.0), Say("lucky")])
        w.states["p0:m"].replicated = replicated
        await w.race().answer()
        assert w.sends() == sends

    run()

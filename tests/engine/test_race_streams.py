"""Streams that pause, crawl or break: who goes on, from where, and when."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from langchain_resilient import AttemptKind, Fault, FaultKind, Hedge, Outcome, TimeLimits
from langchain_resilient.engine.interfaces import CallEnd, Route
from langchain_resilient.engine.stream_buffer import Segment
from langchain_resilient.engine.target_state import TargetState
from verification.kit.scripted_engine import Continues, Failure, Hang, Say, Scripted, shown, world
from verification.kit.virtual_time import virtual_time

if TYPE_CHECKING:
    from langchain_resilient.engine.race import Race
    from verification.kit.scripted_engine import World

BREAK = Failure(FaultKind.CONNECTION)


def now() -> float:
    return asyncio.get_running_loop().time()


async def words(race: Race) -> list[str]:
    return [c["word"].strip() async for c in shown(race) if c.get("word", "").strip()]


# -- a break --------------------------------------------------------------------------------------


@virtual_time
async def test_another_target_goes_on_at_once_where_a_stream_broke():
    """It is asked for what is missing after what was delivered."""
    w, break_strategy = world(Say("a b", gap=1.0, then=BREAK), Say("c d", after=0.5)), Continues()
    race, began = w.stream(break_strategy), now()
    assert await words(race) == ["a", "b", "c", "d"]
    assert (break_strategy.asked, now() - began, race.end) == (["a b "], 2.5, CallEnd.ANSWERED)


@virtual_time
async def test_a_stream_can_go_on_more_than_once():
    """Each time from all that was delivered."""
    chain = [Say(two, gap=1.0, then=BREAK) for two in ("a b", "c d", "e f")]
    w, break_strategy = world(*chain, Say("g")), Continues()
    assert await words(w.stream(break_strategy)) == list("abcdefg")
    assert break_strategy.asked == ["a b ", "a b c d ", "a b c d e f "]


@virtual_time
async def test_each_part_is_announced_by_its_leg():
    """Whose words follow is known before the first of them."""
    w = world(Say("a", gap=1.0, then=BREAK), Say("b"))
    items = [item async for item in w.stream(Continues()).chunks()]
    segments = [i for i, item in enumerate(items) if isinstance(item, Segment)]
    assert [items[i].attempt.candidate.state.name for i in segments] == ["p0:m", "p1:m"]
    assert segments[0] == 0


@pytest.mark.parametrize("may", [True, False])
def test_what_must_not_be_glued_ends_as_broken(may):
    """JSON and tool calls: the caller gets the error instead."""

    @virtual_time
    async def run():
        race = world(Say("a b", gap=1.0, then=BREAK), Say("c")).stream(Continues(may=may))
        assert await words(race) == (["a", "b", "c"] if may else ["a", "b"])
        assert race.end is (CallEnd.ANSWERED if may else CallEnd.BROKEN)

    run()


@virtual_time
async def test_what_nobody_has_taken_yet_is_withdrawn():
    """A stream that dies in one piece with its first words is simply answered by another."""

    class Burst:
        async def open(self, request, *, stream):
            async def answer():
                yield {"word": "x "}
                yield {"word": "y "}
                raise BREAK

            return answer()

    w = world(Say("no"), Say("whole"))
    w.targets["p0:m"] = Burst()
    race = w.stream(Continues(may=False))
    assert (await words(race), race.end) == (["whole"], CallEnd.ANSWERED)


@virtual_time
async def test_a_part_that_was_withdrawn_does_not_count_as_delivered():
    """Who goes on after it starts from what was really shown."""

    class Burst:
        async def open(self, request, *, stream):
            async def answer():
                yield {"word": "never "}
                raise BREAK

            return answer()

    w, break_strategy = world(Say("a", gap=1.0, then=BREAK), Say("no"), Say("b")), Continues()
    w.targets["p1:m"] = Burst()
    assert await words(w.stream(break_strategy)) == ["a", "b"]
    assert break_strategy.asked == ["a ", "a "]


def with_empty_answers(w: World) -> World:
    """Let an answer without a word be a fault, as it is for real."""
    empty = Fault(FaultKind.EMPTY, "nothing", code="stop")
    made = w.dependencies.response

    def response():
        result = made()
        judge = result.fault
        result.fault = lambda request: empty if not result.text.strip() else judge(request)
        return result

    w.dependencies.response = response
    return w


@virtual_time
async def test_nothing_more_is_a_good_answer_if_two_agree():
    """The stream may have died between its last word and its end."""
    w = with_empty_answers(world(Say("all of it", gap=1.0, then=BREAK), Say(""), Say("")))
    race = w.stream(Continues())
    assert await words(race) == ["all", "of", "it"]
    assert (race.end, w.sends()) == (CallEnd.ANSWERED, 3)


@virtual_time
async def test_one_who_says_nothing_is_not_believed_alone():
    """An empty answer is a fault too: it must not pass for the end of half a text."""
    w = with_empty_answers(world(Say("all of", gap=1.0, then=BREAK), Say(""), Say("it")))
    race = w.stream(Continues())
    assert await words(race) == ["all", "of", "it"]
    assert race.end is CallEnd.ANSWERED


@virtual_time
async def test_if_nobody_can_go_on_the_stream_ends_with_the_deadline():
    """What was delivered stays delivered."""
    w = world([Say("a", gap=1.0, then=BREAK), Hang()], Hang(), deadline=20.0)
    race = w.stream(Continues())
    assert await words(race) == ["a"]
    assert race.end is CallEnd.DEADLINE


# -- a pause --------------------------------------------------------------------------------------


@virtual_time
async def test_another_is_asked_to_go_on_beside_a_stream_that_pauses():
    """After `Hedge.pause`, long before the limit of the gap."""
    w, break_strategy = world(Say("a b", then="hang"), Say("c d", after=0.5)), Continues()
    race, began = w.stream(break_strategy), now()
    assert await words(race) == ["a", "b", "c", "d"]
    assert (now() - began, break_strategy.asked) == (2.5, ["a b "])


@virtual_time
async def test_a_pause_that_is_overtaken_is_a_failure_of_the_target():
    """It is told in the receipt, and counts against its health."""
    w = world(Say("a b", then="hang"), Say("c", after=0.5))
    race = w.stream(Continues())
    await words(race)
    first, second = race.receipt().attempts
    assert (first.outcome, first.fault.kind) == (Outcome.FAILED, FaultKind.STALL)
    assert (second.kind, second.outcome) == (AttemptKind.HEDGE, Outcome.WON)
    assert w.states["p0:m"]._failures == 1


@virtual_time
async def test_a_stream_that_speaks_again_first_goes_on_itself():
    """The other is closed unheard, and the same part goes on."""
    w, break_strategy = world(Say("a b", gap=3.0), Say("no", after=5.0)), Continues()
    race = w.stream(break_strategy)
    assert await words(race) == ["a", "b"]
    assert len(race._buffer.segments) == 1
    first, *others = [a.outcome for a in race.receipt().attempts]
    assert (first, set(others)) == (Outcome.WON, {Outcome.LOST})


@virtual_time
async def test_a_pause_without_a_token_waits_for_the_limit_of_the_gap():
    """Going on beside a stream is a hedge; replacing a stalled one is a fallback, and free."""
    hedge = Hedge(delay=2.0, budget=0.0, burst=1)
    w = world(Say("a", then="hang"), Say("b"), hedge=hedge)
    w.plan.budgets.hedge.take()
    began = now()
    assert await words(w.stream(Continues())) == ["a", "b"]
    assert now() - began == 10.0


@virtual_time
async def test_a_pause_is_not_hedged_where_nothing_may_follow():
    """It would only cost."""
    w = world(Say("a", gap=5.0), Say("no"))
    race = w.stream(Continues(may=False))
    assert await words(race) == ["a"]
    assert w.sends() == 1


@virtual_time
async def test_who_always_pauses_is_given_the_time_for_it():
    """The delay is twice the longest pause of nearly all its answers."""
    w = world(Say("a b", gap=3.0), Say("no"))
    for _ in range(40):
        w.states["p0:m"].speed.record_longest_pause(3.0, now())
    assert (await w.race().answer()).text.split() == ["a", "b"]
    assert w.sends() == 1


@virtual_time
async def test_pauses_are_learned_from_whole_streams():
    """The time to the first text is none of them."""
    w = world(Say("a b", after=1.9, gap=1.5))
    await w.race().answer()
    assert w.states["p0:m"].speed.pauses.slowest == pytest.approx(1.5)


@virtual_time
async def test_under_answer_the_paused_one_may_still_be_first():
    """Nothing was shown, so both go on to the end, and the first whole answer counts."""
    w = world(Say("a b c", gap=3.0), Say("x y z", after=0.5, gap=1.9))
    assert (await w.race().answer()).text.split() == ["x", "y", "z"]
    w = world(Say("a b c", gap=3.0), Say("x y z w u v", after=0.5, gap=1.9))
    race = w.race()
    assert (await race.answer()).text.split() == ["a", "b", "c"]
    assert [a.outcome for a in race.receipt().attempts] == [Outcome.WON, Outcome.LOST]


@virtual_time
async def test_the_last_resort_is_asked_again_after_a_stream_that_silenced_it_and_broke():
    """It was asked 5 s before the deadline, and the stream began a second later."""
    limits = {"time_limits": TimeLimits(first_text=None), "hedge": None}
    w = world(Say("a b", after=26.0, finish=False), deadline=30.0, reserve=5.0, **limits)
    w.last_resort = Route(TargetState("model", "model"), Scripted([Say("sorry", after=3.0)]))
    assert await words(w.stream(Continues())) == ["a", "b", "sorry"]


# -- a crawl --------------------------------------------------------------------------------------

CRAWL = TimeLimits(min_tokens_per_second=2.0, throughput_window=5.0)


@virtual_time
async def test_a_stream_that_crawls_is_given_up_for_a_free_target():
    """After one window below the floor."""
    w = world(Say("a b c d e f g h", gap=1.5), Say("x", after=0.5), time_limits=CRAWL)
    began = now()
    assert await words(w.stream(Continues())) == ["a", "b", "c", "d", "x"]
    assert now() - began == 5.5


@virtual_time
async def test_a_stream_that_crawls_is_given_up_for_one_that_lost_to_it():
    """Who was a little late to speak is no failure: it is asked again."""
    late = [Say("late", after=9.0), Say("x", after=0.5)]
    w = world(late, Say("a b c d e f g h", gap=1.5), time_limits=CRAWL, hedge=Hedge(delay=2.0))
    began = now()
    assert await words(w.stream(Continues())) == ["a", "b", "c", "d", "x"]
    assert now() - began == 7.5


@virtual_time
async def test_a_slow_answer_is_better_than_none():
    """Without another target that is free and well, it is left alone."""
    w = world(Say("a b c d e f g h", gap=1.5), time_limits=CRAWL)
    assert await words(w.stream(Continues())) == list("abcdefgh")


@virtual_time
async def test_a_crawling_answer_that_nobody_sees_is_asked_for_elsewhere():
    """Under `answer` too."""
    w = world(Say("a b c d e f g h i j k l", gap=1.5), Say("x", after=0.5), time_limits=CRAWL)
    race = w.race()
    assert (await race.answer()).text.split() == ["x"]
    assert race.receipt().attempts[0].fault.kind is FaultKind.STALL


@virtual_time
async def test_one_that_thinks_at_a_crawl_is_given_up_before_its_first_text():
    """The window in which it began to think is not judged; the next one is."""

    class Brooding:
        async def open(self, request, *, stream):
            async def answer():
                while True:
                    await asyncio.sleep(2.0)
                    yield {"thought": "hm"}

            return answer()

    limits = TimeLimits(first_text=None, min_tokens_per_second=2.0, throughput_window=5.0)
    w, began = world(Say("no"), Say("x", after=0.5), time_limits=limits, hedge=None), now()
    w.targets["p0:m"] = Brooding()
    race = w.stream(Continues())
    assert await words(race) == ["x"]
    assert (now() - began, race.receipt().attempts[0].fault.kind) == (10.5, FaultKind.STALL)


@virtual_time
async def test_an_answer_above_the_floor_is_left_alone():
    """Two tokens a second are enough."""
    w = world(Say(" ".join("x" * 30), gap=0.4), Say("no"), time_limits=CRAWL)
    await w.race().answer()
    assert w.sends() == 1


@virtual_time
async def test_white_space_without_end_is_silence():
    """It is not shown, and another goes on from the last word."""

    class Blank:
        async def open(self, request, *, stream):
            async def answer():
                yield {"word": "a "}
                while True:
                    yield {"word": " "}
                    await asyncio.sleep(0.01)

            return answer()

    w, began = world(Say("no"), Say("b")), now()
    w.targets["p0:m"] = Blank()
    race = w.stream(Continues())
    assert [c["word"] async for c in shown(race) if c.get("word")] == ["a ", "b "]
    assert now() - began == pytest.approx(2.0)


# -- the end --------------------------------------------------------------------------------------


@virtual_time
async def test_after_a_finish_reason_the_end_is_not_waited_for_long():
    """A server that forgets to close its stream costs a second."""

    class Forgetful:
        async def open(self, request, *, stream):
            async def answer():
                yield {"word": "all "}
                yield {"finish": True}
                await asyncio.Event().wait()

            return answer()

    w, began = world(Say("no")), now()
    w.targets["p0:m"] = Forgetful()
    assert (await w.race().answer()).text == "all "
    assert now() - began == 1.0


@virtual_time
async def test_a_connection_lost_after_the_finish_reason_loses_nothing():
    """The answer was whole."""

    class Hasty:
        async def open(self, request, *, stream):
            async def answer():
                yield {"word": "all "}
                yield {"finish": True}
                raise BREAK

            return answer()

    w = world(Say("no"))
    w.targets["p0:m"] = Hasty()
    race = w.stream(Continues())
    assert (await words(race), race.end) == (["all"], CallEnd.ANSWERED)


@virtual_time
async def test_text_after_a_finish_reason_is_still_heard():
    """Some servers give a reason with every chunk."""

    class Eager:
        async def open(self, request, *, stream):
            async def answer():
                for word in ("a ", "b ", "c "):
                    yield {"word": word, "finish": True}
                    await asyncio.sleep(0.9)

            return answer()

    w = world(Say("no"))
    w.targets["p0:m"] = Eager()
    assert await words(w.stream(Continues())) == ["a", "b", "c"]


@virtual_time
async def test_text_after_a_finish_reason_may_take_its_time():
    """Once some has followed it, the reason has meant nothing; usage with each is no end either."""

    class Eager:
        async def open(self, request, *, stream):
            async def answer():
                yield {"word": "a ", "finish": True, "usage": True}
                await asyncio.sleep(0.9)
                for word in ("b ", "c "):
                    yield {"word": word, "finish": True}
                    await asyncio.sleep(4.5)

            return answer()

    w = world(Say("no"))
    w.targets["p0:m"] = Eager()
    assert await words(w.stream(Continues())) == ["a", "b", "c"]
    assert (await w.race().answer()).text == "a b c "

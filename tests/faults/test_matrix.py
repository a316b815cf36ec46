"""Every fault of the simulator at the first target, over real sockets: still answered."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from langchain_resilient import FaultKind, ResilientChatModel, StreamBrokenError, Target, TimeLimits
from langchain_resilient import testing as t
from langchain_resilient.runtime.shared_state import loop_reaper

if TYPE_CHECKING:
    from collections.abc import Iterator

K = FaultKind

BEFORE_TEXT: list[tuple[Any, FaultKind | None]] = [
    (t.Status(500), K.SERVER),
    (t.Status(502), K.SERVER),
    (t.Status(503), K.SERVER),
    (t.Status(504), K.SERVER),
    (t.Status(524), K.SERVER),
    (t.Status(529), K.SERVER),
    (t.Status(408), K.SERVER),
    (t.Status(409), K.SERVER),
    (t.Status(401), K.AUTH),
    (t.Status(403), K.AUTH),
    (t.Status(402), K.QUOTA),
    (t.Status(413), K.TOO_LARGE),
    (t.Status(422), K.BAD_REQUEST),
    (t.Status(429, retry_after=30), K.RATE_LIMIT),
    (t.RateLimited(), K.RATE_LIMIT),
    (t.RequestTooLarge(), K.TOO_LARGE),
    (t.Quota(), K.QUOTA),
    (t.Overloaded(), K.SERVER),
    (t.SlowDown(), K.RATE_LIMIT),
    (t.ModelNotFound(), K.NOT_FOUND),
    (t.ContextTooLong(10), K.CONTEXT_LENGTH),
    (t.ContentFilter(), K.CONTENT_FILTER),
    (t.BadRequest(), K.BAD_REQUEST),
    (t.Html(502), K.SERVER),
    (t.Garbage(), K.BROKEN),
    (t.Empty(), K.EMPTY),
    (t.Whitespace(), K.EMPTY),
    (t.Reset(), K.CONNECTION),
    (t.NoAnswer(), None),
    (t.KeepAlives(0.02), None),
    (t.Cut(after=0), None),
    (t.CleanEnd(after=0), None),
    (t.Stall(after=0), None),
    (t.SseError(after=0), K.SERVER),
    (t.HtmlInside(after=0), None),
]
AFTER_TEXT: list[Any] = [
    t.Cut(after=3),
    t.Reset(after=3),
    t.Stall(after=3),
    t.CleanEnd(after=3),
    t.SseError(after=3),
    t.Malformed(after=3, resume=False),
]
SOUND: list[Any] = [t.NoDone(), t.SlowHeaders(seconds=0.1)]
DIALECTS = ["openai", "together"]
APIS = [*DIALECTS, "responses"]
"""The last is OpenAI's other one."""


@pytest.fixture
def sim() -> Iterator[t.ProviderSimulator]:
    """A simulator whose second target of either dialect is healthy."""
    with t.ProviderSimulator() as simulator:
        for dialect in DIALECTS:
            simulator.script(f"{dialect}:back", then=t.Reply("the whole answer"))
        yield simulator


def first(api: str) -> str:
    """The target that something is wrong with."""
    return "together:bad" if api == "together" else "openai:bad"


def back(api: str) -> str:
    """The other provider's, which is well."""
    return "openai:back" if api == "together" else "together:back"


def target(sim: t.ProviderSimulator, spec: str, **fields: Any) -> Target:
    return Target(spec, base_url=sim.base_url(spec.partition(":")[0]), api_key="k", **fields)


def model(sim: t.ProviderSimulator, api: str, **fields: Any) -> ResilientChatModel:
    bad = {"api": "responses"} if api == "responses" else {}
    return ResilientChatModel(
        targets=[target(sim, first(api), **bad), target(sim, back(api))],
        **{
            "hedge": 0.1,
            "time_limits": TimeLimits(first_text=1.0, chunk_gap=0.3),
            "timeout": 20,
            **fields,
        },
    )


def run(work: Any) -> Any:
    """Run on a fresh loop, let the losers close, and leave nothing behind."""

    async def checked() -> Any:
        outcome = await work
        assert await loop_reaper().drain() == 0
        return outcome

    outcome = asyncio.run(checked())
    gc.collect()
    return outcome


def ids(value: Any) -> str:
    return repr(value) if not isinstance(value, FaultKind) else value.value


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(("step", "kind"), BEFORE_TEXT, ids=ids)
def test_ainvoke_is_answered_whatever_the_first_target_does(sim, api, step, kind):
    """The healthy target's text comes, and the receipt names what was wrong with the first."""
    sim.script(first(api), then=step)
    answer = run(model(sim, api).ainvoke("hello"))
    receipt = answer.response_metadata["resilience"]
    assert answer.text == "the whole answer"
    assert receipt["winner"].endswith(":back")
    if kind is not None:
        assert receipt["attempts"][0]["fault"] == kind.value


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(("step", "kind"), BEFORE_TEXT, ids=ids)
def test_astream_is_answered_whatever_happens_before_the_first_text(sim, api, step, kind):
    """Nothing of the failed target reaches the caller."""
    sim.script(first(api), then=step)

    async def collect() -> str:
        return "".join([c.text async for c in model(sim, api).astream("hello")])

    assert run(collect()) == "the whole answer"


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("step", AFTER_TEXT, ids=ids)
def test_ainvoke_survives_a_stream_that_dies_in_the_middle(sim, api, step):
    """Nothing was delivered yet, so the next target answers whole."""
    sim.script(first(api), then=step)
    answer = run(model(sim, api).ainvoke("hello"))
    assert answer.text == "the whole answer"


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("step", AFTER_TEXT, ids=ids)
def test_astream_tells_of_a_stream_that_dies_in_the_middle(sim, api, step):
    """The error carries what was delivered."""
    sim.script(first(api), then=replace(step, reply=t.Reply(chunk_gap=0.02)))
    seen: list[str] = []

    async def collect() -> None:
        # No hedge: on a busy machine it could win before the first text of the target that dies.
        async for chunk in model(sim, api, hedge=None, on_break="raise").astream("hello"):
            seen.append(chunk.text)  # noqa: PERF401  # what came before the error counts

    with pytest.raises(StreamBrokenError) as caught:
        run(collect())
    assert caught.value.partial
    assert caught.value.partial == "".join(seen)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("step", SOUND, ids=ids)
def test_small_blemishes_are_no_failure(sim, api, step):
    """What a stream survives is not asked for twice."""
    sim.script(first(api), then=step)
    answer = run(model(sim, api, hedge=None).ainvoke("hello"))
    assert answer.response_metadata["resilience"]["winner"] == first(api)
    assert answer.text == t.answer_to("hello")
    assert len(sim.requests) == 1


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("step", AFTER_TEXT, ids=ids)
def test_astream_goes_on_where_a_stream_dies_in_the_middle(sim, api, step):
    """Another target says the rest, and not a word is missing or doubled."""
    # Piece by piece: what comes in one with its end is taken back before anybody sees it.
    sim.script(first(api), then=replace(step, reply=t.Reply(chunk_gap=0.02)))
    sim.script(back(api), then=t.Reply())

    async def collect() -> tuple[str, Any]:
        results: list[Any] = [c async for c in model(sim, api, hedge=None).astream("hello")]
        return "".join(c.text for c in results), results[-1].response_metadata["resilience"]

    text, receipt = run(collect())
    assert text == t.answer_to("hello")
    (broke,) = receipt["breaks"]
    assert (broke["target"], broke["action"]) == (first(api), "continued")
    assert 0 < broke["characters"] < len(text)
    assert receipt["winner"] == back(api)


@pytest.mark.parametrize("api", APIS)
def test_a_target_that_refuses_to_stream_is_asked_plainly(sim, api):
    """It answers by itself, and the next call does not try to stream again."""
    sim.script(first(api), then=t.NoStreaming())
    llm = model(sim, api, hedge=None)
    for _ in range(2):
        answer = run(llm.ainvoke("hello"))
        assert answer.response_metadata["resilience"]["winner"] == first(api)
    assert [r.stream for r in sim.requests] == [True, False, False]


@pytest.mark.parametrize("api", APIS)
def test_after_any_fault_the_simulator_sees_no_open_request(sim, api):
    """Losers are closed: the server sees them go."""
    sim.script(first(api), then=t.NoAnswer())
    run(model(sim, api).ainvoke("hello"))
    sim.wait_idle(2.0)
    assert sim.open_sockets == 0
    assert sim.aborted == 1

"""Refusals and tool calls that cannot be run: others are asked, and they are kept if need be."""

from __future__ import annotations

import pytest

from langchain_resilient import AllTargetsFailedError, StreamBrokenError, sum_chunks
from langchain_resilient.testing import CleanEnd, Malformed, Reply, Status, ToolCall, answer_to
from tests.streaming.stories import model

PROMPT = "hello"
REFUSES = Reply(refusal="I will not.")
ANSWERS = Reply("Sure.")


def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"sunny in {city}"


def calling(arguments, **options):
    """A call of the tool with these arguments."""
    return Reply(tool_calls=[ToolCall("weather", arguments)], **options)


async def summed(llm, **options):
    return sum_chunks([chunk async for chunk in llm.astream(PROMPT, **options)])


WAYS = {"ainvoke": lambda llm: llm.ainvoke(PROMPT), "astream": summed}


@pytest.fixture(params=WAYS)
def ask(request):
    """One way to ask."""
    return WAYS[request.param]


async def test_a_refusal_is_asked_about_elsewhere(sim, ask):
    """Another model may be willing."""
    sim.script("openai:one", then=REFUSES)
    sim.script("openai:two", then=ANSWERS)
    message = await ask(model(sim, "openai:one", "openai:two"))
    assert message.text == "Sure."
    assert "refusal" not in message.additional_kwargs
    assert sim.count() == 2


@pytest.mark.parametrize("other", [REFUSES, Status(401)])
async def test_a_refusal_is_kept_if_nobody_does_better(sim, ask, other):
    """As ChatOpenAI gives it."""
    sim.script("openai:one", then=REFUSES)
    sim.script("openai:two", then=other)
    message = await ask(model(sim, "openai:one", "openai:two"))
    assert (message.text, message.additional_kwargs["refusal"]) == ("", "I will not.")
    attempts = message.response_metadata["resilience"]["attempts"]
    assert [a["outcome"] for a in attempts] == ["failed", "failed"]


BAD = ['{"city": "Paris"', "{'city': 'Paris'}", '["Paris"]', '{"town": "Paris"}', "Paris"]


@pytest.mark.parametrize("arguments", BAD)
async def test_a_call_that_cannot_be_run_is_asked_about_elsewhere(sim, arguments):
    """Else an agent would end silently, or run half a call."""
    sim.script("openai:one", then=calling(arguments))
    sim.script("openai:two", then=calling({"city": "Rome"}))
    llm = model(sim, "openai:one", "openai:two").bind_tools([weather], tool_choice="any")
    message = await llm.ainvoke(PROMPT)
    assert [call["args"] for call in message.tool_calls] == [{"city": "Rome"}]
    assert message.invalid_tool_calls == []


@pytest.mark.parametrize("arguments", BAD[:3])
async def test_a_call_that_cannot_be_run_is_kept_if_nobody_does_better(sim, arguments):
    """As an invalid call, which says what is wrong with it."""
    sim.script("openai:one", then=calling(arguments))
    message = await model(sim, "openai:one").bind_tools([weather]).ainvoke(PROMPT)
    assert message.tool_calls == []
    assert message.invalid_tool_calls[0]["args"] == arguments


@pytest.mark.parametrize("arguments", ['{"city": "Par', '{"town": "Paris"}'])
@pytest.mark.parametrize("pause", [0, 0.05], ids=["at once", "slowly"])
def test_a_call_that_cannot_be_run_is_kept_in_streams(sim, arguments, pause):
    """With its name, whether the reader has taken its pieces by then or not."""
    sim.script("openai:one", then=calling(arguments, latency=pause))
    llm = model(sim, "openai:one").bind_tools([weather])
    total, broken = None, ""
    try:
        for chunk in llm.stream(PROMPT):
            total = chunk if total is None else total + chunk
    except StreamBrokenError as error:  # some of its pieces were taken
        broken = str(error)
    calls = [*total.invalid_tool_calls, *total.tool_calls]
    assert [call["name"] for call in calls] == ["weather"]
    if broken:
        assert "no tool call that can be run" in broken
    else:
        assert str(calls[0]["args"]).replace("'", '"').startswith(arguments)


@pytest.mark.parametrize("arguments", ['{"city": "Paris",}', '```json\n{"city": "Paris"}\n```',
                                       '"{\\"city\\": \\"Paris\\"}"'])  # fmt: skip
async def test_arguments_are_mended_where_nothing_is_guessed(sim, ask, arguments):
    """Nobody else need be asked."""
    sim.script("openai:one", then=calling(arguments))
    message = await ask(model(sim, "openai:one", "openai:two").bind_tools([weather]))
    assert [call["args"] for call in message.tool_calls] == [{"city": "Paris"}]
    assert sim.count() == 1


SLOW = {"chunk_gap": 0.01}


async def test_a_stream_that_showed_half_a_call_ends_in_an_error(sim):
    """Never in silence."""
    sim.script("openai:one", then=calling('{"city": "Paris"', **SLOW))
    llm = model(sim, "openai:one", "openai:two").bind_tools([weather])
    with pytest.raises(StreamBrokenError, match="not JSON"):
        await summed(llm)


async def test_a_stream_that_showed_half_a_call_may_be_replaced(sim):
    """With `on_break="replace"`."""
    sim.script("openai:one", then=calling('{"city": "Paris"', **SLOW))
    sim.script("openai:two", then=calling({"city": "Rome"}))
    llm = model(sim, "openai:one", "openai:two").bind_tools([weather])
    message = await summed(llm, on_break="replace")
    assert [call["args"] for call in message.tool_calls] == [{"city": "Rome"}]


@pytest.mark.parametrize("reason", ["insufficient_system_resource", "abort", "unknown"])
async def test_an_answer_that_the_provider_broke_off_goes_on_elsewhere(sim, ask, reason):
    """Though its stream ended properly."""
    sim.script("openai:one", then=Reply("Half of", finish_reason=reason))
    sim.script("openai:two", then=ANSWERS)
    message = await ask(model(sim, "openai:one", "openai:two"))
    assert message.text.endswith("Sure.")
    assert message.response_metadata["finish_reason"] == "stop"


@pytest.mark.parametrize("targets", [["openai:one"], ["openai:one", "openai:two"]])
async def test_done_without_a_finish_reason_is_an_end(sim, ask, targets):
    """Several servers send none; the text is asked for once and shown once."""
    sim.script("openai:one", then=CleanEnd(None, done=True))
    assert (await ask(model(sim, *targets))).text == answer_to(PROMPT)
    assert sim.count() == 1


async def test_without_done_it_stays_broken(sim):
    """Nobody said that it was all."""
    sim.script("openai:one", then=CleanEnd(8, reply=Reply(**SLOW)))
    with pytest.raises((StreamBrokenError, AllTargetsFailedError)):
        await summed(model(sim, "openai:one", timeout=2), on_break="raise")


CITY = [ToolCall("weather", {"city": "Saint-Rémy-de-Provence"})]
HOLES = [
    'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"ind\n\n',
    'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0}\n\n',
    "data: 0}\n\n",
]


@pytest.mark.parametrize("hole", HOLES)
async def test_a_hole_in_a_tool_call_is_a_break(sim, hole):
    """The arguments around it may read as a valid call with other values."""
    broken = Malformed(3, resume=True, garbage=hole, reply=Reply(tool_calls=CITY, **SLOW))
    sim.script("openai:one", then=broken)
    sim.script("openai:two", then=calling({"city": "Rome"}))
    llm = model(sim, "openai:one", "openai:two").bind_tools([weather])
    message = await llm.ainvoke(PROMPT)
    assert [call["args"] for call in message.tool_calls] == [{"city": "Rome"}]
    with pytest.raises(StreamBrokenError):
        await summed(llm)

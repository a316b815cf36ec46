"""What good answers look like on the wire."""

from __future__ import annotations

import asyncio
import json

import pytest

from langchain_resilient.testing import ProviderSimulator, Reply, ToolCall, answer_to
from tests.testing.wire_client import ask, chat

DIALECTS = ["openai", "together"]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"location": {"type": "string"}},
            "required": ["location"],
        },
    },
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_default_answer_is_the_one_that_answer_to_works_out(
    sim: ProviderSimulator, dialect: str, stream: bool
) -> None:
    """Without a script every model answers, and a test can tell what."""
    wire = await ask(sim, chat("What is new?", stream=stream), dialect=dialect)
    assert (wire.status, wire.end) == (200, "complete")
    assert wire.text == answer_to("What is new?")


async def test_an_openai_stream_begins_with_the_role_and_ends_with_done(
    sim: ProviderSimulator,
) -> None:
    """The role chunk is empty text, and usage is not sent unasked."""
    wire = await ask(sim, chat(stream=True))
    assert wire.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert wire.deltas[0] == {"role": "assistant", "content": "", "refusal": None}
    assert wire.deltas[1] == {"content": "Answer"}
    assert wire.finish == ["stop"]
    assert wire.deltas[-1] == {}
    assert wire.events[-1] == "[DONE]"
    assert not any("usage" in chunk for chunk in wire.chunks)


async def test_an_openai_stream_sends_usage_in_a_chunk_of_its_own_if_asked(
    sim: ProviderSimulator,
) -> None:
    """Every other chunk says `usage: null`."""
    wire = await ask(sim, chat(stream=True, stream_options={"include_usage": True}))
    assert wire.chunks[-1]["choices"] == []
    usage = wire.chunks[-1]["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] == len(wire.chunks) - 3
    assert all(chunk["usage"] is None for chunk in wire.chunks[:-1])


async def test_a_together_stream_repeats_the_role_and_sends_usage_unasked(
    sim: ProviderSimulator,
) -> None:
    """Text stands beside the delta too, and usage comes with the finish reason."""
    wire = await ask(sim, chat(stream=True), dialect="together")
    assert wire.headers["content-type"] == "text/event-stream;charset=utf-8"
    assert all(delta["role"] == "assistant" for delta in wire.deltas)
    assert wire.chunks[1]["choices"][0]["text"] == wire.deltas[1]["content"] == "Answer"
    assert wire.chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert wire.chunks[-1]["usage"]["completion_tokens"] > 0
    assert wire.events[-1] == "[DONE]"


async def test_together_sends_retry_after_on_successes(sim: ProviderSimulator) -> None:
    """A client that trusts it would wait for nothing."""
    wire = await ask(sim, dialect="together")
    assert (wire.status, wire.headers["retry-after"]) == (200, "2")
    assert wire.json["prompt"] == []


async def test_openai_sends_six_rate_limit_headers(sim: ProviderSimulator) -> None:
    """They are there even without a limit."""
    wire = await ask(sim)
    names = [
        f"x-ratelimit-{a}-{b}"
        for a in ("limit", "remaining", "reset")
        for b in ("requests", "tokens")
    ]
    assert all(name in wire.headers for name in names)
    assert wire.headers["x-ratelimit-reset-requests"] == "6ms"


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_every_answer_has_an_id_of_its_own(sim: ProviderSimulator, dialect: str) -> None:
    """The same bytes asked twice get two ids, of equal length."""
    one, other = [(await ask(sim, dialect=dialect)).json["id"] for _ in range(2)]
    assert one != other
    assert len(one) == len(other)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_scripted_text_is_sent_verbatim(
    sim: ProviderSimulator, dialect: str, stream: bool
) -> None:
    """Quotes, line breaks and emoji come through."""
    text = 'He said "hé\n🎉\\" twice.'
    sim.script("*", then=Reply(text))
    assert (await ask(sim, chat(stream=stream), dialect=dialect)).text == text


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_plain_tool_call(sim: ProviderSimulator, dialect: str) -> None:
    """Content is null, and the arguments are JSON text."""
    wire = await ask(sim, chat("What is the weather in Oslo?", tools=[WEATHER]), dialect=dialect)
    choice = wire.json["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    call = choice["message"]["tool_calls"][0]
    assert call["id"].startswith("call_")
    assert json.loads(call["function"]["arguments"]) == {"location": "Oslo"}


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_streamed_tool_calls_grow_in_fragments(sim: ProviderSimulator, dialect: str) -> None:
    """Name and id come once, arguments piece by piece, several calls one after another."""
    calls = [ToolCall("a", {"x": [1, 2]}), ToolCall("b", {"y": "z"})]
    sim.script("*", then=Reply(tool_calls=calls))
    wire = await ask(sim, chat(stream=True), dialect=dialect)
    parts = [call for delta in wire.deltas for call in delta.get("tool_calls") or ()]
    assert [part["function"]["name"] for part in parts if part["function"].get("name")] == [
        "a",
        "b",
    ]
    assert len({part["id"] for part in parts if part.get("id")}) == 2
    for index, call in enumerate(calls):
        arguments = "".join(p["function"]["arguments"] for p in parts if p["index"] == index)
        assert arguments == call.arguments
    assert wire.finish == ["tool_calls"]


async def test_a_single_openai_tool_call_comes_with_the_role(sim: ProviderSimulator) -> None:
    """So it was recorded: the first chunk has role, null content and the call's name."""
    sim.script("*", then=Reply(tool_calls=[{"name": "f", "args": {"x": 1}}]))
    first = (await ask(sim, chat(stream=True))).deltas[0]
    assert (first["role"], first["content"]) == ("assistant", None)
    assert first["tool_calls"][0]["function"] == {"name": "f", "arguments": ""}


@pytest.mark.parametrize(("dialect", "reason"), [("openai", "stop"), ("together", "tool_calls")])
async def test_a_forced_tool_ends_with_the_dialects_own_reason(
    sim: ProviderSimulator, dialect: str, reason: str
) -> None:
    """OpenAI says `stop` there, with the call present."""
    forced = {"type": "function", "function": {"name": "get_weather"}}
    body = chat(tools=[WEATHER], tool_choice=forced)
    choice = (await ask(sim, body, dialect=dialect)).json["choices"][0]
    assert choice["finish_reason"] == reason
    assert choice["message"]["tool_calls"]


async def test_an_openai_refusal_leaves_the_content_null(sim: ProviderSimulator) -> None:
    """The refusal grows in a field of its own."""
    sim.script("*", then=Reply(refusal="I cannot help with that."))
    message = (await ask(sim)).json["choices"][0]["message"]
    assert (message["content"], message["refusal"]) == (None, "I cannot help with that.")
    wire = await ask(sim, chat(stream=True))
    assert wire.deltas[0]["content"] is None
    assert (
        "".join(delta.get("refusal") or "" for delta in wire.deltas) == "I cannot help with that."
    )


@pytest.mark.parametrize(
    ("dialect", "key"), [("openai", "reasoning_content"), ("together", "reasoning")]
)
async def test_reasoning_comes_before_the_text(
    sim: ProviderSimulator, dialect: str, key: str
) -> None:
    """In the field that the dialect's servers use."""
    sim.script("*", then=Reply("four", reasoning="two and two"))
    assert (await ask(sim, dialect=dialect)).json["choices"][0]["message"][key] == "two and two"
    wire = await ask(sim, chat(stream=True), dialect=dialect)
    assert "".join(delta.get(key) or "" for delta in wire.deltas) == "two and two"
    assert wire.text == "four"


async def test_openai_counts_hidden_reasoning_and_cached_prompts(sim: ProviderSimulator) -> None:
    """Reasoning models think for 64 tokens; a long prompt is cached from the second time on."""
    usage = (await ask(sim, chat(model="gpt-5-nano"))).json["usage"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 64
    assert usage["completion_tokens"] > 64
    long = chat("word " * 2000)
    cached = [
        (await ask(sim, long)).json["usage"]["prompt_tokens_details"]["cached_tokens"]
        for _ in range(2)
    ]
    assert cached[0] == 0
    assert cached[1] >= 2048


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_usage_can_be_left_out(sim: ProviderSimulator, dialect: str) -> None:
    """Some routes never send it."""
    sim.script("*", then=Reply(usage=False))
    assert "usage" not in (await ask(sim, dialect=dialect)).json
    wire = await ask(sim, chat(stream=True), dialect=dialect)
    assert not any(chunk.get("usage") for chunk in wire.chunks)


async def test_together_quirks(sim: ProviderSimulator) -> None:
    """The odd variants: `eos`, float indices, two finish reasons, a seed above 2**63, warnings."""
    sim.script("*", Reply("hi", quirks=True), then=Reply(tool_calls=[ToolCall("f")], quirks=True))
    plain = (await ask(sim, dialect="together")).json
    assert plain["choices"][0]["finish_reason"] == "eos"
    assert plain["choices"][0]["seed"] > 2**63
    assert plain["warnings"]
    wire = await ask(sim, chat(stream=True), dialect="together")
    assert wire.finish == ["tool_calls", "tool_calls", "stop"]
    assert '"index":0.0' in wire.body.decode()
    assert wire.chunks[-1]["choices"] == []
    assert wire.chunks[-1]["usage"]["total_tokens"] > 0


async def test_openai_quirks(sim: ProviderSimulator) -> None:
    """Obfuscation in every chunk, and null content beside the role."""
    sim.script("*", then=Reply("hi", quirks=True))
    wire = await ask(sim, chat(stream=True))
    assert all("obfuscation" in chunk for chunk in wire.chunks)
    assert wire.deltas[0]["content"] is None


async def test_openai_logprobs(sim: ProviderSimulator) -> None:
    """An entry a token, each with as many alternatives as were asked for."""
    body = chat("say exactly: one two", logprobs=True, top_logprobs=2)
    content = (await ask(sim, body)).json["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == ["one", " two"]
    assert content[0]["bytes"] == list(b"one")
    assert [len(entry["top_logprobs"]) for entry in content] == [2, 2]
    wire = await ask(sim, {**body, "stream": True})
    tokens = [c["choices"][0]["logprobs"]["content"][0]["token"] for c in wire.chunks[1:-1]]
    assert tokens == ["one", " two"]


async def test_together_logprobs(sim: ProviderSimulator) -> None:
    """Parallel lists in a plain answer, a bare float in each chunk of a stream."""
    body = chat("say exactly: one two", logprobs=1)
    logprobs = (await ask(sim, body, dialect="together")).json["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["one", " two"]
    assert len(logprobs["token_logprobs"]) == 2
    wire = await ask(sim, {**body, "stream": True}, dialect="together")
    assert isinstance(wire.chunks[1]["choices"][0]["logprobs"], float)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_several_choices_differ(sim: ProviderSimulator, dialect: str) -> None:
    """`n` answers, plain and streamed, the first being the usual one."""
    choices = (await ask(sim, chat(n=2), dialect=dialect)).json["choices"]
    texts = [choice["message"]["content"] for choice in choices]
    assert texts == [answer_to("Hello"), answer_to("Hello", choice=1)]
    wire = await ask(sim, chat(n=2, stream=True), dialect=dialect)
    second = [
        c["choices"][0] for c in wire.chunks if c["choices"] and c["choices"][0]["index"] == 1
    ]
    assert "".join(choice["delta"].get("content") or "" for choice in second) == texts[1]


async def test_another_status_and_further_headers(sim: ProviderSimulator) -> None:
    """One maker answers success with 201."""
    sim.script("*", then=Reply("hi", status=201, headers={"X-Route": "b"}))
    wire = await ask(sim)
    assert (wire.status, wire.headers["x-route"], wire.text) == (201, "b", "hi")


@pytest.mark.parametrize("stream", [False, True])
async def test_delays_are_kept(sim: ProviderSimulator, stream: bool) -> None:
    """Head, first text and chunks come no earlier than they should."""
    sim.script("*", then=Reply("one two three", latency=0.03, first_text=0.03, rate=100))
    loop = asyncio.get_running_loop()
    start = loop.time()
    await ask(sim, chat(stream=stream))
    assert loop.time() - start >= 0.03 + 0.03 + 0.02


async def test_the_role_comes_before_the_first_text(sim: ProviderSimulator) -> None:
    """A client that takes headers or the role chunk for an answer is fooled."""
    sim.script("*", then=Reply("late", first_text=60))
    wire = await ask(sim, chat(stream=True), patience=0.1)
    assert (wire.end, wire.status, wire.text) == ("open", 200, "")
    assert wire.deltas == [{"role": "assistant", "content": "", "refusal": None}]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_tools_name_comes_no_earlier_than_text_would(
    sim: ProviderSimulator, dialect: str
) -> None:
    """It is the first thing that a client can use."""
    sim.script("*", then=Reply(tool_calls=[ToolCall("f")], first_text=60))
    wire = await ask(sim, chat(stream=True), dialect=dialect, patience=0.1)
    assert (wire.end, wire.status) == ("open", 200)
    assert b"tool_calls" not in wire.body


async def test_reasoning_comes_before_the_first_text_is_due(sim: ProviderSimulator) -> None:
    """A model that thinks aloud is not silent."""
    sim.script("*", then=Reply("late", reasoning="hm hm", first_text=60))
    wire = await ask(sim, chat(stream=True), patience=0.1)
    assert "".join(delta.get("reasoning_content") or "" for delta in wire.deltas) == "hm hm"
    assert wire.text == ""


async def test_close_ends_the_connection_after_the_answer(sim: ProviderSimulator) -> None:
    """The answer is complete all the same."""
    sim.script("*", then=Reply("bye", close=True))
    assert (await ask(sim)).text == "bye"
    await sim.await_idle(sockets=0)


def test_a_rate_of_nothing_is_refused() -> None:
    """Zero tokens a second would never end."""
    with pytest.raises(ValueError, match="rate must be more than 0"):
        Reply(rate=0)


def test_replies_are_values() -> None:
    """Equal replies are equal, and can be used as keys, whatever they hold."""
    calls = [{"name": "f", "args": {"x": [1]}}]
    assert Reply(tool_calls=calls) == Reply(tool_calls=[ToolCall("f", {"x": [1]})])
    assert len({Reply("a"), Reply("a"), Reply(headers={"X-A": "b"})}) == 2

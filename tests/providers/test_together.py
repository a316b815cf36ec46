"""The Together provider over real sockets: where it differs from OpenAI's."""

from __future__ import annotations

import pytest
from langchain_core.messages import (
    AIMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from langchain_resilient import DroppedParameterWarning, Target
from langchain_resilient import testing as t
from langchain_resilient.exchange import ChatRequest
from langchain_resilient.providers import create_provider
from langchain_resilient.providers.together import TogetherProvider
from langchain_resilient.testing import answer_to
from langchain_resilient.wire.messages import to_chat_messages
from tests.providers.asking import TRANSPORTS, ask, http, listening, provider_at, request
from verification.kit.scripted_targets import chain

PLAIN = http('{"choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"eos"}]}')


def provider(sim, **fields):
    return provider_at(sim, "together:maker/m", **fields)


async def sent(made, sim, *, stream=True, **overrides):
    """The body of the last of the requests that one answer took."""
    await ask(made, request(**overrides), stream=stream)
    return sim.requests[-1].body


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("quirks", [True, False])
async def test_an_answer_comes_whole(sim, monkeypatch, stream, quirks, transport):
    """Streamed or plain, on either transport, `eos` and all, with its token counts."""
    monkeypatch.setenv("LANGCHAIN_RESILIENT_TRANSPORT", transport)
    sim.script("*", then=t.Reply(quirks=quirks))
    response = await ask(provider(sim), stream=stream)
    assert (response.text, response.fault()) == (answer_to("hello"), None)
    assert response.usage is not None


async def test_the_body_is_the_request_in_the_apis_dialect(sim):
    """It counts the tokens of a stream without being asked."""
    body = await sent(provider(sim, temperature=0.5), sim, top_p=0.9)
    assert body == {
        "model": "maker/m",
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "stream": True,
    }


async def test_its_own_parameters_are_sent(sim, recwarn):
    """OpenAI refuses them."""
    own = {"top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1}
    body = await sent(provider(sim, **own), sim)
    assert body.items() >= own.items()
    assert not [one for one in recwarn.list if one.category is DroppedParameterWarning]


async def test_what_it_does_not_know_is_dropped_with_one_warning_each(sim):
    """However many requests there are."""
    strange = {
        "parallel_tool_calls": False, "service_tier": "auto", "store": True, "metadata": {"a": "b"},
        "prediction": {}, "user": "u", "verbosity": "low", "modalities": ["text"], "audio": {},
        "web_search_options": {},
    }  # fmt: skip
    made = provider(sim, model_kwargs=strange, seed=1)
    with pytest.warns(DroppedParameterWarning) as caught:
        bodies = [await sent(made, sim) for _ in range(2)]
    assert sorted(str(one.message).split("'")[1] for one in caught) == sorted(strange)
    assert [body.keys() & {*strange, "seed"} for body in bodies] == [{"seed"}] * 2


async def test_stream_options_are_left_out_without_a_word(sim, recwarn):
    """Usage comes anyway."""
    options = {"include_usage": True}
    assert "stream_options" not in await sent(provider(sim), sim, stream_options=options)
    assert not recwarn.list


async def test_a_token_limit_has_one_name(sim):
    """The old one."""
    for name in ("max_tokens", "max_completion_tokens"):
        body = await sent(provider(sim), sim, **{name: 7})
        assert (body["max_tokens"], "max_completion_tokens" in body) == (7, False)


@pytest.mark.parametrize(("asked", "expected"), [
    ({"logprobs": True}, 1),
    ({"logprobs": True, "top_logprobs": 5}, 5),
    ({"logprobs": True, "top_logprobs": 0}, 1),
    ({"logprobs": False}, None),
    ({"logprobs": False, "top_logprobs": 5}, None),
    ({"top_logprobs": 5}, None),
    ({"logprobs": 3}, 3),
    ({}, None),
])  # fmt: skip
async def test_logprobs_are_a_number(sim, asked, expected):
    """Together counts the alternatives where OpenAI says yes or no."""
    body = await sent(provider(sim), sim, stream=False, **asked)
    assert body.get("logprobs") == expected
    assert "top_logprobs" not in body


async def test_a_parameter_that_one_model_refuses_is_learned(sim):
    """Together's errors have no code for it."""
    sim.script("*", then=t.UnsupportedParameter("temperature"))
    made = provider(sim, temperature=0.5)
    with pytest.warns(DroppedParameterWarning, match="temperature"):
        await sent(made, sim)
    assert "temperature" not in await sent(made, sim)
    assert [seen.status for seen in sim.requests] == [400, 200, 200]


def test_its_own_host_is_asked_unless_another_is_given():
    """Since SDK 3.0 chat completions have one of their own."""
    assert create_provider(Target("together:m", api_key="k"))._url == TogetherProvider.public_url
    assert TogetherProvider.public_url.startswith("https://api-inference.together.ai/")


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
async def test_a_base_url_may_end_like_openais(end):
    """The SDK would ask for `/v1/v1`."""
    async with listening(PLAIN) as server:
        response = await ask(create_provider(Target("together:m", base_url=server.url + end)))
    assert response.text == "Hi"
    assert server.heads[0].startswith("POST /v1/chat/completions ")


async def test_the_environments_secrets_never_go_to_another_server(monkeypatch):
    """Neither key nor headers: they are between the user and Together."""
    monkeypatch.setenv("TOGETHER_API_KEY", "tgp_from-env")
    monkeypatch.setenv("TOGETHER_CUSTOM_HEADERS", "Authorization: Bearer hidden-from-env")
    async with listening(PLAIN) as server:
        await ask(create_provider(Target("together:m", base_url=server.url)))
    (head,) = server.heads
    assert "Bearer none" in head
    assert "from-env" not in head


async def test_the_environments_server_gets_the_environments_key(monkeypatch):
    """Whoever set both meant it."""
    async with listening(PLAIN) as server:
        monkeypatch.setenv("TOGETHER_BASE_URL", server.url)
        monkeypatch.setenv("TOGETHER_API_KEY", "tgp_from-env")
        await ask(create_provider(Target("together:m")))
    assert "Bearer tgp_from-env" in server.heads[0]


async def test_the_environments_key_goes_to_together(sim, monkeypatch, no_environment):
    """The simulator stands in for it, and knows keys by a digest only."""
    url = f"{sim.base_url('together')}/v1/chat/completions"
    monkeypatch.setattr(TogetherProvider, "public_url", url)
    await ask(create_provider(Target("together:m", api_key="tgp_from-env")))
    monkeypatch.setenv("TOGETHER_API_KEY", "tgp_from-env")
    await ask(create_provider(Target("together:m")))
    assert sim.requests[0].key == sim.requests[1].key


def calling(name: str) -> AIMessage:
    """An answer that calls a function in the way that was before tools."""
    call = {"name": name, "arguments": "{}"}
    return AIMessage("", additional_kwargs={"function_call": call})


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
CALL = {"name": "look", "args": {}, "id": "c1"}


@pytest.mark.parametrize(("messages", "roles"), [
    ([SystemMessage([{"type": "text", "text": "Be brief."}]), HumanMessage("hi")],
     ["system", "user"]),
    ([ChatMessage(role="developer", content="Be brief."), HumanMessage("hi")], ["system", "user"]),
    ([HumanMessage("hi"), calling("f"), FunctionMessage(name="f", content="3")],
     ["user", "assistant", "tool"]),
    ([HumanMessage("hi"), AIMessage("", tool_calls=[CALL]),
      ToolMessage([{"type": "text", "text": "here"}, IMAGE], tool_call_id="c1")],
     ["user", "assistant", "tool", "user"]),
    ([HumanMessage("hi"), AIMessage([{"type": "text", "text": "yes"}]), HumanMessage("go on")],
     ["user", "assistant", "user"]),
    ([HumanMessage([{"type": "audio", "base64": "aGk=", "mime_type": "audio/mp3"}])], ["user"]),
    ([HumanMessage([{"type": "audio", "base64": "aGk=", "mime_type": "audio/wav"}])], ["user"]),
], ids=["texts", "developer", "function", "image", "answer", "mp3", "wav"])  # fmt: skip
@pytest.mark.parametrize("stream", [True, False])
async def test_what_only_openai_knows_is_written_as_together_takes_it(sim, messages, roles, stream):
    """At once: nothing is refused."""
    asked = ChatRequest(to_chat_messages(messages))
    assert (await ask(provider(sim), asked, stream=stream)).fault() is None
    (seen,) = sim.requests
    assert [m["role"] for m in seen.body["messages"]] == roles
    assert all(m["role"] == "user" or not isinstance(m["content"], list)
               for m in seen.body["messages"])  # fmt: skip


async def test_audio_in_other_formats_goes_by_its_url(sim):
    """Which says the format; the type of its own knows only WAV."""
    block = {"type": "audio", "base64": "aGk=", "mime_type": "audio/mp3"}
    await ask(provider(sim), ChatRequest(to_chat_messages([HumanMessage([block])])))
    (sent_block,) = sim.requests[0].body["messages"][0]["content"]
    assert sent_block == {"type": "audio_url", "audio_url": {"url": "data:audio/mp3;base64,aGk="}}


@pytest.mark.parametrize("block", [
    {"type": "file", "base64": "aGk=", "mime_type": "application/pdf", "filename": "a.pdf"},
    {"type": "file", "url": "https://example.com/a.pdf"},
], ids=["data", "url"])  # fmt: skip
async def test_the_next_target_is_asked_for_what_together_cannot_read(sim, block):
    """A file, which OpenAI takes."""
    llm = chain(sim, "together:m", "openai:m", hedge=None)
    llm.targets = [llm.targets[0], llm.targets[1].model_copy(update={"api": "responses"})]
    answer = await llm.ainvoke([HumanMessage([{"type": "text", "text": "Read."}, block])])
    assert answer.response_metadata["resilience"]["winner"] == "openai:m"
    assert sim.count("together:m") == 0

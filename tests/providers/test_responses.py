"""The Responses API over real sockets: which requests go there, in what form, what comes back."""

from __future__ import annotations

import base64
import json

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from langchain_resilient import AllTargetsFailedError, FaultKind, ResilientChatModel, Target
from langchain_resilient import testing as t
from langchain_resilient.exchange import ChatRequest
from langchain_resilient.providers import create_provider
from langchain_resilient.providers.responses import forget_apis
from langchain_resilient.testing import answer_to
from langchain_resilient.wire.messages import to_chat_messages
from tests.providers.asking import TRANSPORTS, ask, fault_of, http, listening, provider_at, request

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}
CUSTOM = {"type": "custom", "name": "run", "description": "Runs a program."}
RESPONSES, CHAT = "/openai/v1/responses", "/openai/v1/chat/completions"


@pytest.fixture(autouse=True)
def nothing_learned():
    """Each test learns for itself."""
    forget_apis()


def responses_at(sim, spec="openai:m", **fields):
    return provider_at(sim, spec, api="responses", **fields)


def conversation(messages, **overrides):
    return ChatRequest(to_chat_messages(messages), overrides=overrides, source=messages)


def went_to_responses(record):
    return "input" in record.body


# -- answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("stream", [True, False])
async def test_it_answers(sim, monkeypatch, transport, stream):
    monkeypatch.setenv("LANGCHAIN_RESILIENT_TRANSPORT", transport)
    response = await ask(responses_at(sim), stream=stream)
    assert response.fault() is None
    assert response.text == answer_to("hello")
    assert response.finish_reason == "stop"
    assert response.output_tokens() > 10
    assert response.id.startswith("resp_")
    assert went_to_responses(sim.requests[-1])


async def test_a_connection_serves_the_next_answer_too(sim):
    """No `[DONE]` ends these streams: the last event does."""
    provider, used = responses_at(sim), set()
    for _ in range(3):
        await ask(provider)
        used |= sim._server.connections
    assert len(used) == 1


async def test_nothing_is_kept_at_the_provider_unless_that_is_wished(sim):
    provider = responses_at(sim)
    await ask(provider)
    assert sim.requests[-1].body["store"] is False
    await ask(provider, request(store=True))
    assert sim.requests[-1].body["store"] is True
    await ask(provider, request(previous_response_id="resp_0"))
    assert "store" not in sim.requests[-1].body


async def test_encrypted_reasoning_is_asked_for_where_the_model_has_any(sim):
    await ask(responses_at(sim, "openai:gpt-5"))
    assert sim.requests[-1].body["include"] == ["reasoning.encrypted_content"]
    await ask(responses_at(sim, "openai:gpt-4o"))
    assert "include" not in sim.requests[-1].body
    refusal = "Encrypted content is not supported with this model."
    sim.script("openai:m", t.Status(400, message=refusal, param="include"))
    plain = responses_at(sim)
    for expected in (2, 1):  # refused once, and remembered
        before = len(sim.requests)
        await ask(plain, request(include=["message.output_text.logprobs"]))
        assert len(sim.requests) - before == expected
        assert sim.requests[-1].body["include"] == ["message.output_text.logprobs"]


async def test_parameters_have_their_names_there(sim):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    shape = {"type": "json_schema", "json_schema": {"name": "out", "schema": schema}}
    asked = request(
        max_tokens=100, reasoning_effort="low", verbosity="low", response_format=shape, n=1,
        logprobs=True, top_logprobs=2, stop=["x"], parallel_tool_calls=False, tools=[ADD, CUSTOM],
        tool_choice={"type": "function", "function": {"name": "add"}},
        stream_options={"include_usage": True},
    )  # fmt: skip
    await ask(responses_at(sim, "openai:gpt-5-chat"), asked)
    body = sim.requests[0].body
    assert body == {
        "model": "gpt-5-chat",
        "input": [{"type": "message", "role": "user", "content": "hello"}],
        "max_output_tokens": 100,
        "reasoning": {"effort": "low"},
        "text": {
            "verbosity": "low",
            "format": {"type": "json_schema", "name": "out", "schema": schema},
        },
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
        "parallel_tool_calls": False,
        "tools": [{"type": "function", **ADD["function"]}, CUSTOM],
        "tool_choice": {"type": "function", "name": "add"},
        "store": False,
        "stream": True,
    }


async def test_log_probabilities(sim):
    for stream in (True, False):
        asked = request(logprobs=True, top_logprobs=1)
        response = await ask(responses_at(sim), asked, stream=stream)
        tokens = response.choices[0].logprobs["content"]
        assert "".join(token["token"] for token in tokens) == answer_to("hello")


async def test_tools_functions_customs_and_several_at_once(sim):
    asked = request("What is add(1, 2) and run('x')?", tools=[ADD, CUSTOM])
    for stream in (True, False):
        response = await ask(responses_at(sim), asked, stream=stream)
        assert [c.name for c in response.choices[0].tools.calls] == ["add", "run"]
        assert response.finish_reason == "tool_calls"
        first, second = response.choices[0].tools.calls
        assert json.loads(first.args) == {"a": 1, "b": 2}
        assert list(json.loads(second.args)) == ["__arg1"]
        kinds = [block["type"] for block in response.finished.content]
        assert kinds == ["function_call", "custom_tool_call"]


async def test_pictures_and_files_go_along(sim):
    picture = base64.b64encode(b"png").decode()
    message = HumanMessage(
        [
            {"type": "text", "text": "What is this?"},
            {"type": "image", "base64": picture, "mime_type": "image/png"},
            {
                "type": "file",
                "base64": picture,
                "mime_type": "application/pdf",
                "filename": "a.pdf",
            },
        ]
    )
    await ask(responses_at(sim), conversation([message]))
    (item,) = sim.requests[-1].body["input"]
    assert item["content"] == [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{picture}"},
        {
            "type": "input_file",
            "file_data": f"data:application/pdf;base64,{picture}",
            "filename": "a.pdf",
        },
    ]


async def test_a_refusal_is_one(sim):
    sim.script("openai:m", then=t.Reply(refusal="I cannot help with that."))
    for stream in (True, False):
        response = await ask(responses_at(sim), stream=stream)
        assert response.choices[0].extras()["refusal"] == "I cannot help with that."


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (t.Cut(after=2), FaultKind.CONNECTION),
        (t.CleanEnd(after=2), FaultKind.BROKEN),
        (t.Malformed(after=2), FaultKind.BROKEN),
        (t.Malformed(after=2, replaces=True, resume=True), FaultKind.BROKEN),
        (t.HtmlInside(after=2, replaces=True, resume=True), FaultKind.BROKEN),
        (t.SseError(after=2), FaultKind.SERVER),
        (t.SseError(after=2, named=True), FaultKind.SERVER),
        (t.SseError(code="rate_limit_exceeded"), FaultKind.RATE_LIMIT),
        (t.SseError(code="rate_limit_exceeded", named=True), FaultKind.RATE_LIMIT),
        (t.Empty(), FaultKind.EMPTY),
        (t.Empty(null=True), FaultKind.EMPTY),
        (t.Garbage("object"), FaultKind.BROKEN),
        (t.Garbage("broken"), FaultKind.BROKEN),
        (t.Garbage("nothing"), FaultKind.BROKEN),
        (t.Reply(finish_reason="content_filter"), FaultKind.CONTENT_FILTER),
        (t.Overloaded(), FaultKind.SERVER),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_what_goes_wrong_is_seen(sim, step, kind, stream):
    sim.script("openai:m", then=step)
    assert (await fault_of(responses_at(sim), stream=stream)).kind is kind


@pytest.mark.parametrize("step", [t.NoDone(), t.NoDone(hold=True), t.NoDone(reset=True)])
async def test_the_last_event_ends_an_answer(sim, step):
    sim.script("openai:m", then=step)
    assert (await ask(responses_at(sim))).fault() is None


async def test_a_secret_in_an_error_event_is_not_repeated():
    key = "sk-secret-of-this-test"
    event = {"type": "response.failed", "response": {"error": {"message": f"bad key {key}"}}}
    data = f"event: response.failed\ndata: {json.dumps(event)}\n\n"
    async with listening(http(data, kind="text/event-stream")) as raw:
        target = Target("openai:m", api="responses", base_url=raw.url, api_key=key)
        fault = await fault_of(create_provider(target))
    assert key not in str(fault.message) + repr(fault.cause)


# -- which API ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "overrides", "expected"),
    [
        ("gpt-4o", {}, False),
        ("gpt-4o", {"tools": [ADD]}, False),
        ("gpt-4o", {"tools": [{"type": "web_search"}]}, True),
        ("gpt-4o", {"tools": [CUSTOM]}, True),
        ("gpt-4o", {"previous_response_id": "resp_0"}, True),
        ("gpt-4o", {"truncation": "auto"}, True),
        ("gpt-4o", {"include": ["message.output_text.logprobs"]}, True),
        ("gpt-5", {"reasoning": {"effort": "low", "summary": "auto"}}, True),
        ("gpt-5", {"reasoning_effort": "low"}, False),
        ("gpt-5.4", {}, False),
        ("gpt-5.4", {"tools": [ADD]}, True),
        ("gpt-6-luna", {"tools": [ADD]}, True),
        ("gpt-6-luna", {"tools": [ADD], "reasoning_effort": "none"}, False),
        ("gpt-6-luna", {}, False),
        ("gpt-5.2-pro", {}, True),
        ("o3-pro", {}, True),
        ("gpt-5.1-codex-max", {}, True),
        ("gpt-5.2-pro", {"n": 2}, False),
    ],
)  # fmt: skip
async def test_auto_asks_where_the_request_can_be_answered(sim, model, overrides, expected):
    provider = provider_at(sim, f"openai:{model}")
    assert provider._prefers_responses(request(**overrides).body({})) is expected
    if overrides.get("n"):
        return
    response = await ask(provider, request("What is add(1, 2)?", **overrides))
    assert response.fault() is None
    assert [went_to_responses(r) for r in sim.requests] == [expected]


REFUSED = "Function tools with reasoning are not supported for gpt-5-new. Please use /v1/responses."


async def test_a_refusal_that_says_so_is_learned_once(sim):
    """For requests like the one that was refused."""
    refusal = t.Status(400, message=REFUSED)
    sim.script("openai:gpt-5-new", refusal)
    provider, asked = provider_at(sim, "openai:gpt-5-new"), request("add(1, 2)", tools=[ADD])
    for _ in range(2):
        assert (await ask(provider, asked)).has_tool_calls
    other = provider_at(sim, "openai:gpt-5-new")  # of another model object, in the same process
    await ask(other, asked)
    await ask(other)
    assert [went_to_responses(r) for r in sim.requests] == [False, True, True, True, False]


async def test_a_model_that_is_served_there_alone_is_asked_there_alone(sim):
    message = "This model is only supported in v1/responses and not in v1/chat/completions."
    sim.script("openai:gpt-5-other", t.Status(404, message=message))
    provider = provider_at(sim, "openai:gpt-5-other")
    for _ in range(2):
        await ask(provider)
    assert [went_to_responses(r) for r in sim.requests] == [False, True, True]


async def test_the_chosen_api_is_never_left(sim):
    sim.script("openai:gpt-5-third", then=t.Status(400, message=REFUSED))
    provider = provider_at(sim, "openai:gpt-5-third", api="chat")
    assert (await fault_of(provider)).kind is FaultKind.BAD_REQUEST
    assert len(sim.requests) == 1


async def test_a_server_without_it_is_asked_in_chat_completions(sim):
    """Once it has said that there is no such address."""
    provider = provider_at(sim, "together:gpt-5.4")
    for _ in range(2):
        assert (await ask(provider, request("add(1, 2)", tools=[ADD]))).has_tool_calls
    assert [r.dialect for r in sim.requests] == ["together", "together"]


async def test_a_server_without_it_cannot_take_what_only_it_can(sim):
    """A clear error, and not an answer without the tool."""
    provider = provider_at(sim, "together:m")
    with pytest.raises(Exception, match="has no Responses API, which this request needs") as caught:
        await ask(provider, request(tools=[{"type": "web_search"}]))
    assert caught.value.status_code == 400
    assert not sim.requests


@pytest.mark.parametrize("first", ["together:m", "openai:chat"])
@pytest.mark.parametrize("way", ["ainvoke", "astream"])
async def test_a_built_in_tool_is_never_lost(sim, first, way):
    """Where a target has no API that takes it, the next one is asked; alone it is an error."""
    api = "chat" if first == "openai:chat" else "auto"
    one = Target(first, base_url=sim.base_url(first.partition(":")[0]), api_key="k", api=api)
    other = Target("openai:gpt-6-luna", base_url=sim.base_url("openai"), api_key="k")

    async def asked(*targets):
        llm = ResilientChatModel(targets=list(targets), hedge=None, share_learning=False)
        llm = llm.bind_tools([{"type": "web_search"}])
        if way == "ainvoke":
            return await llm.ainvoke("hello")
        return [chunk async for chunk in llm.astream("hello")][-1]

    answer = await asked(one, other)
    receipt = answer.response_metadata["resilience"]
    assert receipt["winner"] == "openai:gpt-6-luna"
    assert [a.get("fault") for a in receipt["attempts"]] == ["bad_request", None]
    with pytest.raises(AllTargetsFailedError, match=r"web_search|no Responses API"):
        await asked(one)
    assert all(record.body["tools"] for record in sim.requests)


async def test_a_model_that_is_not_there_is_not_a_missing_api(sim):
    sim.script("openai:gpt-5-gone-codex", then=t.ModelNotFound())
    assert (await fault_of(provider_at(sim, "openai:gpt-5-gone-codex"))).kind is FaultKind.NOT_FOUND
    assert [went_to_responses(r) for r in sim.requests] == [True]


@pytest.mark.parametrize("spec", ["local", "text:hello"])
def test_a_provider_that_lacks_the_api_says_so(spec):
    with pytest.raises(ValueError, match="its provider has no Responses API"):
        create_provider(Target(spec, api="responses"))


def test_another_word_for_the_api_is_refused():
    with pytest.raises(ValueError, match="'auto', 'chat' or 'responses'"):
        Target("openai:m", api="assistants")


# -- what goes back -------------------------------------------------------------------------------


def model_at(sim, *specs, **fields):
    targets = [
        Target(spec, base_url=sim.base_url(spec.partition(":")[0]), api_key="k") for spec in specs
    ]
    return ResilientChatModel(targets=targets, hedge=None, **fields)


async def test_reasoning_goes_back_to_its_target_and_to_no_other(sim):
    llm = model_at(sim, "openai:gpt-6-luna", "openai:gpt-5.4", "openai:gpt-4o")
    sim.script("openai:gpt-6-luna", then=t.Reply(reasoning="Let me think.", tool_calls=[
        t.ToolCall("add", {"a": 1, "b": 2}, "call_1")]))  # fmt: skip
    agent = llm.bind_tools([ADD])
    answer = await agent.ainvoke("add(1, 2)")
    sim.script("openai:gpt-6-luna", then=t.Reply("It is 3."))
    history = [HumanMessage("add(1, 2)"), answer, ToolMessage("3", tool_call_id="call_1")]
    await agent.ainvoke(history)
    _, reasoning, call, result = sim.requests[-1].body["input"]
    assert reasoning["encrypted_content"] == "gAAAA-gpt-6-luna"
    assert reasoning["summary"] == [{"type": "summary_text", "text": "Let me think."}]
    assert (call["type"], call["call_id"]) == ("function_call", "call_1")
    assert result == {"type": "function_call_output", "call_id": "call_1", "output": "3"}
    await agent.ainvoke(history, model="openai:gpt-5.4")
    assert [i["type"] for i in sim.requests[-1].body["input"]] == [
        "message", "function_call", "function_call_output"
    ]  # fmt: skip
    await agent.ainvoke(history, model="openai:gpt-4o")
    assert [m["role"] for m in sim.requests[-1].body["messages"]] == ["user", "assistant", "tool"]


async def test_reasoning_that_cannot_be_read_is_left_out_at_once(sim):
    """Of another account, say: the turn is answered all the same."""
    block = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA-other"}
    text = {"type": "text", "text": "Hm.", "id": "msg_1"}
    metadata = {"model_provider": "openai", "model_name": "gpt-5"}
    answer = AIMessage([block, text], response_metadata=metadata)
    history = [HumanMessage("Hi"), answer, HumanMessage("And now?")]
    response = await ask(responses_at(sim, "openai:gpt-5"), conversation(history))
    assert response.fault() is None
    kinds = [[item["type"] for item in r.body["input"]] for r in sim.requests]
    assert kinds == [["message", "reasoning", "message", "message"], ["message"] * 3]


# -- stop words ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("word", ["brown fox", "jumps", "own", "nowhere"])
async def test_stop_words_hold_though_the_api_has_none(sim, stream, word):
    text = "The quick brown fox jumps over the lazy dog."
    expected = text.partition(word)[0]
    sim.script("openai:gpt-5", then=t.Reply(text, chunk_gap=0.0))
    provider = responses_at(sim, "openai:gpt-5")
    response = await ask(provider, request(stop=[word]), stream=stream)
    assert "stop" not in sim.requests[-1].body
    assert response.text == expected
    assert response.fault() is None
    assert response.finish_reason == "stop"
    texts = [b["text"] for b in response.finished.content if b["type"] == "text"]
    assert texts == [expected]


async def test_a_stream_shows_nothing_behind_a_stop_word(sim):
    text = "The quick brown fox jumps over the lazy dog."
    sim.script("openai:gpt-6-luna", then=t.Reply(text, chunk_gap=0.0))
    llm = model_at(sim, "openai:gpt-6-luna", output_version="responses/v1")
    chunks = [chunk async for chunk in llm.astream("Say it.", stop=["fox jumps"])]
    assert "".join(chunk.text for chunk in chunks) == "The quick brown "
    assert chunks[-1].response_metadata["finish_reason"] == "stop"


async def test_only_the_end_of_a_conversation_that_is_kept_there_is_sent(sim):
    """A result whose call is not in it is the result of a call all the same."""
    llm = model_at(sim, "openai:gpt-5.5")
    await llm.ainvoke([ToolMessage("3", tool_call_id="call_9")], previous_response_id="resp_1")
    assert sim.requests[-1].body["input"] == [
        {"type": "function_call_output", "call_id": "call_9", "output": "3"}
    ]


async def test_what_a_custom_tool_returned_goes_back_as_that(sim):
    agent = model_at(sim, "openai:gpt-5.5").bind_tools([CUSTOM])
    answer = await agent.ainvoke("run('x')")
    (call,) = answer.tool_calls
    history = [HumanMessage("run('x')"), answer, ToolMessage("done", tool_call_id=call["id"])]
    await agent.ainvoke(history)
    kinds = [item["type"] for item in sim.requests[-1].body["input"]]
    assert kinds == ["message", "reasoning", "custom_tool_call", "custom_tool_call_output"]


async def test_approvals_of_a_user_reach_the_api(sim):
    asked = {"type": "mcp_approval_request", "id": "mcpr_1", "name": "read", "arguments": "{}"}
    metadata = {"model_provider": "openai", "model_name": "gpt-5.5"}
    approval = {"type": "mcp_approval_response", "approve": True, "approval_request_id": "mcpr_1"}
    history = [
        HumanMessage("Read it."),
        AIMessage([asked], response_metadata=metadata),
        HumanMessage([approval]),
    ]
    llm = model_at(sim, "openai:gpt-5.5")
    await llm.ainvoke(history, truncation="auto")
    assert sim.requests[-1].body["input"][1:] == [asked, approval]


async def test_an_image_that_is_made_in_a_stream_is_asked_for_in_parts(sim):
    provider = responses_at(sim, "openai:gpt-5.5")
    for stream, expected in ((True, 1), (False, None)):
        await ask(provider, request(tools=[{"type": "image_generation"}]), stream=stream)
        assert sim.requests[-1].body["tools"][0].get("partial_images") == expected

"""What a target refuses is mended, and no more is given up than it refused."""

from __future__ import annotations

import json
import warnings
from typing import Any

import openai
import pytest

from langchain_resilient import DroppedParameterWarning, Target
from langchain_resilient import testing as t
from langchain_resilient.exchange import ChatRequest
from langchain_resilient.providers import create_provider
from langchain_resilient.providers.refusals import MAX_DROPPED, Refusals
from tests.providers.asking import ask, http, ids, listening, provider_at, request

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object",
        "properties": {"a": {"type": "integer"}}}}}  # fmt: skip
TOOLS = [TOOL, {"type": "function", "function": {"name": "sub"}}]
EFFORT_REFUSED = (
    "Unsupported value: 'reasoning_effort' does not support 'minimal' with this model. Supported "
    "values are: 'low', 'medium', and 'high'."
)
UNSUPPORTED = "Unsupported parameter: '{}' is not supported with this model."


def refusal(message: str, status: int = 400, **error: Any) -> t.Status:
    """One refusal in OpenAI's form."""
    body = {"error": {"type": "invalid_request_error", "message": message, **error}}
    headers = {"content-type": "application/json"}
    return t.Status(status, body=json.dumps(body), headers=headers)


async def bodies(sim, step: t.Status, *asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Ask one target several things, the first of which is refused once; what was answered."""
    sim.script("*", step)
    provider = provider_at(sim)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DroppedParameterWarning)
        for params in asked:
            assert (await ask(provider, request(**params))).fault() is None
    # One request was wasted, on the first.
    assert [seen.status for seen in sim.requests] == [step.code, *[200] * len(asked)]
    return [seen.body for seen in sim.requests[1:]]


VALUES = [
    (
        "reasoning_effort",
        "minimal",
        "high",
        refusal(EFFORT_REFUSED, param="reasoning_effort", code="unsupported_value"),
    ),
    (
        "reasoning_effort",
        "minimal",
        "low",
        refusal(
            "Invalid value: 'minimal'. Supported values are: 'low' and 'high'.",
            param="reasoning_effort",
            code="invalid_value",
        ),
    ),
    (
        "verbosity",
        "low",
        "medium",
        refusal(
            "Unsupported value: 'low' is not supported with the "
            "'m' model. Supported values are: 'medium'.",
            param="verbosity",
            code="unsupported_value",
        ),
    ),
    (
        "service_tier",
        "flex",
        "auto",
        refusal(
            "Flex is not available for this model.", param="service_tier", code="invalid_value"
        ),
    ),
    (
        "temperature",
        0.5,
        1,
        refusal(
            "Unsupported value: 'temperature' does not support 0.5 with this "
            "model. Only the default (1) value is supported.",
            param="temperature",
            code="unsupported_value",
        ),
    ),
    (
        "logit_bias",
        {"9": 1},
        {"8": 1},
        refusal(
            "Invalid value for 'logit_bias': 9 is not a valid token",
            param="logit_bias",
            code="invalid_value",
        ),
    ),
]


@pytest.mark.parametrize(("name", "bad", "good", "step"), VALUES, ids=ids)
async def test_a_refused_value_is_remembered_and_others_are_sent(sim, name, bad, good, step):
    """The bad one is left out for good, without another refusal."""
    sent = await bodies(sim, step, {name: bad}, {name: good}, {name: bad})
    assert [body.get(name) for body in sent] == [None, good, None]


async def test_a_value_that_is_known_to_be_refused_costs_nothing(sim):
    """The refusal lists what is taken."""
    step = refusal(EFFORT_REFUSED, param="reasoning_effort", code="unsupported_value")
    efforts = ("minimal", "none", "xhigh", "medium")
    sent = await bodies(sim, step, *({"reasoning_effort": effort} for effort in efforts))
    assert [body.get("reasoning_effort") for body in sent] == [None, None, None, "medium"]


LOW_REFUSED = (
    "Unsupported value: 'low' is not supported with the 'm' model. Supported values are: 'medium'."
)
BY_PARTS = [
    (({"reasoning_effort": "minimal"}, {"reasoning_effort": "high"}),
        refusal(EFFORT_REFUSED, param="reasoning.effort", code="unsupported_value"),
        [None, {"effort": "high"}, None],
        "reasoning",
    ),
    (({"verbosity": "low"}, {"verbosity": "medium"}),
        refusal(LOW_REFUSED, param="text.verbosity", code="unsupported_value"),
        [None, {"verbosity": "medium"}, None],
        "text",
    ),
    (({"reasoning_effort": "high"}, {"reasoning_effort": "low"}),
        refusal(UNSUPPORTED.format("reasoning.effort"), param="reasoning.effort",
                code="unsupported_parameter"),
        [None, None, None],
        "reasoning",
    ),
    (({"max_tokens": 16_000}, {"max_tokens": 9_000}),
        refusal("max_output_tokens is too large: 16000. This model supports at most 8192 output "
                "tokens.", param="max_output_tokens"),
        [8192, 8192, 8192],
        "max_output_tokens",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("pair", "step", "sent", "name"), BY_PARTS, ids=ids)
async def test_parts_of_parameters_are_refused_by_the_responses_api(sim, pair, step, sent, name):
    """An effort is a part of `reasoning` there, and mended like one."""
    sim.script("*", step)
    provider = provider_at(sim, api="responses")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DroppedParameterWarning)
        for params in (*pair, pair[0]):
            assert (await ask(provider, request(**params))).fault() is None
    assert [seen.status for seen in sim.requests] == [400, 200, 200, 200]
    assert [seen.body.get(name) for seen in sim.requests[1:]] == sent


@pytest.mark.parametrize("message", [
    UNSUPPORTED.format("temperature"),
    "'temperature' is not supported when 'reasoning_effort' is 'high'",
], ids=ids)  # fmt: skip
async def test_a_parameter_refused_beside_an_effort_is_sent_without_it(sim, message):
    """And beside another effort, which may take it."""
    step = refusal(message, param="temperature", code="unsupported_parameter")
    beside = {"temperature": 0.5, "reasoning_effort": "high"}
    other = {"temperature": 0.5, "reasoning_effort": "none"}
    sent = await bodies(sim, step, beside, beside, {"temperature": 0.5}, other)
    assert [body.get("temperature") for body in sent] == [None, None, 0.5, 0.5]
    assert [body.get("reasoning_effort") for body in sent] == ["high", "high", None, "none"]


@pytest.mark.parametrize("param", ["reasoning_effort", None])
async def test_an_effort_refused_with_tools_is_sent_without_them(sim, param):
    """Some models think only where they call nothing."""
    message = "Function tools with 'reasoning_effort' are not supported for m."
    step = refusal(message, param=param)
    effort = {"reasoning_effort": "high"}
    sent = await bodies(sim, step, {**effort, "tools": TOOLS}, effort, {**effort, "tools": TOOLS})
    assert [body.get("reasoning_effort") for body in sent] == [None, "high", None]
    assert sent[0]["tools"]


@pytest.mark.parametrize("params", [{}, {"reasoning_effort": "high"}, {"tools": TOOLS}])
async def test_what_is_unknown_as_such_is_forgotten_for_good(sim, params):
    """Whatever stood beside it."""
    step = refusal("Unrecognized request argument supplied: verbosity")
    sent = await bodies(sim, step, {"verbosity": "low", **params}, {"verbosity": "high"})
    assert [body.get("verbosity") for body in sent] == [None, None]


LARGEST = [
    (
        "max_tokens",
        "max_tokens is too large: 100000. This model supports at most 16384 completion tokens.",
        16384,
    ),
    (
        "max_completion_tokens",
        "max_tokens is too large: 100000. This model supports at most 16,384 completion tokens.",
        16384,
    ),
    (
        "max_tokens",
        "`max_tokens` must be less than or equal to `8192`, the maximum value for this model",
        8192,
    ),
    ("max_tokens", "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]", 8192),
    (
        "max_tokens",
        "max_tokens: 100000 > 64000, which is the maximum allowed number of output tokens",
        64000,
    ),
]


@pytest.mark.parametrize(("name", "message", "most"), LARGEST, ids=ids)
async def test_a_number_that_is_too_large_becomes_the_largest(sim, name, message, most):
    """And what is smaller stays."""
    step = refusal(message, param=name)
    sent = await bodies(sim, step, *({name: number} for number in (100000, 99999, 7)))
    assert [body[name] for body in sent] == [most, most, 7]


async def test_the_simulators_own_limit_is_learned(sim):
    """It refuses as OpenAI does, and says what it would take."""
    provider = provider_at(sim)
    asked = request(top_logprobs=30, logprobs=True)
    with pytest.warns(DroppedParameterWarning, match="takes at most 20 for 'top_logprobs'"):
        await ask(provider, asked)
    assert (await ask(provider, asked)).fault() is None
    assert [seen.body["top_logprobs"] for seen in sim.requests] == [30, 20, 20]


@pytest.mark.parametrize("step", [
    refusal("temperature must be at most 2", param="temperature"),
    refusal("max_tokens must be at least 1", param="max_tokens"),
    refusal("This model's maximum context length is 4096 tokens. However, you requested 100010 "
            "tokens (10 in the messages, 100000 in max_tokens).", param="messages",
            code="context_length_exceeded"),
    refusal("max_tokens is too large: 100000", status=500),
], ids=ids)  # fmt: skip
async def test_other_limits_are_not_guessed_at(sim, step):
    """One request, and the error."""
    sim.script("*", step)
    with pytest.raises(openai.APIStatusError):
        await ask(provider_at(sim), request(max_tokens=100000, temperature=1))
    assert sim.count() == 1


async def test_metadata_without_store_is_left_out(sim):
    """As the refusal says; with it, it is sent."""
    step = refusal(
        "The 'metadata' parameter is only allowed when 'store' is enabled.", param="metadata"
    )
    meta = {"metadata": {"a": "b"}}
    sent = await bodies(sim, step, meta, meta, {**meta, "store": True})
    assert [body.get("metadata") for body in sent] == [None, None, {"a": "b"}]


@pytest.mark.parametrize("message", [
    "'n' must be 1", "Only one completion choice is allowed", "n > 1 is not supported",
    "Unsupported parameter: 'n' is not supported with this model.",
], ids=ids)  # fmt: skip
async def test_several_answers_are_asked_for_one_by_one(sim, message):
    """And from then on at once."""
    sim.script("*", refusal(message))
    provider = provider_at(sim)
    for _ in range(2):
        answer = await provider.open(request(n=3), stream=False)
        chunks = [chunk async for chunk in answer]
        await answer.aclose()
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        assert [choice["index"] for choice in choices] == [0, 1, 2]
        assert all(choice["message"]["content"] for choice in choices)
        totals = [chunk["usage"]["total_tokens"] for chunk in chunks if "usage" in chunk]
        assert len(totals) == 1
        assert totals[0] % 3 == 0
    assert [seen.body["n"] for seen in sim.requests] == [3, *[1] * 6]


async def test_several_answers_of_which_one_fails_are_an_error(sim):
    """And none is left open."""
    sim.script("*", refusal("'n' must be 1"), t.Reply("yes"), t.Status(500))
    with pytest.raises(openai.InternalServerError):
        await provider_at(sim).open(request(n=3), stream=False)


# -- messages -------------------------------------------------------------------------------------

DEVELOPER = ChatRequest([{"role": "developer", "content": "Be brief."},
                         {"role": "user", "content": "hello"}])  # fmt: skip
SYSTEM = ChatRequest([{"role": "system", "content": "Be brief."},
                      {"role": "user", "content": "hello"}])  # fmt: skip


@pytest.mark.parametrize("step", [
    refusal("Invalid value: 'developer'. Supported values are: 'system', 'assistant', 'user'.",
            param="messages[0].role", code="invalid_value"),
    refusal("Failed to deserialize the JSON body: messages[0].role: unknown variant `developer`, "
            "expected one of `system`, `user`, `assistant`, `tool`", 422),
    refusal("messages.0.role: Input should be 'system', 'user', 'assistant' or 'tool'"),
    refusal("Unexpected role 'developer' after role 'user'"),
    refusal("role must be one of system, user, assistant"),
    t.Status(422, body=json.dumps({"detail": [{"loc": ["body", "messages", 0, "role"],
             "msg": "Input should be 'system' or 'user'", "type": "literal_error"}]}),
             headers={"content-type": "application/json"}),
], ids=ids)  # fmt: skip
@pytest.mark.parametrize("stream", [True, False])
async def test_developer_becomes_system_where_it_is_refused(sim, step, stream):
    """In whatever words, and from then on at once."""
    sim.script("*", step)
    provider = provider_at(sim)
    for _ in range(2):
        assert (await ask(provider, DEVELOPER, stream=stream)).fault() is None
    roles = [[m["role"] for m in seen.body["messages"]] for seen in sim.requests]
    assert roles == [["developer", "user"], ["system", "user"], ["system", "user"]]
    assert DEVELOPER.messages[0]["role"] == "developer"


@pytest.mark.parametrize("message", [
    "System role not supported",
    "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
    "system messages are not supported by this model",
], ids=ids)  # fmt: skip
async def test_a_system_message_joins_the_users_where_it_is_refused(sim, message):
    """Templates that know no system message want the roles to alternate."""
    sim.script("*", refusal(message, param="messages[0].role"))
    provider = provider_at(sim)
    for asked in (SYSTEM, SYSTEM, DEVELOPER):
        if asked is DEVELOPER:
            provider._refusals.swap_role("developer")
        assert (await ask(provider, asked)).fault() is None
    for seen in sim.requests[1:]:
        assert seen.body["messages"] == [{"role": "user", "content": "Be brief.\n\nhello"}]


async def test_together_gets_system_at_once(sim):
    """Its API knows no other, and its simulator says so."""
    assert (await ask(provider_at(sim, "together:m"), DEVELOPER)).fault() is None
    assert [m["role"] for m in sim.requests[0].body["messages"]] == ["system", "user"]
    assert sim.count() == 1


CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
SHOWN = ChatRequest([
    {"role": "user", "content": "look"},
    {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "c2"}]},
    {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "here"}, IMAGE]},
    {"role": "tool", "tool_call_id": "c2", "content": "nothing"},
])  # fmt: skip


async def test_an_image_in_a_tools_result_goes_into_a_users_message(sim):
    """After all results, since they must follow their calls; and from then on at once."""
    provider = provider_at(sim)
    for _ in range(2):
        assert (await ask(provider, SHOWN)).fault() is None
    for seen in sim.requests[1:]:
        *_, first, second, shown = seen.body["messages"]
        assert (first["content"], second["content"]) == ("here", "nothing")
        assert shown["role"] == "user"
        assert shown["content"][-1] == IMAGE
        assert "c1" in shown["content"][0]["text"]
    assert [seen.status for seen in sim.requests] == [400, 200, 200]


def test_openai_itself_never_gets_an_image_in_a_tools_result():
    """Its newer models would take it without seeing it, which no refusal tells."""
    body = {"messages": SHOWN.messages}
    create_provider(Target("openai:gpt-6-luna", api_key="k"))._refusals.mend(body)
    assert [m["role"] for m in body["messages"]] == ["user", "assistant", "tool", "tool", "user"]
    assert body["messages"][2]["content"] == "here"
    assert IMAGE in body["messages"][4]["content"]


LISTS = ChatRequest([
    {"role": "system", "content": [{"type": "text", "text": text} for text in ("Be", "brief")]},
    {"role": "user", "content": [{"type": "text", "text": "look"}, IMAGE]},
])  # fmt: skip


@pytest.mark.parametrize("step", [
    refusal("Failed to deserialize the JSON body into the target type: messages[0]: invalid type: "
            "sequence, expected a string at line 1 column 99", 422),
    refusal("messages.0.content: Input should be a valid string"),
    refusal("'messages.0.content' must be a string"),
    refusal("content must be string"),
], ids=ids)  # fmt: skip
async def test_a_list_of_texts_becomes_a_text_where_it_is_refused(sim, step):
    """Where there is more than text it stays."""
    sim.script("*", step)
    provider = provider_at(sim)
    for _ in range(2):
        assert (await ask(provider, LISTS)).fault() is None
    assert [seen.status for seen in sim.requests] == [step.code, 200, 200]
    for seen in sim.requests[1:]:
        assert seen.body["messages"][0]["content"] == "Be\nbrief"
        assert seen.body["messages"][1] == LISTS.messages[1]


@pytest.mark.parametrize("message", [
    "The tool_choice parameter does not support being set to required in thinking mode",
    "Thinking may not be enabled when tool_choice forces tool use. This is not allowed",
    "tool_choice 'required' is not supported with thinking",
], ids=ids)  # fmt: skip
async def test_a_choice_that_may_not_be_forced_is_auto(sim, message):
    """With that effort; with another it is asked again."""
    required = {"tools": TOOLS, "tool_choice": "required"}
    sent = await bodies(sim, refusal(message), required, required,
                        {**required, "reasoning_effort": "none"})  # fmt: skip
    assert [body["tool_choice"] for body in sent] == ["auto", "auto", "required"]


async def test_a_refusal_that_teaches_nothing_is_raised():
    """The loop ends, whatever a server says."""
    body = json.dumps({"error": {"message": "'temperature' is not supported with 'top_p'"}})
    async with listening(http(body, "400 Bad Request")) as server:
        provider = provider_at_url(server.url)
        with pytest.warns(DroppedParameterWarning), pytest.raises(openai.BadRequestError):
            await ask(provider, request(temperature=1, top_p=1, seed=1))
    assert len(server.bodies) <= 3


def provider_at_url(url: str):
    """The provider of a target at a server."""
    return create_provider(Target("openai:m", base_url=url, api_key="sk-0123456789"))


def test_what_is_refused_does_not_grow_for_ever():
    """Whoever asks through a service may name parameters as they like."""
    refusals = Refusals("openai:m")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DroppedParameterWarning)
        for number in range(3 * MAX_DROPPED):
            refusals.drop({f"q{number}"})
    assert len(refusals._dropped) <= MAX_DROPPED + 1
    assert len(refusals._warned) <= MAX_DROPPED + 1
    body = {"messages": [], f"q{3 * MAX_DROPPED - 1}": 1}
    refusals.mend(body)
    assert body == {"messages": []}

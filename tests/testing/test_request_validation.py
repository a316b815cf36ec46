"""What providers refuse before they think."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_resilient.testing import ProviderSimulator
from langchain_resilient.testing.request_validation import find_error
from tests.testing.wire_client import ask, chat

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ASSISTANT = {"role": "assistant", "content": None, "tool_calls": [CALL]}
TOOL = {"role": "tool", "tool_call_id": "c1", "content": "ok"}
USER = {"role": "user", "content": "Hello"}
F = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
}
OPEN = {"type": "object", "properties": {"a": {"type": "string"}}}
CLOSED = {**OPEN, "additionalProperties": False}


def shape(schema: Any) -> dict[str, Any]:
    """A strict response format."""
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}


@pytest.mark.parametrize(
    ("request_", "param", "code", "words"),
    [
        (chat(top_k=5), None, None, "Unrecognized request argument supplied: top_k"),
        (
            chat(top_k=5, repetition_penalty=1),
            None,
            None,
            "arguments supplied: top_k, repetition_penalty",
        ),
        (
            chat(model="gpt-5-mini", max_tokens=5),
            "max_tokens",
            "unsupported_parameter",
            "Use 'max_completion_tokens' instead.",
        ),
        (
            chat(model="o3", max_tokens=5),
            "max_tokens",
            "unsupported_parameter",
            "not supported with this model",
        ),
        (
            chat(model="gpt-5-mini", stop=["x"]),
            "stop",
            "unsupported_parameter",
            "'stop' is not supported",
        ),
        (
            chat(model="gpt-5", temperature=0.2),
            "temperature",
            "unsupported_value",
            "Only the default (1) value",
        ),
        (
            chat(temperature=2.5),
            "temperature",
            "decimal_above_max_value",
            "Expected a value <= 2, but got 2.5",
        ),
        (
            chat(temperature=-0.5),
            "temperature",
            "decimal_below_min_value",
            "Expected a value >= 0, but got -0.5",
        ),
        (
            chat(temperature="hot"),
            "temperature",
            "invalid_type",
            "expected a decimal, but got a string instead",
        ),
        (
            chat(max_tokens=0),
            "max_tokens",
            "integer_below_min_value",
            "Expected a value >= 1, but got 0",
        ),
        (chat(n=500), "n", "integer_above_max_value", "<= 128"),
        (chat(top_logprobs=2), "top_logprobs", None, "only allowed when 'logprobs' is enabled"),
        (
            chat(stream_options={"include_usage": True}),
            "stream_options",
            None,
            "when 'stream' is enabled",
        ),
        (chat(tool_choice="auto"), "tool_choice", None, "when 'tools' are specified"),
        (chat(tools=[]), "tools", "empty_array", "empty array"),
        (
            chat(tools=[F], tool_choice={"type": "function", "function": {"name": "g"}}),
            "tool_choice",
            None,
            "'g'",
        ),
        (
            chat(stop=["a", "b", "c", "d", "e"]),
            "stop",
            "array_above_max_length",
            "maximum length 4",
        ),
        (
            chat(response_format={"type": "json_object"}),
            "messages",
            None,
            "must contain the word 'json'",
        ),
        (
            chat(response_format=shape(OPEN)),
            "response_format",
            None,
            "'additionalProperties' is required to be supplied and to be false",
        ),
        (chat(response_format=shape(CLOSED)), "response_format", None, "Missing 'a'"),
        (
            chat(
                tools=[
                    {
                        "type": "function",
                        "function": {"name": "f", "strict": True, "parameters": OPEN},
                    }
                ]
            ),
            "tools[0].function.parameters",
            "invalid_function_parameters",
            "additionalProperties",
        ),
        (
            chat(tools=[{"type": "function", "function": {"name": "a b"}}]),
            "tools[0].function.name",
            "invalid_value",
            "pattern",
        ),
        (chat(None), "messages.[0].content", None, "expected a string, got null"),
    ],
)
def test_openai_refuses(
    request_: dict[str, Any], param: str | None, code: str | None, words: str
) -> None:
    """Each in its own words, with the field at fault."""
    error = find_error("openai", request_)
    assert error is not None
    assert (error.status, error.param, error.code) == (400, param, code)
    assert words in error.message


@pytest.mark.parametrize("dialect", ["openai", "together"])
@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "empty array"),
        ([{"role": "robot", "content": "x"}], "Invalid value: 'robot'"),
        (
            [{"role": "user", "content": [{"type": "reasoning", "reasoning": "x"}]}],
            "Invalid value: 'reasoning'",
        ),
        (
            [{"role": "user", "content": [{"type": "tool_call", "name": "x"}]}],
            "Invalid value: 'tool_call'",
        ),
        (
            [{"role": "assistant", "content": [{"type": "thinking", "thinking": "x"}]}],
            "Invalid value: 'thinking'",
        ),
        ([USER, TOOL], "must be a response to a preceeding message with 'tool_calls'"),
        ([USER, ASSISTANT, USER], "did not have response messages: c1"),
        ([USER, ASSISTANT], "did not have response messages: c1"),
        ([USER, ASSISTANT, TOOL, TOOL], "must be a response to a preceeding"),
    ],
)
def test_conversations_that_make_no_sense(messages: list[Any], words: str, dialect: str) -> None:
    """Both providers look at roles, blocks and tool calls."""
    error = find_error(dialect, {"model": "m", "messages": messages})
    assert error is not None
    if dialect == "together" and messages and messages[0]["role"] == "assistant":
        words = "content: Input should be a valid string"
    assert words in error.message


@pytest.mark.parametrize(
    "request_",
    [
        {"model": "gpt-4", "messages": [USER, ASSISTANT, TOOL]},
        chat(model="gpt-5-mini", max_completion_tokens=5, reasoning_effort="low", temperature=1),
        chat(model="gpt-5-chat-latest", max_tokens=5, temperature=0.1),
        chat(model="o3-mini", stop=[]),
        chat(response_format=shape({**CLOSED, "required": ["a"]})),
        chat("as json", response_format={"type": "json_object"}),
        chat(tools=[F], tool_choice="required", parallel_tool_calls=False),
        chat(
            logprobs=True, top_logprobs=3, seed=2**40, user="me", metadata={}, service_tier="flex"
        ),
    ],
)
def test_openai_accepts(request_: dict[str, Any]) -> None:
    """What its documentation allows."""
    assert find_error("openai", request_) is None


@pytest.mark.parametrize("field", ["max_completion_tokens", "stream_options", "top_k", "whatever"])
def test_together_ignores_what_it_does_not_know(field: str) -> None:
    """And it knows parameters that OpenAI does not."""
    assert find_error("together", chat(**{field: 5 if field == "top_k" else {}})) is None


async def test_a_body_that_is_not_json(sim: ProviderSimulator) -> None:
    """It is refused, and no step is taken."""
    wire = await ask(sim, b"{nonsense")
    assert wire.status == 400
    assert wire.error["message"].startswith("We could not parse the JSON body")
    assert sim.requests[0].step == "Refused 400"


async def test_half_a_surrogate_pair_is_refused(sim: ProviderSimulator) -> None:
    """It could not be answered in UTF-8."""
    body = b'{"model":"m","messages":[{"role":"user","content":"\\ud83d"}]}'
    assert (await ask(sim, body)).status == 400
    assert (await ask(sim, body.replace(b"\\ud83d", b"\\ud83d\\ude00"))).status == 200


async def test_a_body_without_a_model(sim: ProviderSimulator) -> None:
    """OpenAI's words for it are small."""
    assert (await ask(sim, {"messages": [USER]})).error[
        "message"
    ] == "you must provide a model parameter"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda part: (
        st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=5), part, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = [
    "tools",
    "tool_choice",
    "stop",
    "n",
    "max_tokens",
    "response_format",
    "stream_options",
    "logprobs",
]
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.just("user") | JSON, "content": JSON}), max_size=3
)


@settings(max_examples=80, deadline=None)
@given(
    st.fixed_dictionaries(
        {"model": st.just("m") | JSON, "messages": MESSAGES | JSON},
        optional=dict.fromkeys(FIELDS, JSON),
    ),
    st.sampled_from(["openai", "together"]),
)
def test_nothing_makes_the_checks_fail(body: dict[str, Any], dialect: str) -> None:
    """Any JSON is either fine or refused."""
    if isinstance(body["model"], str):
        error = find_error(dialect, body)
        assert error is None or error.status == 400


PICTURE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]
LOOSE = {"type": "object", "properties": {"tags": {"type": "array"}}}


@pytest.mark.parametrize(
    ("request_", "param", "code", "words"),
    [
        (
            {"model": "m", "messages": [{"role": "assistant", "content": PICTURE}, USER]},
            "messages[0]",
            "invalid_value",
            "Image URLs are only allowed for messages with role 'user', but this message with",
        ),
        (
            chat(tools=[{"type": "function", "function": {"name": "f", "parameters": LOOSE}}]),
            "tools[0].function.parameters",
            "invalid_function_parameters",
            "In context=('properties', 'tags'), array schema missing items.",
        ),
        (
            chat(response_format=shape({"type": "array", "items": {"type": "string"}})),
            "response_format",
            None,
            "schema must be a JSON Schema of 'type: \"object\"', got 'type: \"array\"'.",
        ),
        (
            chat(tools=[F] * 129),
            "tools",
            "array_above_max_length",
            "Expected an array with maximum length 128, but got an array with length 129 instead.",
        ),
        (
            chat(model="gpt-4o-mini", max_tokens=20_000),
            "max_tokens",
            "invalid_value",
            "max_tokens is too large: 20000. This model supports at most 16384 completion tokens",
        ),
        (
            chat(model="gpt-5", max_completion_tokens=10**6),
            "max_completion_tokens",
            "invalid_value",
            "This model supports at most 128000 completion tokens",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_openai_refuses_what_agents_send_by_mistake(
    request_: dict[str, Any], param: str, code: str | None, words: str
) -> None:
    """In its own words, as it does in public reports."""
    error = find_error("openai", request_)
    assert error is not None
    assert words in error.message
    assert (error.param, error.code) == (param, code)


SEEN = [USER, ASSISTANT, {**TOOL, "content": PICTURE}]


@pytest.mark.parametrize("model", ["gpt-4o-mini", "gpt-4", "gpt-3.5-turbo", "m"])
def test_a_picture_in_a_tools_result_is_refused(model: str) -> None:
    """By the older models; the newer ones take it, and are blind to it."""
    error = find_error("openai", {"model": model, "messages": SEEN})
    assert error is not None
    assert error.message.startswith("Invalid 'messages[2]'. Image URLs are only allowed for")
    assert "this message with role 'tool' contains an image URL" in error.message
    assert find_error("openai", {"model": model, "messages": SEEN}, api="responses") is None


@pytest.mark.parametrize("model", ["gpt-4.1-nano", "gpt-5-nano", "gpt-6-luna"])
def test_newer_models_take_a_picture_in_a_tools_result(model: str) -> None:
    """As was recorded of OpenAI."""
    assert find_error("openai", {"model": model, "messages": SEEN}) is None


AUDIO = {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}
MP3 = {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}}
TEXTS = [{"type": "text", "text": "Hello"}]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"messages": [{"role": "developer", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "system", "content": TEXTS}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": TEXTS}]}, "messages[0].content"),
        ({"messages": [USER, ASSISTANT, {**TOOL, "content": TEXTS}]}, "messages[2].content"),
        ({"messages": SEEN}, "messages[2].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]},
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [MP3]}]},
            "messages[0].content[0].input_audio.format",
        ),
        ({"messages": [USER], "reasoning_effort": "none"}, "reasoning_effort"),
        ({"messages": [USER], "tools": [{"type": "custom", "custom": {}}]}, "tools[0].type"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_together_refuses_what_its_types_do_not_list(body: dict[str, Any], where: str) -> None:
    """Roles, content and values are those of the SDK's own types."""
    error = find_error("together", {"model": "m", **body})
    assert error is not None
    assert (error.status, error.param) == (400, where)


def test_together_takes_what_its_types_list() -> None:
    """A user's pictures and audio, thoughts, names."""
    blocks = [*TEXTS, *PICTURE, AUDIO, {"type": "video_url", "video_url": {"url": "x"}}]
    said = {"role": "assistant", "content": "x", "reasoning_content": "y", "name": "z"}
    messages = [{"role": "user", "content": blocks}, said, ASSISTANT, TOOL]
    body = {"model": "m", "messages": messages, "reasoning_effort": "low", "tools": [F]}
    assert find_error("together", body) is None


def test_what_is_just_within_the_limits_is_taken() -> None:
    """128 tools, the longest answer, a picture of the user's."""
    assert find_error("openai", chat(tools=[F] * 128)) is None
    assert find_error("openai", chat(model="gpt-4o-mini", max_tokens=16_384)) is None
    assert find_error("openai", chat(PICTURE)) is None

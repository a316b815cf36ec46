"""The official SDKs cannot tell the simulator from the real thing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai
import pytest
import together

from langchain_resilient.testing import (
    Cut,
    ProviderSimulator,
    Quota,
    RateLimited,
    Reply,
    Reset,
    SseError,
    Status,
    Step,
    ToolCall,
    answer_to,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

MESSAGES: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def running() -> Iterator[ProviderSimulator]:
    """One simulator for all: an SDK's client takes long to make."""
    with ProviderSimulator() as simulator:
        yield simulator


@pytest.fixture
def sim(running: ProviderSimulator) -> ProviderSimulator:
    """The simulator, with nothing left of other tests."""
    running.reset()
    return running


@pytest.fixture(scope="module")
def gpt(running: ProviderSimulator) -> Iterator[openai.OpenAI]:
    """The OpenAI SDK."""
    with openai.OpenAI(
        base_url=running.base_url("openai"), api_key="k", max_retries=0, timeout=5
    ) as client:
        yield client


@pytest.fixture(scope="module")
def llama(running: ProviderSimulator) -> Iterator[together.Together]:
    """The Together SDK."""
    with together.Together(
        base_url=running.base_url("together"), api_key="k", max_retries=0, timeout=5
    ) as client:
        yield client


def test_openai_plain_and_streamed(sim: ProviderSimulator, gpt: openai.OpenAI) -> None:
    """Text, usage, finish reason and request id."""
    answer = gpt.chat.completions.create(model="gpt-4", messages=MESSAGES)
    assert answer.choices[0].message.content == answer_to("Hello")
    assert answer._request_id
    stream = gpt.chat.completions.create(
        model="gpt-4", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer_to("Hello")
    assert chunks[-1].usage == answer.usage


def test_together_plain_and_streamed(sim: ProviderSimulator, llama: together.Together) -> None:
    """Text, usage and finish reason."""
    answer = llama.chat.completions.create(model="m", messages=MESSAGES)
    assert answer.choices[0].message is not None
    assert answer.choices[0].message.content == answer_to("Hello")
    stream = llama.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == answer_to("Hello")
    assert chunks[-1].usage == answer.usage


def test_openai_tool_helpers_accept_the_stream(sim: ProviderSimulator, gpt: openai.OpenAI) -> None:
    """The SDK's own accumulator puts the fragments together."""
    sim.script("*", then=Reply(tool_calls=[ToolCall("f", {"x": 1}), ToolCall("g", {})]))
    with gpt.chat.completions.stream(model="gpt-4", messages=MESSAGES) as stream:
        message = (stream.get_final_completion()).choices[0].message
    assert message.tool_calls is not None
    calls = [(call.function.name, call.function.arguments) for call in message.tool_calls]
    assert calls == [("f", '{"x":1}'), ("g", "{}")]


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (Status(400), openai.BadRequestError),
        (Status(401), openai.AuthenticationError),
        (Status(403), openai.PermissionDeniedError),
        (Status(404), openai.NotFoundError),
        (Status(409), openai.ConflictError),
        (Status(422), openai.UnprocessableEntityError),
        (RateLimited(), openai.RateLimitError),
        (Status(503), openai.InternalServerError),
        (Reset(), openai.APIConnectionError),
        (Cut(), openai.APIConnectionError),
    ],
)
def test_openai_raises_what_it_should(
    sim: ProviderSimulator, gpt: openai.OpenAI, step: Step, error: type[Exception]
) -> None:
    """Each fault is an exception of its own."""
    sim.script("*", then=step)
    with pytest.raises(error):
        gpt.chat.completions.create(model="gpt-4", messages=MESSAGES)


def test_openai_reads_the_code_of_an_error(sim: ProviderSimulator, gpt: openai.OpenAI) -> None:
    """Code, type and message."""
    sim.script("*", then=Quota())
    with pytest.raises(openai.RateLimitError) as caught:
        gpt.chat.completions.create(model="gpt-4", messages=MESSAGES)
    assert (caught.value.code, caught.value.type) == ("insufficient_quota", "insufficient_quota")


def test_openai_finds_the_error_inside_a_stream(sim: ProviderSimulator, gpt: openai.OpenAI) -> None:
    """A 200 that fails in the middle."""
    sim.script("*", then=SseError(after=1))
    stream = gpt.chat.completions.create(model="gpt-4", messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError, match="had an error while processing"):
        list(stream)


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (Status(400), together.BadRequestError),
        (Quota(), together.APIStatusError),
        (RateLimited(), together.RateLimitError),
        (Status(500), together.InternalServerError),
        (Reset(), together.APIConnectionError),
    ],
)
def test_together_raises_what_it_should(
    sim: ProviderSimulator, llama: together.Together, step: Step, error: type[Exception]
) -> None:
    """Each fault is an exception of its own."""
    sim.script("*", then=step)
    with pytest.raises(error):
        llama.chat.completions.create(model="m", messages=MESSAGES)


def test_the_sdk_obeys_retry_after(sim: ProviderSimulator, gpt: openai.OpenAI) -> None:
    """With its own retries on, it comes back and succeeds."""
    sim.script("*", Status(429, retry_after=0.01), Status(500, retry_after_ms=5))
    client = gpt.with_options(max_retries=2)
    answer = client.chat.completions.create(model="gpt-4", messages=MESSAGES)
    assert answer.choices[0].message.content == answer_to("Hello")
    assert sim.count("openai:gpt-4") == 3


def test_openai_lists_the_models(sim: ProviderSimulator, gpt: openai.OpenAI) -> None:
    """Through the SDK's page."""
    sim.script("openai:gpt-4", then=Reply())
    assert [model.id for model in gpt.models.list()] == ["gpt-4"]

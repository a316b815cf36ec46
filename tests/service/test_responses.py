"""`/v1/responses` as OpenAI's SDK speaks it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import openai
import pytest
from pydantic import BaseModel

pytest.importorskip("starlette", reason="needs the extra `serve`")
pytest.importorskip("uvicorn", reason="needs the extra `serve`")
pytest.importorskip("prometheus_client", reason="needs the extra `serve`")

from langchain_resilient.service.responses_request import opened, sealed
from langchain_resilient.testing import (
    Cut,
    ProviderSimulator,
    Reply,
    Status,
    ToolCall,
    answer_to,
)
from tests.service.serving import model, served

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSWER = answer_to("Hello")
ASK = {"model": "resilient", "input": "Hello"}
ADD = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}}
CHAT, RESPONSES = "openai:gpt-4.1", "openai:gpt-6.1-sol"


@pytest.fixture(scope="module")
def simulator() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as sim:
        yield sim


@pytest.fixture(scope="module")
def services(simulator) -> Iterator[dict[str, openai.OpenAI]]:
    """A client of a service over each of OpenAI's APIs."""
    with (
        served(model(simulator, CHAT, api="chat")) as chat,
        served(model(simulator, RESPONSES, api="responses")) as responses,
        openai.OpenAI(base_url=f"{chat}/v1", api_key="none", max_retries=0) as over_chat,
        openai.OpenAI(base_url=f"{responses}/v1", api_key="none", max_retries=0) as over_responses,
    ):
        yield {"chat": over_chat, "responses": over_responses}


@pytest.fixture
def sim(simulator) -> ProviderSimulator:
    simulator.reset()
    return simulator


@pytest.fixture(params=["chat", "responses"])
def sdk(request, sim, services) -> openai.OpenAI:
    return services[request.param]


def test_an_answer(sdk):
    """Text, counts, and that nothing is kept."""
    answer = sdk.responses.create(**ASK, instructions="Be brief.", metadata={"a": "b"})
    assert (answer.output_text, answer.status, answer.store) == (ANSWER, "completed", False)
    assert answer.usage.output_tokens > 10
    assert (answer.instructions, answer.metadata) == ("Be brief.", {"a": "b"})


def test_a_stream(sdk):
    """The SDK's own helper makes the same answer of the events, which are numbered."""
    with sdk.responses.stream(**ASK) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == ANSWER
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == ANSWER
    kinds = [e.type for e in sdk.responses.create(**ASK, stream=True)]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    for begun, ended in (
        ("output_item.added", "output_item.done"),
        ("content_part.added", "content_part.done"),
    ):
        assert kinds.count(f"response.{begun}") == kinds.count(f"response.{ended}") > 0
    numbers = [e.sequence_number for e in sdk.responses.create(**ASK, stream=True)]
    assert numbers == list(range(len(numbers)))


def test_a_round_of_tools(sdk, sim):
    """Two calls, plain and streamed; their results are sent with the items of the answer."""
    sim.script("*", then=Reply(tool_calls=[ToolCall("add", {"a": n}) for n in (1, 2)]))
    plain = sdk.responses.create(**ASK, tools=[ADD])
    with sdk.responses.stream(**ASK, tools=[ADD]) as stream:
        streamed = stream.get_final_response()
    for answer in (plain, streamed):
        calls = [item for item in answer.output if item.type == "function_call"]
        assert [(c.name, json.loads(c.arguments)) for c in calls] == [
            ("add", {"a": 1}),
            ("add", {"a": 2}),
        ]
    sim.script("*", then=Reply("It is 3."))
    items = [item.model_dump(exclude_none=True) for item in plain.output]
    results = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "3"}
        for item in items
        if item["type"] == "function_call"
    ]
    said = [{"role": "user", "content": "Hello"}, *items, *results]
    last = sdk.responses.create(model="resilient", input=said, tools=[ADD])
    assert last.output_text == "It is 3."


def test_structured_output(sdk):
    """`responses.parse` gets an object."""

    class Colour(BaseModel):
        name: str

    answer = sdk.responses.parse(**ASK, text_format=Colour)
    assert isinstance(answer.output_parsed, Colour)


def test_an_answer_that_is_cut_says_so(sdk, sim):
    """`incomplete`, plain and streamed."""
    sim.script("*", then=Reply("too long", finish_reason="length"))
    answer = sdk.responses.create(**ASK)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    *_, last = sdk.responses.create(**ASK, stream=True)
    assert last.type == "response.incomplete"


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_thoughts_go_back_to_who_made_them_alone(sim, stream):
    """The client sees one opaque text; its maker gets its own again, the other target nothing."""
    other = "openai:gpt-6-other"
    llm = model(sim, RESPONSES, other, api="responses")
    with (
        served(llm) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as sdk,
    ):
        if stream:
            *_, last = sdk.responses.create(**ASK, stream=True)
            answer = last.response
        else:
            answer = sdk.responses.create(**ASK)
        thought = answer.output[0]
        assert thought.type == "reasoning"
        assert opened(thought.encrypted_content) == (RESPONSES, "gAAAA-gpt-6.1-sol")
        said = [item.model_dump(exclude_none=True) for item in answer.output]
        said = [{"role": "user", "content": "Hello"}, *said, {"role": "user", "content": "More"}]
        sdk.responses.create(model="resilient", input=said)
        to_maker = [i for i in sim.requests[-1].body["input"] if i["type"] == "reasoning"]
        assert [i["encrypted_content"] for i in to_maker] == ["gAAAA-gpt-6.1-sol"]
        sim.script(RESPONSES, then=Status(500))
        sdk.responses.create(model="resilient", input=said)
        sent = sim.requests[-1]
        assert sent.target == other
        assert "reasoning" not in [item["type"] for item in sent.body["input"]]
        assert ANSWER in json.dumps(sent.body["input"], ensure_ascii=False).replace('\\"', '"')


def test_a_seal():
    """It holds any name; what was not sealed here is nobody's."""
    assert opened(sealed("a:b.c/ü", "x.y")) == ("a:b.c/ü", "x.y")
    for foreign in (None, 5, "", "gAAAAABx", "?.x", ".x"):
        assert opened(foreign) == (None, "")


def test_a_broken_stream_goes_on(sim):
    """On another target, in the same item."""
    llm = model(sim, CHAT, "openai:gpt-4.1-mini", api="chat")
    sim.script(CHAT, then=Cut(after=3))
    with (
        served(llm) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as sdk,
        sdk.responses.stream(**ASK) as stream,
    ):
        assert stream.get_final_response().output_text == ANSWER


def test_a_stream_that_nobody_can_go_on_with(sim):
    """`response.failed`, with what happened."""
    sim.script("*", then=Cut(after=3))
    with (
        served(model(sim, CHAT, on_break="raise")) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as sdk,
    ):
        *_, last = sdk.responses.create(**ASK, stream=True)
    assert last.type == "response.failed"
    assert last.response.error.code == "stream_broken"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "rs_1"}]}, "input[0]"),
        ({"input": [{"type": "poem"}]}, "input[0]"),
        ({"input": [{"role": "king", "content": "x"}]}, "input[0].role"),
        ({"text": "json"}, "text"),
        ({"tools": ["add"]}, "tools"),
    ],
    ids=["previous", "background", "empty", "reference", "poem", "role", "text", "tools"],
)
def test_what_cannot_be_is_refused(sim, services, more, param):
    """With the parameter's name, before anything is sent."""
    with pytest.raises(openai.BadRequestError) as caught:
        services["chat"].responses.create(**{**ASK, **more})
    assert caught.value.param == param
    assert sim.count() == 0


def test_every_kind_of_input(sim, services):
    """Pictures, files, what the assistant said, instructions of a developer."""
    picture = "data:image/png;base64,iVBORw0KGgo="
    said = [
        {"role": "developer", "content": "Be kind."},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "What is it?"},
                {"type": "input_image", "image_url": picture, "detail": "low"},
            ],
        },
        {"role": "assistant", "content": [{"type": "output_text", "text": "A dot."}]},
        {"role": "user", "content": "Sure?"},
    ]
    services["chat"].responses.create(model="resilient", input=said)
    sent = sim.requests[-1].body["messages"]
    assert [message["role"] for message in sent] == ["developer", "user", "assistant", "user"]
    assert sent[1]["content"][1]["image_url"] == {"url": picture, "detail": "low"}
    assert sent[2]["content"] == "A dot."
